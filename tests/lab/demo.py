"""``make demo``: ``egress run`` in a small internet with honest hosts, a metadata server and an attacker.

Builds the lab, makes every attempt of ``attempts`` in a sandbox of its own, and compares what the client
saw, what is on record, and what arrived on the far side. Exit status 0 if all is as expected and nothing is
left behind, 1 if not, 77 without root.
"""

import os
import signal
import sys
import time

from rich.console import Console
from rich.markup import escape
from rich.table import Table

from tests.lab.attempts import ALLOW, ATTEMPTS, FORBIDDEN, Attempt, carry_out, describe
from tests.lab.lab import Lab
from tests.lab.network import traces
from tests.lab.sandboxed import EGRESS, Outcome

PLAIN_WIDTH = 150


def main() -> int:
    """Show it."""
    if os.geteuid() != 0:
        print("demo: it builds network namespaces, which needs root: sudo make demo", file=sys.stderr)
        return 77
    if not EGRESS.exists():
        print(f"demo: no {EGRESS}: run scripts/setup first", file=sys.stderr)
        return 1
    # As a normal end, so that what was built is taken down.
    signal.signal(signal.SIGTERM, lambda *_: sys.exit(143))
    console = Console(highlight=False)
    if not console.is_terminal:
        console = Console(highlight=False, width=PLAIN_WIDTH)
    began = time.monotonic()
    say("building a small internet in network namespaces: TLS and HTTP origins, DNS, metadata, an attacker")
    lab = Lab()
    with lab:
        results = [_try(lab, attempt, number) for number, attempt in enumerate(ATTEMPTS, 1)]
        if complaints := lab.errors():
            say(complaints)
    left = traces(lab.name)
    console.print(_table(results))
    return _verdict(console, results, left, time.monotonic() - began)


def say(text: str) -> None:
    """A line of progress."""
    print(f"demo: {text}", file=sys.stderr, flush=True)


Result = tuple[Attempt, Outcome, list[str]]


def _try(lab: Lab, attempt: Attempt, number: int) -> Result:
    say(f"{number} of {len(ATTEMPTS)}: {attempt.title}: curl {' '.join(attempt.arguments)}")
    return (attempt, *carry_out(lab, attempt))


def _table(results: list[Result]) -> Table:
    allowed = " ".join(f"--allow-out '{entry}'" for entry in ALLOW)
    table = Table(title=f"egress run {allowed} -- curl ...", title_justify="left", show_lines=False)
    for heading in ("", "attempt", "expected", "seen", "its record: event, domain, rule, reason"):
        table.add_column(heading, overflow="fold")
    for attempt, outcome, wrong in results:
        mark = "[red]DIFFERS[/]" if wrong else "[green]ok[/]"
        cells = (
            attempt.title,
            attempt.seen,
            describe(outcome),
            "\n".join(map(_short, outcome.decisions)) or "none",
        )
        table.add_row(mark, *map(escape, cells))
    return table


def _short(record: dict[str, object]) -> str:
    where = record["domain"] or record["dest_ip"]
    mismatch = f" (dialled {record['dest_ip']})" if record.get("dest_mismatch") else ""
    event = str(record["event"]).removeprefix("egress_")
    return f"{event}, {where}{mismatch}, {record['rule']}, {record['reason']}"


def _verdict(console: Console, results: list[Result], left: list[str], took_s: float) -> int:
    for attempt, outcome, wrong in results:
        for line in wrong:
            console.print(f"[red]{escape(attempt.title)}: {escape(line)}[/]")
        if wrong:
            console.print(
                escape("".join(f"    {line}\n" for line in [*outcome.notices, outcome.stderr.strip()]))
            )
    for line in left:
        console.print(f"[red]left behind: {escape(line)}[/]")
    good = sum(not wrong for _, _, wrong in results)
    console.print(f"{good} of {len(results)} as expected, in {took_s:.0f} s.")
    if good == len(results) and not left:
        console.print(
            f"By the far side's log and a packet capture, 0 packets to {len(FORBIDDEN)} forbidden addresses"
            " (the attacker's, metadata, private, blocked).\nEverything that was built is gone."
        )
        return 0
    return 1


if __name__ == "__main__":
    sys.exit(main())
