"""Whether what lies in an audit directory is what its writers put there: the manifest against itself and its signatures, then every file against it.

Reads only. Nothing that the directory holds is believed: an entry counts as far as its signature does.
"""

import errno
import fcntl
import os
import stat
from collections import defaultdict
from collections.abc import Mapping
from pathlib import Path
from typing import IO, TYPE_CHECKING, Final

from audit import manifest
from audit.book import Book, Verdict, What
from audit.files import PATTERN
from audit.keys import KeyTrouble, public_keys
from audit.manifest import SEALED, Entry, Head, Kind
from audit.scan import begins_with, differs_at, digest_of, scan

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey


PASSING: Final = (What.MISSING_SEGMENT, What.UNSIGNED)
"""What a file looks like that was removed or closed in order after the manifest was read."""


def verify(directory: Path, keys: Mapping[str, "Ed25519PublicKey"], noted: Head | None = None) -> Verdict:
    """Look at everything in ``directory``. ``keys``: those that may have signed, by id; ``noted``: how far the manifest had come once. OSError."""
    verdict = Verdict()
    book = Book(keys, verdict)
    # Before the manifest is read, so that those of them that are finished are in it.
    present = {file.name for file in directory.glob(PATTERN)}
    empty = {name for name in present if _is_empty(directory / name)}
    text = _manifest_of(directory, book, needed=bool(present - empty) or noted is not None)
    book.read(text)
    book.compare(noted)
    unknown = sorted(present - book.segments.keys() - book.pruned)
    for name in unknown:
        if _is_locked(directory / name):
            continue
        if name in empty:
            book.find(
                What.EMPTY,
                name,
                "has nothing in it, and is not in the manifest: its writer died as it began it",
            )
        elif text:
            book.find(
                What.UNLISTED,
                name,
                "is not in the manifest: put here by somebody else, or its entry was removed",
            )
    found = len(verdict.findings)
    again = set(book.segments)
    while again:
        # One writer's in their order: where the one before ends is where the next must begin.
        for name in sorted(again, key=lambda name: (book.segments[name]["segment"], name)):
            _look_at(directory, name, book)
        passing = {finding.file for finding in verdict.findings[found:] if finding.what in PASSING}
        again = _explained(directory, book, Book(keys, Verdict()), passing)
        verdict.findings[found:] = [one for one in verdict.findings[found:] if one.file not in again]
    verdict.findings[found:] = sorted(verdict.findings[found:], key=lambda finding: finding.file)
    _follow_writers(directory, book)
    present = {file.name for file in directory.glob(PATTERN)}
    verdict.files = len(present)
    verdict.pruned = len(book.pruned - present)
    return verdict


def _explained(directory: Path, book: Book, later: Book, passing: set[str]) -> set[str]:
    """What is to be looked at again: the files ``passing`` that were signed or removed meanwhile, and what is open behind them."""
    if not passing:
        return set()
    head = book.verdict.head
    later.read(_manifest_of(directory, later, needed=False))
    begun_anew = later.based and head is not None and later.begins > head.n
    again: set[str] = set()
    for name in passing - book.pruned:
        mine, its = book.segments[name], later.segments.get(name)
        removed = name in later.pruned or (its is None and begun_anew)
        if its is not None and its["kind"] in SEALED and mine["kind"] not in SEALED:
            book.segments[name] = its
        elif not removed:
            continue
        if removed:
            book.pruned.add(name)
        again |= {name} | {
            other
            for other, entry in book.segments.items()
            if entry["writer"] == mine["writer"]
            and entry["segment"] > mine["segment"]
            and entry["kind"] not in SEALED
        }
    return again


def _manifest_of(directory: Path, book: Book, *, needed: bool) -> bytes:
    """Its text. It is missed where it is ``needed``: where there are records, or there once was one."""
    try:
        text, missing = manifest.text_of(directory), "is empty"
    except FileNotFoundError:
        text, missing = b"", "there is none"
    except OSError as error:
        if error.errno not in (errno.EINVAL, errno.ELOOP, errno.ENXIO):
            raise
        text, missing, needed = b"", f"is no file any more ({error.strerror})", True
    if not text and needed:
        book.find(What.NO_MANIFEST, manifest.NAME, f"{missing}: nothing here is vouched for")
    return text


