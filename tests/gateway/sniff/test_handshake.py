"""TLS between the first hello and the server's answer, with OpenSSL on both sides."""

import ssl
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.sniff import Forbidden, Handshake, NeedMore, Refused, Sniffed, handshake, sniff, watch
from gateway.sniff.handshake import RETRY_RANDOM, offers_early_data
from gateway.sniff.tls import sniff_tls
from tests.gateway.sniff.hellos import records, usual
from tests.lab.ca import CertificateAuthority

CORPUS = Path(__file__).parent / "corpus"
HOST = "allowed.test"


def server_context(scratch: Path, curve: str | None = "secp521r1") -> ssl.SSLContext:
    """By default a server that takes P-521 alone, for which no client sends a key share unasked."""
    context = CertificateAuthority().context(HOST, scratch)
    if curve is not None:
        context.set_ecdh_curve(curve)
    return context


@pytest.fixture
def server(tmp_path: Path) -> "Peer":
    """One that asks for a retry."""
    return Peer(server_context(tmp_path))


class Peer:
    """One end of a TLS connection in memory."""

    def __init__(self, context: ssl.SSLContext, host: str | None = None) -> None:
        self.incoming, self.outgoing = ssl.MemoryBIO(), ssl.MemoryBIO()
        self.tls = context.wrap_bio(
            self.incoming,
            self.outgoing,
            server_side=context.protocol == ssl.PROTOCOL_TLS_SERVER,
            server_hostname=host,
        )

    def turn(self, data: bytes = b"") -> bytes:
        """Take bytes, go on with the handshake, give bytes."""
        self.incoming.write(data)
        try:
            self.tls.do_handshake()
        except ssl.SSLWantReadError:
            pass
        return self.outgoing.read()


def client(host: str = HOST, **limits: ssl.TLSVersion) -> Peer:
    """A client that does not look at the certificate."""
    context = ssl.create_default_context()
    context.check_hostname, context.verify_mode = False, ssl.CERT_NONE
    for name, value in limits.items():
        setattr(context, name, value)
    return Peer(context, host)


def begin(first: bytes, host: str = HOST) -> Handshake:
    """As a session does it."""
    seen = sniff(first)
    assert isinstance(seen, Sniffed) and seen.host == host
    watching, passes = watch(seen, first, 443)
    assert passes == first
    assert isinstance(watching, Handshake)
    return watching


def pieces(data: bytes, size: int) -> Iterator[bytes]:
    for at in range(0, len(data), size):
        yield data[at : at + size]


@pytest.mark.parametrize("size", [1, 2, 3, 7, 100, 100_000])
def test_a_retry_with_the_same_name_passes(server: Peer, size: int) -> None:
    browser = client()
    watching = begin(first := browser.turn())
    answer = server.turn(first)
    assert RETRY_RANDOM in answer
    assert b"".join(watching.down(piece) for piece in pieces(answer, size)) == b""
    second = browser.turn(answer)
    assert b"".join(watching.up(piece) for piece in pieces(second, size)) == second
    assert watching.settled
    browser.turn(server.turn(second))
    assert browser.tls.version() == "TLSv1.3"


@pytest.mark.parametrize("size", [1, 5, 100_000])
def test_a_retry_with_another_name_ends_it(server: Peer, size: int) -> None:
    browser = client()
    watching = begin(first := browser.turn())
    watching.down(server.turn(first))
    passed = b""
    with pytest.raises(Forbidden):
        for piece in pieces(client("evil.test").turn(), size):
            passed += watching.up(piece)
    assert passed == b""


