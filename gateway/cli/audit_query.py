"""``egress audit query`` and ``egress audit tail``: the records that are asked for, now or as they come."""

import argparse
import sys
import time
from collections.abc import Iterable
from itertools import islice
from typing import Final

from audit.reader import Follower, Tally, newest, read_wanted
from audit.record import Record
from gateway.cli.records import FORMS, add_choice, add_directory, as_jsonl, as_table, choice, directory_of
from gateway.cli.streams import say

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
    query.add_argument("--limit", metavar="N", type=_count, help="no more than the first N")
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
    tail.add_argument("-n", metavar="N", dest="count", type=_count, default=20, help="how many (default: 20)")
    tail.add_argument("-f", "--follow", action="store_true", help="go on with those that come, until Ctrl-C")
    tail.add_argument("--json", action="store_true", help="one JSON object a line")
    tail.set_defaults(run=run_tail, parser=tail)


def run_query(args: argparse.Namespace) -> int:
    """Print them."""
    asked, tally = choice(args), Tally()
    records = read_wanted(directory_of(args), asked, tally)
    for line in FORMS[args.output](islice(records, args.limit)):
        print(line)
    if tally.torn:
        say(f"{tally.torn} lines were no records and passed over: see egress audit verify")
    return 0


def run_tail(args: argparse.Namespace) -> int:
    """Print them; with -f, for ever."""
    asked, directory = choice(args), directory_of(args)
    follower = Follower(directory, asked.test()) if args.follow else None
    _print(newest(directory, asked, args.count), as_json=args.json)
    try:
        while follower is not None:
            time.sleep(POLL_S)
            _print(follower.poll(), as_json=args.json)
    except KeyboardInterrupt:
        pass
    return 0


def _print(records: Iterable[Record], *, as_json: bool) -> None:
    for line in as_jsonl(records) if as_json else as_table(records):
        print(line)
    sys.stdout.flush()


def _count(text: str) -> int:
    if not (text.isdecimal() and text.isascii() and 0 < int(text) < 10**9):
        raise argparse.ArgumentTypeError("a number, from 1")
    return int(text)
