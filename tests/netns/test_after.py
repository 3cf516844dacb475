"""After the first bytes: a connection that was allowed for one name carries no other."""

import contextlib
import time
from pathlib import Path

import pytest

from tests.lab.lab import Lab
from tests.lab.places import GOOD_IP, Port
from tests.lab.sandboxed import egress_run
from tests.netns.hello import client_hello
from tests.netns.puppet import Failure, Puppet

pytestmark = pytest.mark.root

GET = b"GET / HTTP/1.1\r\nHost: allowed.test\r\n\r\n"
LAST = b"GET /last HTTP/1.1\r\nHost: allowed.test\r\nConnection: close\r\n\r\n"
EVIL = b"GET /stolen HTTP/1.1\r\nHost: evil.test\r\nConnection: close\r\n\r\n"
POST = b"POST /upload HTTP/1.1\r\nHost: allowed.test\r\nContent-Length: 5\r\n\r\nhello"
CHUNKED = b"POST /upload HTTP/1.1\r\nHost: allowed.test\r\nTransfer-Encoding: chunked\r\n\r\n5\r\nhello\r\n0\r\n\r\n"
CL_TE = CHUNKED.replace(b"Transfer", b"Content-Length: 5\r\nTransfer")

UPGRADE = b"GET /echo HTTP/1.1\r\nHost: allowed.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n\r\n"

LATER = {
    "keep-alive": [GET, EVIL],
    "pipelined": [GET + EVIL],
    "after a body": [POST, EVIL],
    "after a body, in its segment": [POST + EVIL],
    "after chunks": [CHUNKED + EVIL],
    "length and coding": [GET, CL_TE + EVIL],
    "chunks that end twice": [CHUNKED + b"\r\n" + EVIL],
    "absolute form": [GET, EVIL.replace(b"GET /", b"GET http://evil.test/")],
    "absolute form, right host": [GET, GET.replace(b"GET /", b"GET http://evil.test/")],
    "CONNECT": [GET, EVIL.replace(b"GET /stolen", b"CONNECT evil.test:80")],
    "h2c": [
        GET,
        EVIL.replace(
            b"Connection: close", b"Connection: Upgrade, HTTP2-Settings\r\nUpgrade: h2c\r\nHTTP2-Settings: AA"
        ),
    ],
    "h2c, right host": [GET, UPGRADE.replace(b"websocket", b"h2c") + EVIL],
    "h2 by prior knowledge": [GET, b"PRI * HTTP/2.0\r\n\r\nSM\r\n\r\n" + EVIL],
    "upgrade to what nobody knows": [GET, UPGRADE.replace(b"websocket", b"stolen/1")],
    "upgrade that the server refuses": [UPGRADE.replace(b"/echo", b"/status/400") + EVIL],
    "two lengths": [GET, POST.replace(b"\r\nContent", b"\r\nContent-Length: 4\r\nContent") + EVIL],
    "a length with a sign": [GET, POST.replace(b": 5", b": +5") + EVIL],
    "a chunk's size with 0x": [GET, CHUNKED.replace(b"\r\n5\r\n", b"\r\n0x5\r\n") + EVIL],
    "a chunk longer than it says": [GET, CHUNKED.replace(b"hello", b"hello!") + EVIL],
    "bare line feeds": [GET, EVIL.replace(b"\r\n", b"\n")],
    "HTTP/0.9": [GET, b"GET /stolen\r\n\r\n"],
    "two hosts": [GET, GET.replace(b"\r\n\r\n", b"\r\nHost: evil.test\r\n\r\n")],
    "no host": [GET, b"GET /stolen HTTP/1.1\r\n\r\n"],
    "another port": [
        GET,
        GET.replace(b"allowed.test", b"allowed.test:8080").replace(b"GET /", b"GET /stolen"),
    ],
    "trailer with a host": [CHUNKED.replace(b"0\r\n\r\n", b"0\r\nHost: evil.test\r\n\r\n") + EVIL],
    "a byte at a time": [GET, *(bytes((byte,)) for byte in EVIL)],
    "folded": [GET, GET.replace(b"Host: allowed.test", b"Host: allowed.test\r\n evil.test")],
}


