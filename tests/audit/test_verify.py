"""Whoever may write to the audit directory and has no key: each of his changes is named."""

import hashlib
import itertools
import os
import shutil
from collections.abc import Callable
from pathlib import Path

import orjson
import pytest

from audit import manifest
from audit.book import Book
from audit.keys import private_key, public_keys
from audit.manifest import NAME, Head, Kind
from audit.verify import verify
from tests.audit.directory import DAY_NS, SMALL, Directory, die, fill

PER_SEGMENT = 10
"""A little less: a record has about 410 bytes."""


@pytest.fixture
def made(tmp_path: Path) -> Directory:
    """Three writers, each with three segments or more."""
    directory = Directory.below(tmp_path)
    for _ in range(3):
        directory.write(3 * PER_SEGMENT)
    return directory


def test_what_was_left_alone_is_sound(made: Directory) -> None:
    verdict = made.verify()
    assert verdict.findings == []
    assert verdict.files == verdict.signed == len(made.files()) >= 9
    assert not verdict.broken and not verdict.unsigned


def test_segments_are_chained_and_their_numbers_go_on(made: Directory) -> None:
    entries = [orjson.loads(line) for line in (made.records / NAME).read_bytes().splitlines()]
    for log in made.logs:
        mine = [entry for entry in entries if entry["writer"] == log.writer and entry["kind"] == Kind.CLOSED]
        assert [entry["segment"] for entry in mine] == list(range(len(mine)))
        assert mine[0]["before"] is None and mine[0]["first_seq"] == 0
        for before, after in itertools.pairwise(mine):
            assert (after["before"], after["first_seq"]) == (before["sha256"], before["next_seq"])
        assert mine[-1]["next_seq"] == log.seq == 3 * PER_SEGMENT


# -- what is done to a file


@pytest.mark.parametrize("at", [0, 1, 411, 2000, -2, -1])
def test_one_flipped_byte(made: Directory, at: int) -> None:
    path = made.segments(made.logs[1])[1]
    data = bytearray(path.read_bytes())
    data[at] ^= 1
    path.write_bytes(data)
    ((what, file, seq),) = made.found()
    assert (what, file) == ("edited", path.name)
    assert seq is not None and 9 <= seq < 2 * PER_SEGMENT


def test_a_flipped_byte_in_a_large_file_is_placed(tmp_path: Path) -> None:
    directory = Directory.below(tmp_path)
    log = directory.write(2000, settings=type(SMALL)())
    (path,) = directory.segments(log)
    data = bytearray(path.read_bytes())
    at = data.index(b'"seq":1500}')
    data[data.index(b"evil.example", at)] ^= 1  # of the line after it
    path.write_bytes(data)
    (finding,) = directory.verify().findings
    assert finding.what == "edited"
    assert finding.seq is not None and 1501 - 200 < finding.seq <= 1501


def test_a_removed_line(made: Directory) -> None:
    path = made.segments(made.logs[1])[1]
    lines = path.read_bytes().splitlines(keepends=True)
    gone = orjson.loads(lines.pop(3))["seq"]
    path.write_bytes(b"".join(lines))
    assert made.found() == [("missing_line", path.name, gone)]


def test_a_removed_line_hidden_by_new_numbers(made: Directory) -> None:
    path = made.segments(made.logs[0])[0]
    lines = path.read_bytes().splitlines(keepends=True)
    renumbered = [line.replace(b'"seq":%d}' % (n + 1), b'"seq":%d}' % n) for n, line in enumerate(lines[1:])]
    path.write_bytes(b"".join(renumbered))
    assert made.found() == [("truncated", path.name, len(lines) - 1)]


@pytest.mark.parametrize("which", [0, 1, -1])
def test_a_removed_segment(made: Directory, which: int) -> None:
    path = made.segments(made.logs[1])[which]
    first = orjson.loads(path.read_bytes().splitlines()[0])["seq"]
    path.unlink()
    assert made.found() == [("missing_segment", path.name, first)]


def test_a_whole_writer_removed(made: Directory) -> None:
    paths = made.segments(made.logs[1])
    for path in paths:
        path.unlink()
    assert sorted((what, file) for what, file, _ in made.found()) == sorted(
        ("missing_segment", path.name) for path in paths
    )


