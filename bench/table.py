"""Results as Markdown."""

from collections.abc import Mapping, Sequence
from typing import Any, Final

from bench.figures import METRIC, load_was_full, medians, of, ratio, shown, spread

COLUMNS: Final = (
    ("cpu_us", "CPU a connection, us"),
    ("connections_s", "connections/s"),
    ("added_p50_us", "added p50, us"),
    ("added_p99_us", "added p99, us"),
    ("cpu_s_gb", "CPU s a GB"),
    ("held_kib", "KiB a held connection"),
    ("idle_mib", "idle, MiB"),
)

FRONT: Final = ("cpu_us", "cpu_s_gb", "held_kib")


def proxies(figures: Mapping[str, Any], subject: str = "egress") -> str:
    """The table of the comparison: medians, and the ratio of ``subject``'s CPU to each one's."""
    peers = {name: peer for name, peer in figures["peers"].items() if name != "direct"}
    head = ["", *(title for _, title in COLUMNS), f"{subject}'s CPU beside it: a connection; a GB"]
    rows = [[name, *_cells(peer), _beside(peers, name, subject)] for name, peer in peers.items()]
    lines = [grid(head, rows), *_remarks(figures)]
    return "\n".join(lines) + "\n"


def short(figures: Mapping[str, Any]) -> str:
    """The same for a front page: three figures that need no remarks."""
    head = ["", *(title for key, title in COLUMNS if key in FRONT)]
    rows = [
        [name, *(shown(medians(peer["rounds"]).get(key), METRIC[key]) for key, _ in COLUMNS if key in FRONT)]
        for name, peer in figures["peers"].items()
        if name != "direct"
    ]
    return grid(head, rows) + "\n"


def _cells(peer: Mapping[str, Any]) -> list[str]:
    found = medians(peer["rounds"])
    cells = [shown(found.get(key), METRIC[key]) for key, _ in COLUMNS]
    if load_was_full(peer["rounds"]):
        cells[1] = f">= {cells[1]}"
    return cells


def _beside(peers: Mapping[str, Any], name: str, subject: str) -> str:
    if name == subject or subject not in peers:
        return ""
    found = [ratio(peers[subject]["rounds"], peers[name]["rounds"], key) for key in ("cpu_us", "cpu_s_gb")]
    return "; ".join("-" if one is None else f"x {one:.2f}" for one in found)


def _remarks(figures: Mapping[str, Any]) -> list[str]:
    settings, direct = figures["settings"], figures["peers"].get("direct")
    lines = [
        "",
        f"Medians of {settings['rounds']} interleaved rounds, each with a fresh process; ratios are medians of the rounds' ratios.",
    ]
    if direct:
        found = medians(direct["rounds"])
        lines.append(
            f"Added to no proxy at {settings['direct_rate']:,} connections a second: "
            f"p50 {shown(found.get('p50_us'), METRIC['p50_us'])} us, p99 {shown(found.get('p99_us'), METRIC['p99_us'])} us."
        )
    if any(load_was_full(peer["rounds"]) for peer in figures["peers"].values()):
        lines.append("`>=`: the load had no more to give, the proxy had.")
    wide = max((spread(of(peer["rounds"], "cpu_us")) for peer in figures["peers"].values()), default=0.0)
    lines.append(f"From round to round CPU a connection moved by up to {wide:.0%} either way.")
    lines += [f"Left out: {name}: {why}." for name, why in figures["left_out"].items()]
    lines += [
        f"{name}: {len(peer['troubles'])} figures left out for errors: {peer['troubles'][0]}."
        for name, peer in figures["peers"].items()
        if peer["troubles"]
    ]
    lines += [""] + [
        f"* {name} {peer['version']}: {peer['note']}"
        for name, peer in figures["peers"].items()
        if name != "direct"
    ]
    return lines


def scaling(figures: Mapping[str, Any]) -> str:
    """The tables of what grows."""
    written, started = figures["records"]["records_a_second"], figures["attach"]["median_ms"]
    parts = [
        f"`egress run` to the command's first byte: {started:.0f} ms. A keeper writes {written:,} records a second.\n"
    ]
    rows = [
        [f"{point['entries']:,}", *_grown(point["egress"]), *_grown(point.get("haproxy", {}))]
        for point in figures["entries"]
    ]
    head = ["entries", "egress: CPU a connection, us", "start, s", "idle, MiB"]
    parts.append(grid([*head, "haproxy: CPU a connection, us", "start, s", "idle, MiB"], rows) + "\n")
    for name, found in figures["held"].items():
        rows = [
            [
                f"{point['held']:,}",
                f"{point['kib']:.1f}",
                f"{point['cpu_us']:.0f}",
                f"{point['cpu_us_without']:.0f}",
            ]
            for point in found["points"]
        ]
        parts.append(
            grid([f"held, {name}", "KiB each", "CPU a connection beside them, us", "without them, us"], rows)
        )
        parts.append(f"\nStopped {found['stopped']}.\n" if found["stopped"] else "")
    rows = [
        [
            f"{point['sandboxes']:,}",
            f"x {point['ratio']:.2f}",
            f"{point['attach_ms']:.0f}",
            f"{point['mib_each']:.1f}",
            f"{point['idle_cores']:.2f}",
        ]
        for point in figures["sandboxes"]["points"]
    ]
    parts.append(
        grid(
            [
                "sandboxes",
                "CPU a connection beside one's",
                "attach, ms p50",
                "MiB each (PSS)",
                "cores, all idle",
            ],
            rows,
        )
    )
    if figures["sandboxes"]["stopped"]:
        parts.append(f"\nStopped {figures['sandboxes']['stopped']}.\n")
    workers = figures["workers"]
    parts.append(
        f"\nA second worker was left out: {workers['left_out']}.\n"
        if workers["left_out"]
        else f"\nA second worker, each with {workers['share']:.0%} of a core of its own: x {workers['ratio']:.2f} connections a second.\n"
    )
    return "\n".join(parts) + "\n"


def where(figures: Mapping[str, Any]) -> str:
    """The stages of a connection in the worker, and what the kernel says of it."""
    stages = figures["stages_us"]
    sums = {"worker, user": "user_us", "worker, kernel": "kernel_us", "keeper": "keeper_us"}
    return grid(
        [*stages, *sums],
        [[*(f"{us:.0f}" for us in stages.values()), *(f"{figures[key]:.0f}" for key in sums.values())]],
    )


def _grown(found: Mapping[str, Any]) -> list[str]:
    cells = []
    for key, form in (("cpu_us", ".0f"), ("start_s", ".1f"), ("idle_mib", ".0f")):
        values = sorted(found.get(key, ()))
        cells.append(format(values[len(values) // 2], form) if values else "-")
    return cells


def grid(head: Sequence[str], rows: Sequence[Sequence[str]]) -> str:
    """A Markdown table."""
    lines = [head, ["---"] * len(head), *rows]
    return "\n".join("| " + " | ".join(cell.replace("|", "\\|") for cell in line) + " |" for line in lines)
