"""Every attempt on record: what a record is, how it is written, how it is read back. Imports nothing of ours."""

from typing import TYPE_CHECKING, Any

from audit.record import SCHEMA, EndedBy, Event, Phase

if TYPE_CHECKING:
    from audit.log import AuditLog
    from audit.reader import read

__all__ = ["SCHEMA", "AuditLog", "EndedBy", "Event", "Phase", "read"]


def __getattr__(name: str) -> Any:
    """What does I/O is imported when it is asked for."""
    if name == "AuditLog":
        from audit.log import AuditLog

        return AuditLog
    if name == "read":
        from audit.reader import read

        return read
    raise AttributeError(name)
