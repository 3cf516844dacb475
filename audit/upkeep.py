"""What a directory of records needs now and then: closed segments signed, those of dead writers adopted, old ones removed.

Done by a child of the process that writes (``audit.apart``), so that the key is never in the memory of one that goes on. Several may be at work
in one directory: what changes it happens under the manifest's lock, and a file whose lock somebody holds is still written to.
"""

import fcntl
import os
import stat
from collections import defaultdict
from collections.abc import Iterator
from contextlib import ExitStack
from dataclasses import asdict, dataclass, field
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

import orjson

from audit import manifest
from audit.files import PATTERN
from audit.keys import KeyTrouble, key_id, prepare, private_key
from audit.manifest import Entry, Kind, Manifest, Sign
from audit.record import Cause
from audit.retention import Expired, Kept, expired
from audit.segment import Closed, Digest
from audit.settings import AuditSettings

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

MAX_ADOPTED: Final = 16
"""At once: each is read whole."""
COMPACT_BYTES: Final = 4 * 1024 * 1024
READ_BYTES: Final = 1024 * 1024


@dataclass(frozen=True, slots=True)
class Job:
    """What is to be done in ``directory``. ``keys=None``: nothing is signed. ``prune=False``: nothing is removed."""

    directory: Path
    keys: Path | None
    settings: AuditSettings
    now_ns: int
    closed: list[Closed] = field(default_factory=list)
    prune: bool = True


@dataclass(frozen=True, slots=True)
class Pruned:
    """Files of one sandbox that were removed for one cause."""

    sandbox: str | None
    cause: Cause
    files: int
    size: int
    records: int
    ended_ns: int


@dataclass(slots=True)
class Report:
    """What was done: ``sealed`` are the files that are in the manifest now."""

    sealed: list[str] = field(default_factory=list)
    pruned: list[Pruned] = field(default_factory=list)
    trouble: str | None = None


def keep_up(job: Job) -> Report:
    """Do it; what fails is said in the report, and the rest is done all the same."""
    report = Report()
    sign = None if job.keys is None else _signer(job.keys, job.directory, report)
    try:
        _seal(job, sign, report)
        _adopt(job, sign)
        if job.prune:
            _prune(job, sign, report)
    except OSError as error:
        report.trouble = f"{error.filename or job.directory}: {error.strerror}"
    return report


def _signer(keys: Path, directory: Path, report: Report) -> Sign:
    """The key is read when there is something to sign."""

    @cache
    def key() -> "Ed25519PrivateKey | None":
        try:
            prepare(keys, directory)
            return private_key(keys)
        except KeyTrouble as trouble:
            report.trouble = f"records are not signed: {trouble}"
            return None

    def sign(data: bytes) -> tuple[str, bytes] | None:
        own = key()
        return None if own is None else (key_id(own.public_key()), own.sign(data))

    return sign


def _seal(job: Job, sign: Sign | None, report: Report) -> None:
    if not job.closed:
        return
    with manifest.locked(job.directory, job.keys) as held:
        for closed in job.closed:
            held.append(Kind.CLOSED, job.now_ns, asdict(closed), sign)
            report.sealed.append(closed.file)


# -- what a dead writer left


def _adopt(job: Job, sign: Sign | None) -> None:
    """Sign what nobody will sign any more, as it is found: from now on a change shows."""
    with manifest.locked(job.directory) as held:
        known = Listing.of(held.read())
    if not known.open() or sign is None or sign(b"") is None:
        return
    for name in known.open()[:MAX_ADOPTED]:
        with ExitStack() as stack:
            descriptor = _lock(job.directory / name)
            if descriptor is None:
                continue
            stack.callback(os.close, descriptor)
            closed = _as_found(descriptor, known.entries[name], known.digest_before(name))
            held = stack.enter_context(manifest.locked(job.directory, job.keys))
            if name in Listing.of(held.read()).open():
                held.append(Kind.ADOPTED, job.now_ns, asdict(closed), sign)


def _lock(path: Path) -> int | None:
    """A descriptor of a regular file that nobody writes to, locked; None of any other."""
    try:
        descriptor = os.open(path, os.O_RDONLY | os.O_CLOEXEC | os.O_NOFOLLOW | os.O_NONBLOCK)
    except OSError:
        return None
    try:
        if stat.S_ISREG(os.fstat(descriptor).st_mode):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
            return descriptor
    except OSError:
        pass  # its writer has it
    os.close(descriptor)
    return None


def _as_found(descriptor: int, entry: Entry, before: str | None) -> Closed:
    digest, lines, first, last, torn = Digest(), 0, b"", b"", b""
    with open(os.dup(descriptor), "rb") as file:
        for line in file:
            digest.update(line)
            if not line.endswith(b"\n"):
                torn = line
                break
            first, last, lines = first or line, line, lines + 1
        while rest := file.read(READ_BYTES):
            digest.update(rest)
    head, tail = _record(first), _record(last)
    first_seq = head.get("seq", 0)
    return Closed(
        entry["file"],
        entry["writer"],
        entry["segment"],
        entry["sandbox"],
        first_seq,
        tail.get("seq", first_seq - 1) + 1,
        head.get("timestamp"),
        tail.get("timestamp"),
        digest.size,
        digest.hexdigest(),
        digest.marks,
        before,
        len(torn),
    )


