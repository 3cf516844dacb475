"""What ought to be in an audit directory: one entry for each segment that was opened, closed, adopted or pruned, each holding the digest of the one
before, so that none can be taken out or changed without the rest showing it.

    {"n": 7, "prev": "<SHA-256 of the line before>", "kind": "closed", "at": "...", "file": "egress-...", ..., "key": "<id>", "sig": "<hex>"}

An entry that is signed vouches for all before it. How far the chain had come is also noted beside the key, where who can write to the audit
directory cannot: a manifest that was cut short, or put back to an older one, does not reach that far.
"""

import errno
import hashlib
import os
import stat
import time
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from dataclasses import dataclass
from datetime import UTC, datetime
from enum import StrEnum
from pathlib import Path
from typing import Any, Final

import orjson

from audit import directories
from audit.files import KeyTrouble
from audit.locks import PATIENCE_S, lock_within
from audit.record import timestamp

NAME: Final = "MANIFEST"
"""Unlike a file of records: ``*.jsonl`` means those alone."""
FIRST: Final = "0" * 64
"""What the first entry has for ``prev``."""
DOMAIN: Final = b"egress audit manifest v1\n"
"""Before what is signed, so that no signature means anything elsewhere."""
TAIL_BYTES: Final = 64 * 1024
MAX_N: Final = 2**63
"""No entry has this number."""
MAX_OWN_N: Final = 2**62
"""Nor does one of ours follow from an entry with this number: what is forged must leave room for the next."""
MAX_COUNT: Final = 2**48
"""Of bytes or records: sums of them are still numbers."""

Entry = dict[str, Any]
Sign = Callable[[bytes], tuple[str, bytes] | None]
"""The key's id and the signature; None where there is no key."""


class Kind(StrEnum):
    """What an entry tells of."""

    OPENED = "opened"
    CLOSED = "closed"
    ADOPTED = "adopted"
    """By another, after its writer's death, as it was found."""
    PRUNED = "pruned"
    BASE = "base"
    """Takes the place of all before it: ``entries`` are those that still count."""


SEALED: Final = (Kind.CLOSED, Kind.ADOPTED)


@dataclass(frozen=True, slots=True)
class Head:
    """How far a chain has come: the number of its last entry, and that line's digest."""

    n: int
    digest: str


