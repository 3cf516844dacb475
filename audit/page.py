"""Sums as one HTML page that needs nothing else: no network, no script. What a workload chose (names) is text, whatever it looks like. Pure."""

from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from datetime import datetime, timedelta
from html import escape
from typing import Final

from audit.stats import ALLOWED, BLOCKED, Stats, busiest, largest

TOP: Final = 20
MAX_HOURS: Final = 24 * 14
WIDTH, HEIGHT, LEFT, BOTTOM = 960, 240, 56, 28
STYLE: Final = """
:root { color-scheme: light dark; --allowed: #2f7d5b; --blocked: #b8452e; --line: #8884; --soft: #8882; }
body { font: 15px/1.5 system-ui, sans-serif; max-width: 1000px; margin: 2rem auto; padding: 0 1rem; }
h1 { font-size: 1.5rem; margin: 0; } h2 { font-size: 1.1rem; margin: 2.2rem 0 .6rem; } .when { opacity: .7; margin: .2rem 0 1.4rem; }
.sums { display: flex; flex-wrap: wrap; gap: .8rem; } .sums div { border: 1px solid var(--line); border-radius: 8px; padding: .6rem 1rem; min-width: 8rem; }
.sums b { display: block; font-size: 1.4rem; font-variant-numeric: tabular-nums; } .warn b { color: var(--blocked); }
table { border-collapse: collapse; width: 100%; } td, th { text-align: left; padding: .25rem .6rem; border-bottom: 1px solid var(--soft); }
td.n, th.n { text-align: right; font-variant-numeric: tabular-nums; width: 7rem; } td.name { word-break: break-all; font-family: ui-monospace, monospace; font-size: 13px; }
td.bar { width: 40%; } .bar span { display: block; height: .8rem; border-radius: 3px; background: var(--blocked); } .bar.ok span { background: var(--allowed); }
svg { width: 100%; height: auto; } svg text { font-size: 11px; fill: currentColor; } .a { fill: var(--allowed); } .b { fill: var(--blocked); } .grid { stroke: var(--line); }
.key span { display: inline-block; width: .8rem; height: .8rem; border-radius: 3px; margin: 0 .3rem 0 1rem; vertical-align: -1px; }
"""  # noqa: E501 - one rule a line


def page(stats: Stats, title: str = "Egress") -> str:
    """The whole document."""
    return "\n".join(
        [
            "<!doctype html>",
            '<html lang="en"><head><meta charset="utf-8"><meta name="viewport" content="width=device-width">',
            # Nothing is to be loaded, so nothing may be.
            "<meta http-equiv=\"Content-Security-Policy\" content=\"default-src 'none'; style-src 'unsafe-inline'\">",
            f"<title>{escape(title)}</title><style>{STYLE}</style></head><body>",
            f"<h1>{escape(title)}</h1>",
            f'<p class="when">{escape(stats.first or "no records")} to {escape(stats.last or "")}</p>',
            *_sums(stats),
            "<h2>Connections by hour (UTC)</h2>",
            *_hours(stats.hours),
            "<h2>Blocked: names and addresses</h2>",
            *_bars(largest(stats.blocked, TOP), "refused"),
            "<h2>Why</h2>",
            *_bars(largest(stats.reasons, TOP), "refused"),
            "<h2>Rules that refused</h2>",
            *_bars(largest(stats.rules, TOP), "refused"),
            "<h2>Allowed: names and addresses</h2>",
            *_bars(largest(stats.allowed, TOP), "allowed", good=True),
            "<h2>Sandboxes</h2>",
            *_sandboxes(busiest(stats.sandboxes, TOP)),
            "</body></html>\n",
        ]
    )


def _sums(stats: Stats) -> Iterator[str]:
    events = stats.events
    yield '<div class="sums">'
    for number, words, warn in (
        (events["egress_allowed"], "connections allowed", False),
        (events["egress_blocked"], "connections blocked", False),
        (events["dns_blocked"], "DNS queries kept back", False),
        (stats.bytes_up, "bytes up", False),
        (stats.bytes_down, "bytes down", False),
        (stats.lost, "records lost", stats.lost > 0),
    ):
        yield f"<div{' class=warn' if warn else ''}><b>{number:,}</b>{words}</div>"
    yield "</div>"