def _is_empty(path: Path) -> bool:
    try:
        status = os.stat(path, follow_symlinks=False)
    except OSError:
        return False
    return stat.S_ISREG(status.st_mode) and not status.st_size


def unsound(directory: Path, keys: Path | None) -> bool:
    """Whether the manifest alone has something wrong with it that no crash explains."""
    verdict = Verdict()
    try:
        book = Book({} if keys is None else public_keys(keys), verdict)
        book.read(manifest.text_of(directory))
    except (OSError, KeyTrouble):
        return True
    return verdict.broken


def _look_at(directory: Path, name: str, book: Book) -> None:
    """One file against its entry."""
    entry = book.segments[name]
    writer = entry["writer"]
    sealed = entry["kind"] in SEALED
    try:
        descriptor = os.open(directory / name, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError as error:
        if name in book.pruned and isinstance(error, FileNotFoundError):
            return
        which = (
            f"seq {entry['first_seq']} to {entry['next_seq'] - 1}"
            if sealed
            else "of a writer that had not closed it"
        )
        gone = "is gone" if isinstance(error, FileNotFoundError) else f"cannot be read ({error.strerror})"
        book.find(
            What.MISSING_SEGMENT,
            name,
            f"segment {entry['segment']} {gone}: {which}",
            writer,
            entry.get("first_seq"),
        )
        return
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        os.close(descriptor)
        book.find(What.MISSING_SEGMENT, name, "is no file any more", writer, entry.get("first_seq"))
        return
    with open(descriptor, "rb") as file:
        if sealed:
            _look_at_sealed(file, name, entry, book)
        else:
            _look_at_open(file, name, entry, book)


def _look_at_sealed(file: IO[bytes], name: str, entry: Entry, book: Book) -> None:
    writer = entry["writer"]
    digest = digest_of(file)
    if digest.hexdigest() == entry["sha256"]:
        if entry.get("key") is not None:
            book.verdict.signed += 1
        if entry["kind"] == Kind.ADOPTED:
            torn = f", its last line torn ({entry['torn']} bytes)" if entry["torn"] else ""
            book.find(What.ADOPTED, name, f"its writer died; signed later, as it was found{torn}", writer)
            _gaps(file, name, entry, book)
        return
    for other, its in book.segments.items():
        if its["kind"] in SEALED and its["sha256"] == digest.hexdigest():
            book.find(What.SWAPPED, name, f"holds what belongs to {other}", writer, entry["first_seq"])
            return
    found = _gaps(file, name, entry, book)
    if not found and digest.size < entry["size"] and _is_prefix(digest.marks, entry["marks"]):
        lines = scan(file, writer, entry["first_seq"])
        text = f"{digest.size} bytes of {entry['size']}: cut off after seq {lines.next_seq - 1}"
        book.find(What.TRUNCATED, name, f"{text}, of {entry['next_seq'] - 1}", writer, lines.next_seq)
    elif not found:
        begin, end = differs_at(digest, entry["marks"], entry["size"])
        first, last = scan(file, writer, entry["first_seq"], begin, end).within
        book.find(
            What.EDITED,
            name,
            f"bytes {begin} to {end} are not what was written: seq {first} to {last}",
            writer,
            first,
        )


def _is_prefix(marks: list[str], of: list[str]) -> bool:
    return of[: len(marks)] == marks


def _gaps(file: IO[bytes], name: str, entry: Entry, book: Book) -> bool:
    """The first line that is missing or no record of its writer, if any is."""
    writer, first_seq = entry["writer"], entry.get("first_seq", 0)
    lines = scan(file, writer, first_seq)
    if lines.missing is not None:
        text = f"seq {lines.missing} is missing: after it comes {lines.then}"
        book.find(What.MISSING_LINE, name, text, writer, lines.missing)
    elif lines.bad is not None:
        text = f"the line that should be seq {lines.bad} is no record of {writer}"
        book.find(What.EDITED, name, text, writer, lines.bad)
    return lines.missing is not None or lines.bad is not None


def _look_at_open(file: IO[bytes], name: str, entry: Entry, book: Book) -> None:
    """One that is not signed: it is written to now, or its writer died."""
    writer = entry["writer"]
    first = _first_of(entry, book)
    if first is None:
        first = begins_with(file, writer)
    lines = scan(file, writer, first)
    live = _is_locked_by_other(file.fileno())
    if live:
        book.find(What.LIVE, name, "is being written: not signed yet", writer)
    else:
        book.find(What.UNSIGNED, name, "its writer died before it was signed: an edit would not show", writer)
        if lines.torn:
            book.find(
                What.TORN,
                name,
                f"its last line is torn ({lines.torn} bytes), as a crash leaves it",
                writer,
                lines.next_seq,
            )
    entry |= {"first_seq": first, "next_seq": lines.next_seq}
    if lines.bad is not None or lines.missing is not None:
        _gaps(file, name, entry, book)


def _first_of(entry: Entry, book: Book) -> int | None:
    """The number that its first line must have: what the segment before it came to, as it was signed, else as it is found. None where that one was
    removed before it was either."""
    place = (entry["writer"], entry["segment"] - 1)
    before = [other for other in book.segments.values() if (other["writer"], other["segment"]) == place]
    ends = [(one["kind"] in SEALED, int(one["next_seq"])) for one in before if "next_seq" in one]
    if ends:
        return max(ends)[1]
    removed = any(one["file"] in book.pruned for one in before) if before else book.based
    return None if removed and entry["segment"] else 0


def _follow_writers(directory: Path, book: Book) -> None:
    """Each writer's segments, one after the other."""
    by_writer: defaultdict[str, list[Entry]] = defaultdict(list)
    for name, entry in book.segments.items():
        if "next_seq" in entry or name in book.pruned:
            by_writer[entry["writer"]].append(entry)
    for writer, entries in by_writer.items():
        entries.sort(key=lambda one: (one["segment"], one.get("first_seq", 0)))
        segment: int = entries[0]["segment"] if book.based else 0
        seq: int | None = entries[0].get("first_seq") if book.based else 0
        before: Entry | None = None
        for entry in entries:
            if "next_seq" not in entry:
                # Removed in order, before anybody had signed where it ends. Whatever comes next may begin there.
                if entry["segment"] == segment:
                    segment, seq, before = segment + 1, None, None
                continue
            if entry["segment"] != segment or seq not in (None, entry["first_seq"]):
                which = f"segment {segment}" + ("" if seq is None else f" (seq {seq})")
                text = f"before segment {entry['segment']} (seq {entry['first_seq']}), {which} is missing"
                book.find(What.MISSING_SEGMENT, entry["file"], text, writer, seq)
            elif (
                before is not None
                and entry["kind"] == Kind.CLOSED
                and (digest := before.get("sha256") or _sha256(directory / before["file"])) is not None
                and entry["before"] != digest
            ):
                book.find(
                    What.CHAIN,
                    entry["file"],
                    f"does not follow from {before['file']}",
                    writer,
                    entry["first_seq"],
                )
            segment, seq, before = entry["segment"] + 1, entry["next_seq"], entry


def _sha256(path: Path) -> str | None:
    """Of one that is not signed, and is vouched for by what its writer signed after it. None where it is gone: that was found already, or it was just
    removed in order."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
        with open(descriptor, "rb") as file:
            return digest_of(file).hexdigest()
    except OSError:
        return None


def _is_locked(path: Path) -> bool:
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return False
    try:
        return _is_locked_by_other(descriptor)
    finally:
        os.close(descriptor)


def _is_locked_by_other(descriptor: int) -> bool:
    try:
        fcntl.flock(descriptor, fcntl.LOCK_SH | fcntl.LOCK_NB)
        fcntl.flock(descriptor, fcntl.LOCK_UN)
    except OSError:
        return True
    return False
