"""Brief lines are kept as the very lines that their records would be, and nothing is kept that no record may say."""

import time
from collections.abc import Iterator

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from audit import brief
from audit.brief import FORMS, Forms, allowed_line, closed_line, whose
from audit.claim import record_of
from audit.dates import Dates
from audit.record import EndedBy, Phase, Record, timestamp
from tests.audit.example import blocked, ended

ALLOWED_RECORD = blocked() | {"event": "egress_allowed", "upstream_ip": "203.0.113.9"}
FORMED = [
    ALLOWED_RECORD,
    ALLOWED_RECORD | {"domain": None, "domain_source": None, "app": None, "rule": "default"},
    ALLOWED_RECORD | {"rule": 'allow_out[3] 100%s "quoted" \\ %% ü'},
    ALLOWED_RECORD | {"ech": True, "dest_mismatch": True},
    ALLOWED_RECORD | {"generation": 7},
]
AT_NS = 1_795_880_531_123_456_000
MOMENT = timestamp(AT_NS)


@pytest.fixture(autouse=True, scope="module")
def then() -> Iterator[None]:
    """The keeper's clock says it is the moment of the lines."""
    with pytest.MonkeyPatch.context() as patched:
        patched.setattr(time, "time_ns", lambda: AT_NS)
        yield


def forms(record: Record = ALLOWED_RECORD, number: int = 7) -> Forms:
    made = Forms("agent-1", "b7e1-0", Dates())
    assert made.define(b"=%d" % number + orjson.dumps(record)) == record
    return made


def allowed(*values: object) -> bytes:
    return b"a" + "|".join(map(str, values)).encode()


def closed(*values: object) -> bytes:
    return b"c" + "|".join(map(str, values)).encode()


def anew(kept: bytes, seq: int) -> bytes:
    """What the keeper would make of the record if it had come whole."""
    record = record_of(kept, "agent-1")
    assert record is not None
    return orjson.dumps(record | {"writer": "b7e1-0", "seq": seq}) + b"\n"


def test_what_a_worker_sends_is_what_is_read_here() -> None:
    who = whose("10.0.0.2", 41234, "ab-1f")
    assert allowed_line(b"7", MOMENT.encode(), who) == allowed(7, *WHO) + b"\n"
    for ended_by in EndedBy:
        for phase in Phase:
            line = closed_line(
                b"7", MOMENT.encode(), who, b'"192.0.2.7"', 517, 2**40, b"3.5", ended_by, phase
            )
            assert line == closed(7, *WHO, '"192.0.2.7"', 517, 2**40, "3.5", ended_by, phase) + b"\n"
            assert forms().kept(line[:-1], 0) is not None


@pytest.mark.parametrize("record", FORMED)
def test_another_like_it_is_told_in_full(record: Record) -> None:
    kept = forms(record).kept(allowed(7, MOMENT, "2001:db8::2", 65535, "ab-1f"), 1042)
    own = {"timestamp": MOMENT, "src_ip": "2001:db8::2", "src_port": 65535, "flow": "ab-1f"}
    assert kept == orjson.dumps(record | own | {"writer": "b7e1-0", "seq": 1042}) + b"\n"
    assert anew(kept, 1042) == kept


@pytest.mark.parametrize("record", FORMED)
@pytest.mark.parametrize("upstream", [None, "198.51.100.7", "2001:db8::7"])
def test_its_end_is_told_in_full(record: Record, upstream: str | None) -> None:
    who = (MOMENT, "10.0.0.2", 0, "ab-1f", orjson.dumps(upstream).decode())
    own = (*who, 0, 2**40, "1234.568", EndedBy.TIMEOUT, Phase.CONNECT)
    kept = forms(record).kept(closed(7, *own), 3)
    end = ended() | {name: record[name] for name in ("domain", "dest_ip", "dest_port", "proto", "generation")}
    end |= {
        "timestamp": MOMENT,
        "src_ip": "10.0.0.2",
        "src_port": 0,
        "flow": "ab-1f",
        "upstream_ip": upstream,
    }
    end |= {
        "bytes_up": 0,
        "bytes_down": 2**40,
        "duration_ms": 1234.568,
        "ended_by": "timeout",
        "phase": "connect",
    }
    assert kept == orjson.dumps(end | {"writer": "b7e1-0", "seq": 3}) + b"\n"
    assert anew(kept, 3) == kept


WHO = (MOMENT, "10.0.0.2", 41234, "ab-1f")
END = ("null", 1, 2, "3.5", "client", "relay")


@pytest.mark.parametrize(
    "line",
    [
        allowed(8, *WHO),
        allowed(7, *WHO) + b"|1",
        allowed(7, *WHO) + b"|" * 100_000,
        closed(7, *WHO, *("null", 1, 2, "3.5", "client", "relay")) + b"|" * 100_000,
        allowed(7, *WHO) + b"\r",
        allowed(7, "2026-11-28", "10.0.0.2", 41234, "ab-1f"),
        allowed(7, MOMENT, 'x"', 41234, "ab-1f"),
        allowed(7, MOMENT, "10.0.0.2", 65536, "ab-1f"),
        allowed(7, MOMENT, "10.0.0.2", -1, "ab-1f"),
        allowed(7, MOMENT, "10.0.0.2", 41234, 'x","event":"egress_blocked'),
        allowed(7, MOMENT, "10.0.0.2", 41234, "a" * 65),
        b"a",
        b"a7",
        b"a\xff|",
    ],
)
def test_what_no_field_may_hold_is_not_kept(line: bytes) -> None:
    assert forms().kept(line, 0) is None