def _bars(rows: Sequence[tuple[str, int]], what: str, *, good: bool = False) -> Iterator[str]:
    if not rows:
        yield "<p>None.</p>"
        return
    most = max(count for _, count in rows)
    yield f'<table><tr><th>what</th><th class="n">{what}</th><th></th></tr>'
    for name, count in rows:
        width = 100 * count / most
        yield (
            f'<tr><td class="name">{escape(name)}</td><td class="n">{count:,}</td>'
            f'<td class="bar{" ok" if good else ""}"><span style="width:{width:.1f}%"></span></td></tr>'
        )
    yield "</table>"


def _sandboxes(rows: Sequence[tuple[str, Counter[str]]]) -> Iterator[str]:
    if not rows:
        yield "<p>None.</p>"
        return
    yield '<table><tr><th>sandbox</th><th class="n">allowed</th><th class="n">blocked</th></tr>'
    for name, counts in rows:
        yield (
            f'<tr><td class="name">{escape(name)}</td><td class="n">{counts[ALLOWED]:,}</td>'
            f'<td class="n">{counts[BLOCKED]:,}</td></tr>'
        )
    yield "</table>"


def _hours(hours: Mapping[str, Counter[str]]) -> Iterator[str]:
    """Allowed and blocked on top of each other, an hour a column; hours in which nothing happened are empty columns."""
    shown = _every_hour(sorted(hours))
    if not shown:
        yield "<p>None.</p>"
        return
    most = max(hours[hour].total() for hour in shown if hour in hours)
    high, wide = HEIGHT - BOTTOM - 10, (WIDTH - LEFT) / len(shown)
    yield '<p class="key"><span style="background:var(--allowed)"></span>allowed<span style="background:var(--blocked)"></span>blocked</p>'
    yield f'<svg viewBox="0 0 {WIDTH} {HEIGHT}" role="img" aria-label="connections by hour">'
    for part in (0, 0.5, 1):
        y = 10 + high * (1 - part)
        yield f'<line class="grid" x1="{LEFT}" x2="{WIDTH}" y1="{y:.1f}" y2="{y:.1f}"/>'
        yield f'<text x="{LEFT - 6}" y="{y + 4:.1f}" text-anchor="end">{most * part:,.0f}</text>'
    for number, hour in enumerate(shown):
        x, counts = LEFT + number * wide, hours.get(hour, Counter())
        base = 10.0 + high
        for kind, word in (("a", ALLOWED), ("b", BLOCKED)):
            tall = high * counts[word] / most
            base -= tall
            if tall:
                yield (
                    f'<rect class="{kind}" x="{x:.1f}" y="{base:.1f}" width="{max(wide - 1, 0.5):.1f}" height="{tall:.1f}">'
                    f"<title>{escape(hour)}: {counts[word]:,} {word}</title></rect>"
                )
        if number % max(len(shown) // 8, 1) == 0 and x < WIDTH - 60:
            label = hour[5:].replace("T", " ") + "h"
            yield f'<text x="{x:.1f}" y="{HEIGHT - 8}">{escape(label)}</text>'
    yield "</svg>"


def _every_hour(hours: list[str]) -> list[str]:
    """From the first to the last; the last ``MAX_HOURS`` of them."""
    try:
        first, last = (datetime.strptime(hour, "%Y-%m-%dT%H") for hour in (hours[0], hours[-1]))
    except (ValueError, IndexError):
        return hours[-MAX_HOURS:]
    first = max(first, last - timedelta(hours=MAX_HOURS - 1))
    return [
        (first + timedelta(hours=step)).strftime("%Y-%m-%dT%H")
        for step in range(int((last - first) / timedelta(hours=1)) + 1)
    ]
