"""The text that Prometheus reads, read by its own parser."""

import pytest
from prometheus_client.metrics_core import Metric
from prometheus_client.parser import text_string_to_metric_families

from audit.record import EndedBy, Phase
from gateway.keeper import Audited
from gateway.metrics import ALWAYS, Figures, text
from gateway.reasons import Reason
from gateway.tally import ACCEPTED, BOUNDS_US, CARRIED, WAITING, Tally


def figures(tally: Tally | None = None, sandbox: str = "agent-1") -> Figures:
    """Of a gateway that has done nothing but what ``tally`` says."""
    return Figures(sandbox, (tally or Tally()).read(), 2, Audited(900, 4, 160, 320, True), 1, 7)


def told(now: Figures) -> str:
    """The whole text."""
    return text(now).decode()


def families(now: Figures) -> list[Metric]:
    """As they were read back."""
    return list(text_string_to_metric_families(told(now)))


def values(now: Figures) -> dict[tuple[str, ...], float]:
    """By name and labels, but for the sandbox."""
    return {
        (
            sample.name,
            *(f"{name}={value}" for name, value in sorted(sample.labels.items()) if name != "sandbox"),
        ): sample.value
        for family in families(now)
        for sample in family.samples
    }


def test_the_text_is_what_it_says_it_is() -> None:
    """One HELP and one TYPE a family, in that order, before its samples; names by the rules."""
    lines = told(figures()).splitlines()
    seen: set[str] = set()
    for number, line in enumerate(lines):
        if line.startswith("# HELP "):
            _, _, name, help_ = line.split(" ", 3)
            assert name not in seen and help_.endswith(".") and len(help_) > 40
            seen.add(name)
            kind = lines[number + 1].removeprefix(f"# TYPE {name} ")
            assert (kind == "counter") == name.endswith("_total")
            assert name.endswith("_seconds") == (kind == "histogram")
        elif not line.startswith("#"):
            assert line.startswith(tuple(seen))
    assert len(seen) == 15


def test_the_name_of_a_sandbox_may_be_anything() -> None:
    name = 'a "b" \\ c\\n {x="y"} ü'
    assert {
        sample.labels["sandbox"] for family in families(figures(sandbox=name)) for sample in family.samples
    } == {name}


def test_every_reason_and_every_end_is_told_once_it_happened() -> None:
    tally = Tally()
    assert {key for key in values(figures(tally)) if key[0] == "egress_decisions_total"} == {
        ("egress_decisions_total", f"layer={layer}", f"reason={reason}", "verdict=blocked")
        for layer, reason in ALWAYS
        if layer != "dns"
    }
    for number, reason in enumerate(Reason, 1):
        for _ in range(number):
            tally.refused(reason)
    for ended_by in EndedBy:
        for phase in Phase:
            tally.closed(ended_by, phase, 10, 100)
    said = values(figures(tally))
    for number, reason in enumerate(Reason, 1):
        verdict = "allowed" if number <= 3 else "blocked"
        assert (
            said["egress_decisions_total", "layer=proxy", f"reason={reason}", f"verdict={verdict}"] == number
        )
    ends = [key for key in said if key[0] == "egress_connections_closed_total"]
    assert len(ends) == len(EndedBy) * len(Phase)
    assert said["egress_bytes_total", "direction=up"] == 10 * len(ends)
    assert said["egress_bytes_total", "direction=down"] == 100 * len(ends)


def test_each_figure_is_under_its_own_name() -> None:
    tally = Tally()
    tally.words[ACCEPTED], tally.words[CARRIED], tally.words[WAITING] = 11, 12, 13
    said = values(figures(tally))
    assert {key: value for key, value in said.items() if value and "duration" not in key[0]} == {
        ("egress_connections_total",): 11,
        ("egress_connections_live", "state=undecided"): 2,
        ("egress_connections_live", "state=carried"): 12,
        ("egress_audit_records_total",): 900,
        ("egress_audit_lost_total",): 4,
        ("egress_audit_queue_records",): 13,
        ("egress_audit_queue_bytes", "where=pipe"): 160,
        ("egress_audit_queue_bytes", "where=buffer"): 320,
        ("egress_audit_writable",): 1,
        ("egress_worker_restarts_total",): 1,
        ("egress_policy_generation",): 7,
    }


@pytest.mark.parametrize("which", ["decision", "connect"])
def test_histograms_are_cumulative_and_end_with_all(which: str) -> None:
    tally = Tally()
    for took_ms in (0, 3, 3, 4000, 60_000):
        if which == "decision":
            tally.decided(Reason.ALLOWED_NAME, took_ms * 1_000_000)
        else:
            tally.connected(took_ms * 1_000_000)
    (family,) = [one for one in families(figures(tally)) if one.name == f"egress_{which}_duration_seconds"]
    buckets = {
        float(sample.labels["le"]): sample.value
        for sample in family.samples
        if sample.name.endswith("_bucket")
    }
    assert list(buckets) == [*(bound / 1e6 for bound in BOUNDS_US), float("inf")]
    assert [buckets[bound] for bound in (0.00005, 0.0025, 0.005, 2.5, 5.0, 10.0, float("inf"))] == [
        1,
        1,
        3,
        3,
        4,
        4,
        5,
    ]
    assert [sample.value for sample in family.samples if not sample.name.endswith("_bucket")] == [5, 64.006]