class Manifest:
    """The manifest of one directory, open and locked: ``locked`` makes one."""

    def __init__(self, descriptor: int, heads: Path | None, path: Path, durable: bool) -> None:
        self._descriptor = descriptor
        self._heads = heads
        self._path = path
        self._durable = durable
        self._head: Head | None = None
        self._settled = True

    def append(self, kind: Kind, at_ns: int, fields: Entry, sign: Sign | None = None) -> None:
        """Add one entry, whole or not at all. OSError."""
        if self._durable and self._settled:
            directories.sync(
                self._path.parent
            )  # the files that it tells of, and this one, outlive a power cut if it does
        head = self._head or self._find_head()
        entry: Entry = {"n": head.n + 1, "prev": head.digest, "kind": kind, "at": timestamp(at_ns), **fields}
        self._head = self._put(sealed(entry, sign), head.n + 1)
        self._settled = False

    def settle(self) -> None:
        """Have what was added on the disk itself, and only then note how far that is. Done at the end in any case. OSError.

        A note that is ahead after a power cut would say that somebody had cut the manifest short.
        """
        if self._settled or self._head is None:
            return
        self._settled = True
        if self._durable:
            os.fdatasync(self._descriptor)
        self._note_head(self._head)

    def read(self) -> bytes:
        """All of it. OSError."""
        size = os.fstat(self._descriptor).st_size
        return os.pread(self._descriptor, size, 0)

    def replace(self, at_ns: int, fields: Entry, sign: Sign | None) -> None:
        """One entry in place of all: the caller has made sure of them, and ``fields`` has those that still count. OSError."""
        head = self._head or self._find_head()
        entry: Entry = {
            "n": head.n + 1,
            "prev": head.digest,
            "kind": Kind.BASE,
            "at": timestamp(at_ns),
            **fields,
        }
        draft = self._path.with_name(f".{NAME}.{os.getpid()}")
        draft.unlink(missing_ok=True)  # of one that was killed: ours is the lock
        descriptor = os.open(
            draft, os.O_WRONLY | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC | os.O_NOFOLLOW, 0o600
        )
        try:
            with os.fdopen(descriptor, "wb") as file:
                line = sealed(entry, sign)
                file.write(line + b"\n")
                file.flush()
                os.fsync(file.fileno())
            draft.replace(self._path)
        except OSError:
            draft.unlink(missing_ok=True)
            raise
        self._settled = True
        directories.sync(self._path.parent)
        self._note_head(Head(head.n + 1, digest_of(line)))

    def _put(self, line: bytes, n: int) -> Head:
        size = os.fstat(self._descriptor).st_size
        torn = size and os.pread(self._descriptor, 1, size - 1) != b"\n"
        data = (b"\n" if torn else b"") + line + b"\n"
        written = os.write(self._descriptor, data)
        if written < len(data):
            os.ftruncate(self._descriptor, size)
            raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))
        return Head(n, digest_of(line))

    def _find_head(self) -> Head:
        size = os.fstat(self._descriptor).st_size
        room = TAIL_BYTES
        while True:
            tail = os.pread(self._descriptor, room, max(0, size - room))
            lines = tail.split(b"\n")[1 if room < size else 0 :]
            for line in reversed(lines):
                if (entry := entry_of(line)) is not None and entry["n"] < MAX_OWN_N:
                    return Head(entry["n"], digest_of(line))
            if room >= size:
                return Head(-1, FIRST)
            room *= 8

    def _note_head(self, head: Head) -> None:
        if self._heads is None:
            return
        draft = self._heads.with_name(f".{self._heads.name}.{os.getpid()}")
        flags = os.O_WRONLY | os.O_CREAT | os.O_TRUNC | os.O_CLOEXEC | os.O_NOFOLLOW
        try:
            with open(os.open(draft, flags, 0o600), "wb") as file:
                file.write(orjson.dumps(head))
            draft.replace(self._heads)
        except OSError:
            pass  # an older note is true as well, only less far; so is none, which a power cut may leave


@contextmanager
def locked(
    directory: Path, keys: Path | None = None, patience_s: float = PATIENCE_S, *, durable: bool = True
) -> Iterator[Manifest]:
    """The manifest of ``directory``, made if there is none, while nobody else writes to it. OSError; TimeoutError where somebody does for longer.

    ``durable``: what is added outlives a power cut.
    """
    path = directory / NAME
    flags = os.O_RDWR | os.O_APPEND | os.O_CREAT | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK
    deadline = time.monotonic() + patience_s
    while True:
        descriptor = os.open(path, flags, 0o600)
        try:
            _must_be_a_file(descriptor, path)
            lock_within(descriptor, max(0.0, deadline - time.monotonic()))
            if not _is_still(descriptor, path):
                continue  # whoever had the lock put another in its place
            manifest = Manifest(
                descriptor, None if keys is None else head_path(keys, directory), path, durable
            )
            try:
                yield manifest
            finally:
                manifest.settle()
            return
        finally:
            os.close(descriptor)


def text_of(directory: Path) -> bytes:
    """All of the manifest, for whoever only reads. OSError, also where it is no regular file."""
    path = directory / NAME
    descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    try:
        _must_be_a_file(descriptor, path)
        with open(descriptor, "rb", closefd=False) as file:
            return file.read()
    finally:
        os.close(descriptor)


def _must_be_a_file(descriptor: int, path: Path) -> None:
    """A FIFO would never end, a device might do anything."""
    if not stat.S_ISREG(os.fstat(descriptor).st_mode):
        raise OSError(errno.EINVAL, "is no regular file", str(path))


def _is_still(descriptor: int, path: Path) -> bool:
    try:
        there = os.stat(path, follow_symlinks=False)
    except FileNotFoundError:
        return False
    return os.path.samestat(there, os.fstat(descriptor))