def test_a_second_hello_that_drips_is_looked_at_as_seldom_as_a_first(
    server: Peer, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Each look walks all its records anew."""
    looks: list[int] = []

    def counted(data: bytes) -> Sniffed | NeedMore | Refused:
        looks.append(len(data))
        return sniff_tls(data)

    browser = client()
    watching = begin(first := browser.turn())
    retry = server.turn(first)
    watching.down(retry)
    second = browser.turn(retry)
    ccs, message = second[:6], second[11:]
    monkeypatch.setattr(handshake, "sniff_tls", counted)
    data = ccs + records(message, 1)
    passed = [watching.up(piece) for piece in pieces(data, 1)]
    assert b"".join(passed) == data and passed[-1] == data[6:]
    assert watching.settled
    assert len(looks) <= 40 < len(message)


def test_two_hellos_in_one_flight() -> None:
    """The second is held until the server has answered: then it is what it is, and the server knows which it took."""
    first, second = client().turn(), client("evil.test").turn()
    seen = sniff(first + second)
    assert isinstance(seen, Sniffed)
    watching, passes = watch(seen, first + second, 443)
    assert passes == first
    assert not watching.settled


def test_a_hello_after_a_retry_that_was_there_already(server: Peer) -> None:
    """Sent before the server asked for it: judged when it did."""
    first, second = client().turn(), client("evil.test").turn()
    seen = sniff(first)
    assert isinstance(seen, Sniffed)
    watching, _ = watch(seen, first + second, 443)
    with pytest.raises(Forbidden):
        watching.down(server.turn(first))


@pytest.mark.parametrize("version", [ssl.TLSVersion.TLSv1_2, ssl.TLSVersion.TLSv1_3])
def test_an_ordinary_handshake_settles_with_the_servers_first_message(
    tmp_path: Path, version: ssl.TLSVersion
) -> None:
    browser = client(maximum_version=version, minimum_version=version)
    server = Peer(server_context(tmp_path, None))
    watching = begin(first := browser.turn())
    answer = server.turn(first)
    for at, piece in enumerate(pieces(answer, 1)):
        assert watching.down(piece) == b""
        assert watching.settled is (at >= 42), "5 of the record, 38 of the message"
        if watching.settled:
            break
    rest = browser.turn(answer)
    assert rest[0] in (20, 22, 23)


def test_what_may_pass_before_the_server_answers() -> None:
    ccs, alert, data = b"\x14\x03\x03\x00\x01\x01", b"\x15\x03\x03\x00\x02\x01\x00", b"\x17\x03\x03\x00\x02ab"
    watching = begin(client().turn())
    assert watching.up(ccs) == ccs
    assert watching.up(alert[:4]) == b""
    assert watching.up(alert[4:]) == alert
    with pytest.raises(Forbidden):
        watching.up(data)


def test_early_data_passes_if_it_was_offered() -> None:
    first = (CORPUS / "openssl-early-data.bin").read_bytes()
    seen = sniff(first)
    assert isinstance(seen, Sniffed)
    hello = first[: seen.consumed]
    assert offers_early_data(hello)
    assert not offers_early_data(client().turn())
    data = b"\x17\x03\x03\x00\x02ab"
    watching = Handshake(seen.host, hello)
    assert watching.up(data) == data
    assert watching.up(data[:6]) == b""
    assert watching.up(data[6:] + data) == data + data


@pytest.mark.parametrize(
    "record",
    [
        b"\x18\x03\x03\x00\x01x",
        b"\x00\x03\x03\x00\x01x",
        b"\x14\x03\x03\xff\xff" + b"x" * 10,
        b"\x14\x03\x03\x00\x02\x01\x01",
        b"\x14\x03\x03\x00\x00",
        b"\x14\x03\x03\x00\x01\x02",
        b"\x15\x03\x03\x00\x24 /alert HTTP/1.1\r\nHost: evil.test\r\n\r\n",
        b"\x15\x03\x03\x00\x03\x01\x00\x00",
        b"\x15\x20\x2f\x00\x02\x01\x00",
    ],
)
def test_other_records_before_the_server_answers_end_it(record: bytes) -> None:
    with pytest.raises(Forbidden):
        begin(client().turn()).up(record)


@pytest.mark.parametrize(
    "answer",
    [
        b"\x15\x03\x03\x00\x02\x02\x28",
        b"\x16\x03\x03\x00\x04\x0e\x00\x00\x00",
    ],
)
@pytest.mark.parametrize("size", [1, 2, 100])
def test_any_other_answer_in_tls_ends_the_watch(answer: bytes, size: int) -> None:
    watching = begin(client().turn())
    held = b"\x16\x03\x03\x00\x04\x10\x00\x00\x00"
    assert watching.up(held) == b""
    assert b"".join(watching.down(piece) for piece in pieces(answer, size)) == held
    assert watching.settled


@pytest.mark.parametrize(
    "answer", [b"HTTP/1.1 400 Bad Request\r\n", b"\x15\x0a", b"\x18\x03\x03\x00", b"\x00"]
)
@pytest.mark.parametrize("size", [1, 100])
@pytest.mark.parametrize("held", [b"", b"\x15\x03\x03", b"\x16\x03\x03\x00\x04\x10\x00\x00\x00"])
def test_an_answer_that_is_no_tls_is_the_last_of_it(answer: bytes, size: int, held: bytes) -> None:
    """Who gives it did not read the hello as one. The client may have it, and end."""
    watching = begin(client().turn())
    assert watching.up(held) == b""
    for piece in [*pieces(answer, size), b"\x16\x03\x03" * 99]:
        assert watching.down(piece) == b""
    assert not watching.settled
    with pytest.raises(Forbidden):
        watching.up(b"\x15")


def test_a_server_that_splits_its_answer_into_records_of_one_byte(server: Peer) -> None:
    answer = server.turn(first := client().turn())
    message = answer[5 : 5 + (answer[3] << 8 | answer[4])]
    split = b"".join(b"\x16\x03\x03\x00\x01" + message[at : at + 1] for at in range(len(message)))
    watching = begin(first)
    watching.down(split)
    with pytest.raises(Forbidden):
        watching.up(client("evil.test").turn())


def test_what_is_held_is_bounded() -> None:
    watching = begin(client().turn())
    record = b"\x16\x03\x03\x40\x00" + bytes(1 << 14)
    assert watching.up(record) == b""
    with pytest.raises(Forbidden):
        watching.up(bytes(300))


def test_a_record_of_early_data_may_be_as_long_as_any() -> None:
    first = (CORPUS / "openssl-early-data.bin").read_bytes()
    seen = sniff(first)
    assert isinstance(seen, Sniffed)
    watching = Handshake(seen.host, first[: seen.consumed])
    data = b"\x17\x03\x03\x41\x00" + bytes((1 << 14) + 256)
    assert watching.up(data[:-1]) == b""
    assert watching.up(data[-1:] + data * 5 + data[:9]) == data * 6
    with pytest.raises(Forbidden):
        watching.up(data[9:] + b"\x17\x03\x03\x41\x01")


def test_a_second_hello_is_as_long_as_a_first_may_be(server: Peer) -> None:
    """Whatever it is cut into; and what never becomes one is not held for it."""
    watching = begin(first := client().turn())
    watching.down(retry := server.turn(first))
    second = records(usual(name=HOST.encode(), least=32 * 1024), 16)
    assert b"".join(watching.up(piece) for piece in pieces(second, 4096)) == second
    assert watching.settled
    watching = begin(first)
    watching.down(retry)
    with pytest.raises(Forbidden):
        for _ in range(11):
            watching.up(records(b"\1\0\x7f\0" + bytes(4092), 4096)[:4096])
