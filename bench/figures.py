"""What is measured of a proxy, and how the rounds of one figure become one number: medians, and ratios of neighbours."""

import statistics
from collections.abc import Iterable, Mapping, Sequence
from dataclasses import dataclass
from typing import Final, Literal

FULL: Final = 0.9
"""Of its core: whoever took that much had no more to give."""

Sample = dict[str, float]
"""One proxy in one round, by ``Metric.key``. What could not be measured is not in it."""


@dataclass(frozen=True, slots=True)
class Metric:
    """One figure: ``floor`` is the smallest change, as a share, that is worth a word."""

    key: str
    title: str
    unit: str
    better: Literal["less", "more"]
    floor: float
    depends_on_machine: bool = True
    """Whether it moves with the machine's speed, so that only a ratio within a round can be compared with another run's."""
    digits: int = 0


METRICS: Final = (
    Metric("cpu_us", "CPU a connection", "us", "less", 0.05),
    Metric("connections_s", "connections a second", "/s", "more", 0.10),
    Metric("p50_us", "latency at half load, p50", "us", "less", 0.20),
    Metric("p99_us", "latency at half load, p99", "us", "less", 0.50),
    Metric("added_p50_us", "added latency at half load, p50", "us", "less", 0.20),
    Metric("added_p99_us", "added latency at half load, p99", "us", "less", 0.50),
    Metric("cpu_s_gb", "CPU a GB", "s", "less", 0.08, digits=2),
    Metric("held_kib", "memory a held connection", "KiB", "less", 0.10, False, digits=1),
    Metric("idle_mib", "idle memory", "MiB", "less", 0.05, False, digits=1),
)
METRIC: Final = {metric.key: metric for metric in METRICS}
COMPARED: Final = tuple(metric for metric in METRICS if not metric.key.startswith("added"))
"""A difference of two noisy figures is for reading, not for judging."""


def median(values: Iterable[float]) -> float | None:
    """None of nothing."""
    found = list(values)
    return statistics.median(found) if found else None


def of(rounds: Sequence[Sample], key: str) -> list[float]:
    """One figure's values, of those rounds that have it."""
    return [sample[key] for sample in rounds if key in sample]


def ratio(ours: Sequence[Sample], theirs: Sequence[Sample], key: str) -> float | None:
    """The median of the ratios of neighbours: a machine that is slow for a while is slow for both."""
    pairs = zip(ours, theirs, strict=True)
    return median(one[key] / other[key] for one, other in pairs if other.get(key) and key in one)


def with_added(peers: Mapping[str, Sequence[Sample]], direct: str = "direct") -> None:
    """Write into each sample by how much its latency is above that of no proxy, in the same round."""
    for name, rounds in peers.items():
        if name == direct:
            continue
        for sample, base in zip(rounds, peers.get(direct, ()), strict=False):
            for share in ("p50", "p99"):
                key = f"{share}_us"
                if key in sample and key in base:
                    sample[f"added_{key}"] = round(sample[key] - base[key], 1)


def medians(rounds: Sequence[Sample]) -> Sample:
    """Of every figure there is."""
    found = {metric.key: median(of(rounds, metric.key)) for metric in METRICS}
    return {key: round(value, 3) for key, value in found.items() if value is not None}


def spread(values: Sequence[float]) -> float:
    """Half of the way from the least to the most, as a share of the median; 0 of nothing."""
    middle = median(values)
    return (max(values) - min(values)) / 2 / abs(middle) if middle else 0.0


def load_was_full(rounds: Sequence[Sample]) -> bool:
    """Whether in most rounds it was the load, not the proxy, that could do no more: what is found is then the load's rate."""
    found = [sample for sample in rounds if "load_share" in sample]
    return sum(sample["load_share"] > FULL >= sample["proxy_share"] for sample in found) * 2 > len(found)


def shown(value: float | None, metric: Metric) -> str:
    """As a table has it."""
    return "-" if value is None else f"{value:,.{metric.digits}f}"
