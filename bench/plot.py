"""Plots as SVG text: bars with their range, and lines. No library: two shapes are all that is needed."""

import math
from collections.abc import Mapping, Sequence
from html import escape
from typing import Any, Final

from bench.figures import METRIC, Metric, median, of, shown

WIDTH: Final = 760
LABELS: Final = 170
BAR: Final = 26
COLOURS: Final = ("#2563eb", "#d97706", "#059669", "#7c3aed")
HEIGHT: Final = 360
EDGE: Final = 60

Line = Sequence[tuple[float, float]]


def bars(title: str, rounds: Mapping[str, Sequence[float]], metric: Metric, subject: str = "egress") -> str:
    """The median of each as a bar, its rounds' range as a whisker."""
    found = {
        name: (median(values) or 0.0, min(values), max(values)) for name, values in rounds.items() if values
    }
    most = max((high for _, _, high in found.values()), default=1.0) or 1.0
    scale = (WIDTH - LABELS - 90) / most
    parts = [_text(12, 22, title, size=15)]
    for row, (name, (middle, low, high)) in enumerate(sorted(found.items(), key=lambda item: item[1][0])):
        y = 40 + row * BAR
        colour = COLOURS[0] if name == subject else "#9ca3af"
        parts.append(_text(LABELS - 8, y + 14, name, anchor="end"))
        parts.append(
            f'<rect x="{LABELS}" y="{y}" width="{middle * scale:.1f}" height="{BAR - 8}" fill="{colour}"/>'
        )
        left, right, centre = LABELS + low * scale, LABELS + high * scale, y + (BAR - 8) / 2
        parts.append(f'<path d="M{left:.1f} {centre}H{right:.1f}" stroke="#111827" stroke-width="1.5"/>')
        parts.append(_text(right + 8, y + 14, f"{shown(middle, metric)} {metric.unit}"))
    return _svg(40 + len(found) * BAR + 12, parts)


def lines(title: str, series: Mapping[str, Line], across: str, up: str) -> str:
    """Points joined, over a logarithmic first axis; the second begins at 0."""
    every = [point for points in series.values() for point in points]
    if not every:
        return _svg(40, [_text(12, 22, f"{title}: nothing was measured", size=15)])
    low, high = (math.log10(pick(x for x, _ in every)) for pick in (min, max))
    most = max(y for _, y in every) * 1.1 or 1.0
    wide, tall = WIDTH - 2 * EDGE - 60, HEIGHT - 2 * EDGE

    def place(x: float, y: float) -> tuple[float, float]:
        share = (math.log10(x) - low) / ((high - low) or 1.0)
        return EDGE + share * wide, HEIGHT - EDGE - y / most * tall

    parts = [
        _text(12, 22, title, size=15),
        _text(EDGE, EDGE - 14, up),
        _text(EDGE + wide, HEIGHT - 18, across, anchor="end"),
    ]
    parts.append(f'<path d="M{EDGE} {EDGE}V{HEIGHT - EDGE}H{EDGE + wide}" fill="none" stroke="#111827"/>')
    ticks = sorted({x for x, _ in every})
    parts += [_text(place(x, 0)[0], HEIGHT - EDGE + 16, f"{x:,.0f}", anchor="middle") for x in ticks]
    for share in (0.5, 1.0):
        y = place(10**low, most * share / 1.1)[1]
        parts.append(_text(EDGE - 6, y + 4, f"{most * share / 1.1:,.3g}", anchor="end"))
        parts.append(f'<path d="M{EDGE} {y:.1f}H{EDGE + wide}" stroke="#e5e7eb"/>')
    for (name, points), colour in zip(series.items(), COLOURS * len(series), strict=False):
        if not points:
            continue
        spots = [place(x, y) for x, y in points]
        path = "L".join(f"{x:.1f} {y:.1f}" for x, y in spots)
        parts.append(f'<path d="M{path}" fill="none" stroke="{colour}" stroke-width="2"/>')
        parts += [f'<circle cx="{x:.1f}" cy="{y:.1f}" r="3" fill="{colour}"/>' for x, y in spots]
        parts.append(_text(spots[-1][0] + 8, spots[-1][1] + 4, name, colour=colour))
    return _svg(HEIGHT, parts)


def plots_of_proxies(figures: Mapping[str, Any]) -> dict[str, str]:
    """File names and what is in them."""
    peers = {name: peer["rounds"] for name, peer in figures["peers"].items() if name != "direct"}
    wanted = ("cpu_us", "connections_s", "p50_us", "p99_us", "cpu_s_gb", "held_kib")
    return {
        f"{key.replace('_', '-')}.svg": bars(
            f"{METRIC[key].title}, {METRIC[key].unit} ({METRIC[key].better} is better)",
            {name: of(rounds, key) for name, rounds in peers.items()},
            METRIC[key],
        )
        for key in wanted
    }


def plots_of_scaling(figures: Mapping[str, Any]) -> dict[str, str]:
    """The same of what grows."""
    grown: dict[str, Line] = {
        name: [
            (point["entries"], middle)
            for point in figures["entries"]
            if name in point and (middle := median(point[name]["cpu_us"]))
        ]
        for name in ("egress", "haproxy")
    }
    kept: dict[str, Line] = {
        name: [(point["held"], point["kib"]) for point in found["points"]]
        for name, found in figures["held"].items()
    }
    many = {"egress": [(point["sandboxes"], point["ratio"]) for point in figures["sandboxes"]["points"]]}
    return {
        "entries.svg": lines("CPU a connection beside so many entries of the policy", grown, "entries", "us"),
        "held.svg": lines("Memory a held connection", kept, "connections held", "KiB"),
        "sandboxes.svg": lines("CPU a connection, beside that of a single sandbox", many, "sandboxes", "x"),
    }


def _text(
    x: float, y: float, text: str, *, size: int = 12, anchor: str = "start", colour: str = "#111827"
) -> str:
    return f'<text x="{x:.1f}" y="{y:.1f}" font-size="{size}" text-anchor="{anchor}" fill="{colour}">{escape(text)}</text>'


def _svg(height: float, parts: Sequence[str]) -> str:
    head = f'<svg xmlns="http://www.w3.org/2000/svg" viewBox="0 0 {WIDTH} {height}" font-family="sans-serif">'
    return "\n".join([head, '<rect width="100%" height="100%" fill="#ffffff"/>', *parts, "</svg>"]) + "\n"
