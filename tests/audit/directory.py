"""An audit directory with a key beside it, several writers and several segments, and a clock that the test sets."""

import os
from collections.abc import Sequence
from dataclasses import dataclass, field
from pathlib import Path

from audit.book import Verdict
from audit.keys import public_keys
from audit.log import AuditLog
from audit.manifest import noted_head
from audit.settings import AuditSettings, Fsync
from audit.upkeep import Job, Report, keep_up
from audit.verify import verify
from tests.audit.example import AT_NS, blocked

SMALL = AuditSettings(max_segment_bytes=4096, max_bytes=1024 * 1024, fsync=Fsync.NONE)
"""What the disk itself has by when is ``test_cut``'s, and syncs take time."""
DAY_NS = 86_400_000_000_000


@dataclass
class Directory:
    """``records``: where they are; ``keys``: where the key is; ``now_ns``: what all its writers take for the time."""

    records: Path
    keys: Path
    now_ns: int = AT_NS // 1000 * 1000
    logs: list[AuditLog] = field(default_factory=list)

    @classmethod
    def below(cls, path: Path) -> "Directory":
        """Both in ``path``."""
        return cls(path / "records", path / "keys")

    def open(self, sandbox: str = "agent-1", settings: AuditSettings = SMALL) -> AuditLog:
        """A writer."""
        log = AuditLog(
            self.records, settings=settings, sandbox=sandbox, keys=self.keys, clock=lambda: self.now_ns
        )
        self.logs.append(log)
        return log

    def write(self, count: int, sandbox: str = "agent-1", settings: AuditSettings = SMALL) -> AuditLog:
        """A writer that writes so many records, and closes its files in order."""
        log = self.open(sandbox, settings)
        fill(log, count)
        self.seal(log)
        return log

    def seal(self, log: AuditLog, settings: AuditSettings = SMALL) -> Report:
        """Close it, signed."""
        log.finish()
        report = self.upkeep(log, prune=False, settings=settings)
        log.close()
        return report

    def upkeep(
        self, log: AuditLog | None = None, *, prune: bool = True, settings: AuditSettings = SMALL
    ) -> Report:
        """What is due, and the segments of ``log`` that are closed."""
        closed = [] if log is None else list(log.sealable)
        self.keys.mkdir(mode=0o700, exist_ok=True)
        report = keep_up(Job(self.records, self.keys, settings, self.now_ns, closed, prune))
        assert report.trouble is None
        if log is not None:
            log.sealed(report.sealed)
        return report

    def files(self) -> list[Path]:
        """In the order of their names."""
        return sorted(self.records.glob("egress-*.jsonl"))

    def segments(self, log: AuditLog) -> list[Path]:
        """Of one writer, in their order."""
        return sorted(self.records.glob(f"*-{log.writer}*"))

    def verify(self) -> Verdict:
        """With the key and the head that are noted."""
        return verify(self.records, public_keys(self.keys), noted_head(self.keys, self.records))

    def found(self) -> Sequence[tuple[str, str, int | None]]:
        """What it finds: word, file, seq."""
        return [(finding.what, finding.file, finding.seq) for finding in self.verify().findings]


def fill(log: AuditLog, count: int) -> None:
    """So many records, flushed each by itself, as the clock goes on."""
    for number in range(count):
        log.write(blocked(flow=f"{log.writer}-{number:x}"))
        log.flush()


def die(log: AuditLog) -> None:
    """As a process that is killed: its descriptors are closed, and that is all."""
    os.close(log._segment.descriptor)
    for descriptor in log._locks.values():
        os.close(descriptor)
    log._locks.clear()
    log._closed = True
