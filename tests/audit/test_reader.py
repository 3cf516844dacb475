"""Reading back: every whole record once, oldest first, whatever else lies in the directory."""

import json
import os
import resource
import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path

import pytest
from hypothesis import given
from hypothesis import strategies as st

from audit import read
from audit.log import AuditLog
from audit.reader import Follower, Tally, read_wanted
from audit.record import timestamp
from audit.wanted import wanted

SECOND = 10**9


def _file(
    directory: Path, begun_s: int, *moments_s: float, writer: str = "aaaa-0", sandbox: str = "a"
) -> Path:
    stamp = timestamp(begun_s * SECOND)[:19].replace("-", "").replace(":", "") + "Z"
    path = directory / f"egress-{stamp}-{writer}.jsonl"
    lines = [
        {
            "timestamp": timestamp(int(moment * SECOND)),
            "event": "e",
            "sandbox": sandbox,
            "writer": writer,
            "seq": seq,
        }
        for seq, moment in enumerate(moments_s)
    ]
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return path


def _seen(directory: Path) -> list[tuple[str, int]]:
    return [(record["writer"], record["seq"]) for record in read(directory)]


def test_an_empty_directory_holds_nothing(tmp_path: Path) -> None:
    assert list(read(tmp_path)) == []


def test_what_was_written_is_read(tmp_path: Path) -> None:
    with AuditLog(tmp_path) as log:
        log.write({"event": "egress_blocked", "sandbox": "a"})
        log.write({"event": "egress_allowed", "sandbox": "b"})
    assert [(record["event"], record["seq"]) for record in read(tmp_path)] == [
        ("egress_blocked", 0),
        ("egress_allowed", 1),
    ]


def test_files_that_overlap_are_merged_by_time(tmp_path: Path) -> None:
    _file(tmp_path, 10, 10.5, 13.5, 20, writer="a")
    _file(tmp_path, 12, 12.0, 13.4, 13.6, writer="b")
    _file(tmp_path, 20, 20, 20.1, writer="c")
    assert _seen(tmp_path) == [
        ("a", 0), ("b", 0), ("b", 1), ("a", 1), ("b", 2), ("a", 2), ("c", 0), ("c", 1),
    ]  # fmt: skip


@given(st.lists(st.lists(st.integers(100, 200), max_size=6), max_size=6))
def test_every_record_comes_once_and_in_order(
    tmp_path_factory: pytest.TempPathFactory, files: list[list[int]]
) -> None:
    directory = tmp_path_factory.mktemp("merge")
    for number, moments in enumerate(files):
        _file(directory, min(moments, default=100), *sorted(moments), writer=f"w{number}")
    records = list(read(directory))
    assert [record["timestamp"] for record in records] == sorted(
        timestamp(moment * SECOND) for file in files for moment in file
    )
    assert len({(record["writer"], record["seq"]) for record in records}) == sum(map(len, files))


def test_a_file_whose_clock_was_set_back_keeps_its_own_order_and_loses_nothing(tmp_path: Path) -> None:
    _file(tmp_path, 10, 15, 11, 16, writer="a")
    _file(tmp_path, 12, 12, 14, writer="b")
    assert sorted(_seen(tmp_path)) == [("a", 0), ("a", 1), ("a", 2), ("b", 0), ("b", 1)]
    assert [seq for writer, seq in _seen(tmp_path) if writer == "a"] == [0, 1, 2]


@pytest.mark.parametrize(
    "torn", [b'{"timestamp":"2026', b"\xff\x00", b"[1]\n", b"\n\n", b"null\n", b'"text"\n']
)
def test_what_is_no_record_is_passed_over(tmp_path: Path, torn: bytes) -> None:
    path = _file(tmp_path, 10, 10, 11)
    path.write_bytes(path.read_bytes() + torn)
    assert _seen(tmp_path) == [("aaaa-0", 0), ("aaaa-0", 1)]


def test_a_torn_line_in_the_middle_spoils_no_other(tmp_path: Path) -> None:
    path = _file(tmp_path, 10, 10, 11)
    first, second = path.read_bytes().splitlines(keepends=True)
    path.write_bytes(first + b'{"timest\n' + second)
    assert _seen(tmp_path) == [("aaaa-0", 0), ("aaaa-0", 1)]


def test_filters_hold_together(tmp_path: Path) -> None:
    with AuditLog(tmp_path) as log:
        for sandbox in ("a", "b"):
            for event in ("egress_allowed", "egress_blocked"):
                for domain in ("api.openai.com", None):
                    log.write({"event": event, "sandbox": sandbox, "domain": domain})
    assert len(list(read(tmp_path))) == 8
    assert len(list(read(tmp_path, sandbox="a"))) == 4
    assert len(list(read(tmp_path, sandbox="a", event="egress_allowed"))) == 2
    (only,) = read(tmp_path, sandbox="a", event="egress_allowed", domain="api.openai.com")
    assert only["seq"] == 0
    assert list(read(tmp_path, domain="api.openai")) == []
    assert list(read(tmp_path, sandbox="")) == []


def test_other_files_in_the_directory_are_left_alone(tmp_path: Path) -> None:
    _file(tmp_path, 10, 10)
    (tmp_path / "notes.jsonl").write_text('{"writer":"x","seq":1}\n')
    (tmp_path / "egress-x.jsonl.gz").write_text('{"writer":"x","seq":1}\n')
    (tmp_path / "egress-dir.jsonl").mkdir()
    assert _seen(tmp_path) == [("aaaa-0", 0)]


