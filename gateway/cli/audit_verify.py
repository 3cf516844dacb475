"""``egress audit verify`` and ``egress audit key``: whether the records are those that were written, and the key that proves it."""

import argparse
import json
from collections.abc import Iterator
from dataclasses import asdict
from typing import TYPE_CHECKING

from audit.files import default_directory, key_directory
from gateway.cli.arguments import path
from gateway.cli.streams import say, shown
from gateway.errors import EgressError

if TYPE_CHECKING:
    from audit.book import Verdict
    from audit.manifest import Head

EXIT_BROKEN = 1
EXIT_CANNOT_TELL = 3
EPILOG = """\
examples:
  egress audit verify
  egress audit verify --audit-dir ./records --key audit.pub --head 41:9c1f...
  egress audit key > audit.pub

A crash leaves files that nobody signed and last lines that are torn: these are named, and are no tampering.
Exit status: 0 if every closed file is as it was written; 1 if something was changed, removed or put in; 3 if there
are files that nobody vouches for, because their writer died.
"""


def add(verbs: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add both."""
    parser = verbs.add_parser(
        "verify",
        help="say whether records were changed, removed or put in",
        description="Compare every file of records with what was signed, and name the first line of each that is not as it was.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    _add_directory(parser)
    parser.add_argument(
        "--key",
        action="append",
        metavar="PUB",
        type=path,
        help="a public key (PEM) that may have signed; repeatable (default: this machine's own, also those of before)",
    )
    parser.add_argument(
        "--head",
        metavar="N:DIGEST",
        type=_head,
        help="what an earlier verify said that the manifest came to (default: what is noted beside this machine's key)",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.set_defaults(run=run, parser=parser)
    key = verbs.add_parser(
        "key",
        help="print the public key that records are signed with",
        description="Print the public key (PEM) that records are signed with, to keep where the records are not.",
    )
    _add_directory(key)
    key.set_defaults(run=print_key, parser=key)


def _add_directory(parser: argparse.ArgumentParser) -> None:
    parser.add_argument(
        "--audit-dir",
        metavar="DIR",
        type=path,
        help="where the records are (default: $EGRESS_AUDIT_DIR, else /var/log/egress for root, ~/.local/state/egress/audit for others)",
    )


def run(args: argparse.Namespace) -> int:
    """Look, say what was found, and sum up."""
    from audit.keys import KeyTrouble, key_id, load_public, public_keys
    from audit.manifest import noted_head
    from audit.verify import verify

    directory = args.audit_dir or default_directory()
    own = key_directory()
    try:
        if args.key is None:
            keys = public_keys(own)
            if not keys:
                raise EgressError(f"there is no key in {own}: name the public key with --key")
        else:
            keys = {key_id(key): key for key in map(load_public, args.key)}
        noted = args.head or noted_head(own, directory)
        directory.stat()
        verdict = verify(directory, keys, noted)
    except KeyTrouble as trouble:
        raise EgressError(str(trouble)) from trouble
    except OSError as error:
        raise EgressError(
            f"{error.filename or directory}: {error.strerror}; name another with --audit-dir"
        ) from error
    for line in _as_json(verdict) if args.json else _as_text(verdict):
        print(line)
    return EXIT_BROKEN if verdict.broken else EXIT_CANNOT_TELL if verdict.unsigned else 0


def _as_json(verdict: "Verdict") -> Iterator[str]:
    for finding in verdict.findings:
        yield json.dumps({"level": finding.level, **asdict(finding)})
    yield json.dumps(
        {
            "files": verdict.files,
            "signed": verdict.signed,
            "pruned": verdict.pruned,
            "broken": verdict.broken,
            "head": None if verdict.head is None else f"{verdict.head.n}:{verdict.head.digest}",
        }
    )


def _as_text(verdict: "Verdict") -> Iterator[str]:
    for finding in verdict.findings:
        where = "" if finding.seq is None else f" [{finding.writer} seq {finding.seq}]"
        # What a forged entry or a file's name says must not reach a terminal as it is.
        yield shown(f"{finding.level:7}{finding.file}: {finding.text}{where}")
    yield f"{verdict.files} files, {verdict.signed} signed and as they were written; {verdict.pruned} removed in order"
    if verdict.head is not None:
        yield f"the manifest comes to {verdict.head.n}:{verdict.head.digest}"
    if verdict.broken:
        yield "BROKEN: see above"
    elif verdict.unsigned:
        yield "nothing that is signed was changed, removed or put in; an edit of what is not signed would not show: see above"
    else:
        yield "nothing was changed, removed or put in"


def _head(text: str) -> "Head":
    from audit.manifest import Head

    number, _, digest = text.partition(":")
    if not (number.isdecimal() and number.isascii() and len(digest) == 64):
        raise argparse.ArgumentTypeError("write it as verify does: N:DIGEST")
    return Head(int(number), digest)


def print_key(args: argparse.Namespace) -> int:
    """The one that is in use; made now if there is none."""
    from audit.keys import KeyTrouble, key_id, prepare, private_key, public_pem

    try:
        prepare(key_directory(), args.audit_dir or default_directory())
        key = private_key(key_directory()).public_key()
    except KeyTrouble as trouble:
        raise EgressError(str(trouble)) from trouble
    print(public_pem(key).decode(), end="")
    say(f"key {key_id(key)}, in {key_directory()}")
    return 0
