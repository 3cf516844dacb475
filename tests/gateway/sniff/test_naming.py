"""Names that decide nothing: noted however they arrive, and never in the way."""

import pytest

from gateway.sniff.naming import MAX_HELD, Naming
from tests.gateway.sniff.hellos import records, usual

HELLO = records(usual(name=b"api.github.com"))
HEAD = b"GET / HTTP/1.1\r\nHost: API.github.com\r\n\r\n"


def shown(*chunks: bytes) -> tuple[str | None, bool]:
    naming = Naming()
    for chunk in chunks:
        assert not naming.settled
        assert naming.up(chunk) == chunk
        assert naming.down(b"220 hello\r\n") == b""
    return naming.host, naming.settled


@pytest.mark.parametrize("said", [HELLO, HEAD], ids=["tls", "http"])
def test_a_name_is_noted_whole_and_byte_by_byte(said: bytes) -> None:
    assert shown(said) == ("api.github.com", True)
    assert shown(*(bytes((byte,)) for byte in said)) == ("api.github.com", True)


@pytest.mark.parametrize(
    "said", [b"SSH-2.0-client\r\n", b"\x16\x02\1\0\5\1", b"\xff", b"GET / HTTP/1.1\r\nHost: a\x00b\r\n\r\n"]
)
def test_what_shows_none_is_looked_at_no_longer(said: bytes) -> None:
    assert shown(said) == (None, True)


def test_half_a_hello_is_waited_for_and_names_nothing() -> None:
    assert shown(HELLO[:-1]) == (None, False)


def test_what_is_held_is_bounded() -> None:
    naming = Naming()
    for _ in range(MAX_HELD // 100 + 2):
        if naming.settled:
            break
        naming.up(b"GET /" + b"a" * 95 if not naming._held else b"a" * 100)
    assert naming.settled and not naming._held
