"""A hello of the shape of one before is read by a shorter way: what it says must be what the plain reader says."""

import random

import pytest

from gateway.sniff import Refused, Sniffed, sniff, tls
from tests.gateway.sniff.cursor_tls import read_tls
from tests.gateway.sniff.hellos import Extension, alpn, ech, hello, padding, records, server_name, usual
from tests.gateway.sniff.mutants import seeds

WHOLE = [16384]


@pytest.fixture(autouse=True)
def _nothing_remembered() -> None:
    tls._shapes.clear()


@pytest.mark.parametrize(
    "message", [*seeds(), usual(ech()), hello(server_name(b"x.test"), alpn(b"h2", b"http/1.1"))]
)
def test_any_byte_changed_of_one_that_is_remembered(message: bytes) -> None:
    data = records(message, WHOLE)
    first = sniff(data)
    assert first == read_tls(data)
    assert isinstance(first, Sniffed) is bool(tls._shapes) or len(data) > tls.MAX_SHAPE
    chance = random.Random(1)
    for at in range(len(data)):
        for value in {0, 255, data[at] ^ 1, data[at] ^ 0x80, chance.randrange(256)}:
            changed = data[:at] + bytes((value,)) + data[at + 1 :]
            if changed[0] == 22 and isinstance(said := sniff(changed), Sniffed | Refused):
                assert said == read_tls(changed)


def test_another_name_of_the_same_length_is_read_anew() -> None:
    said = [sniff(records(usual(), WHOLE))]
    for name in (b"one.test", b"TWO.test", b"no_.test", b"in valid", b"a.b.test", b"tri.test"):
        data = records(hello(server_name(name), padding(40)), WHOLE)
        said.append(sniff(data))
        assert said[-1] == read_tls(data)
    assert len(tls._shapes) == 2


def test_a_name_that_was_seen_is_the_same_object_and_so_many_are_remembered() -> None:
    names = [b"%03d.test" % number for number in range(2 * tls.MAX_NAMES)]
    for name in names:
        said = [sniff(records(hello(server_name(name), alpn(b"h2")), WHOLE)) for _ in range(3)]
        assert said[0] == said[1] == read_tls(records(hello(server_name(name), alpn(b"h2")), WHOLE))
        assert said[1] is said[2]
        assert all(len(shape.seen) <= tls.MAX_NAMES for shape in tls._shapes.values())


def test_what_is_remembered_is_bounded() -> None:
    for size in range(3 * tls.MAX_SHAPES):
        assert isinstance(sniff(records(hello(server_name(b"x.test"), padding(size)), WHOLE)), Sniffed)
        assert len(tls._shapes) <= tls.MAX_SHAPES


def test_a_long_one_is_not_remembered() -> None:
    spare = tls.MAX_SHAPE - len(records(hello(server_name(b"x.test"), padding(0)), WHOLE))
    assert isinstance(sniff(records(hello(server_name(b"x.test"), padding(spare + 1)), WHOLE)), Sniffed)
    assert not tls._shapes
    assert isinstance(sniff(records(hello(server_name(b"x.test"), padding(spare)), WHOLE)), Sniffed)
    assert tls._shapes


def test_others_of_the_same_length_are_read_all_the_same() -> None:
    """Two clients of one sandbox: the shape is the first one's."""
    data = [
        records(hello(server_name(b"x.test"), Extension(kind, bytes(4)), alpn(b"h2")), WHOLE)
        for kind in (10, 13)
    ]
    data.append(records(hello(server_name(b"x.test"), Extension(10, bytes(4)), alpn(b"h3")), WHOLE))
    for each in [*data, *data]:
        assert sniff(each) == read_tls(each)
    assert len(tls._shapes) == 1


def test_a_long_name_is_not_remembered() -> None:
    before = tls._hostname.cache_info().currsize
    for size in (254, 255, 300, 9000):
        name = b"a" * size
        data = records(hello(server_name(name)), WHOLE)
        assert sniff(data) == read_tls(data)
    assert tls._hostname.cache_info().currsize <= before + 1


def test_what_follows_the_hello_is_of_no_matter() -> None:
    data = records(usual(), WHOLE)
    first = sniff(data)
    assert (
        sniff(data + b"\x14\x03\x03\x00\x01\x01")
        == first
        == sniff(memoryview(data + b"xyz"))
        == sniff(bytearray(data))
    )
