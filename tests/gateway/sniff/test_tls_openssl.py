"""OpenSSL reads the same bytes: where it takes a hello, we must not have seen another name in it."""

import ssl
import sys
import warnings
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from typing import NamedTuple, cast

import pytest

from gateway.sniff import NeedMore, Sniffed, sniff
from tests.gateway.sniff.cursor_tls import hostname
from tests.gateway.sniff.hellos import hello, records, server_name
from tests.gateway.sniff.mutants import mutants, seeds
from tests.gateway.sniff.tls_cases import MESSAGES, WIRES


class Heard(NamedTuple):
    """That OpenSSL read a whole ClientHello, and the name it found there."""

    name: bytes | None


def openssl(data: bytes) -> Heard | None:
    """What OpenSSL's server makes of ``data``; None where it takes no hello."""
    heard: list[Heard] = []

    def seen(_connection: ssl.SSLObject, name: str | None, _context: ssl.SSLContext) -> int:
        heard.append(Heard(None if name is None else name.encode()))
        return ssl.ALERT_DESCRIPTION_HANDSHAKE_FAILURE  # the rest of the handshake is not wanted

    context = _context()
    # The stub says str, but without a server_name it is None.
    context.sni_callback = cast("Callable[[ssl.SSLObject, str, ssl.SSLContext], int]", seen)
    incoming = ssl.MemoryBIO()
    incoming.write(data)
    with names_beyond_ascii(heard), suppress(ssl.SSLError):
        context.wrap_bio(incoming, ssl.MemoryBIO(), server_side=True).do_handshake()
    return heard[0] if heard else None


@contextmanager
def names_beyond_ascii(heard: list[Heard]) -> Iterator[None]:
    """A name that is not ASCII never reaches the callback: Python hands it, as bytes, to this hook."""
    hook = sys.unraisablehook

    def keep(unraisable: "sys.UnraisableHookArgs") -> None:
        assert isinstance(unraisable.object, bytes)
        heard.append(Heard(unraisable.object))

    sys.unraisablehook = keep
    try:
        yield
    finally:
        sys.unraisablehook = hook


def _context() -> ssl.SSLContext:
    context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
    with warnings.catch_warnings():
        warnings.simplefilter("ignore", DeprecationWarning)
        context.minimum_version = ssl.TLSVersion.TLSv1
    context.set_ciphers("ALL:@SECLEVEL=0")
    return context


def agree(data: bytes) -> bool:
    """Whether both gave a name; a contradiction fails."""
    ours, theirs = sniff(data), openssl(data)
    if theirs is None:
        return False
    assert not isinstance(ours, NeedMore), "OpenSSL has read a hello that we are waiting for"
    if not isinstance(ours, Sniffed):
        return False
    assert theirs.name is not None, f"OpenSSL sees no name in what we call {ours.host}"
    assert hostname(theirs.name) == ours.host
    return True


def test_every_name_of_the_corpus_is_what_openssl_sees() -> None:
    named = [data for data in map(records, seeds()) if isinstance(sniff(data), Sniffed)]
    assert len(named) > 40
    unheard = [data for data in named if not agree(data)]
    assert all(b"srtp.openssl.test" in data for data in unheard), (
        "OpenSSL refuses nothing but SRTP outside of DTLS"
    )


@pytest.mark.parametrize("size", [1, 16, 16384])
def test_no_case_written_by_hand_is_contradicted(size: int) -> None:
    agreed = sum(agree(records(case.handshake, size)) for case in MESSAGES if len(case.handshake) < 10000)
    assert agreed > 20


def test_no_wire_is_contradicted() -> None:
    assert sum(agree(case.data) for case in WIRES) > 10


def test_the_oracle_hears_every_kind_of_name() -> None:
    for name in (b"x.test", b"X.test.", b"1.2.3.4", b"\xff.test", b"x test", b"-"):
        assert openssl(records(hello(server_name(name)))) == Heard(name)
    assert openssl(records(hello())) == Heard(None)
    assert openssl(records(hello(server_name(b"x.test"), server_name(b"y.test")))) is None
    assert openssl(b"GET / HTTP/1.1\r\n\r\n") is None


def test_no_mutant_is_contradicted() -> None:
    agreed = sum(agree(data) for data in mutants(3000, seed=4))
    assert agreed > 500, "OpenSSL was hardly asked"
