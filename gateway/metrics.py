"""What a gateway tells Prometheus: names, help and labels of every metric, and its text. Imported only where somebody asks: that takes a while.

Labels have few values, all from published lists; what a workload says is never one. A series is there from the time when there is something to
say, and those that tell of the gateway's own trouble from the start, so that an alert needs no first time.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from typing import Final

from prometheus_client import generate_latest
from prometheus_client.core import (
    CounterMetricFamily,
    GaugeMetricFamily,
    HistogramMetricFamily,
    Metric,
)

from gateway.keeper import Audited
from gateway.reasons import Reason
from gateway.tally import BOUNDS_US, Count, Latencies

ALWAYS: Final = frozenset(
    [
        *(
            ("proxy", one)
            for one in (Reason.LIMIT, Reason.INTERNAL_ERROR, Reason.WORKER_DIED, Reason.SHUTDOWN)
        ),
        ("kernel", Reason.FLOOD),
        ("dns", Reason.LIMIT),
    ]
)
"""Told although they are none yet."""


@dataclass(frozen=True, slots=True)
class Figures:
    """One sandbox's gateway at one moment."""

    sandbox: str
    count: Count
    undecided: int
    audited: Audited
    restarts: int
    generation: int


def text(figures: Figures) -> bytes:
    """In Prometheus' text format, 0.0.4."""
    return generate_latest(_Collected(figures))


class _Collected:
    """What ``generate_latest`` takes."""

    def __init__(self, figures: Figures) -> None:
        self._figures = figures

    def collect(self) -> Iterator[Metric]:
        """Every family, each with its sandbox."""
        figures = self._figures
        yield from _connections(figures)
        yield from _decisions(figures)
        yield from _audit(figures)
        yield _counter(
            "egress_worker_restarts",
            "Times that the process which reads the workload's bytes died and was replaced. Each is a fault of the gateway, or somebody killed it.",
            figures,
            {(): figures.restarts},
        )
        yield _gauge(
            "egress_policy_generation",
            "Number of the policy in force: 1 at the start, one more each time it is replaced. It is the generation of the records.",
            figures,
            {(): figures.generation},
        )


def _connections(figures: Figures) -> Iterator[Metric]:
    count = figures.count
    yield _counter(
        "egress_connections",
        "TCP connections that were accepted from the sandbox, to be decided by name or address. What the kernel settled by itself is not among them.",
        figures,
        {(): count.accepted},
    )
    yield _gauge(
        "egress_connections_live",
        "Connections there are now: undecided (accepted, not yet allowed or blocked; 1024 at the most) and carried (allowed, not yet ended).",
        figures,
        {("undecided",): figures.undecided, ("carried",): count.carried},
        ["state"],
    )
    yield _counter(
        "egress_connections_closed",
        "Allowed connections that have ended, by who ended them and in which phase. Phase connect: the upstream never answered.",
        figures,
        {(str(ended_by), str(phase)): times for (ended_by, phase), times in count.closed.items() if times},
        ["ended_by", "phase"],
    )
    yield _counter(
        "egress_bytes",
        "Bytes that were carried for connections that have ended: up is from the sandbox, down is to it. Added when a connection ends.",
        figures,
        {("up",): count.bytes_up, ("down",): count.bytes_down},
        ["direction"],
    )
    yield _histogram(
        "egress_decision_duration_seconds",
        "From the accept of a connection to its decision: the client's first message, and the name's addresses where DNS had to be asked. "
        "Slow clients count here as well as a slow gateway; at 5 seconds a connection is refused.",
        figures,
        count.decision,
    )
    yield _histogram(
        "egress_connect_duration_seconds",
        "From the first packet to the upstream until the connection stands: the network's part, not the gateway's.",
        figures,
        count.connect,
    )


def _decisions(figures: Figures) -> Iterator[Metric]:
    told = [one for one in figures.count.decided if one.times or (one.layer, one.reason) in ALWAYS]
    verdicts = {True: "allowed", False: "blocked"}
    yield _counter(
        "egress_decisions",
        "Decisions, by who made them (proxy: a connection by name or address; kernel: a packet by address), verdict and reason. "
        "The reasons are those of the records.",
        figures,
        {
            (one.layer, verdicts[one.allowed], str(one.reason)): one.times
            for one in told
            if one.layer != "dns"
        },
        ["layer", "verdict", "reason"],
    )
    yield _counter(
        "egress_dns_queries",
        "DNS queries of the sandbox: allowed ones may have been asked on, blocked ones were answered by the gateway without a packet leaving.",
        figures,
        {(verdicts[one.allowed], str(one.reason)): one.times for one in told if one.layer == "dns"},
        ["verdict", "reason"],
    )


def _audit(figures: Figures) -> Iterator[Metric]:
    audited = figures.audited
    yield _counter(
        "egress_audit_records",
        "Records that were taken and numbered, on the disk but for those in the buffer (egress_audit_queue_bytes).",
        figures,
        {(): audited.records},
    )
    yield _counter(
        "egress_audit_lost",
        "Records that could not be written. Anything above zero is a gap, which the records themselves tell of (audit_lost).",
        figures,
        {(): audited.lost},
    )
    yield _gauge(
        "egress_audit_queue_records",
        "Records that wait in the worker because the pipe is full. While there are any, no connection is accepted.",
        figures,
        {(): figures.count.waiting},
    )
    yield _gauge(
        "egress_audit_queue_bytes",
        "Records on their way to the disk: in the pipe from the worker, or in the buffer of what the disk has not taken.",
        figures,
        {("pipe",): audited.in_pipe_bytes, ("buffer",): audited.buffered_bytes},
        ["where"],
    )
    yield _gauge(
        "egress_audit_writable",
        "1 if the disk took the last records, 0 if not: then connections wait, or records are lost, as --audit-on-full says.",
        figures,
        {(): int(audited.writable)},
    )


_Values = Mapping[tuple[str, ...], int]


def _counter(name: str, help_: str, figures: Figures, values: _Values, labels: Sequence[str] = ()) -> Metric:
    return _filled(CounterMetricFamily(name, help_, labels=("sandbox", *labels)), figures, values)


def _gauge(name: str, help_: str, figures: Figures, values: _Values, labels: Sequence[str] = ()) -> Metric:
    return _filled(GaugeMetricFamily(name, help_, labels=("sandbox", *labels)), figures, values)


def _filled(family: CounterMetricFamily | GaugeMetricFamily, figures: Figures, values: _Values) -> Metric:
    for label, value in values.items():
        family.add_metric((figures.sandbox, *label), value)
    return family


def _histogram(name: str, help_: str, figures: Figures, latencies: Latencies) -> Metric:
    family = HistogramMetricFamily(name, help_, labels=("sandbox",))
    bounds = (*(repr(bound / 1e6) for bound in BOUNDS_US), "+Inf")
    buckets = [
        (bound, float(most))
        for bound, most in zip(bounds, (*latencies.at_most, latencies.total), strict=True)
    ]
    family.add_metric((figures.sandbox,), buckets, latencies.sum_s)
    return family
