"""Records that are like one before but for a few fields, in a few bytes: between the process that decides and the process that keeps.

``=N{...}`` is the record of an allowed connection, and is the form N from then on; ``a`` is another like it, ``c`` the end of a connection that
either began, and each brings what is its own::

    =7{"schema":...,"event":"egress_allowed",...}
    a7|2026-11-28T15:42:11.123456Z|10.0.0.2|41234|ab12cd-1f
    c7|2026-11-28T15:42:12.358024Z|10.0.0.2|41234|ab12cd-1f|"192.0.2.7"|517|1024|1234.568|client|relay

So the pipe has room for six times as many, and neither side reads or writes four hundred bytes that it knows. The keeper does not trust the sender:
a form is a record that it would take, and each gap takes what the field may hold and JSON need not escape.
"""

import re
from typing import Final

from audit.claim import record_of
from audit.form import Form
from audit.record import EndedBy, Event, Phase, Record, closed

FORMS: Final = 256
"""The newest so many are known to the keeper."""
MAX_FORM_BYTES: Final = 560
"""Of a record that is a form: who hands over a brief line must know how long it may become."""
GROWTH: Final = 12
"""By that, at the most: from 51 bytes, with the shortest of each field, to those of a form, a writer and a number."""
OWN: Final = ("timestamp", "src_ip", "flow")
"""Of each record: its fields that are strings."""
END: Final = (*OWN, "ended_by", "phase")
NUMBERS: Final = ("src_port", "seq")
END_NUMBERS: Final = (*NUMBERS, "upstream_ip", "bytes_up", "bytes_down", "duration_ms")

_ADDRESS: Final = r"[0-9a-f:.]{2,45}"
_COUNT: Final = r"0|[1-9][0-9]{0,14}"
_PORT: Final = r"[1-5][0-9]{4}|6[0-4][0-9]{3}|65[0-4][0-9]{2}|655[0-2][0-9]|6553[0-5]|[1-9][0-9]{0,3}|0"
"""Those that clients have come first."""
_WHO: Final = (
    r"([0-9]{1,15})\|([0-9]{4}-[0-9][0-9]-[0-9][0-9]T[0-9][0-9]:[0-9][0-9]:[0-9][0-9]\.[0-9]{6}Z)"
    rf"\|({_ADDRESS})\|({_PORT})\|"
)
_FLOW: Final = r"([0-9a-f-]{1,64})"
_form = re.compile(rb"=([0-9]{1,15})(\{.*)").fullmatch
_allowed = re.compile(f"a{_WHO}{_FLOW}".encode()).fullmatch
_closed = re.compile(
    (
        rf'c{_WHO}{_FLOW}\|(null|"{_ADDRESS}")\|({_COUNT})\|({_COUNT})\|((?:0|[1-9][0-9]{{0,11}})\.(?:0|[0-9]{{0,2}}[1-9]))'
        rf"\|({'|'.join(EndedBy)})\|({'|'.join(Phase)})"
    ).encode()
).fullmatch
FORM_MARK: Final = ord("=")
ALLOWED_MARK: Final = ord("a")
CLOSED_MARK: Final = ord("c")


_SAID: Final = {phase: {ended_by: f"|{ended_by}|{phase}\n" for ended_by in EndedBy} for phase in Phase}


def whose(source: str, port: int, flow: str) -> str:
    """Of which connection: where it comes from, and its flow. As the middle of a line, like those below: put together once for all of them."""
    return f"|{source}|{port}|{flow}"


def allowed_line(form: str, moment: str, who: str) -> bytes:
    """Another record that is like ``form`` (its number), of ``who`` (``whose``)."""
    return f"a{form}|{moment}{who}\n".encode()


def closed_line(
    form: str,
    moment: str,
    who: str,
    upstream: str,
    up: int,
    down: int,
    ms: str,
    ended_by: EndedBy,
    phase: Phase,
) -> bytes:
    """How it ended. ``upstream``: its address as JSON; ``up``, ``down``: bytes; ``ms``: how long it took, as JSON."""
    return f"c{form}|{moment}{who}|{upstream}|{up}|{down}|{ms}{_SAID[phase][ended_by]}".encode()


class _Known:
    """A form: the record that it was made of, and the lines of others like it once there is one."""

    __slots__ = ("allowed", "closed", "record")

    def __init__(self, record: Record) -> None:
        self.record = record
        self.allowed = b""
        self.closed = b""


class Forms:
    """What the keeper has been told by one sender."""

    def __init__(self, sandbox: str, writer: str) -> None:
        """All are records of ``sandbox``, numbered under ``writer``."""
        self._sandbox = sandbox
        self._writer = writer
        self._known: dict[bytes, _Known] = {}

    def define(self, line: bytes) -> Record | None:
        """The record of a line that begins with ``FORM_MARK``, which is a form now; None where it is none, or cannot be one."""
        found = _form(line)
        record = None if found is None else record_of(found[2], self._sandbox)
        if (
            found is None
            or record is None
            or record["event"] != Event.ALLOWED
            or len(found[2]) > MAX_FORM_BYTES
        ):
            return None
        self._known.pop(found[1], None)
        while len(self._known) >= FORMS:
            del self._known[next(iter(self._known))]
        self._known[found[1]] = _Known(record)
        return record

    def kept(self, line: bytes, seq: int) -> bytes | None:
        """What is to be kept for a line of an ``ALLOWED_MARK`` or a ``CLOSED_MARK``, as number ``seq``; None where that cannot be."""
        if line[0] == ALLOWED_MARK:
            return self._kept_allowed(line, seq)
        found = _closed(line)
        known = None if found is None else self._known.get(found[1])
        if found is None or known is None:
            return None
        if not known.closed:
            known.closed = self._text(end_of(known.record), END, END_NUMBERS)
        _, moment, source, port, flow, upstream, *rest = found.groups()
        return known.closed % (moment, source, port, upstream, flow, *rest, b"%d" % seq)

    def _kept_allowed(self, line: bytes, seq: int) -> bytes | None:
        found = _allowed(line)
        known = None if found is None else self._known.get(found[1])
        if found is None or known is None:
            return None
        if not known.allowed:
            known.allowed = self._text(known.record, OWN, NUMBERS)
        return known.allowed % (*found.groups()[1:], b"%d" % seq)

    def _text(self, record: Record, texts: tuple[str, ...], others: tuple[str, ...]) -> bytes:
        return Form(record | {"writer": self._writer, "seq": 0}, texts=texts, others=others).text.encode()


def end_of(record: Record) -> Record:
    """How the connection of an allowed one's ``record`` ended, but for what is its own."""
    return closed(
        0,
        decided=record,
        upstream_ip=None,
        bytes_up=0,
        bytes_down=0,
        duration_ms=0.0,
        ended_by=EndedBy.ERROR,
        phase=Phase.SNIFF,
    )
