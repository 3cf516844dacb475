"""The command line, ``egress`` (= ``python -m gateway``): one file a verb family, this one puts them together."""

import argparse
import importlib
import sys

from gateway.errors import EgressError
from rules import PolicyError

EXIT_USAGE = 2
EXIT_BAD_POLICY = 78

VERBS = ("run", "check", "policy")
"""Modules of this package; each has ``register(subparsers)``, which sets ``run``: a function of the parsed arguments."""


def build_parser() -> argparse.ArgumentParser:
    """The whole command line as argparse sees it."""
    parser = argparse.ArgumentParser(
        prog="egress",
        description="Decide what a sandbox may reach, enforce it, and keep every attempt on record.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    subparsers = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    for verb in VERBS:
        importlib.import_module(f"gateway.cli.{verb}").register(subparsers)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run one verb; the value is the process's exit status."""
    args = build_parser().parse_args(argv)
    try:
        status: int = args.run(args)
    except PolicyError as error:
        for line in error.errors:
            print(f"egress: {line}", file=sys.stderr)
        return EXIT_BAD_POLICY
    except EgressError as error:
        print(f"egress: {error}", file=sys.stderr)
        return error.exit_code
    return status