@pytest.mark.parametrize(
    "end",
    [
        ("198.51.100.7", *END[1:]),
        ('"x\\"', *END[1:]),
        ("null", 1, 10**15, *END[3:]),
        ("null", 1, 2, "3.50", *END[4:]),
        ("null", 1, 2, "3", *END[4:]),
        ("null", 1, 2, "-3.5", *END[4:]),
        ("null", 1, 2, "1e5", *END[4:]),
        (*END[:4], "nobody", "relay"),
        (*END[:4], "client", "nowhere"),
    ],
)
def test_nor_of_an_end(end: tuple[object, ...]) -> None:
    assert forms().kept(closed(7, *WHO, *END), 0) is not None
    assert forms().kept(closed(7, *WHO, *end), 0) is None


@pytest.mark.parametrize(
    "line",
    [
        b"=1" + orjson.dumps(blocked()),
        b"=1" + orjson.dumps(ended()),
        b"=1" + orjson.dumps(ALLOWED_RECORD | {"src_port": 65536}),
        b"=1" + orjson.dumps(ALLOWED_RECORD | {"body": "x"}),
        b"=1[]",
        b"=1",
        b"=" + orjson.dumps(ALLOWED_RECORD),
        b"=x" + orjson.dumps(ALLOWED_RECORD),
        b"=1234567890123456" + orjson.dumps(ALLOWED_RECORD),
    ],
)
def test_only_the_record_of_an_allowed_connection_is_a_form(line: bytes) -> None:
    made = forms()
    assert made.define(line) is None
    assert made.kept(allowed(1, *WHO), 0) is None
    assert made.kept(allowed(7, *WHO), 0) is not None, "those before stand"


def test_whose_record_it_is_is_not_for_the_sender_to_say() -> None:
    made = Forms("agent-1", "b7e1-0", Dates())
    assert made.define(b"=1" + orjson.dumps(ALLOWED_RECORD | {"sandbox": "agent-2", "writer": "x", "seq": 9}))
    kept = made.kept(allowed(1, *WHO), 4)
    assert kept is not None
    said = orjson.loads(kept)
    assert (said["sandbox"], said["writer"], said["seq"]) == ("agent-1", "b7e1-0", 4)


def test_the_newest_are_known_and_no_more() -> None:
    made = Forms("agent-1", "b7e1-0", Dates())
    for number in range(FORMS + 3):
        made.define(b"=%d" % number + orjson.dumps(ALLOWED_RECORD | {"dest_port": number}))
    assert len(made._known) == FORMS
    assert [made.kept(allowed(number, *WHO), 0) is not None for number in (2, 3, FORMS + 2)] == [
        False,
        True,
        True,
    ]
    made.define(b"=3" + orjson.dumps(ALLOWED_RECORD))
    made.define(b"=5000" + orjson.dumps(ALLOWED_RECORD))
    assert [made.kept(allowed(number, *WHO), 0) is not None for number in (3, 4, 5)] == [True, False, True]


def test_how_much_longer_a_line_may_become() -> None:
    """The keeper holds room on the disk for what the pipe may hold."""
    long = ALLOWED_RECORD | {"rule": ""}
    long["rule"] = "x" * (brief.MAX_FORM_BYTES - len(orjson.dumps(long)))
    longer = orjson.dumps(long | {"rule": long["rule"] + "x"})
    made = Forms("agent-1", "b7e1a9c0b7e1a9c0-0", Dates())
    assert made.define(b"=0" + orjson.dumps(long)) is not None
    assert made.define(b"=1" + longer) is None
    short = allowed(0, MOMENT, "10.0.0.2", 1, "ab12cdef34567890-1")
    kept = made.kept(short, 10**9)
    assert kept is not None
    assert len(kept) <= brief.GROWTH * (len(short) + 1)
    short = closed(0, MOMENT, "10.0.0.2", 1, "ab12cdef34567890-1", "null", 0, 0, "0.0", "error", "sniff")
    kept = made.kept(short, 10**9)
    assert kept is not None
    assert len(kept) <= brief.GROWTH * (len(short) + 1)


LINES = [
    allowed(7, *WHO),
    closed(7, *WHO, *END),
    closed(7, *WHO, '"2001:db8::7"', 0, 9**9, "0.001", *END[4:]),
]


@given(
    st.sampled_from(LINES),
    st.lists(
        st.tuples(st.integers(0, 120), st.integers(0, 3), st.binary(max_size=4)), min_size=1, max_size=3
    ),
)
@example(LINES[1], [(LINES[1].index(b"3.5"), 3, b"3.50")])
@example(LINES[0], [(0, 1, b"c")])
def test_whatever_is_kept_is_what_its_record_would_be(
    line: bytes, edits: list[tuple[int, int, bytes]]
) -> None:
    for at, cut, put in edits:
        line = line[:at] + put + line[at + cut :]
    made = forms()
    kept = made.kept(line, 5)
    if kept is not None and b"\n" not in line:
        assert anew(kept, 5) == kept
        assert kept.count(b"\n") == 1


@given(
    st.integers(0, 65535),
    st.integers(0, 10**15 - 1),
    st.integers(0, 10**15 - 1),
    st.ip_addresses(),
    st.integers(0, 2**40),
)
def test_numbers_of_every_size(port: int, up: int, down: int, ip: object, us: int) -> None:
    """And addresses."""
    duration = orjson.dumps(us / 1000).decode()
    kept = forms().kept(closed(7, MOMENT, ip, port, "a", f'"{ip}"', up, down, duration, "client", "relay"), 0)
    assert kept is not None
    assert anew(kept, 0) == kept


def test_a_line_feed_cannot_hide_in_one() -> None:
    """The intake cuts at each; this is what stands behind it."""
    assert brief._form(b"\n") is None
    for line in LINES:
        for at in range(len(line) + 1):
            assert forms().kept(line[:at] + b"\n" + line[at:], 0) is None