@pytest.mark.parametrize("cut", [1, 100, 411, 3000])
def test_a_truncated_tail(made: Directory, cut: int) -> None:
    path = made.segments(made.logs[1])[1]
    lines = path.read_bytes().splitlines()
    first = orjson.loads(lines[0])["seq"]
    os.truncate(path, path.stat().st_size - cut)
    whole = path.read_bytes().count(b"\n")
    assert made.found() == [("truncated", path.name, first + whole)]


def test_an_appended_line(made: Directory) -> None:
    path = made.segments(made.logs[1])[-1]
    with path.open("ab") as file:
        line = orjson.loads(path.read_bytes().splitlines()[-1])
        file.write(orjson.dumps(line | {"seq": line["seq"] + 1}) + b"\n")
    assert [(what, file) for what, file, _ in made.found()] == [("edited", path.name)]


def test_swapped_segments(made: Directory) -> None:
    one, other = made.segments(made.logs[0])[1:3]
    swap = one.with_name("swap")
    one.rename(swap)
    other.rename(one)
    swap.rename(other)
    verdict = made.verify()
    assert [(finding.what, finding.file) for finding in verdict.findings] == [
        ("swapped", one.name),
        ("swapped", other.name),
    ]
    assert other.name in verdict.findings[0].text


def test_a_file_that_was_put_in(made: Directory) -> None:
    source = made.files()[0]
    planted = made.records / "egress-20261123T071502Z-0badf00d-0.jsonl"
    shutil.copy(source, planted)
    assert made.found() == [("unlisted", planted.name, None)]


@pytest.mark.parametrize("kind", ["symlink", "fifo", "directory"])
def test_what_is_no_file_any_more(made: Directory, kind: str) -> None:
    path = made.files()[2]
    content = path.rename(path.with_name("elsewhere"))
    if kind == "symlink":
        path.symlink_to(content)
    elif kind == "fifo":
        os.mkfifo(path)
    else:
        path.mkdir()
    assert [(what, file) for what, file, _ in made.found()] == [("missing_segment", path.name)]


# -- what is done to the manifest


def _lines(made: Directory) -> list[bytes]:
    return (made.records / NAME).read_bytes().splitlines(keepends=True)


def _remove_entry(made: Directory) -> None:
    lines = _lines(made)
    del lines[4]
    (made.records / NAME).write_bytes(b"".join(lines))


def _forge_digest(made: Directory) -> None:
    path = made.files()[0]
    path.write_bytes(path.read_bytes().replace(b"evil", b"good"))
    lines = _lines(made)
    for index, line in enumerate(lines):
        entry = orjson.loads(line)
        if entry.get("file") == path.name and entry["kind"] == Kind.CLOSED:
            entry["sha256"] = hashlib.sha256(path.read_bytes()).hexdigest()
            lines[index] = orjson.dumps(entry) + b"\n"
    (made.records / NAME).write_bytes(b"".join(lines))


def _cut_short(made: Directory) -> None:
    for path in made.segments(made.logs[-1]):
        path.unlink()
    lines = [line for line in _lines(made) if made.logs[-1].writer.encode() not in line]
    (made.records / NAME).write_bytes(b"".join(lines))


def _remove(made: Directory) -> None:
    (made.records / NAME).unlink()


def _unsigned_in_its_place(made: Directory) -> None:
    """Everything anew, without a key: each entry follows from the one before, and none is signed."""
    path = made.files()[0]
    path.write_bytes(path.read_bytes().replace(b"evil", b"good"))
    entries = [orjson.loads(line) for line in _lines(made)]
    (made.records / NAME).unlink()
    with manifest.locked(made.records) as held:
        for entry in entries:
            fields = {
                name: entry[name] for name in entry if name not in ("n", "prev", "kind", "at", "key", "sig")
            }
            held.append(Kind(entry["kind"]), made.now_ns, fields)


def _pruned_by_nobody(made: Directory) -> None:
    path = made.files()[0]
    path.unlink()
    with manifest.locked(made.records) as held:
        held.append(Kind.PRUNED, made.now_ns, {"files": [path.name]})


