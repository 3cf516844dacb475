"""What a manifest speaks of: forged entries are none, and what was sealed stays so."""

import os
from collections.abc import Callable
from pathlib import Path
from typing import Any

import orjson
import pytest

from audit.listing import Listing
from audit.log import AuditLog
from audit.manifest import MAX_N, MAX_OWN_N, NAME, entry_of
from tests.audit.directory import Directory, fill

FILE = "egress-20261123T071502Z-0badf00d-0.jsonl"
OPENED: dict[str, Any] = {"n": 3, "prev": "x", "kind": "opened", "at": "2026-11-29T00:00:00.000000Z"}
OPENED |= {"file": FILE, "writer": "w", "segment": 0, "sandbox": None}
CLOSED: dict[str, Any] = OPENED | {"kind": "closed", "first_seq": 0, "next_seq": 1, "size": 9, "torn": 0}
CLOSED |= {"sha256": "e3", "before": None, "marks": []}
PRUNED: dict[str, Any] = {"n": 3, "prev": "x", "kind": "pruned", "files": [FILE]}
BASE: dict[str, Any] = {"n": 3, "prev": "x", "kind": "base", "entries": [OPENED, CLOSED]}
VALUES: tuple[Any, ...] = (
    None,
    [],
    {},
    "",
    "a/b",
    "a\0b",
    -1,
    1.5,
    True,
    2**63,
    2**64 - 1,
    [[1]],
    [3],
    [None],
)


def _line(entry: dict[str, Any]) -> bytes:
    return orjson.dumps(entry)


@pytest.mark.parametrize("whole", [OPENED, CLOSED, PRUNED, BASE])
def test_each_kind_is_one(whole: dict[str, Any]) -> None:
    assert entry_of(_line(whole)) == whole


def _forged() -> list[bytes]:
    """Each kind with each field left out, and with each of ``VALUES`` in it; the same within a base."""
    lines = []
    for whole in (OPENED, CLOSED, PRUNED, BASE):
        spoiled = [{key: value for key, value in whole.items() if key != name} for name in whole]
        spoiled += [whole | {name: value} for name in whole for value in VALUES]
        lines += [_line(one) for one in spoiled]
        lines += [_line(BASE | {"entries": [one]}) for one in spoiled]
    return lines


def test_no_forged_entry_is_too_much_for_who_reads_it() -> None:
    for line in _forged():
        listing = Listing.of(line)
        assert all(listing.before(name) is None for name in listing.open())


@pytest.mark.parametrize(
    "content", [b"", b'{"seq":"a"}\n', b'{"seq":18446744073709551615,"timestamp":5}\n', b"x" * 200_000]
)
def test_no_forged_manifest_stops_upkeep_a_start_or_verify(tmp_path: Path, content: bytes) -> None:
    made = Directory.below(tmp_path)
    made.write(1)
    with (made.records / NAME).open("ab") as file:
        file.write(b"\n".join(_forged()) + b"\n")
    (made.records / FILE).write_bytes(content)
    made.upkeep()
    log = made.write(12)
    assert log.unlisted is None
    made.upkeep()
    verdict = made.verify()
    assert verdict.broken
    mine = {path.name for path in made.segments(log)}
    assert mine and not {finding.file for finding in verdict.findings} & mine, "what is ours is sound"


@pytest.mark.parametrize("n", [MAX_OWN_N - 1, MAX_OWN_N, MAX_N - 1, MAX_N, 2**64 - 1])
def test_no_number_is_so_large_that_none_can_follow(tmp_path: Path, n: int) -> None:
    made = Directory.below(tmp_path)
    made.write(1)
    with (made.records / NAME).open("ab") as file:
        file.write(_line(OPENED | {"n": n}) + b"\n")
    for _ in range(2):
        made.write(1)
    verdict = made.verify()
    assert "chain" in {finding.what for finding in verdict.findings}
    assert verdict.signed == 3


@pytest.mark.parametrize(
    "line", [b"{}", b"[]", b'{"n":3,"kind":"closed","prev":""}', _line(OPENED | {"n": 2**64 - 1})]
)
def test_a_line_that_no_crash_leaves_is_no_note(tmp_path: Path, line: bytes) -> None:
    made = Directory.below(tmp_path)
    made.write(1)
    with (made.records / NAME).open("ab") as file:
        file.write(line + b"\n")
    assert made.found() == [("chain", NAME, None)]


def _fifo(path: Path) -> None:
    os.mkfifo(path)


def _symlink(path: Path) -> None:
    path.symlink_to("/dev/zero")


def _directory(path: Path) -> None:
    path.mkdir()


@pytest.mark.parametrize("put", [_fifo, _symlink, _directory])
def test_a_manifest_that_is_no_file(tmp_path: Path, put: Callable[[Path], None]) -> None:
    made = Directory.below(tmp_path)
    made.write(1)
    (made.records / NAME).unlink()
    put(made.records / NAME)
    assert "no_manifest" in [what for what, _, _ in made.found()]
    with AuditLog(made.records, keys=made.keys) as log:
        fill(log, 1)
        assert log.trouble is None and log.unlisted is not None


def test_what_was_sealed_stays() -> None:
    listing = Listing.of(_line(CLOSED) + b"\n" + _line(OPENED))
    assert listing.open() == []
    following = OPENED | {"file": "egress-x.jsonl", "segment": 1}
    listing.take(following)
    assert listing.open() == ["egress-x.jsonl"]
    assert listing.before("egress-x.jsonl") == CLOSED
