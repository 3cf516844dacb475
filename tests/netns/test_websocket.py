"""An upgrade that may be: after the server's 101 the bytes are the two sides' own, whatever they look like."""

import os

import pytest

from tests.lab.lab import Lab
from tests.lab.places import GOOD_IP, Port
from tests.netns.puppet import Puppet

pytestmark = pytest.mark.root

ASKS = (
    b"GET /echo HTTP/1.1\r\nHost: allowed.test\r\nConnection: Upgrade\r\nUpgrade: websocket\r\n"
    b"Sec-WebSocket-Version: 13\r\nSec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\n\r\n"
)
TEXT, BINARY = 1, 2


def frame(payload: bytes, kind: int, mask: bytes) -> bytes:
    """RFC 6455 section 5.2, final and masked."""
    size = len(payload)
    length = (
        bytes((0x80 | size,))
        if size < 126
        else b"\xfe" + size.to_bytes(2, "big")
        if size < 1 << 16
        else b"\xff" + size.to_bytes(8, "big")
    )
    masked = bytes(byte ^ mask[at % 4] for at, byte in enumerate(payload)) if any(mask) else payload
    return bytes((0x80 | kind,)) + length + mask + masked


FRAMES = {
    "text": frame(b"hello", TEXT, os.urandom(4)),
    "binary": frame(os.urandom(300_000), BINARY, bytes(4)),
    "what would be a forbidden request": frame(
        b"GET /stolen HTTP/1.1\r\nHost: evil.test\r\n\r\n", TEXT, bytes(4)
    ),
}


@pytest.mark.parametrize("said", FRAMES.values(), ids=FRAMES)
def test_frames_pass_untouched_both_ways(lab: Lab, said: bytes) -> None:
    with Puppet(lab, allow=["allowed.test"]) as puppet:
        puppet.connect(GOOD_IP, Port.HTTP)
        puppet.send(ASKS)
        head = bytes.fromhex(puppet.do("receive", id=1))
        assert head.startswith(b"HTTP/1.1 101 ") and head.endswith(b"\r\n\r\n")
        puppet.send(said)
        puppet.do("shut", id=1)
        assert puppet.receive_all() == said
        closed = puppet.await_closed()
    assert closed["ended_by"] == "client"
    assert closed["bytes_up"] == len(ASKS) + len(said)


def test_a_frame_sent_before_the_answer_waits_for_it(lab: Lab) -> None:
    """Until the server has switched they could be a request to it."""
    said = FRAMES["what would be a forbidden request"]
    with Puppet(lab, allow=["allowed.test"]) as puppet:
        puppet.connect(GOOD_IP, Port.HTTP)
        puppet.send(ASKS + said)
        got = b""
        while not got.endswith(said):
            got += bytes.fromhex(puppet.do("receive", id=1))
    assert got.endswith(b"\r\n\r\n" + said)


def test_a_later_request_of_a_connection_may_ask(lab: Lab) -> None:
    with Puppet(lab, allow=["allowed.test"]) as puppet:
        puppet.connect(GOOD_IP, Port.HTTP)
        puppet.send(b"GET / HTTP/1.1\r\nHost: allowed.test\r\n\r\n")
        first = bytes.fromhex(puppet.do("receive", id=1))
        assert first.startswith(b"HTTP/1.1 200 ")
        puppet.send(ASKS)
        head = b""
        while not head.endswith(b"\r\n\r\n"):
            head += bytes.fromhex(puppet.do("receive", id=1))
        assert b"HTTP/1.1 101 " in head
        said = FRAMES["what would be a forbidden request"]
        puppet.send(said)
        puppet.do("shut", id=1)
        assert puppet.receive_all() == said
