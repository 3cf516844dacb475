"""What a directory of records needs now and then: closed segments signed, those of dead writers adopted, old ones removed.

Done by a child of the process that writes (``audit.apart``), so that the key is never in the memory of one that goes on. Several may be at work
in one directory: what changes it happens under the manifest's lock, and a file whose lock somebody holds is still written to.
"""

import fcntl
import os
import stat
from collections import defaultdict
from collections.abc import Iterator
from contextlib import AbstractContextManager, ExitStack
from dataclasses import asdict, dataclass, field, replace
from functools import cache
from pathlib import Path
from typing import TYPE_CHECKING, Final

import orjson

from audit import manifest
from audit.files import PATTERN, is_ours
from audit.keys import KeyTrouble, key_id, prepare, private_key
from audit.listing import Listing
from audit.manifest import SEALED, Entry, Kind, Manifest, Sign
from audit.record import Cause
from audit.retention import Expired, Kept, expired
from audit.scan import MAX_LINE_BYTES
from audit.segment import Closed, Digest
from audit.settings import AuditSettings

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PrivateKey

MAX_ADOPTED: Final = 16
"""At once: each is read whole."""
COMPACT_BYTES: Final = 4 * 1024 * 1024
READ_BYTES: Final = 1024 * 1024
PATIENCE_S: Final = 5.0
"""With who holds the manifest: longer than a loop may have, shorter than the end of a run waits for us."""


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
    """Do it; what fails is said in the report, and the rest is done all the same. Nothing is raised: what was sealed must be known, or it is sealed
    again for ever."""
    report = Report()
    sign = None if job.keys is None else _signer(job.keys, job.directory, report)
    for act in (_seal, _adopt, _prune):
        try:
            act(job, sign, report)
        except TimeoutError as error:
            report.trouble = _said(job, error)
            break  # who holds the manifest for so long holds it for the rest as well
        except Exception as error:
            report.trouble = _said(job, error)
    return report


def _said(job: Job, error: Exception) -> str:
    if isinstance(error, OSError):
        text = f"{error.filename or job.directory}: {error.strerror}"
    else:
        text = f"{job.directory}: {type(error).__name__}: {error}"
    return os.fsencode(text).decode("utf-8", "replace")


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


def _locked(job: Job) -> AbstractContextManager[Manifest]:
    return manifest.locked(job.directory, job.keys, PATIENCE_S, durable=job.settings.durable)


def _seal(job: Job, sign: Sign | None, report: Report) -> None:
    if not job.closed:
        return
    with _locked(job) as held:
        for closed in job.closed:
            if not _was_removed(job, held, closed.file):
                held.append(Kind.CLOSED, job.now_ns, asdict(closed), sign)
            report.sealed.append(closed.file)


def _was_removed(job: Job, held: Manifest, name: str) -> bool:
    """Whether it was signed and removed already, by one that did not live to say so. Of that nothing is left in a manifest that was begun anew."""
    if os.path.lexists(job.directory / name):
        return False
    known = Listing.of(held.read())
    return name in known.pruned or (known.based and name not in known.entries)


# -- what a dead writer left


def _adopt(job: Job, sign: Sign | None, report: Report) -> None:
    """Sign what nobody will sign any more, as it is found: from now on a change shows."""
    with manifest.locked(job.directory, None, PATIENCE_S) as held:
        left = Listing.of(held.read()).open()
    if not left or sign is None or sign(b"") is None:
        return
    adopted = 0
    for name in left:
        with ExitStack() as stack:
            descriptor = _lock(job.directory / name)
            if descriptor is None:
                continue
            stack.callback(os.close, descriptor)
            try:
                found = _as_found(descriptor)
                if job.settings.durable:
                    os.fdatasync(descriptor)  # its writer may not have come to that
            except OSError as error:
                report.trouble = _said(job, error)
                continue
            held = stack.enter_context(_locked(job))
            known = Listing.of(held.read())
            if name in known.open() and not _waits(job, known.before(name)):
                held.append(Kind.ADOPTED, job.now_ns, asdict(_closed(found, known, name)), sign)
            adopted += 1
        if adopted == MAX_ADOPTED:
            break


def _waits(job: Job, before: Entry | None) -> bool:
    """Whether the segment before is to be adopted first, because this one begins where it ends."""
    if before is None or before["kind"] in SEALED:
        return False
    return os.path.exists(job.directory / before["file"])


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


@dataclass(slots=True)
class _Found:
    digest: Digest
    first: Entry
    last: Entry
    torn: int


