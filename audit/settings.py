"""How records are kept: how large a file grows, how long it stays, when it is safe from a power cut, what happens on a full disk. Pure."""

from dataclasses import dataclass
from enum import StrEnum
from typing import Final

MIB: Final = 1024 * 1024


class Fsync(StrEnum):
    """When what was written is on the disk itself (fsync(2)), so that it outlives a power cut."""

    NONE = "none"
    """When the kernel thinks fit: half a minute, as a rule."""
    INTERVAL = "interval"
    """Within a second."""
    ALWAYS = "always"
    """Before an allowed connection is carried."""


class OnFull(StrEnum):
    """What becomes of connections while the disk takes no records."""

    BLOCK = "block"
    """What cannot be recorded is not carried: it waits, then is refused."""
    DROP = "drop"
    """It is carried, and counted in ``audit_lost``."""


@dataclass(frozen=True, slots=True)
class AuditSettings:
    """One writer's settings. ``max_bytes`` is one sandbox's share of the directory: no flood of one takes another's records."""

    max_segment_bytes: int = 64 * MIB
    keep_days: int = 7
    max_bytes: int = 1024 * MIB
    fsync: Fsync = Fsync.INTERVAL
    on_full: OnFull = OnFull.BLOCK

    @property
    def durable(self) -> bool:
        """Whether what is kept is to outlive a power cut."""
        return self.fsync is not Fsync.NONE

    def __post_init__(self) -> None:
        if self.max_segment_bytes < 4096 or self.keep_days < 1:
            raise ValueError("a segment has 4096 bytes at least, and is kept for a day at least")
        if self.max_bytes < 2 * self.max_segment_bytes:
            raise ValueError("max_bytes must hold two segments: the one that is written, and one to read")
