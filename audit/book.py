"""The manifest of an audit directory, read by one who believes nothing: chain, signatures, and what they vouch for."""

from collections.abc import Mapping
from dataclasses import dataclass, field
from enum import StrEnum
from typing import TYPE_CHECKING, Final

from audit import manifest
from audit.manifest import SEALED, Entry, Head, Kind

if TYPE_CHECKING:
    from cryptography.hazmat.primitives.asymmetric.ed25519 import Ed25519PublicKey


class Level(StrEnum):
    """How bad it is."""

    NOTE = "note"
    """A crash, or something that is still going on, looks so."""
    BROKEN = "broken"
    """No crash looks so."""


class What(StrEnum):
    """What was found."""

    NO_MANIFEST = "no_manifest"
    CHAIN = "chain"
    ROLLED_BACK = "rolled_back"
    SIGNATURE = "signature"
    UNKNOWN_KEY = "unknown_key"
    NOT_SIGNED = "not_signed"
    MISSING_SEGMENT = "missing_segment"
    SWAPPED = "swapped"
    TRUNCATED = "truncated"
    EDITED = "edited"
    MISSING_LINE = "missing_line"
    UNLISTED = "unlisted"
    EMPTY = "empty"
    ADOPTED = "adopted"
    UNSIGNED = "unsigned"
    TORN = "torn"
    LIVE = "live"


NOTES: Final = frozenset((What.EMPTY, What.ADOPTED, What.UNSIGNED, What.TORN, What.LIVE))


@dataclass(frozen=True, slots=True)
class Finding:
    """One thing that is not as it should be. ``writer`` and ``seq`` name the first line concerned, where that can be told."""

    what: What
    file: str
    text: str
    writer: str | None = None
    seq: int | None = None

    @property
    def level(self) -> Level:
        """Whether a crash explains it."""
        return Level.NOTE if self.what in NOTES else Level.BROKEN


@dataclass(slots=True)
class Verdict:
    """All that was found, and how much was looked at."""

    findings: list[Finding] = field(default_factory=list)
    files: int = 0
    signed: int = 0
    pruned: int = 0
    head: Head | None = None
    """How far the manifest goes."""

    @property
    def broken(self) -> bool:
        """Whether anything is wrong that no crash explains."""
        return any(finding.level is Level.BROKEN for finding in self.findings)

    @property
    def unsigned(self) -> bool:
        """Whether there are records that nobody vouches for, nor will soon."""
        return any(finding.what is What.UNSIGNED for finding in self.findings)


class Book:
    """The manifest as it was read: the segments that it speaks of, and what was found wrong."""

    def __init__(self, keys: Mapping[str, "Ed25519PublicKey"], verdict: Verdict) -> None:
        self._keys = keys
        self._digests: dict[int, str] = {}
        self.verdict = verdict
        self.segments: dict[str, Entry] = {}
        self.pruned: set[str] = set()
        self.based = False
        """It begins with a summary: what was pruned before is not in it."""

    @property
    def begins(self) -> int:
        """The lowest number of an entry."""
        return min(self._digests, default=0)

    def find(
        self, what: What, file: str, text: str, writer: str | None = None, seq: int | None = None
    ) -> None:
        """Note one thing."""
        self.verdict.findings.append(Finding(what, file, text, writer, seq))

    def read(self, text: bytes) -> None:
        """Walk the chain."""
        last: Head | None = None
        unread = forged = 0
        for line in filter(None, text.split(b"\n")):
            entry = manifest.entry_of(line)
            if entry is None:
                # One of ours that a crash cut short is no JSON, for its end is missing.
                whole = manifest.is_json(line)
                forged, unread = forged + whole, unread + (not whole)
                continue
            self._follow(entry, last)
            last = Head(entry["n"], manifest.digest_of(line))
            self._digests[last.n] = last.digest
            if self._vouched(entry):
                self._take(entry)
        self.verdict.head = last
        if forged:
            self.find(
                What.CHAIN, manifest.NAME, f"{forged} line(s) that no writer makes: put in by somebody else"
            )
        if unread:
            self.find(
                What.TORN,
                manifest.NAME,
                f"{unread} line(s) that are no entry, as a crash leaves them; the chain goes on across them",
            )

    def _follow(self, entry: Entry, last: Head | None) -> None:
        n = entry["n"]
        if last is None:
            if entry["kind"] != Kind.BASE and (n, entry["prev"]) != (0, manifest.FIRST):
                self.find(What.CHAIN, manifest.NAME, f"begins with entry {n}: those before were removed")
        elif (n, entry["prev"]) != (last.n + 1, last.digest):
            self.find(
                What.CHAIN,
                manifest.NAME,
                f"entry {n} does not follow from entry {last.n}: one was changed, removed or put in",
            )

    def _vouched(self, entry: Entry) -> bool:
        """Whether it may be believed; an opened segment needs no signature of its own: it excuses nothing."""
        if entry["kind"] == Kind.OPENED:
            return True
        where = f"entry {entry['n']} ({entry['kind']} {entry.get('file', '')})".replace(" )", ")")
        name, signature = entry.get("key"), entry.get("sig")
        if name is None and signature is None:
            self.find(What.NOT_SIGNED, manifest.NAME, f"{where}: there was no key to sign it with")
            return entry["kind"] in SEALED
        if not (isinstance(name, str) and isinstance(signature, str)) or name not in self._keys:
            self.find(
                What.UNKNOWN_KEY,
                manifest.NAME,
                f"{where}: signed by a key that was not given: {str(name)[:16]!r}",
            )
            return False
        if not _signed(self._keys[name], entry, signature):
            self.find(What.SIGNATURE, manifest.NAME, f"{where}: the signature is not of this entry")
            return False
        return True

    def _take(self, entry: Entry) -> None:
        if entry["kind"] == Kind.BASE:
            self.based = True
            for inner in entry["entries"]:
                self._take(inner)
            return
        if entry["kind"] == Kind.PRUNED:
            self.pruned |= set(entry["files"])
            return
        file = entry["file"]
        known = self.segments.get(file)
        # What was signed once stays: an entry that comes later cannot take its place.
        if known is None or (known["kind"] == Kind.OPENED and entry["kind"] in SEALED):
            self.segments[file] = entry

    def compare(self, noted: Head | None) -> None:
        """With what was noted elsewhere."""
        head = self.verdict.head
        if noted is None or (self.based and noted.n < self.begins):
            return
        if head is None or head.n < noted.n:
            ends = "is empty" if head is None else f"ends at entry {head.n}"
            self.find(
                What.ROLLED_BACK,
                manifest.NAME,
                f"{ends}, and had come to entry {noted.n}: it was cut short, or put back",
            )
        elif self._digests.get(noted.n) != noted.digest:
            self.find(
                What.ROLLED_BACK,
                manifest.NAME,
                f"entry {noted.n} is not the one that was noted: the manifest was written anew",
            )


def _signed(key: "Ed25519PublicKey", entry: Entry, signature: str) -> bool:
    from cryptography.exceptions import InvalidSignature

    try:
        key.verify(bytes.fromhex(signature), manifest.signed_part(entry))
    except (InvalidSignature, ValueError):
        return False
    return True
