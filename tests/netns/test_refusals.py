"""What a refused client sees: the same for the same decision, each time, however it came to say what it said."""

import json
import time
from typing import Any

import pytest

from gateway.refusal import TLS_ACCESS_DENIED
from tests.gateway.sniff.hellos import ECH, Extension, ech, records, usual
from tests.lab.lab import Lab
from tests.lab.places import BLOCKED_IP, GOOD_IP, METADATA_IP, Port
from tests.lab.sandboxed import Record
from tests.netns.hello import client_hello, get
from tests.netns.puppet import Failure, Puppet

pytestmark = pytest.mark.root

TIMES = 10
READS_ON_S = 1.0
"""So long the gateway hears a client out that it has refused: one that the machine holds up for longer may meet a reset instead."""
LARGE_HEAD = get("blocked.test", lines=f"Cookie: {'c' * 20_000}\r\n")
LARGE_POST = b"POST / HTTP/1.1\r\nHost: blocked.test\r\nContent-Length: 60000\r\n\r\n" + bytes(60_000)
RESET = "reset"


def what_it_sees(puppet: Puppet, ip: str, port: int, said: bytes, then: str) -> bytes | str:
    """All that comes back, to the end of file; or that it was reset."""
    try:
        puppet.connect(ip, port)
        if said:
            puppet.send(said)
        if then:
            puppet.do(then, id=1)
        return puppet.receive_all()
    except Failure as failure:
        if failure.args[0] == "ConnectionRefusedError":
            return str(failure)
        assert failure.args[0] in ("ConnectionResetError", "BrokenPipeError")
        return RESET


CASES: dict[str, tuple[str, int, bytes, str]] = {
    "hello": (BLOCKED_IP, 443, client_hello("blocked.test"), ""),
    "hello, half-closed": (BLOCKED_IP, 443, client_hello("blocked.test"), "shut"),
    "large hello": (BLOCKED_IP, 443, records(usual(name=b"blocked.test", least=15_000)), ""),
    "hello and more": (BLOCKED_IP, 443, client_hello("blocked.test") + bytes(30_000), ""),
    "hello without a name": (GOOD_IP, 443, client_hello(None), ""),
    "request": (BLOCKED_IP, 80, get("blocked.test"), ""),
    "request, half-closed": (BLOCKED_IP, 80, get("blocked.test"), "shut"),
    "large head": (BLOCKED_IP, 80, LARGE_HEAD, ""),
    "large body": (BLOCKED_IP, 80, LARGE_POST, ""),
    "two requests": (BLOCKED_IP, 80, get("blocked.test") * 2, ""),
    "bad request": (GOOD_IP, 80, b"GET / HTTP/1.1\r\nHost: allowed.test\nHost: x\r\n\r\n", ""),
    "neither": (GOOD_IP, 22, b"SSH-2.0-client\r\n", ""),
    "floor": (METADATA_IP, 80, b"", ""),
}


@pytest.mark.parametrize("case", CASES)
def test_the_same_each_time(lab: Lab, case: str) -> None:
    ip, port, said, then = CASES[case]
    with Puppet(lab, allow=["allowed.test"]) as puppet:
        tries: list[tuple[bytes | str, bool]] = []
        while sum(in_time for _, in_time in tries) < TIMES:
            began = time.monotonic()
            seen = what_it_sees(puppet, ip, port, said, then)
            tries.append((seen, time.monotonic() - began < READS_ON_S))
        every = puppet.await_decisions(len(tries))
    (answer,) = {seen for seen, in_time in tries if in_time}
    assert {seen for seen, _ in tries} <= {answer, RESET}
    decided = [record for record, (_, in_time) in zip(every, tries, strict=True) if in_time]
    if case == "floor":
        assert answer == "ConnectionRefusedError", "by the kernel"
    elif case == "neither":
        assert answer == RESET
    elif port == 443:
        assert answer == TLS_ACCESS_DENIED
    else:
        head, body = (
            bytes(answer, "latin-1").split(b"\r\n\r\n")
            if isinstance(answer, str)
            else answer.split(b"\r\n\r\n")
        )
        assert head.startswith(b"HTTP/1.1 403 Forbidden\r\n")
        told: dict[str, Any] = json.loads(body)
        assert (told["error"], told["rule"], told["reason"]) == (
            "egress_blocked",
            decided[0]["rule"],
            decided[0]["reason"],
        )
        assert told["host"] == decided[0]["domain"]
    assert len({(record["event"], record["rule"], record["reason"]) for record in decided}) == 1
    assert not lab.far.entries("connect")


@pytest.mark.parametrize("knob", ["allow", "refuse"])
def test_ech(lab: Lab, knob: str) -> None:
    """A browser's GREASE and the real thing look alike: it is on record, and refused only where the policy says so."""
    policy = lab.work / f"ech-{knob}.json"
    policy.write_text(
        json.dumps({"network": {"allow_out": ["allowed.test"], "deny_out": ["0.0.0.0/0"], "ech": knob}})
    )
    with Puppet(lab, options=["--policy", str(policy)]) as puppet:
        puppet.connect(GOOD_IP, Port.SILENT)
        puppet.send(records(usual(ech(), name=b"allowed.test")))
        (decided,) = puppet.await_decisions(1)
        if knob == "refuse":
            assert puppet.receive_all() == TLS_ACCESS_DENIED
        else:
            first = bytes.fromhex(lab.far.wait("first", dport=Port.SILENT)["bytes"])
            assert Extension(ECH).encode()[:2] in first
    wanted: Record = {"domain": "allowed.test", "ech": True, "app": "tls"}
    wanted |= (
        {"event": "egress_allowed", "reason": "allowed_name"}
        if knob == "allow"
        else {"event": "egress_blocked", "reason": "ech"}
    )
    assert {key: decided.get(key) for key in wanted} == wanted


def test_the_outer_name_must_be_allowed_itself(lab: Lab) -> None:
    with Puppet(lab, allow=["allowed.test"]) as puppet:
        puppet.connect(GOOD_IP, 443)
        puppet.send(records(usual(ech(), name=b"blocked.test")))
        assert puppet.receive_all() == TLS_ACCESS_DENIED
        (decided,) = puppet.await_decisions(1)
    assert (decided["domain"], decided["reason"]) == ("blocked.test", "no_allow_entry")


def test_nothing_is_said_to_a_client_whose_request_went_upstream_before(lab: Lab) -> None:
    """A 403 in the middle of answers would be taken for one of the server's."""
    with Puppet(lab, allow=["allowed.test"]) as puppet:
        puppet.connect(GOOD_IP, Port.HTTP)
        puppet.send(b"GET / HTTP/1.1\r\nHost: allowed.test\r\n\r\n")
        assert bytes.fromhex(puppet.do("receive", id=1)).startswith(b"HTTP/1.1 200 ")
        puppet.send(get("blocked.test"))
        with pytest.raises(Failure, match="ConnectionResetError"):
            for _ in range(9):  # the rest of the first answer may come by itself
                assert b" 403 " not in bytes.fromhex(puppet.do("receive", id=1))