def opened(
    directory: Path,
    keys: Path | None,
    at_ns: int,
    file: str,
    writer: str,
    segment: int,
    sandbox: str | None,
    patience_s: float = PATIENCE_S,
    *,
    durable: bool = True,
) -> None:
    """Note that there is such a segment: the next signature vouches for that. OSError."""
    with locked(directory, keys, patience_s, durable=durable) as manifest:
        fields = {"file": file, "writer": writer, "segment": segment, "sandbox": sandbox}
        manifest.append(Kind.OPENED, at_ns, fields)


def sealed(entry: Entry, sign: Sign | None) -> bytes:
    """The entry as a line, without its end; ``key`` and ``sig`` are null where there is no key."""
    if entry["kind"] != Kind.OPENED:
        key = signature = None
        if sign is not None and (signed := sign(signed_part(entry))) is not None:
            key, signature = signed[0], signed[1].hex()
        entry = {**entry, "key": key, "sig": signature}
    return orjson.dumps(entry)


def signed_part(entry: Entry) -> bytes:
    """What the signature is of."""
    return DOMAIN + orjson.dumps({name: entry[name] for name in entry if name not in ("key", "sig")})


def digest_of(line: bytes) -> str:
    """What the next entry calls it."""
    return hashlib.sha256(line).hexdigest()


def entry_of(line: bytes) -> Entry | None:
    """The entry that ``line`` is; None where it is none, or has not the fields of its kind: whoever can write to the directory may have put in
    anything, and nobody takes it for one, neither who reads nor who writes the next."""
    try:
        entry = orjson.loads(line)
    except orjson.JSONDecodeError:
        return None
    if not isinstance(entry, dict) or type(n := entry.get("n")) is not int or n >= MAX_N:
        return None
    if entry.get("kind") not in tuple(Kind) or not isinstance(entry.get("prev"), str):
        return None
    return entry if _well_formed(entry) else None


def is_json(line: bytes) -> bool:
    """Whether it is whole, whatever it says."""
    try:
        orjson.loads(line)
    except orjson.JSONDecodeError:
        return False
    return True


_COUNTS: Final = ("segment", "first_seq", "next_seq", "size", "torn")


def _well_formed(entry: Mapping[str, Any]) -> bool:
    kind = entry["kind"]
    if kind == Kind.BASE:
        inner = entry.get("entries")
        return isinstance(inner, list) and all(
            isinstance(one, dict) and one.get("kind") in (Kind.OPENED, *SEALED) and _well_formed(one)
            for one in inner
        )
    if kind == Kind.PRUNED:
        return _is_texts(entry.get("files"))
    file = entry.get("file")
    if not isinstance(file, str) or not file or "/" in file or "\0" in file:
        return False
    if not isinstance(entry.get("writer"), str) or not isinstance(entry.get("sandbox"), str | None):
        return False
    if kind == Kind.OPENED:
        return _is_count(entry.get("segment"))
    return (
        all(_is_count(entry.get(name)) for name in _COUNTS)
        and isinstance(entry.get("at"), str)
        and isinstance(entry.get("sha256"), str)
        and isinstance(entry.get("before", 0), str | None)
        and _is_texts(entry.get("marks"))
    )


def _is_count(value: object) -> bool:
    return type(value) is int and 0 <= value < MAX_COUNT


def _is_texts(value: object) -> bool:
    return isinstance(value, list) and all(isinstance(one, str) for one in value)


def head_path(keys: Path, directory: Path) -> Path:
    """Where it is noted how far the manifest of ``directory`` had come."""
    return keys / f"head-{hashlib.sha256(os.fsencode(os.path.realpath(directory))).hexdigest()[:16]}.json"


def noted_head(keys: Path, directory: Path) -> Head | None:
    """What is noted there; None where nothing is. KeyTrouble where others can change it."""
    try:
        for said in directories.strangers(keys, "the key directory"):
            raise KeyTrouble(said)
        said = orjson.loads(head_path(keys, directory).read_bytes())
        return Head(int(said["n"]), str(said["digest"]))
    except (OSError, ValueError, KeyError, TypeError):
        return None


def ns_of(text: str) -> int:
    """Nanoseconds since the epoch of ``audit.record.timestamp``'s text."""
    moment = datetime.strptime(text, "%Y-%m-%dT%H:%M:%S.%fZ").replace(tzinfo=UTC)
    return int(moment.timestamp()) * 1_000_000_000 + moment.microsecond * 1000