@pytest.mark.timeout(60)
def test_a_later_request_to_another_host_reaches_nobody(lab: Lab) -> None:
    with Puppet(lab, allow=["allowed.test"]) as puppet:
        for number, (first, *_) in enumerate(LATER.values()):
            puppet.connect(GOOD_IP, Port.HTTP, number)
            puppet.send(first, number)
        puppet.await_decisions(len(LATER))
        for number, (first, *_) in enumerate(LATER.values()):
            if first in (GET, POST, CHUNKED):  # of the others a part is forbidden already
                _await_answer(puppet, number)
        for number, (_, *later) in enumerate(LATER.values()):
            for part in later:
                with contextlib.suppress(Failure):  # it may have been reset by then
                    puppet.send(part, number)
        ends = {what: _end(puppet, number) for number, what in enumerate(LATER)}
    assert {what: end for what, end in ends.items() if end not in RESET} == {}
    closed = [record["ended_by"] for record in puppet.records() if record["event"] == "egress_closed"]
    assert closed == ["policy"] * len(LATER)
    assert "stolen" not in str(lab.far.entries()) and "evil" not in str(lab.far.entries())
    assert {entry["host"] for entry in lab.far.entries("request")} <= {"allowed.test"}
    assert len(puppet.decisions()) == len(LATER)


RESET = ("ConnectionResetError", "BrokenPipeError")


def _await_answer(puppet: Puppet, number: int) -> None:
    """Until it is whole: a line of JSON."""
    said = b""
    while not said.endswith(b"}\n"):
        chunk = bytes.fromhex(puppet.do("receive", id=number))
        assert chunk, said
        said += chunk


def _end(puppet: Puppet, number: int) -> str:
    """What the client meets after the last answer."""
    try:
        while puppet.do("receive", id=number):
            pass
        puppet.send(b"x", number)
        puppet.send(b"x", number)
    except Failure as failure:
        return str(failure)
    return "nothing"


def test_requests_to_the_same_host_go_on(lab: Lab) -> None:
    with Puppet(lab, allow=["allowed.test"]) as puppet:
        puppet.connect(GOOD_IP, Port.HTTP)
        puppet.send(GET * 999 + POST + CHUNKED + LAST)
        assert puppet.receive_all().count(b"HTTP/1.1 ") == 1002
    assert [entry["host"] for entry in lab.far.entries("request")] == ["allowed.test"] * 1002


def test_a_second_hello_with_another_name_reaches_nobody(lab: Lab) -> None:
    """In one flight, and after the first: held until the server has answered, which settles it for a server that asks for no retry."""
    with Puppet(lab, allow=["allowed.test"]) as puppet:
        puppet.connect(GOOD_IP, Port.SILENT)
        puppet.send(client_hello("allowed.test") + client_hello("evil.test"))
        arrived = lab.far.wait("first", dport=Port.SILENT)
        puppet.send(client_hello("evil.test"))
        puppet.await_read()  # so whatever would pass has passed
        _await_read(lab, Port.SILENT)  # what a reset finds unread is lost
        puppet.do("reset", id=1)
        end = lab.far.wait("end", conn=arrived["conn"])
    first = bytes.fromhex(arrived["bytes"])
    assert b"allowed.test" in first and b"evil" not in first
    assert end["received"] == len(client_hello("allowed.test"))


def _await_read(lab: Lab, port: int) -> None:
    """Return when the far side has read all that has come to its connections at ``port``."""
    give_up = time.monotonic() + 30
    while True:
        lines = lab.run(
            ["ss", "-Htn", "state", "established", f"sport = :{port:d}"], namespace="net"
        ).stdout.splitlines()
        if lines and all(line.split()[0] == "0" for line in lines):
            return
        assert time.monotonic() < give_up, lines
        time.sleep(0.02)


RETRIES = """
import ssl, socket
context = ssl.create_default_context()
with socket.create_connection(("allowed.test", 8777), 30) as tcp:
    with context.wrap_socket(tcp, server_hostname="allowed.test") as tls:
        print(tls.version())
"""


def test_a_server_that_asks_for_another_group(lab: Lab) -> None:
    """HelloRetryRequest through the gateway: openssl s_server that takes P-521 alone."""
    leaf = lab.work / "retry.pem"
    leaf.write_text(lab.leaf("allowed.test"))
    server: list[str | Path] = [
        "openssl",
        "s_server",
        "-accept",
        f"{GOOD_IP}:8777",
        "-groups",
        "P-521",
        "-cert",
        leaf,
        "-key",
        leaf,
    ]
    server = [*server, "-cert_chain", leaf, "-tls1_3", "-msg", "-rev"]
    with lab.popen(server, namespace="net") as process:
        try:
            assert process.stdout is not None
            assert "ACCEPT\n" in iter(process.stdout.readline, ""), "it does not listen"
            outcome = egress_run(lab, ["/usr/bin/python3", "-c", RETRIES], allow=["allowed.test:8777"])
        finally:
            process.terminate()
        said = process.stdout.read()
    assert outcome.stdout == "TLSv1.3\n", (outcome, said)
    assert said.count("ClientHello") == 2, said
