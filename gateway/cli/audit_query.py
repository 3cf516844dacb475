"""``egress audit query`` and ``egress audit tail``: the records that are asked for, now or as they come."""

import argparse
import sys
import time
from collections.abc import Iterable, Iterator
from contextlib import contextmanager
from itertools import islice
from pathlib import Path
from typing import Final

from audit.reader import Follower, Tally, newest
from audit.record import Record
from gateway.cli.records import (
    FORMS,
    add_choice,
    add_directory,
    as_jsonl,
    as_table,
    choice,
    chosen,
    count,
    directory_of,
    hold_to_files,
    say_passed_over,
    say_refused,
)
from gateway.errors import EgressError

POLL_S: Final = 0.25
QUERY: Final = """\
examples:
  egress audit query --since 1h --event egress_blocked
  egress audit query --domain '*.github.com' --since 2026-11-23 -o csv > github.csv
  egress audit query --sandbox agent-1 --ip 203.0.113.0/24 -o json
  egress audit query --since 1d -o ocsf | ship-to-siem

Records come oldest first, while they are read. Times are UTC unless they say otherwise.
"""
TAIL: Final = """\
examples:
  egress audit tail
  egress audit tail -f --event egress_blocked
  egress audit tail -f --json | jq .domain
"""


def add(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add both."""
    query = verbs.add_parser(
        "query",
        help="records by time, sandbox, name, address, rule or reason",
        description="Print the records that are asked for, oldest first.",
        epilog=QUERY,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_directory(query)
    add_choice(query)
    query.add_argument("--limit", metavar="N", type=count, help="no more than the first N")
    query.add_argument("-o", "--output", choices=tuple(FORMS), default="table", help="(default: table)")
    query.set_defaults(run=run_query, parser=query)
    tail = verbs.add_parser(
        "tail",
        help="the latest records, and with -f those that come",
        description="Print the latest records, and with -f those that come.",
        epilog=TAIL,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_directory(tail)
    add_choice(tail)
    tail.add_argument("-n", metavar="N", dest="count", type=count, default=20, help="how many (default: 20)")
    tail.add_argument("-f", "--follow", action="store_true", help="go on with those that come, until Ctrl-C")
    tail.add_argument("--json", action="store_true", help="one JSON object a line")
    tail.set_defaults(run=run_tail, parser=tail)


def run_query(args: argparse.Namespace) -> int:
    """Print them."""
    tally = Tally()
    for line in FORMS[args.output](islice(chosen(args, tally), args.limit)):
        print(line)
    say_passed_over(tally)
    return 0


def run_tail(args: argparse.Namespace) -> int:
    """Print them; with -f, for ever."""
    asked, directory = choice(args), directory_of(args)
    try:
        tally = Tally()
        with _reading(directory):
            follower = Follower(directory, asked.test(), tally) if args.follow else None
            shown = newest(directory, asked, args.count, tally)
        if follower is None:
            hold_to_files(tally)
        say_refused(tally)
        refused = len(tally.refused)
        _print(shown, as_json=args.json)
        # What came while those were looked for is among them, and comes from the follower once more.
        known = list(shown)
        while follower is not None:
            with _reading(directory):
                come = follower.poll()
            _print((record for record in come if record not in known), as_json=args.json)
            known.clear()
            if len(tally.refused) > refused:
                refused = len(tally.refused)
                say_refused(tally)
            time.sleep(POLL_S)
    except KeyboardInterrupt:
        pass
    return 0


@contextmanager
def _reading(directory: Path) -> Iterator[None]:
    """EgressError where a file cannot be read."""
    try:
        yield
    except OSError as error:
        raise EgressError(f"{error.filename or directory}: {error.strerror}") from error


def _print(records: Iterable[Record], *, as_json: bool) -> None:
    for line in as_jsonl(records) if as_json else as_table(records):
        print(line)
    sys.stdout.flush()
