"""How rounds become figures."""

import pytest

from bench.figures import METRIC, medians, ratio, shown, spread, with_added


def test_a_ratio_is_that_of_neighbours() -> None:
    """A machine twice as slow in a round is so for both: the ratio of medians would be 2."""
    ours = [{"cpu_us": 100.0}, {"cpu_us": 200.0}, {"cpu_us": 200.0}]
    theirs = [{"cpu_us": 100.0}, {"cpu_us": 200.0}, {"cpu_us": 100.0}]
    assert ratio(ours, theirs, "cpu_us") == 1.0


def test_a_round_without_a_figure_is_no_part_of_the_ratio() -> None:
    assert ratio([{"cpu_us": 3.0}, {}], [{}, {"cpu_us": 1.0}], "cpu_us") is None
    assert ratio([{"cpu_us": 3.0}, {}], [{"cpu_us": 1.0}, {"cpu_us": 1.0}], "cpu_us") == 3.0


def test_added_latency_is_above_no_proxy_in_the_same_round() -> None:
    peers = {
        "direct": [{"p50_us": 100.0, "p99_us": 900.0}, {"p50_us": 300.0}],
        "one": [{"p50_us": 150.0, "p99_us": 800.0}, {"p50_us": 500.0, "p99_us": 900.0}],
    }
    with_added(peers)
    assert peers["one"][0] == {"p50_us": 150.0, "p99_us": 800.0, "added_p50_us": 50.0, "added_p99_us": -100.0}
    assert "added_p99_us" not in peers["one"][1] and peers["one"][1]["added_p50_us"] == 200.0


def test_medians_of_what_there_is() -> None:
    assert medians([{"cpu_us": 1.0}, {"cpu_us": 5.0, "idle_mib": 7.0}, {"cpu_us": 2.0}]) == {
        "cpu_us": 2.0,
        "idle_mib": 7.0,
    }


def test_the_spread_is_half_of_the_range() -> None:
    assert spread([90.0, 100.0, 110.0]) == pytest.approx(0.1)
    assert spread([]) == 0.0


def test_shown() -> None:
    assert shown(12345.6, METRIC["cpu_us"]) == "12,346"
    assert shown(0.456, METRIC["cpu_s_gb"]) == "0.46"
    assert shown(None, METRIC["cpu_us"]) == "-"