def _as_found(descriptor: int) -> _Found:
    digest, first, last, whole = Digest(), b"", b"", 0
    with open(os.dup(descriptor), "rb") as file:
        while (line := file.readline(MAX_LINE_BYTES)).endswith(b"\n"):
            digest.update(line)
            first, last, whole = first or line, line, digest.size
        while line:
            digest.update(line)
            line = file.read(READ_BYTES)
    return _Found(digest, _record(first), _record(last), digest.size - whole)


def _closed(found: _Found, known: Listing, name: str) -> Closed:
    entry, before = known.entries[name], known.before(name) or {}
    first_seq = _count(found.first, "seq")
    if first_seq is None:
        first_seq = before.get("next_seq", 0)
    last_seq = _count(found.last, "seq")
    return Closed(
        name,
        entry["writer"],
        entry["segment"],
        entry["sandbox"],
        first_seq,
        first_seq if last_seq is None else last_seq + 1,
        _text(found.first, "timestamp"),
        _text(found.last, "timestamp"),
        found.digest.size,
        found.digest.hexdigest(),
        found.digest.marks,
        before.get("sha256"),
        found.torn,
    )


def _record(line: bytes) -> Entry:
    try:
        record = orjson.loads(line)
    except orjson.JSONDecodeError:
        return {}
    return record if isinstance(record, dict) else {}


def _count(record: Entry, name: str) -> int | None:
    """What it says there, if that is a number as an entry may have."""
    value = record.get(name)
    return value if type(value) is int and 0 <= value < manifest.MAX_COUNT - 1 else None


def _text(record: Entry, name: str) -> str | None:
    value = record.get(name)
    return value if isinstance(value, str) else None


# -- what has had its time


def _prune(job: Job, sign: Sign | None, report: Report) -> None:
    if not job.prune:
        return
    with ExitStack() as stack:
        held = stack.enter_context(_locked(job))
        text = held.read()
        listing = Listing.of(text)
        files, live = _kept(job, listing, stack)
        gone = expired(files, live, job.now_ns, job.settings)
        if gone:
            held.append(Kind.PRUNED, job.now_ns, {"files": [one.kept.file for one in gone]}, sign)
            held.settle()  # or a power cut may leave that they are gone, and not why
            for one in gone:
                (job.directory / one.kept.file).unlink(missing_ok=True)
            report.pruned += _summed(gone)
            listing.pruned |= {one.kept.file for one in gone}
        if len(text) > COMPACT_BYTES and sign is not None:
            _compact(job, held, listing, sign)


def _kept(job: Job, listing: Listing, stack: ExitStack) -> tuple[list[Kept], dict[str | None, int]]:
    """Every file of records that nobody writes to, locked until ``stack`` ends; and how much lies in the others, by sandbox. What is called so and is
    not of ours is nobody's to remove."""
    files: list[tuple[Entry, Kept]] = []
    live: defaultdict[str | None, int] = defaultdict(int)
    for path in job.directory.glob(PATTERN):
        try:
            status = os.stat(path, follow_symlinks=False)
        except OSError:
            continue
        if not stat.S_ISREG(status.st_mode) or not (path.name in listing.entries or is_ours(path.name)):
            continue
        entry = listing.entries.get(path.name, {})
        sandbox = entry.get("sandbox")
        sealed = entry.get("kind") in SEALED
        descriptor = None if sealed else _lock(path)
        if descriptor is None and not sealed:
            live[sandbox] += status.st_size
            continue
        if descriptor is not None:
            stack.callback(os.close, descriptor)
        records = max(0, entry.get("next_seq", 0) - entry.get("first_seq", 0))
        ended_ns = _ended_ns(entry, status.st_mtime_ns)
        files.append((entry, Kept(path.name, sandbox, status.st_size, ended_ns, records)))
    return list(_in_order(files)), live


def _in_order(files: list[tuple[Entry, Kept]]) -> Iterator[Kept]:
    """One writer's end one after the other, so that none is removed before the one before it: that would look like a gap."""
    latest: dict[str, int] = {}
    for entry, kept in sorted(files, key=lambda one: one[0].get("segment", 0)):
        if (writer := entry.get("writer")) is None:
            yield kept  # nobody knows whose it is
            continue
        latest[writer] = max(kept.ended_ns, latest.get(writer, -1) + 1)
        yield replace(kept, ended_ns=latest[writer])


def _ended_ns(entry: Entry, mtime_ns: int) -> int:
    """By the keeper's clock: what a record says of its time is the worker's word, and who can write to the directory can make a file look old."""
    try:
        return manifest.ns_of(entry["at"]) if entry.get("kind") in SEALED else mtime_ns
    except ValueError:
        return mtime_ns


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
