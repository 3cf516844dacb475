"""Which files of records have had their time: those older than ``keep_days``, then the oldest of whoever has more than a share. Pure."""

from collections import defaultdict
from collections.abc import Iterable
from dataclasses import dataclass
from typing import Final

from audit.record import Cause
from audit.settings import AuditSettings

DAY_NS: Final = 86_400_000_000_000


@dataclass(frozen=True, slots=True)
class Kept:
    """A file that nobody writes to any more. ``ended_ns``: when that was, by the keeper's clock."""

    file: str
    sandbox: str | None
    size: int
    ended_ns: int
    records: int = 0


@dataclass(frozen=True, slots=True)
class Expired:
    """One that goes, and why."""

    kept: Kept
    cause: Cause


def expired(
    files: Iterable[Kept], live_bytes: dict[str | None, int], now_ns: int, settings: AuditSettings
) -> list[Expired]:
    """Oldest first. ``live_bytes``: what each sandbox has besides, in files that are still written."""
    oldest_ns = now_ns - settings.keep_days * DAY_NS
    taken: defaultdict[str | None, int] = defaultdict(int, live_bytes)
    gone: list[Expired] = []
    for kept in sorted(files, key=lambda one: (one.ended_ns, one.file), reverse=True):
        if kept.ended_ns < oldest_ns:
            gone.append(Expired(kept, Cause.AGE))
            continue
        taken[kept.sandbox] += kept.size
        if taken[kept.sandbox] > settings.max_bytes:
            gone.append(Expired(kept, Cause.SHARE))
    return gone[::-1]
