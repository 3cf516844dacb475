"""What changed from one result to another, beyond the noise of both.

Machines are noisy, and two runs see two machines. So a figure that depends on the machine's speed is first divided, round by round, by the same
figure of a yardstick that did not change: the other proxies of its round (their geometric mean), or the yardstick of the micro benchmarks. What is
left differs from round to round, and that is the noise. A figure has changed where

* the medians differ by more than the figure's floor (``bench.figures``), and
* by more than ``SIGMAS`` standard errors of their difference, the deviation estimated by the ranges of both sets of rounds, and
* each median lies outside of the other's range.

So one wild round widens the noise and finds nothing. Fewer than three rounds say nothing at all.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any, Final

from bench.figures import COMPARED, Metric, median, of

SIGMAS: Final = 4.0
LEAST_ROUNDS: Final = 3
MICRO_FLOOR: Final = 0.10
D2: Final = {2: 1.128, 3: 1.693, 4: 2.059, 5: 2.326, 6: 2.534, 7: 2.704, 8: 2.847, 9: 2.970, 10: 3.078}
"""The expected range of so many normal values, in standard deviations: tables of control charts (ISO 7870-2)."""
MEDIAN_LOSS: Final = 1.25
"""The standard error of a median beside that of a mean: sqrt(pi / 2)."""


@dataclass(frozen=True, slots=True)
class Change:
    """One figure in two results; ``by`` is a share: 0.1 is a tenth more."""

    name: str
    before: float
    after: float
    by: float
    noise: float
    """How much would have to change to be noticed, as a share."""
    beyond: bool
    worse: bool


def judge(name: str, before: Sequence[float], after: Sequence[float], metric: Metric) -> Change | None:
    """Positive values of rounds, comparable; None where they are too few."""
    if min(len(before), len(after)) < LEAST_ROUNDS or min(*before, *after) <= 0:
        return None
    one, other = [math.log(value) for value in before], [math.log(value) for value in after]
    middle, moved = _middle(one), _middle(other)
    error = MEDIAN_LOSS * math.hypot(*(_deviation(logs) / math.sqrt(len(logs)) for logs in (one, other)))
    least = max(SIGMAS * error, math.log1p(metric.floor))
    apart = not min(one) <= moved <= max(one) and not min(other) <= middle <= max(other)
    by = moved - middle
    beyond = abs(by) > least and apart
    return Change(
        name,
        math.exp(middle),
        math.exp(moved),
        math.expm1(by),
        math.expm1(least),
        beyond,
        beyond and (by > 0) == (metric.better == "less"),
    )


def _middle(logs: Sequence[float]) -> float:
    found = median(logs)
    assert found is not None
    return found


def _deviation(logs: Sequence[float]) -> float:
    return (max(logs) - min(logs)) / D2[min(len(logs), max(D2))]


def changes(before: Mapping[str, Any], after: Mapping[str, Any], subject: str = "egress") -> list[Change]:
    """Of two results of one kind. ValueError says why they cannot be compared."""
    one, other = before["figures"], after["figures"]
    if "benchmarks" in one and "benchmarks" in other:
        return list(_micro(one["benchmarks"], other["benchmarks"]))
    if "peers" not in one or "peers" not in other:
        raise ValueError("these are not two results of `python -m bench` nor two of `make bench-micro`")
    if one["settings"] != other["settings"]:
        raise ValueError(f"measured differently: {one['settings']} and {other['settings']}")
    for result in (one, other):
        if subject not in result["peers"]:
            raise ValueError(f"{subject} was not measured in both; there are: {', '.join(result['peers'])}")
    return list(_proxies(one["peers"], other["peers"], subject))


def _proxies(one: Mapping[str, Any], other: Mapping[str, Any], subject: str) -> Iterator[Change]:
    for metric in COMPARED:
        beside = [name for name in one if name in other and name != subject]
        if metric.depends_on_machine:
            # A yardstick has to have been measured in every round of both.
            beside = [
                name for name in beside if all(_whole(peers, name, metric.key) for peers in (one, other))
            ]
            if not beside:
                continue
            values = [_measured_by(peers, subject, beside, metric.key) for peers in (one, other)]
        else:
            values = [of(peers[subject]["rounds"], metric.key) for peers in (one, other)]
        by = f", beside {len(beside)} others" if metric.depends_on_machine else ""
        if found := judge(f"{metric.title}{by}", values[0], values[1], metric):
            yield found


def _whole(peers: Mapping[str, Any], name: str, key: str) -> bool:
    return all(round_.get(key, 0) > 0 for round_ in peers[name]["rounds"])


def _measured_by(peers: Mapping[str, Any], subject: str, beside: Sequence[str], key: str) -> list[float]:
    found = []
    for number, round_ in enumerate(peers[subject]["rounds"]):
        if key in round_:
            logs = [math.log(peers[name]["rounds"][number][key]) for name in beside]
            found.append(round_[key] / math.exp(sum(logs) / len(logs)))
    return found


def _micro(one: Mapping[str, Any], other: Mapping[str, Any]) -> Iterator[Change]:
    for name in one:
        if name in other:
            found = judge(
                name,
                one[name]["in_yardsticks"],
                other[name]["in_yardsticks"],
                Metric("median_us", name, "yardsticks", "less", MICRO_FLOOR),
            )
            if found:
                yield found


def report(before: Path, after: Path, subject: str) -> int:
    """Print what there is to say; 1 where something changed, 0 where nothing did. ValueError where they cannot be compared."""
    results = [json.loads(path.read_text()) for path in (before, after)]
    found = changes(results[0], results[1], subject)
    if not found:
        raise ValueError(
            f"nothing to compare: fewer than {LEAST_ROUNDS} rounds, or no other proxy measured in every round"
        )
    for path, result in zip((before, after), results, strict=True):
        print(f"{path}: commit {result['machine']['commit']}, {result['machine']['at']}")
    wide = max(len(change.name) for change in found)
    for change in found:
        verdict = ("WORSE" if change.worse else "better") if change.beyond else "-"
        print(
            f"{change.name:{wide}}  {change.before:9.3f} {change.after:9.3f}  {change.by:+7.1%}  "
            f"(noise {change.noise:5.1%})  {verdict}"
        )
    changed = [change for change in found if change.beyond]
    print(
        f"{len(changed)} of {len(found)} figures changed beyond the noise"
        if changed
        else "nothing changed beyond the noise"
    )
    return int(bool(changed))
