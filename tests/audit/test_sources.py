"""More files that overlap than a process may open."""

import gc
import os
import resource
from collections.abc import Iterator
from pathlib import Path

import pytest

from audit import read
from audit.record import timestamp
from audit.sources import AHEAD_BYTES, MAX_LINE_BYTES, Sources

FILES = 1300


def _everything(path: Path) -> bytes:
    return b"".join(line for stretch in Sources().stretches(path, lambda file: True) for line in stretch)


@pytest.fixture
def few() -> Iterator[None]:
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (64, hard))
    yield
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))


@pytest.fixture
def none(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("audit.sources.MAX_OPEN", 0)


def _overlapping(directory: Path) -> None:
    """The first record of each before the second of any."""
    for number in range(FILES):
        lines = [
            b'{"timestamp":"%s","writer":"%d","seq":%d}\n'
            % (timestamp((1000 + seq * 100_000 + number) * 10**9).encode(), number, seq)
            for seq in range(2)
        ]
        (directory / f"egress-19700101T000000Z-{number:04x}-0.jsonl").write_bytes(b"".join(lines))


def _expected() -> list[tuple[str, int]]:
    return [(str(number), seq) for seq in range(2) for number in range(FILES)]


@pytest.mark.usefixtures("few")
def test_files_that_overlap_are_merged_however_few_may_be_open(tmp_path: Path) -> None:
    _overlapping(tmp_path)
    assert [(record["writer"], record["seq"]) for record in read(tmp_path)] == _expected()
    since = timestamp(101_000 * 10**9)
    assert [(one["writer"], one["seq"]) for one in read(tmp_path, since=since)] == _expected()[FILES:]


def test_what_stays_open_is_given_back(tmp_path: Path) -> None:
    _overlapping(tmp_path)
    gc.collect()  # what a test before left in a cycle is closed now, and not meanwhile
    before = len(os.listdir("/proc/self/fd"))
    assert sum(1 for _ in read(tmp_path)) == 2 * FILES
    assert len(os.listdir("/proc/self/fd")) == before


@pytest.mark.usefixtures("none")
@pytest.mark.parametrize(
    "content",
    [
        b"",
        b"{}",
        b"{}\n",
        b"a\n" * AHEAD_BYTES,
        b"x" * (AHEAD_BYTES - 1) + b"\n" + b"y\n",
        b"x" * AHEAD_BYTES + b"\ntorn",
        b"x" * (3 * MAX_LINE_BYTES + 7),
    ],
)
def test_one_that_is_opened_again_and_again_is_read_whole(tmp_path: Path, content: bytes) -> None:
    (tmp_path / "file").write_bytes(content)
    assert _everything(tmp_path / "file") == content


@pytest.mark.usefixtures("none")
def test_one_that_goes_in_between_ends(tmp_path: Path) -> None:
    path = tmp_path / "file"
    path.write_bytes(b"a\n" * AHEAD_BYTES)
    stretches = Sources().stretches(path, lambda file: True)
    assert b"".join(next(stretches)) == b"a\n" * (AHEAD_BYTES // 2)
    path.unlink()
    assert list(stretches) == []


@pytest.mark.parametrize("spoil", [0, 256])
def test_what_is_no_file_is_nothing(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, spoil: int) -> None:
    monkeypatch.setattr("audit.sources.MAX_OPEN", spoil)
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "loop").symlink_to("loop")
    (tmp_path / "dangling").symlink_to("nowhere")
    for name in ("fifo", "loop", "dangling", "nothing"):
        assert _everything(tmp_path / name) == b""
