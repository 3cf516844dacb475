"""Reading from a time on: no record of the time is missed, and what lies before is not read."""

import json
import os
import random
import time
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import orjson
import pytest

from audit import reader
from audit.reader import Follower, Tally, newest, read, read_wanted
from audit.record import Record, timestamp
from audit.wanted import wanted
from tests.audit.example import blocked

SECOND = 10**9
START_NS = 1_795_417_200 * SECOND


def line(ns: int, seq: int, **more: Any) -> bytes:
    """A record of that time."""
    return orjson.dumps(blocked() | {"timestamp": timestamp(ns), "seq": seq} | more) + b"\n"


def file(directory: Path, name: str, lines: list[bytes]) -> Path:
    """One file of records."""
    path = directory / f"egress-{name}.jsonl"
    path.write_bytes(b"".join(lines))
    return path


@pytest.fixture(scope="module")
def directory(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """An hour a file, 5 hours, a record each half second, some a little late, with torn lines."""
    rng = random.Random(3)
    tmp_path = tmp_path_factory.mktemp("records")
    for hour in range(5):
        begun = START_NS + hour * 3600 * SECOND
        stamps = [begun + number * SECOND // 2 for number in range(7200)]
        for _ in range(50):
            at = rng.randrange(len(stamps) - 100)
            stamps.insert(at + rng.randrange(1, 100), stamps.pop(at))
        lines = [line(ns, hour * 7200 + seq) for seq, ns in enumerate(stamps)]
        lines[100] = lines[100][:50] + b"\n"
        name = datetime.fromtimestamp(begun / SECOND, UTC).strftime("%Y%m%dT%H%M%SZ-00000000-0")
        file(tmp_path, name, [*lines, b'{"torn'])
    return tmp_path


@pytest.fixture(scope="module")
def everything(directory: Path) -> list[Record]:
    return list(read(directory))


@pytest.mark.parametrize("minutes", [0, 1, 59, 60, 61, 90, 200, 299, 300, 301])
@pytest.mark.parametrize("length", [1, 45, 1000])
def test_nothing_of_the_time_is_missed(
    directory: Path, everything: list[Record], minutes: int, length: int
) -> None:
    since, until = (timestamp(START_NS + at * 60 * SECOND) for at in (minutes, minutes + length))
    meant = {record["seq"] for record in everything if since <= record["timestamp"] < until}
    found = [record["seq"] for record in read(directory, since=since, until=until)]
    assert len(found) == len(set(found))
    assert set(found) == meant


def test_what_lies_before_is_not_read(directory: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    parsed: list[bytes] = []
    real = reader.parsed

    def counted(raw: bytes) -> Record | None:
        parsed.append(raw)
        return real(raw)

    monkeypatch.setattr(reader, "parsed", counted)
    since = timestamp(START_NS + 295 * 60 * SECOND)
    assert len(list(read(directory, since=since))) > 0
    assert len(parsed) < 4000, "of 36,000"


def test_torn_lines_are_counted(directory: Path) -> None:
    tally = Tally()
    assert len(list(read_wanted(directory, wanted(), tally))) == 5 * 7199
    assert tally.torn == 10


def test_the_newest(directory: Path, tmp_path: Path) -> None:
    last = newest(directory, wanted(), 5)
    assert [record["timestamp"] for record in last] == sorted(record["timestamp"] for record in last)
    assert len(last) == 5
    assert last[-1]["timestamp"] == max(record["timestamp"] for record in read(directory))
    assert newest(directory, wanted(sandbox="nobody"), 5) == []


def test_who_follows_sees_each_record_once(tmp_path: Path) -> None:
    one = file(tmp_path, "20261123T070000Z-00000000-0", [line(START_NS, 0)])
    follower = Follower(tmp_path, lambda record: record["sandbox"] == "agent-1")
    assert follower.poll() == []
    with one.open("ab") as written:
        written.write(
            line(START_NS + 2, 1) + line(START_NS + 1, 2, sandbox="other") + line(START_NS + 3, 3)[:20]
        )
    assert [record["seq"] for record in follower.poll()] == [1]
    with one.open("ab") as written:
        written.write(line(START_NS + 3, 3)[20:])
    two = file(tmp_path, "20261123T080000Z-00000000-0", [line(START_NS + 5, 9)])
    assert [record["seq"] for record in follower.poll()] == [3, 9]
    one.unlink()
    with two.open("ab") as written:
        written.write(b"no record\n" + line(START_NS + 6, 10))
    assert [record["seq"] for record in follower.poll()] == [10]
    assert follower.poll() == []


def test_a_clock_that_was_ahead_for_a_moment_hides_no_line(tmp_path: Path) -> None:
    stamps = [START_NS, START_NS + 4 * 365 * 86400 * SECOND, START_NS + SECOND, START_NS + 2 * SECOND]
    file(tmp_path, "20261123T070000Z-00000000-0", [line(ns, seq) for seq, ns in enumerate(stamps)])
    until = timestamp(START_NS + 2 * SECOND)
    assert [record["seq"] for record in read(tmp_path, until=until)] == [0, 2]


@pytest.fixture(params=[50, 5000], ids=["short", "long"])
def wrong_at_its_end(tmp_path: Path, request: pytest.FixtureRequest) -> Path:
    """Lines of the last minute, the last of them dated when nothing was, a few as if it were hours ago: by a clock, or by who sent them."""
    count: int = request.param
    now = time.time_ns()
    lines = [line(now - 60 * SECOND + number, number) for number in range(count)]
    for place in (1, 2, 3, 4):
        at = count * place // 4
        lines[at - 1 : at] = [line(now - 3 * 3600 * SECOND, -1)] * 3 + [lines[at - 1]]
    lines.append(line(0, -1).replace(b"1970-01-01", b"0000-00-00"))
    lines.append(line(now - 3 * 3600 * SECOND, -1))
    file(tmp_path, "20261123T070000Z-00000000-0", lines)
    return tmp_path


def test_a_line_with_a_wrong_date_hides_no_other(wrong_at_its_end: Path) -> None:
    meant = len(list(read(wrong_at_its_end))) - 14
    assert len(list(read(wrong_at_its_end, since="1h"))) == meant
    assert [record["seq"] for record in newest(wrong_at_its_end, wanted(), 3)] == [
        meant - 3,
        meant - 2,
        meant - 1,
    ]


def test_a_file_that_ends_before_is_not_read_further(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    path = file(tmp_path, "20261123T070000Z-0-0", [line(START_NS + seq * SECOND, seq) for seq in range(100)])
    os.utime(path, (START_NS / SECOND + 100,) * 2)
    monkeypatch.setattr(reader, "parsed", lambda raw: pytest.fail("it was"))
    assert list(read(tmp_path, since=timestamp(START_NS + 1000 * SECOND))) == []


@pytest.mark.parametrize("separators", [(",", ":"), (", ", ": ")])
def test_lines_that_another_program_wrote_are_found_however_they_are_spaced(
    tmp_path: Path, separators: tuple[str, str]
) -> None:
    text = json.dumps(blocked() | {"sandbox": "ä \\ é"}, separators=separators)
    (tmp_path / "egress-20261123T070000Z-0-0.jsonl").write_text(text + "\n")
    question = {"event": "egress_blocked", "sandbox": "ä \\ é", "domain": "evil.example"}
    assert len(list(read(tmp_path, reason="no_allow_entry", **question))) == 1
    assert len(list(read(tmp_path, since="2026-11-23T07:15:02", until="2026-11-23T07:15:03"))) == 1
    assert list(read(tmp_path, since="2026-11-23T08:15:02")) == []
