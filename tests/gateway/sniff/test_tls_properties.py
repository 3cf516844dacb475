"""The fast walk and the plain one, on what nobody thought of."""

import random

from hypothesis import example, given, settings
from hypothesis import strategies as st

from gateway.sniff import NeedMore, Refused, Sniffed, sniff
from tests.gateway.sniff.cursor_tls import read_tls
from tests.gateway.sniff.hellos import Extension, entry, hello, record, records, usual, vector
from tests.gateway.sniff.mutants import mutants

claims = st.none() | st.integers(0, 40)
sizes = st.lists(st.integers(1, 64) | st.just(16384), min_size=1, max_size=8)
label = st.text("abAB01-_", min_size=1, max_size=6)
name = st.lists(label, min_size=1, max_size=4).map(".".join).map(str.encode) | st.binary(max_size=12)
names = st.lists(st.builds(entry, name, st.sampled_from((0, 0, 0, 1)), claims), max_size=2).map(b"".join)
protocols = st.lists(st.builds(vector, st.just(1), st.binary(max_size=4), claims), max_size=3).map(b"".join)
extension = st.one_of(
    st.builds(Extension, st.just(0), st.builds(vector, st.just(2), names, claims), claims),
    st.builds(Extension, st.just(16), st.builds(vector, st.just(2), protocols, claims), claims),
    st.builds(Extension, st.sampled_from((0, 16, 21, 0xFE0D, 0xFFCE, 0x1A1A)), st.binary(max_size=6), claims),
)
honest = st.one_of(
    st.builds(lambda name: Extension(0, vector(2, entry(name))), name),
    st.builds(Extension, st.integers(17, 30), st.binary(max_size=6), st.none()),
    st.just(Extension(0xFE0D, b"x")),
)
message = st.one_of(
    st.lists(extension, max_size=5).map(lambda several: hello(*several)),
    st.lists(honest, max_size=4, unique_by=lambda one: one.kind).map(lambda several: hello(*several)),
    st.builds(
        lambda several, session, suites, methods, after, claim: hello(
            *several, session=session, suites=suites, methods=methods, after=after, claim=claim
        ),
        st.lists(honest, max_size=3),
        st.binary(max_size=34),
        st.binary(max_size=5),
        st.binary(max_size=2),
        st.binary(max_size=1),
        st.none() | st.integers(0, 200),
    ),
)
some_record = st.builds(
    record,
    st.binary(max_size=20),
    st.sampled_from((22, 22, 22, 20, 21, 23)),
    st.sampled_from((b"\3\1", b"\3\3", b"\3\4", b"\3\5", b"\2\0")),
    st.none() | st.integers(0, 20000),
)


def same(data: bytes) -> Sniffed | NeedMore | Refused:
    """One answer from both; of ``NeedMore`` only that it is one."""
    fast, plain = sniff(data), read_tls(data)
    if isinstance(fast, NeedMore):
        assert isinstance(plain, NeedMore)
        assert fast.at_least >= 1
    else:
        assert fast == plain
    return fast


def same_for_every_prefix(data: bytes, step: int = 1) -> None:
    whole = same(data)
    decided = False
    for end in range(1, len(data), step):
        seen = same(data[:end])
        if isinstance(seen, NeedMore):
            assert not decided
            assert not isinstance(whole, Sniffed) or end + seen.at_least <= whole.consumed
        else:
            assert seen == whole
            decided = True


@settings(max_examples=200, deadline=None)
@given(message, sizes, st.binary(max_size=8))
def test_both_say_the_same_of_hellos_with_lying_lengths(made: bytes, cuts: list[int], later: bytes) -> None:
    same_for_every_prefix(records(made, cuts) + later, step=3)


@settings(max_examples=300, deadline=None)
@given(message, sizes, sizes)
def test_records_change_nothing(made: bytes, cuts: list[int], others: list[int]) -> None:
    one, other = same(records(made, cuts)), same(records(made, others))
    claimed = int.from_bytes(made[1:4], "big") + 4
    if claimed < len(made):
        return  # there is more than the hello: which record it ends in decides
    if isinstance(one, Sniffed):
        assert isinstance(other, Sniffed)
        one, other = one._replace(consumed=0), other._replace(consumed=0)
    assert type(one) is type(other)
    assert one == other or isinstance(one, NeedMore)


@settings(max_examples=300, deadline=None)
@given(st.lists(some_record, max_size=4).map(b"".join))
def test_both_say_the_same_of_any_records(data: bytes) -> None:
    same_for_every_prefix(b"\x16" + data[1:])


@settings(max_examples=500, deadline=None)
@given(st.binary(max_size=400))
@example(b"")
@example(b"\x16")
def test_both_say_the_same_of_any_bytes(data: bytes) -> None:
    same_for_every_prefix(b"\x16" + data, step=17)
    same_for_every_prefix(b"\x16\3\1" + data, step=17)
    assert isinstance(same(records(b"\1" + vector(3, b"\3\3" + data))), Refused | Sniffed)


@settings(max_examples=200, deadline=None)
@given(st.binary(max_size=200), st.integers(-3, 300))
def test_no_bytes_raise(data: bytes, scanned: int) -> None:
    for buffer in (data, bytearray(data), memoryview(data)):
        assert isinstance(sniff(buffer, scanned=scanned), Sniffed | NeedMore | Refused)


def test_both_say_the_same_of_mutants() -> None:
    kinds = {type(same(data)) for data in mutants(8000, seed=8)}
    assert kinds == {Sniffed, NeedMore, Refused}


def test_both_say_the_same_about_the_last_record_that_is_read() -> None:
    chance = random.Random(5)
    kinds = set()
    for size in (2047, 2048, 2049, 8000, 32768):
        handshake = usual(least=size)
        mixed = [chance.choice((1, 2, 9, 40, 64, 65)) for _ in range(20000)]
        for cuts in ([1], [16], [1] * 2046 + [9000], [1] * 2047 + [9000], [9000, 3], [64, 64, 64, 1], mixed):
            data = records(handshake, cuts)
            last = 6 * 2047
            for end in (60, *range(last - 2, last + 7), len(data) // 2, len(data) - 1, len(data)):
                kinds.add(type(same(data[:end])))
    assert kinds == {Sniffed, NeedMore, Refused}
