"""A second ClientHello where a server would take one, by a client and a server of the test's own: the far side never sees another name."""

import contextlib
from collections.abc import Iterator
from typing import IO

import pytest

from gateway.sniff.handshake import RETRY_RANDOM
from tests.gateway.sniff.hellos import EARLY_DATA, Extension, record, records, usual
from tests.lab.lab import Lab
from tests.lab.places import GOOD_IP
from tests.netns.hello import client_hello
from tests.netns.puppet import Failure, Puppet

pytestmark = pytest.mark.root

PORT = 8779
CHANGE_CIPHER_SPEC = record(b"\1", 20)
RETRY = record(
    b"\2" + (42).to_bytes(3, "big") + b"\3\3" + RETRY_RANDOM + b"\0" + b"\x13\1" + b"\0" + b"\0\0",
    version=b"\3\3",
)
"""A HelloRetryRequest without extensions (RFC 8446 section 4.1.3): enough to be known for one."""
FIRST = records(usual(name=b"allowed.test"))
EARLY = records(usual(Extension(EARLY_DATA), name=b"allowed.test"))
EVIL = records(usual(name=b"evil.test"))
DATA = record(b"early" * 20, 23)
SERVER = """
import socket, sys
server = socket.create_server((sys.argv[1], int(sys.argv[2])))
print("ready", flush=True)
client, _ = server.accept()
client.settimeout(30)
got = client.recv(65536)
print("begun", flush=True)
try:
    client.sendall(bytes.fromhex(sys.argv[3]))
    while chunk := client.recv(65536):
        got += chunk
except OSError:
    pass
print(got.hex(), flush=True)
"""


@contextlib.contextmanager
def server(lab: Lab, says: bytes, heard: list[bytes]) -> Iterator[IO[str]]:
    """Takes one connection, answers its first bytes, and appends to ``heard`` all that it ever got. It says ``begun`` when it has the first."""
    argv = ["/usr/bin/python3", "-c", SERVER, GOOD_IP, str(PORT), says.hex()]
    with lab.popen(argv, namespace="net") as process:
        assert process.stdout is not None and process.stdout.readline() == "ready\n"
        yield process.stdout
        heard.append(bytes.fromhex(process.stdout.read().split()[-1]))


CASES = {
    "after a retry": (FIRST, RETRY, EVIL),
    "after a retry, behind a change of cipher": (FIRST, RETRY, CHANGE_CIPHER_SPEC + EVIL),
    "in one flight, before a retry": (FIRST + EVIL, RETRY, b""),
    "after early data, before a retry": (EARLY + DATA + EVIL, RETRY, b""),
    "after early data and a retry": (EARLY + DATA, RETRY, DATA + EVIL),
    "in records of one byte": (FIRST, RETRY, records(usual(name=b"evil.test"), 1)),
    "no hello at all": (FIRST, RETRY, record(b"\x0b" + bytes(3))),
    "half of it in the retry's flight": (FIRST + EVIL[:50], RETRY, EVIL[50:]),
    "in a request, after an answer that is no TLS": (
        FIRST,
        b"HTTP/1.1 400 Bad Request\r\n\r\n",
        b"GET / HTTP/1.1\r\nHost: evil.test\r\n\r\n",
    ),
    "in an alert": (FIRST, b"", record(b" / HTTP/1.1\r\nHost: evil.test\r\n\r\n", 21)),
    "in early data": (EARLY, b"", record(b" / HTTP/1.1\r\nHost: evil.test\r\n\r\n", 23)),
}


@pytest.mark.parametrize(("first", "answer", "then"), CASES.values(), ids=CASES)
def test_another_name_closes_and_arrives_nowhere(lab: Lab, first: bytes, answer: bytes, then: bytes) -> None:
    heard: list[bytes] = []
    with Puppet(lab, allow=[f"allowed.test:{PORT}"]) as puppet:
        with server(lab, answer, heard) as said:
            puppet.connect(GOOD_IP, PORT)
            puppet.send(first)
            with contextlib.suppress(Failure):  # in one flight: forbidden as soon as the server has answered
                if answer:
                    puppet.do("receive", id=1)
                else:
                    assert said.readline() == "begun\n"
                puppet.send(then)
            closed = puppet.await_closed()
        with pytest.raises(Failure, match=r"ConnectionResetError|BrokenPipeError"):
            while puppet.do("receive", id=1):
                pass
            puppet.send(b"x")
            puppet.send(b"x")
    assert closed["ended_by"] == "policy"
    assert heard[0].startswith(first[:40]) and b"allowed.test" in heard[0]
    assert b"evil" not in heard[0] and len(heard[0]) <= len(EARLY + DATA + DATA)


@pytest.mark.parametrize("between", [b"", CHANGE_CIPHER_SPEC], ids=["at once", "behind a change of cipher"])
def test_the_same_name_passes(lab: Lab, between: bytes) -> None:
    """And then nothing is looked at any more: what comes may be encrypted."""
    heard: list[bytes] = []
    after = between + FIRST + EVIL
    with Puppet(lab, allow=[f"allowed.test:{PORT}"]) as puppet:
        with server(lab, RETRY, heard):
            puppet.connect(GOOD_IP, PORT)
            puppet.send(FIRST)
            assert bytes.fromhex(puppet.do("receive", id=1)) == RETRY
            puppet.send(after)
            puppet.do("shut", id=1)
            closed = puppet.await_closed()
    assert heard == [FIRST + after]
    assert closed["ended_by"] == "client"


def test_an_answer_that_is_no_retry_settles_it(lab: Lab) -> None:
    """A second hello unasked waits until the server has answered, and then cannot be one that the server reads as such."""
    heard: list[bytes] = []
    hello = client_hello("allowed.test")
    answer = record(
        b"\2" + (42).to_bytes(3, "big") + b"\3\3" + bytes(32) + b"\0" + b"\x13\1" + b"\0" + b"\0\0",
        version=b"\3\3",
    )
    with Puppet(lab, allow=[f"allowed.test:{PORT}"]) as puppet:
        with server(lab, answer, heard):
            puppet.connect(GOOD_IP, PORT)
            puppet.send(hello)
            assert bytes.fromhex(puppet.do("receive", id=1)) == answer
            puppet.send(DATA)
            puppet.do("shut", id=1)
            puppet.await_closed()
    assert heard == [hello + DATA]