def _closed_again(made: Directory) -> None:
    """An entry without a signature that says otherwise than the one with."""
    path = made.files()[0]
    path.write_bytes(b"")
    entry = next(
        orjson.loads(line) for line in _lines(made) if path.name.encode() in line and b'"closed"' in line
    )
    fields = {name: entry[name] for name in entry if name not in ("n", "prev", "kind", "at", "key", "sig")}
    with manifest.locked(made.records) as held:
        held.append(
            Kind.CLOSED, made.now_ns, fields | {"size": 0, "next_seq": 0, "sha256": "e3b0", "marks": []}
        )


def _junk(made: Directory) -> None:
    with (made.records / NAME).open("ab") as file:
        file.write(b'{"n":1e999}\n[]\n' + b"\xff" * 100 + b"\n")
        file.write(orjson.dumps({"n": 99, "kind": "closed", "file": 7, "prev": {}}) + b"\n")
        file.write(
            orjson.dumps({"n": 99, "kind": "opened", "file": "../x", "writer": "y", "segment": 0}) + b"\n"
        )
        file.write(
            orjson.dumps({"n": -5, "prev": "", "kind": "pruned", "files": ["x"], "key": 7, "sig": []}) + b"\n"
        )


@pytest.mark.parametrize(
    ("attack", "words"),
    [
        (_remove_entry, {"chain"}),
        (_forge_digest, {"chain", "signature"}),
        (_cut_short, {"rolled_back"}),
        (_remove, {"no_manifest", "rolled_back"}),
        (_unsigned_in_its_place, {"not_signed", "rolled_back"}),
        (_pruned_by_nobody, {"not_signed", "missing_segment"}),
        (_closed_again, {"not_signed", "truncated"}),
        (_junk, {"chain"}),
    ],
)
def test_what_is_done_to_the_manifest(
    made: Directory, attack: Callable[[Directory], None], words: set[str]
) -> None:
    attack(made)
    verdict = made.verify()
    found = {str(finding.what) for finding in verdict.findings}
    assert words <= found, verdict.findings
    assert verdict.broken


def test_a_manifest_that_is_put_back_is_noticed_only_with_the_head(made: Directory) -> None:
    """Whoever can put back the whole directory as it was needs no key: that is why its progress is noted elsewhere."""
    old = made.records.with_name("old")
    shutil.copytree(made.records, old)
    made.write(5)
    shutil.rmtree(made.records)
    old.rename(made.records)
    assert [what for what, _, _ in made.found()] == ["rolled_back"]
    assert verify(made.records, public_keys(made.keys)).findings == []
    told = Head(made.verify().head.n + 1, "0" * 64)  # type: ignore[union-attr]  # there is one
    assert [finding.what for finding in verify(made.records, public_keys(made.keys), told).findings] == [
        "rolled_back"
    ]


def test_another_key_is_not_believed(made: Directory, tmp_path: Path) -> None:
    """An attacker with a key of his own."""
    keys = public_keys(made.keys)
    (made.keys / "audit.pem").unlink()
    made.write(3)
    assert len(public_keys(made.keys)) == 2
    assert len(keys) == 1
    verdict = verify(made.records, keys)
    assert {finding.what for finding in verdict.findings} == {"unknown_key", "unsigned"}
    assert verdict.broken


def test_a_key_that_was_changed_for_another_is_no_break(made: Directory) -> None:
    (made.keys / "audit.pem").unlink()
    made.write(3)
    assert made.found() == []
    assert len(public_keys(made.keys)) == 2


# -- what a crash leaves


def test_a_live_writer_is_no_finding_of_note(made: Directory) -> None:
    log = made.open()
    fill(log, 3)
    verdict = made.verify()
    assert [(finding.what, finding.file) for finding in verdict.findings] == [("live", log.path.name)]
    assert not verdict.broken and not verdict.unsigned


