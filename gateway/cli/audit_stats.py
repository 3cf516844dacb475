"""``egress audit stats`` and ``egress audit schema``: records added up, and what a record is."""

import argparse
import json
from collections.abc import Iterator
from typing import Final

from audit.page import page
from audit.reader import Tally
from audit.schema import json_schema
from audit.stats import ALLOWED, BLOCKED, Stats, add_up, busiest, largest
from gateway.cli.arguments import path
from gateway.cli.records import add_choice, add_directory, chosen, count, say_passed_over
from gateway.cli.streams import shown
from gateway.errors import EgressError

EPILOG: Final = """\
examples:
  egress audit stats
  egress audit stats --since 7d --html egress.html
  egress audit stats --sandbox agent-1 --json | jq .blocked

The page has everything in it: it loads nothing, and runs no script.
"""


def add(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add both."""
    stats = verbs.add_parser(
        "stats",
        help="what was blocked most, by name, sandbox, rule, reason and hour",
        description="Add records up.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_directory(stats)
    add_choice(stats, since="1d")
    stats.add_argument("--top", metavar="N", type=count, default=10, help="how many of each (default: 10)")
    form = stats.add_mutually_exclusive_group()
    form.add_argument("--json", action="store_true", help="one JSON object")
    form.add_argument("--html", metavar="FILE", type=path, help="write one page with plots to FILE")
    stats.set_defaults(run=run_stats, parser=stats)
    schema = verbs.add_parser(
        "schema",
        help="print the JSON Schema of a record",
        description="Print the JSON Schema (draft 2020-12) of one line of egress-*.jsonl.",
    )
    schema.set_defaults(run=run_schema, parser=schema)


def run_stats(args: argparse.Namespace) -> int:
    """Add up, and print."""
    tally = Tally()
    stats = add_up(chosen(args, tally))
    say_passed_over(tally)
    if args.html is not None:
        try:
            args.html.write_text(page(stats, "Egress: what left, and what was refused"), encoding="utf-8")
        except OSError as error:
            raise EgressError(f"{args.html}: {error.strerror}") from error
        print(f"{args.html}: {stats.records:,} records")
    elif args.json:
        print(json.dumps(stats.to_dict(args.top), indent=2))
    else:
        for line in _as_text(stats, args.top):
            print(line)
    return 0


def run_schema(args: argparse.Namespace) -> int:
    """Print it."""
    print(json.dumps(json_schema(), indent=2))
    return 0


def _as_text(stats: Stats, top: int) -> Iterator[str]:
    if not stats.records:
        yield "no records; --since goes further back (default: 1d)"
        return
    events = stats.events
    yield f"{shown(stats.first)} to {shown(stats.last)}"
    yield (
        f"{events['egress_allowed']:,} connections allowed, {events['egress_blocked']:,} blocked; "
        f"{events['dns_blocked']:,} DNS queries kept back; {stats.bytes_up:,} bytes up, {stats.bytes_down:,} down"
    )
    if stats.lost:
        yield f"{stats.lost:,} records were LOST"
    for title, rows in (
        ("blocked", largest(stats.blocked, top)),
        ("why", largest(stats.reasons, top)),
        ("by rule", largest(stats.rules, top)),
        ("allowed", largest(stats.allowed, top)),
    ):
        if rows:
            yield f"\n{title}"
            yield from (f"{count:>12,}  {shown(name)}" for name, count in rows)
    yield "\nsandboxes (allowed, blocked)"
    for name, counts in busiest(stats.sandboxes, top):
        yield f"{counts[ALLOWED]:>12,} {counts[BLOCKED]:>12,}  {shown(name)}"
    yield "\nhours, UTC (allowed, blocked)"
    for hour in sorted(stats.hours)[-24:]:
        yield f"{stats.hours[hour][ALLOWED]:>12,} {stats.hours[hour][BLOCKED]:>12,}  {shown(hour)}"