def test_a_fifo_under_a_records_name_does_not_stop_the_reader(tmp_path: Path) -> None:
    _file(tmp_path, 10, 10)
    os.mkfifo(tmp_path / "egress-20200101T000000Z-x.jsonl")
    assert _seen(tmp_path) == [("aaaa-0", 0)]


def test_a_link_that_leads_nowhere_does_not_stop_the_reader(tmp_path: Path) -> None:
    _file(tmp_path, 10, 10)
    (tmp_path / "egress-20200101T000000Z-x.jsonl").symlink_to("egress-20200101T000000Z-x.jsonl")
    (tmp_path / "egress-20200101T000000Z-y.jsonl").symlink_to("nothing")
    assert _seen(tmp_path) == [("aaaa-0", 0)]


def test_a_file_that_is_removed_meanwhile_is_passed_over(tmp_path: Path) -> None:
    _file(tmp_path, 10, 10, 11, writer="a")
    gone = _file(tmp_path, 50, 50, writer="b")
    records = read(tmp_path)
    assert next(records)["writer"] == "a"
    gone.unlink()
    assert [record["writer"] for record in records] == ["a"]


@pytest.fixture
def few_descriptors() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.mark.usefixtures("few_descriptors")
def test_more_files_than_a_process_may_open(tmp_path: Path) -> None:
    for number in range(200):
        _file(tmp_path, 1000 + 10 * number, 1000 + 10 * number, 1005 + 10 * number, writer=f"{number:03}")
    assert _seen(tmp_path) == [(f"{number:03}", seq) for number in range(200) for seq in (0, 1)]


@pytest.mark.parametrize("first", ["import audit.reader", "import audit.log", "audit.read, audit.AuditLog"])
def test_the_package_hands_on_what_reads_and_writes_whatever_was_imported_before(
    first: str, tmp_path: Path
) -> None:
    program = f"import audit; {first}\nfor _ in range(2):\n    assert list(audit.read({str(tmp_path)!r})) == []\n    audit.AuditLog\n"
    subprocess.run([sys.executable, "-c", program], check=True)


def _follow(follower: Follower) -> list[int]:
    return [record["seq"] for record in follower.poll()]


@pytest.mark.parametrize("in_its_place", [False, True])
def test_who_follows_sees_what_was_put_back_once(tmp_path: Path, in_its_place: bool) -> None:
    with AuditLog(tmp_path) as log:
        log.write({"event": "before"})
        log.flush()
        follower = Follower(tmp_path, lambda record: True)
        for seq in (1, 2):
            log.write({"event": "e"})
            log.flush()
            assert _follow(follower) == [seq]
        log.path.unlink()
        if in_its_place:
            log.path.touch()
        assert _follow(follower) == []
        log._looked = -1e9
        for seq in (3, 4):
            log.write({"event": "e"})
            log.flush()
            assert _follow(follower) == [seq]
        assert log.rescued == 1


def test_who_follows_sees_all_of_a_file_that_got_the_number_of_one_that_was_removed(
    tmp_path: Path,
) -> None:
    old = _file(tmp_path, 10, *range(10, 20), writer="a")
    follower = Follower(tmp_path, lambda record: True)
    new = old.rename(
        tmp_path / "egress-20261129T000000Z-b.jsonl"
    )  # the same number, whatever the file system
    new.write_bytes(new.read_bytes().replace(b'"writer": "a"', b'"writer": "b"'))
    assert [(record["writer"], record["seq"]) for record in follower.poll()] == [
        ("b", seq) for seq in range(10)
    ]
    assert follower.poll() == []


@pytest.mark.parametrize("of_lists", [False, True])
def test_what_is_nested_beyond_all_that_shows_it_is_no_record(tmp_path: Path, of_lists: bool) -> None:
    begin, end = (b"[", b"]") if of_lists else (b'{"x":', b"}")
    path = _file(tmp_path, 10, 10)
    for depth, more in ((63, 1), (64, 0), (1000, 0)):
        nested = (
            b'{"timestamp":"1970-01-01T00:00:10.000000Z","x":' + begin * depth + b"1" + end * depth + b"}\n"
        )
        path.write_bytes(path.read_bytes().splitlines(keepends=True)[0] + nested)
        tally = Tally()
        assert len(list(read_wanted(tmp_path, wanted(), tally))) == 1 + more
        assert tally.torn == 1 - more
    brackets = {"timestamp": "1970-01-01T00:00:10.000000Z", "rule": "[" * 500}
    path.write_text(json.dumps(brackets) + "\n")
    assert list(read(tmp_path)) == [brackets]


def test_who_follows_sees_all_that_comes_after_a_cut(tmp_path: Path) -> None:
    with AuditLog(tmp_path) as log:
        follower = Follower(tmp_path, lambda record: record["event"] == "e")
        for _ in range(5):
            log.write({"event": "e"})
        log.flush()
        assert _follow(follower) == [0, 1, 2, 3, 4]
        os.truncate(log.path, 10)
        log.path.unlink()
        log._looked = -1e9
        for _ in range(9):
            log.write({"event": "e", "longer": "than before"})
        log.flush()
        assert _follow(follower) == [5, 6, 7, 8, 9, 10, 11, 12, 13]
