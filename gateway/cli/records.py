"""Records for people and programs: the arguments that choose them, and the forms that they are printed in."""

import argparse
import csv
import io
import json
import os
import sys
from collections.abc import Callable, Iterable, Iterator
from pathlib import Path
from typing import Final

import orjson

from audit.files import default_directory
from audit.ocsf import to_ocsf
from audit.reader import Tally, read_wanted
from audit.record import Event, Record
from audit.wanted import Wanted, wanted
from gateway.cli.arguments import path
from gateway.cli.streams import say, shown
from gateway.errors import EgressError

COLUMNS: Final = (
    *("timestamp", "event", "sandbox", "src_ip", "src_port", "domain", "dest_ip", "dest_port", "upstream_ip"),
    *("proto", "layer", "rule", "reason", "qtype", "bytes_up", "bytes_down", "duration_ms", "ended_by"),
    *("count", "flow", "writer", "seq"),
)
WORDS: Final = {
    Event.ALLOWED: "allowed",
    Event.BLOCKED: "blocked",
    Event.CLOSED: "closed",
    Event.DNS_ALLOWED: "dns allowed",
    Event.DNS_BLOCKED: "dns blocked",
    Event.LOST: "LOST",
    Event.PRUNED: "pruned",
}
COLOURS: Final = {Event.ALLOWED: "32", Event.BLOCKED: "31", Event.DNS_BLOCKED: "31", Event.LOST: "1;31"}
FORMULA: Final = ("=", "+", "-", "@", "\t", "\r")
"""A spreadsheet would run what begins so."""
TIMES: Final = "1h, 7d, 2026-11-23, 2026-11-23T07:15:00Z"


def add_directory(parser: argparse.ArgumentParser) -> None:
    """Where the records are."""
    parser.add_argument(
        "--audit-dir",
        metavar="DIR",
        type=path,
        help="where the records are (default: $EGRESS_AUDIT_DIR, else /var/log/egress for root, ~/.local/state/egress/audit for others)",
    )


def add_choice(parser: argparse.ArgumentParser, *, since: str | None = None) -> None:
    """Which records."""
    default = "" if since is None else f" (default: {since})"
    parser.add_argument("--since", metavar="TIME", default=since, help=f"not before: {TIMES}{default}")
    parser.add_argument("--until", metavar="TIME", help="before that time")
    parser.add_argument("--sandbox", metavar="NAME", help="of one sandbox")
    parser.add_argument(
        "--event", choices=[str(event) for event in Event], metavar="EVENT", help=", ".join(Event)
    )
    parser.add_argument("--domain", metavar="GLOB", help="a name, or a pattern: '*.github.com'")
    parser.add_argument("--ip", metavar="ADDRESS", help="to or from an address or a network")
    parser.add_argument(
        "--rule", metavar="TEXT", help="decided by a rule with that in it: 'deny_out[0]', floor"
    )
    parser.add_argument("--reason", metavar="WORD", help="a reason of docs/audit.md")


def count(text: str) -> int:
    """An argument that says how many."""
    if not (text.isdecimal() and text.isascii() and 0 < int(text) < 10**9):
        raise argparse.ArgumentTypeError("a number, from 1")
    return int(text)


def choice(args: argparse.Namespace) -> Wanted:
    """What ``add_choice`` was told; for what is no question the parser's own error, with exit code 2."""
    try:
        return wanted(
            since=args.since,
            until=args.until,
            sandbox=args.sandbox,
            event=args.event,
            domain=args.domain,
            ip=args.ip,
            rule=args.rule,
            reason=args.reason,
        )
    except ValueError as error:
        parser: argparse.ArgumentParser = args.parser
        parser.error(str(error))


def chosen(args: argparse.Namespace, tally: Tally) -> Iterator[Record]:
    """The records that are asked for, of those files that may be read. EgressError where none may, or one cannot be."""
    directory, asked = directory_of(args), choice(args)

    def records() -> Iterator[Record]:
        try:
            yield from read_wanted(directory, asked, tally)
        except OSError as error:
            raise EgressError(f"{error.filename or directory}: {error.strerror}") from error
        hold_to_files(tally)

    return records()


def hold_to_files(tally: Tally) -> None:
    """EgressError where there were some and none may be read: that is no answer."""
    if tally.refused and not tally.opened:
        raise EgressError(f"{min(tally.refused)}: Permission denied; ask as the user who ran egress")


def say_passed_over(tally: Tally) -> None:
    """What was passed over, if anything was."""
    if tally.torn:
        say(f"{tally.torn:,} lines were no records and passed over: see egress audit verify")
    say_refused(tally)


