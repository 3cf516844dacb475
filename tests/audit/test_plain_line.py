"""Lines that are kept as they are: exactly such as would be made of them anyway."""

import orjson
import pytest
from hypothesis import example, given
from hypothesis import strategies as st

from audit.claim import plain_line, record_of
from audit.record import EndedBy, Phase, Record
from tests.audit.example import blocked, ended

ALLOWED = blocked() | {"event": "egress_allowed", "upstream_ip": "203.0.113.9"}
PLAIN = [
    ALLOWED,
    ALLOWED | {"domain": None, "domain_source": None, "app": None, "rule": "default", "generation": 1},
    ALLOWED | {"rule": "allow_out[3] ~^(?:[a-z]+\\.)?x".replace("\\", "/"), "src_ip": "2001:db8::2"},
    ALLOWED | {"ech": True, "dest_mismatch": True},
    *(ended(ended_by=ended_by, phase=phase) for ended_by in EndedBy for phase in Phase),
    ended(upstream_ip=None, bytes_up=0, bytes_down=2**40, duration_ms=0.0),
    ended(duration_ms=0.001),
    ended(duration_ms=123456789.12),
]
ODD = [
    blocked(),
    ALLOWED | {"sandbox": "agent-2"},
    ALLOWED | {"src_port": 65536},
    ALLOWED | {"rule": 'allow_out[0] "'},
    ALLOWED | {"rule": "allow_out[0] \u2028"},
    ALLOWED | {"domain": "a" * 254},
    ALLOWED | {"seq": 5},
    ALLOWED | {"domain_raw": "x"},
    ended() | {"duration_ms": -1.5},
    ended() | {"bytes_up": 2**60},
    ended() | {"ended_by": "nobody"},
]
_plain = plain_line("agent-1")


def anew(line: bytes) -> bytes | None:
    """What the keeper makes of a line where it reads it."""
    record = record_of(line, "agent-1")
    return None if record is None else orjson.dumps(record)


@pytest.mark.parametrize("record", PLAIN)
def test_what_is_sent_for_an_allowed_connection_is_kept_as_it_is(record: Record) -> None:
    line = orjson.dumps(record)
    plain = _plain(line)
    assert plain is not None
    assert plain[1] == (record["flow"].encode() if record["event"] == "egress_allowed" else None)
    assert anew(line) == line


@pytest.mark.parametrize("record", ODD)
def test_what_is_not_plain_is_looked_at(record: Record) -> None:
    assert _plain(orjson.dumps(record)) is None


def test_the_name_of_the_sandbox_is_no_pattern() -> None:
    line = orjson.dumps(ALLOWED | {"sandbox": 'a.("é'})
    assert plain_line('a.("é')(line) is not None
    assert plain_line('a.("é')(line.replace(b"a.", b"ab")) is None


@given(
    st.sampled_from([orjson.dumps(record) for record in PLAIN]),
    st.lists(
        st.tuples(st.integers(0, 600), st.integers(0, 3), st.binary(max_size=3)), min_size=1, max_size=3
    ),
)
@example(
    orjson.dumps(ended(duration_ms=1.5)), [(orjson.dumps(ended(duration_ms=1.5)).index(b"1.5"), 3, b"1.50")]
)
def test_whatever_is_kept_as_it_is_would_be_made_the_same(
    line: bytes, edits: list[tuple[int, int, bytes]]
) -> None:
    for at, cut, put in edits:
        line = line[:at] + put + line[at + cut :]
    if b"\n" not in line and _plain(line) is not None:
        assert anew(line) == line


@given(
    st.integers(0, 65535),
    st.integers(0, 2**53 - 1),
    st.floats(0, 2**31),
    st.text(st.characters(codec="ascii"), max_size=30),
)
def test_numbers_and_texts_of_every_size(port: int, size: int, ms: float, rule: str) -> None:
    for record in (
        ALLOWED | {"src_port": port, "generation": size, "rule": rule},
        ended() | {"src_port": port, "bytes_up": size, "duration_ms": round(ms, 3)},
    ):
        line = orjson.dumps(record)
        if _plain(line) is not None:
            assert anew(line) == line