@pytest.mark.parametrize("left", [b"", b'{"schema":"egr', b"\0" * 300])
def test_a_dead_writers_torn_line_is_told_from_an_edit(made: Directory, left: bytes) -> None:
    log = made.open()
    fill(log, 5)
    die(log)
    with log.path.open("ab") as file:
        file.write(left)
    words = [("unsigned", log.path.name, None)]
    assert made.found() == words + ([("torn", log.path.name, 5)] if left else [])
    verdict = made.verify()
    assert verdict.unsigned and not verdict.broken


def _removed(made: Directory) -> None:
    made.now_ns += 8 * DAY_NS
    made.upkeep()


def _closed(made: Directory) -> None:
    made.seal(made.logs[-1])


def _adopted(made: Directory) -> None:
    die(made.logs[-1])
    made.upkeep()


@pytest.mark.parametrize("compact_bytes", [4 * 1024 * 1024, 100])
@pytest.mark.parametrize("meanwhile", [_removed, _closed, _adopted])
def test_what_happens_in_order_while_it_is_looked_at_is_no_finding(
    made: Directory,
    monkeypatch: pytest.MonkeyPatch,
    meanwhile: Callable[[Directory], None],
    compact_bytes: int,
) -> None:
    monkeypatch.setattr("audit.upkeep.COMPACT_BYTES", compact_bytes)
    fill(made.open(), 3)
    real, once = Book.compare, iter([meanwhile])

    def compare(book: Book, noted: Head | None) -> None:
        real(book, noted)
        for act in once:
            act(made)

    monkeypatch.setattr(Book, "compare", compare)
    verdict = made.verify()
    assert not verdict.broken and not verdict.unsigned
    assert next(once, None) is None


def test_what_is_taken_away_while_it_is_looked_at_is_found(
    made: Directory, monkeypatch: pytest.MonkeyPatch
) -> None:
    """A file and what the manifest says of it, where that begins with a summary."""
    monkeypatch.setattr("audit.upkeep.COMPACT_BYTES", 100)
    made.now_ns += 8 * DAY_NS
    made.upkeep()
    log = made.open()
    fill(log, 3)
    real = Book.compare

    def compare(book: Book, noted: Head | None) -> None:
        real(book, noted)
        assert book.based
        log.path.unlink()
        lines = [line for line in _lines(made) if log.writer.encode() not in line]
        (made.records / NAME).write_bytes(b"".join(lines))

    monkeypatch.setattr(Book, "compare", compare)
    assert made.found() == [("missing_segment", log.path.name, None)]


def test_a_gap_in_an_unsigned_file_is_found_all_the_same(made: Directory) -> None:
    log = made.open()
    fill(log, 5)
    die(log)
    lines = log.path.read_bytes().splitlines(keepends=True)
    log.path.write_bytes(b"".join(lines[:2] + lines[3:]))
    assert made.found() == [("unsigned", log.path.name, None), ("missing_line", log.path.name, 2)]


def test_whoever_comes_next_adopts_what_a_dead_writer_left(made: Directory) -> None:
    log = made.open()
    fill(log, 2 * PER_SEGMENT + 5)
    die(log)
    with log.path.open("ab") as file:
        file.write(b'{"sch')
    made.upkeep()
    verdict = made.verify()
    adopted = [finding for finding in verdict.findings if finding.what == "adopted"]
    assert [finding.file for finding in adopted] == [path.name for path in made.segments(log)]
    assert "torn (5 bytes)" in adopted[-1].text
    assert len(verdict.findings) == len(adopted) and not verdict.broken and not verdict.unsigned
    data = log.path.read_bytes()
    log.path.write_bytes(data.replace(b"evil", b"good", 1))
    assert ("edited", log.path.name) in [(what, file) for what, file, _ in made.found()]


def test_a_manifest_whose_last_entry_is_torn_goes_on(made: Directory) -> None:
    with (made.records / NAME).open("ab") as file:
        file.write(b'{"n":77,"prev"')
    made.write(3)
    assert [(what, file) for what, file, _ in made.found()] == [("torn", NAME)]
    assert not made.verify().broken


def test_an_empty_directory_is_sound(tmp_path: Path) -> None:
    directory = Directory.below(tmp_path)
    directory.records.mkdir()
    directory.keys.mkdir()
    private_key(directory.keys)
    assert directory.found() == []