def say_refused(tally: Tally) -> None:
    """How many files were passed over, if any were."""
    if tally.refused:
        say(f"{len(tally.refused):,} files may not be read by this user and were passed over")


def directory_of(args: argparse.Namespace) -> Path:
    """The directory, which must be there to be read. EgressError with the mend."""
    directory: Path = args.audit_dir or default_directory()
    try:
        os.listdir(directory)
    except OSError as error:
        raise EgressError(
            f"{directory}: {error.strerror}; name the directory of records with --audit-dir"
        ) from error
    return directory


def line_of(record: Record, *, colour: bool = False) -> str:
    """For people: when, what, who, where, why. Total: a line that has not the published form, which we did not write, is shown as it is."""
    try:
        return _line_of(record, colour=colour)
    except (KeyError, TypeError, ValueError):
        return f"not of the published form: {json.dumps(record)}"


def _line_of(record: Record, *, colour: bool) -> str:
    event = record.get("event", "")
    word = f"{WORDS.get(event) or shown(event):<11}"
    if colour and event in COLOURS:
        word = f"\x1b[{COLOURS[event]}m{word}\x1b[0m"
    moment = shown(str(record.get("timestamp", ""))[:23].replace("T", " "))
    return f"{moment}  {word}  {shown(record.get('sandbox') or '-'):<12}  {_where(record)}  {_why(record)}".rstrip()


def _where(record: Record) -> str:
    if "dest_port" not in record:
        return ""
    name, ip, port = (
        record.get("domain") or record.get("domain_raw"),
        record.get("dest_ip"),
        record["dest_port"],
    )
    qtype = record.get("qtype")
    if "qtype" in record:
        return shown(f"{name or '?'} {qtype or ''}".strip())
    place = f"{name} ({ip})" if name else str(ip or "several")
    return shown(f"{place}{f':{port}' if port else ''} {record.get('proto')}")


def _why(record: Record) -> str:
    words = [
        str(record[key]) for key in ("reason", "rule", "ended_by", "cause") if record.get(key) is not None
    ]
    if "bytes_up" in record:
        words.append(
            f"{record['bytes_up']:,} up, {record['bytes_down']:,} down, {record['duration_ms'] / 1000:.1f} s"
        )
    if record.get("count") is not None:
        words.append(
            f"{record['count']:,} times" if record.get("event") != Event.LOST else f"{record['count']:,}"
        )
    return shown("  ".join(words))


def cell(value: object) -> str:
    """For a CSV file, which a spreadsheet may open."""
    if value is None:
        return ""
    text = shown(value)
    return f"'{text}" if text.startswith(FORMULA) and not isinstance(value, (int, float)) else text


def as_table(records: Iterable[Record]) -> Iterator[str]:
    """A line each."""
    colour = sys.stdout.isatty() and "NO_COLOR" not in os.environ
    for record in records:
        yield line_of(record, colour=colour)


def as_json(records: Iterable[Record]) -> Iterator[str]:
    """One array, streamed."""
    separator = "["
    for record in records:
        yield f"{separator}{json.dumps(record)}"
        separator = ","
    yield "]" if separator == "," else "[]"


def as_jsonl(records: Iterable[Record]) -> Iterator[str]:
    """As they are in the files."""
    return map(as_line, records)


def as_csv(records: Iterable[Record]) -> Iterator[str]:
    """With a head; a field that a record does not have is empty."""
    buffer = io.StringIO()
    writer = csv.writer(buffer, lineterminator="")
    for row in ([*COLUMNS], *([cell(record.get(name)) for name in COLUMNS] for record in records)):
        buffer.seek(0)
        buffer.truncate()
        writer.writerow(row)
        yield buffer.getvalue()


def as_ocsf(records: Iterable[Record]) -> Iterator[str]:
    """One event a line."""
    return map(as_line, map(to_ocsf, records))


def as_line(record: Record) -> str:
    """JSON, ASCII: other letters escaped, for some of them move a terminal's cursor."""
    try:
        line = orjson.dumps(record)
    except TypeError:  # a number beyond 64 bits
        line = b"\x7f"
    return line.decode() if line.isascii() and 0x7F not in line else json.dumps(record, separators=(",", ":"))


FORMS: Final[dict[str, Callable[[Iterable[Record]], Iterator[str]]]] = {
    "table": as_table,
    "json": as_json,
    "jsonl": as_jsonl,
    "csv": as_csv,
    "ocsf": as_ocsf,
}
