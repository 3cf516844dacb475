"""Decisions and ends, as the records tell of them. Those of allowed connections to one place, by one decision, are alike but for a few fields:
they are put into words once."""

import time
from typing import Final

import orjson

from audit.brief import END, FORMS, MAX_FORM_BYTES, OWN, allowed_line, end_of
from audit.form import Form
from audit.record import Event, Record, decision, moment
from gateway.decide import Decision, Verdict
from gateway.flow import Flow, IPAddress
from gateway.sniff.result import Refused, Sniffed

wall_ns: Final = time.time_ns
SOURCES: Final = {"tls": "tls_sni", "http": "http_host"}
MOST: Final = FORMS // 2
"""Worded since one that is still in use: so it is among the newest that the keeper knows."""


class Wording:
    """The two records of allowed connections that are alike but for what is their own."""

    __slots__ = (
        "_record",
        "_upstream",
        "_upstream_ip",
        "dest",
        "form",
        "host",
        "made",
        "number",
        "seen",
        "told",
    )

    def __init__(
        self, number: int, made: Decision, flow: Flow, seen: Sniffed | Refused | None, record: Record
    ) -> None:
        """``number``: that of no other; ``record``: of one of them."""
        self.number = number
        self.form = b"%d" % number
        self.made = made
        self.dest = flow.dest
        self.seen = seen
        self.host = "null" if made.host is None else quoted(made.host)
        """The name that decided, as JSON."""
        self.told = False
        """Whether the keeper knows of it: the line that defines it (``FORM_MARK``) was handed over."""
        self._record = record
        self._upstream_ip: IPAddress | None = None
        self._upstream = b"null"

    def tells_of(self, flow: Flow, made: Decision, seen: Sniffed | Refused | None) -> bool:
        """Whether the records of such a connection are like its own. Mostly all three are the same objects."""
        if self.made is not made or (self.dest is not flow.dest and self.dest != flow.dest):
            return False
        return self.seen is seen or _shown(self.seen) == _shown(seen)

    def decided(self, source: str, flow: Flow, who: bytes) -> bytes:
        """That one from ``source`` is allowed, now: the line for the keeper. ``who``: as ``audit.brief.whose`` has it."""
        now = moment(wall_ns())
        if self.told:
            return allowed_line(self.form, now, who)
        line = Form(self._record, texts=OWN, others=("src_port",)).line(
            now.decode(), source, flow.source.port, flow.id
        )
        return b"=%d" % self.number + line if len(line) <= MAX_FORM_BYTES else line

    def ended(self, *own: object) -> bytes:
        """How one ended, in full. ``own``: timestamp, src_ip, src_port, domain and upstream_ip as JSON, flow, bytes_up, bytes_down, duration_ms,
        ended_by, phase."""
        others = ("src_port", "domain", "upstream_ip", "bytes_up", "bytes_down", "duration_ms")
        return Form(end_of(self._record), texts=END, others=others).line(*own)

    def upstream(self, ip: IPAddress | None) -> bytes:
        """As JSON. Most go to the same."""
        if ip is not self._upstream_ip:
            self._upstream_ip = ip
            self._upstream = b"null" if ip is None else f'"{ip}"'.encode()
        return self._upstream


class Wordings:
    """Under one policy at a time: decisions that are one object (``gateway.rulings``) are worded once."""

    def __init__(self, generation: int = 1) -> None:
        self._generation = generation
        self._known: dict[int, Wording] = {}
        """By the number of the decision, which lives as long as it is here."""
        self._made = 0

    @property
    def generation(self) -> int:
        """Of the policy that decides now."""
        return self._generation

    def turn(self, generation: int) -> None:
        """Another policy decides from now on."""
        self._generation = generation
        self._known.clear()

    def of(self, flow: Flow, made: Decision, seen: Sniffed | Refused | None) -> Wording:
        """How a connection that ``made`` allows is told of."""
        known = self._known.get(id(made))
        # Decisions are few, and one may have had many wordings: by how many there were since is known what the keeper has forgotten.
        if known is None or not known.tells_of(flow, made, seen) or self._made - known.number > MOST:
            if len(self._known) >= MOST:
                self._known.clear()
            record = decision_record(flow, made, seen)
            record["generation"] = self._generation
            known = self._known[id(made)] = Wording(self._made, made, flow, seen, record)
            self._made += 1
        return known

    def remembered(self, wording: Wording) -> bool:
        """Whether the keeper still knows of it, if it was told. Those before it may be told after it, so not to the last."""
        return wording.told and self._made - wording.number <= MOST


def _shown(seen: Sniffed | Refused | None) -> object:
    """Of what was seen, as much as a record tells."""
    return (seen.app, seen.ech) if isinstance(seen, Sniffed) else seen


def decision_record(flow: Flow, made: Decision, seen: Sniffed | Refused | None) -> Record:
    """The record of one decision."""
    allowed = made.verdict is Verdict.ALLOW
    upstream = made.addresses[0] if made.addresses else flow.dest.ip
    return decision(
        wall_ns(),
        Event.ALLOWED if allowed else Event.BLOCKED,
        sandbox=flow.sandbox,
        flow=flow.id,
        source=(str(flow.source.ip), flow.source.port),
        dest=(str(flow.dest.ip), flow.dest.port),
        rule=made.entry,
        reason=str(made.reason),
        domain=made.host,
        domain_source=SOURCES[seen.app] if seen is not None and seen.app and made.host else None,
        domain_raw=seen.raw if isinstance(seen, Refused) else b"",
        upstream_ip=str(upstream) if allowed else None,
        app=seen.app if seen is not None else None,
        ech=isinstance(seen, Sniffed) and seen.ech,
        dest_mismatch=made.dest_mismatch,
    )


_FRACTION: Final = [b"." + ((b"%03d" % number).rstrip(b"0") or b"0") for number in range(1000)]


def milliseconds(ns: int) -> bytes:
    """As JSON, cut to microseconds: ``round`` and a float's digits would be the dearest of a record."""
    us = ns // 1000
    return b"%d%b" % (us // 1000, _FRACTION[us % 1000])


def quoted(text: str | None) -> str:
    """As JSON."""
    return orjson.dumps(text).decode()
