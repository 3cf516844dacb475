"""Servers that speak first: at once where the address settles it, and never where a name would have to be read."""

import contextlib
from collections.abc import Iterator
from typing import Any

import pytest

from tests.lab.lab import Lab
from tests.lab.places import BLOCKED_IP, GOOD_IP, Port
from tests.netns.hello import client_hello, get
from tests.netns.puppet import Failure, Puppet

pytestmark = pytest.mark.root

GREETINGS = {
    "ssh": (2022, b"SSH-2.0-OpenSSH_9.2\r\n"),
    "smtp": (2025, b"220 mail.allowed.test ESMTP\r\n"),
    "mysql": (3306, b"\x4a\0\0\0\x0a8.0.35\0" + bytes(62)),
}
SERVER = """
import socket, sys
server = socket.create_server((sys.argv[1], int(sys.argv[2])))
print("ready", flush=True)
while True:
    client, _ = server.accept()
    client.sendall(bytes.fromhex(sys.argv[3]))
    got = client.recv(65536)
    client.sendall(b"heard " + got)
    client.close()
"""


@contextlib.contextmanager
def greeter(lab: Lab, port: int, greeting: bytes) -> Iterator[None]:
    argv = ["/usr/bin/python3", "-c", SERVER, GOOD_IP, str(port), greeting.hex()]
    with lab.popen(argv, namespace="net") as process:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        try:
            yield
        finally:
            process.terminate()


OPEN: dict[str, tuple[dict[str, Any], tuple[str, str]]] = {
    "no policy": ({}, ("default", "default_allow")),
    "an address denied": ({"deny": [BLOCKED_IP]}, ("default", "default_allow")),
    "the address allowed": ({"allow": [GOOD_IP]}, (f"allow_out[0] {GOOD_IP}", "allowed_address")),
    "another name denied at another port": ({"deny": ["blocked.test:443"]}, ("default", "default_allow")),
}


@pytest.mark.parametrize("kind", GREETINGS)
@pytest.mark.parametrize("policy", OPEN)
def test_a_greeting_arrives_though_the_client_says_nothing(lab: Lab, kind: str, policy: str) -> None:
    """It is on record, decided, before the client has said a word."""
    port, greeting = GREETINGS[kind]
    entries, (rule, reason) = OPEN[policy]
    with greeter(lab, port, greeting), Puppet(lab, **entries) as puppet:
        puppet.connect(GOOD_IP, port)
        assert bytes.fromhex(puppet.do("receive", id=1)) == greeting
        (decided,) = puppet.await_decisions(1)
        puppet.send(b"EHLO\r\n")
        assert puppet.receive_all() == b"heard EHLO\r\n"
    assert (decided["event"], decided["rule"], decided["reason"], decided["domain"]) == (
        "egress_allowed",
        rule,
        reason,
        None,
    )


@pytest.mark.parametrize(
    "entries", [{"allow": ["allowed.test"]}, {"deny": ["blocked.test"]}], ids=["allowlist", "a name denied"]
)
def test_where_a_name_decides_it_ends_at_the_deadline(lab: Lab, entries: dict[str, Any]) -> None:
    with contextlib.ExitStack() as stack:
        for port, greeting in GREETINGS.values():
            stack.enter_context(greeter(lab, port, greeting))
        puppet = stack.enter_context(Puppet(lab, **entries))
        for number, (port, _) in enumerate(GREETINGS.values()):
            puppet.connect(GOOD_IP, port, number)
        for number in range(len(GREETINGS)):
            with pytest.raises(Failure, match="ConnectionResetError"):
                puppet.do("receive", id=number)
        decisions = puppet.await_decisions(len(GREETINGS))
    places = sorted(port for port, _ in GREETINGS.values())
    for port, decided in zip(places, sorted(decisions, key=lambda record: record["dest_port"]), strict=True):
        found = decided["event"], decided["dest_port"], decided["rule"], decided["reason"]
        assert found == ("egress_blocked", port, "unreadable", "no_hello")
    dialled = {packet.dport for packet in lab.capture.packets(to=GOOD_IP) if "S" in packet.flags}
    assert dialled.isdisjoint(places) and lab.capture.lost() == 0


@pytest.mark.parametrize(
    ("said", "domain"),
    [
        (client_hello("allowed.test"), "allowed.test"),
        (get("allowed.test"), "allowed.test"),
        (b"SSH-2.0-client\r\n", None),
    ],
    ids=["tls", "http", "neither"],
)
@pytest.mark.parametrize("size", [50, 65536], ids=["in pieces", "whole"])
def test_a_name_that_passes_is_noted(lab: Lab, said: bytes, domain: str | None, size: int) -> None:
    """It decided nothing, and is told with the end of the connection."""
    with Puppet(lab) as puppet:
        puppet.connect(GOOD_IP, Port.BANNER)
        puppet.do("receive", id=1)
        for at in range(0, len(said), size):
            puppet.send(said[at : at + size])
        puppet.do("shut", id=1)
        assert puppet.receive_all() == said
        closed = puppet.await_closed()
    (decided,) = puppet.decisions()
    assert decided["domain"] is None
    assert closed["domain"] == domain