def _record(line: bytes) -> Entry:
    try:
        record = orjson.loads(line)
    except orjson.JSONDecodeError:
        return {}
    return record if isinstance(record, dict) else {}


class Listing:
    """The segments that a manifest speaks of, as its writers left it: what is forged in it is for ``audit.verify`` to find."""

    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {}
        self.pruned: set[str] = set()

    @classmethod
    def of(cls, text: bytes) -> "Listing":
        """Read it; what is no entry is passed over."""
        listing = cls()
        for line in text.split(b"\n"):
            if (entry := manifest.entry_of(line)) is not None:
                listing.take(entry)
        return listing

    def take(self, entry: Entry) -> None:
        """One entry more."""
        if entry["kind"] == Kind.BASE:
            self.entries = {}
            for inner in entry.get("entries", ()):
                self.take(inner)
        elif entry["kind"] == Kind.PRUNED:
            self.pruned |= set(entry.get("files", ()))
        elif isinstance(name := entry.get("file"), str):
            self.entries[name] = entry

    def open(self) -> list[str]:
        """Those that were opened and not closed."""
        return [
            name
            for name, entry in self.entries.items()
            if entry["kind"] == Kind.OPENED and name not in self.pruned
        ]

    def digest_before(self, name: str) -> str | None:
        """Of the same writer's segment before."""
        mine = self.entries[name]
        for entry in self.entries.values():
            if entry["writer"] == mine["writer"] and entry["segment"] == mine["segment"] - 1:
                return entry.get("sha256")
        return None


# -- what has had its time


def _prune(job: Job, sign: Sign | None, report: Report) -> None:
    with ExitStack() as stack:
        held = stack.enter_context(manifest.locked(job.directory, job.keys))
        text = held.read()
        listing = Listing.of(text)
        files, live = _kept(job, listing, stack)
        gone = expired(files, live, job.now_ns, job.settings)
        if gone:
            held.append(Kind.PRUNED, job.now_ns, {"files": [one.kept.file for one in gone]}, sign)
            for one in gone:
                (job.directory / one.kept.file).unlink(missing_ok=True)
            report.pruned += _summed(gone)
            listing.pruned |= {one.kept.file for one in gone}
        if len(text) > COMPACT_BYTES and sign is not None:
            _compact(job, held, listing, sign)


def _kept(job: Job, listing: Listing, stack: ExitStack) -> tuple[list[Kept], dict[str | None, int]]:
    """Every file of records that nobody writes to, locked until ``stack`` ends; and how much lies in the others, by sandbox."""
    files: list[Kept] = []
    live: defaultdict[str | None, int] = defaultdict(int)
    for path in job.directory.glob(PATTERN):
        try:
            status = os.stat(path, follow_symlinks=False)
        except OSError:
            continue
        if not stat.S_ISREG(status.st_mode):
            continue
        entry = listing.entries.get(path.name, {})
        sandbox = entry.get("sandbox")
        descriptor = None if entry.get("kind") in (Kind.CLOSED, Kind.ADOPTED) else _lock(path)
        if descriptor is None and entry.get("kind") not in (Kind.CLOSED, Kind.ADOPTED):
            live[sandbox] += status.st_size
            continue
        if descriptor is not None:
            stack.callback(os.close, descriptor)
        records = entry.get("next_seq", 0) - entry.get("first_seq", 0)
        files.append(Kept(path.name, sandbox, status.st_size, _ended_ns(entry, status.st_mtime_ns), records))
    return files, live


def _ended_ns(entry: Entry, mtime_ns: int) -> int:
    """By the keeper's clock: what a record says of its time is the worker's word."""
    return manifest.ns_of(entry["at"]) if entry.get("kind") == Kind.CLOSED else mtime_ns


def _summed(gone: list[Expired]) -> Iterator[Pruned]:
    together: defaultdict[tuple[str | None, Cause], list[Kept]] = defaultdict(list)
    for one in gone:
        together[one.kept.sandbox, one.cause].append(one.kept)
    for (sandbox, cause), files in together.items():
        yield Pruned(
            sandbox,
            cause,
            len(files),
            sum(one.size for one in files),
            sum(one.records for one in files),
            max(one.ended_ns for one in files),
        )


def _compact(job: Job, held: Manifest, listing: Listing, sign: Sign) -> None:
    """Let go of what the manifest says of files that were pruned. Not where it is not sound: that must stay for all to see."""
    from audit.verify import unsound

    left = [entry for name, entry in listing.entries.items() if name not in listing.pruned]
    if len(left) * 2 > len(listing.entries) or unsound(job.directory, job.keys):
        return
    held.replace(job.now_ns, {"entries": left}, sign)
