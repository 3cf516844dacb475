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

from audit import fields
from audit.claim import record_of
from audit.dates import Dates
from audit.form import Form
from audit.record import EndedBy, Event, Phase, Record, closed

FORMS: Final = 256
"""The newest so many are known to the keeper."""
MAX_FORM_BYTES: Final = 560
"""Of a record that is a form: who hands over a brief line must know how long it may become."""
GROWTH: Final = 12
"""By that, at the most: from 61 bytes, with the shortest of each field, to those of a form, a writer and a number."""
OWN: Final = ("timestamp", "src_ip", "flow")
"""Of each record: its fields that are strings."""
END: Final = (*OWN, "ended_by", "phase")
NUMBERS: Final = ("src_port", "seq")
END_NUMBERS: Final = (*NUMBERS, "upstream_ip", "bytes_up", "bytes_down", "duration_ms")

ALLOWED_FIELDS: Final = 5
CLOSED_FIELDS: Final = 11
GAP: Final = "\0"
"""Stands for a field while a form is cut: JSON has none."""
_ENDED_BY: Final = frozenset(str(ended_by).encode() for ended_by in EndedBy)
_PHASES: Final = frozenset(str(phase).encode() for phase in Phase)
_form = re.compile(rb"=([0-9]{1,15})(\{.*)").fullmatch
FORM_MARK: Final = ord("=")
ALLOWED_MARK: Final = ord("a")
CLOSED_MARK: Final = ord("c")
_SAID: Final = {
    phase: {ended_by: f"|{ended_by}|{phase}\n".encode() for ended_by in EndedBy} for phase in Phase
}


def whose(source: str, port: int, flow: str) -> bytes:
    """Of which connection: where it comes from, and its flow. As the middle of a line, like those below: put together once for all of them.
    Of bytes, as all that makes a line: compiled, joining them takes half of what a str's digits, kinds and encoding take."""
    return b"|%b|%d|%b" % (source.encode(), port, flow.encode())


def allowed_line(form: bytes, moment: bytes, who: bytes) -> bytes:
    """Another record that is like ``form`` (its number), of ``who`` (``whose``)."""
    return b"a%b|%b%b\n" % (form, moment, who)


def closed_line(
    form: bytes,
    moment: bytes,
    who: bytes,
    upstream: bytes,
    up: int,
    down: int,
    ms: bytes,
    ended_by: EndedBy,
    phase: Phase,
) -> bytes:
    """How it ended. ``upstream``: its address as JSON; ``up``, ``down``: bytes; ``ms``: how long it took, as JSON."""
    said = _SAID[phase][ended_by]
    return b"c%b|%b%b|%b|%d|%d|%b%b" % (form, moment, who, upstream, up, down, ms, said)


class _Known:
    """A form: the record that it was made of, and, once there is another like it, the lines of those in pieces."""

    __slots__ = ("allowed", "closed", "record")

    def __init__(self, record: Record) -> None:
        self.record = record
        self.allowed: list[bytes] = []
        self.closed: list[bytes] = []


class Forms:
    """What the keeper has been told by one sender."""

    def __init__(self, sandbox: str, writer: str, dates: Dates) -> None:
        """All are records of ``sandbox``, numbered under ``writer``; ``dates`` says when they can have been made."""
        self._sandbox = sandbox
        self._writer = writer
        self._dates = dates
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
        said = line.split(b"|", CLOSED_FIELDS)  # and what is left over, however much it is
        known = self._known.get(said[0][1:])
        if known is None:
            return None
        own = said[1:]
        own.append(str(seq).encode())
        if line[0] == ALLOWED_MARK:
            if len(said) != ALLOWED_FIELDS or not _says_who(said):
                return None
            if not known.allowed:
                known.allowed = self._pieces(known.record, OWN, NUMBERS)
            pieces = known.allowed.copy()
        else:
            if len(said) != CLOSED_FIELDS or not (_says_who(said) and _says_how(said)):
                return None
            if not known.closed:
                known.closed = self._pieces(end_of(known.record), END, END_NUMBERS)
            pieces = known.closed.copy()
            own[3], own[4] = own[4], own[3]  # a record has the flow behind upstream_ip
        own[0] = self._dates.dated(own[0])
        pieces[1::2] = own
        return b"".join(pieces)

    def _pieces(self, record: Record, texts: tuple[str, ...], others: tuple[str, ...]) -> list[bytes]:
        """The line, cut: every second piece is a field of its own."""
        form = Form(record | {"writer": self._writer, "seq": 0}, texts=texts, others=others)
        cut = form.line(*(GAP for _ in (*texts, *others))).split(GAP.encode())
        pieces = [b""] * (2 * len(cut) - 1)
        pieces[::2] = cut
        return pieces


def _says_who(said: list[bytes]) -> bool:
    """Whether what every line has may stand in a record."""
    return (
        fields.is_moment(said[1])
        and fields.is_address(said[2])
        and fields.is_port(said[3])
        and fields.is_flow(said[4])
    )


def _says_how(said: list[bytes]) -> bool:
    """Whether what a line of an end has besides may stand in one."""
    return (
        fields.is_quoted_address(said[5])
        and fields.is_count(said[6])
        and fields.is_count(said[7])
        and fields.is_milliseconds(said[8])
        and said[9] in _ENDED_BY
        and said[10] in _PHASES
    )


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
