"""Decisions and ends, as the records tell of them. Those of allowed connections to one place, by one decision, are alike but for a few fields:
they are put into words once."""

import time
from typing import Any, Final, NamedTuple

import orjson

from audit.form import Form
from audit.record import EndedBy, Event, Phase, Record, closed, decision
from gateway.decide import Decision, Verdict
from gateway.flow import Endpoint, Flow
from gateway.sniff.result import Refused, Sniffed

SOURCES: Final = {"tls": "tls_sni", "http": "http_host"}
MOST: Final = 1024
OWN: Final = ("timestamp", "src_ip", "flow")


class Wording(NamedTuple):
    """The two records of an allowed connection, but for what is its own."""

    made: Decision
    dest: Endpoint
    shown: Any
    """Of what was seen, as much as a record tells."""
    host: str | None
    """The name that decided, as JSON; None where none did."""
    decided: Form
    """To be filled in: timestamp, src_ip, src_port, flow."""
    closed: Form
    """To be filled in: timestamp, src_ip, src_port, domain and upstream_ip as JSON, flow, bytes_up, bytes_down, duration_ms, ended_by, phase."""


class Wordings:
    """Under one policy: decisions that are one object (``gateway.rulings``) are worded once."""

    def __init__(self, generation: int = 1) -> None:
        self.generation = generation
        self._known: dict[int, Wording] = {}
        """By the number of the decision, which lives as long as it is here."""

    def of(self, flow: Flow, made: Decision, seen: Sniffed | Refused | None) -> Wording:
        """How a connection that ``made`` allows is told of."""
        shown = (seen.app, seen.ech) if isinstance(seen, Sniffed) else seen
        known = self._known.get(id(made))
        if known is None or known.made is not made or known.dest != flow.dest or known.shown != shown:
            if len(self._known) >= MOST:
                self._known.clear()
            known = self._known[id(made)] = self._worded(flow, made, seen, shown)
        return known

    def _worded(self, flow: Flow, made: Decision, seen: Sniffed | Refused | None, shown: object) -> Wording:
        record = decision_record(flow, made, seen)
        record["generation"] = self.generation
        end = closed(
            0,
            decided=record,
            upstream_ip=None,
            bytes_up=0,
            bytes_down=0,
            duration_ms=0.0,
            ended_by=EndedBy.ERROR,
            phase=Phase.SNIFF,
        )
        others = ("src_port", "domain", "upstream_ip", "bytes_up", "bytes_down", "duration_ms")
        return Wording(
            made,
            flow.dest,
            shown,
            None if made.host is None else quoted(made.host),
            Form(record, texts=OWN, others=("src_port",)),
            Form(end, texts=(*OWN, "ended_by", "phase"), others=others),
        )


def decision_record(flow: Flow, made: Decision, seen: Sniffed | Refused | None) -> Record:
    """The record of one decision."""
    allowed = made.verdict is Verdict.ALLOW
    upstream = made.addresses[0] if made.addresses else flow.dest.ip
    return decision(
        time.time_ns(),
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


def milliseconds(ns: int) -> str:
    """As JSON, cut to microseconds: ``round`` and a float's digits would be the dearest of a record."""
    us = ns // 1000
    return str(us // 1000) + "." + (str(1000 + us % 1000)[1:].rstrip("0") or "0")


def quoted(text: str | None) -> str:
    """As JSON."""
    return orjson.dumps(text).decode()
