"""The command line, ``egress`` (= ``python -m gateway``): one file a verb family, this one puts them together."""

import argparse
import importlib
import os
import signal
import sys

from gateway.cli.streams import hold_standard_descriptors, say
from gateway.errors import EgressError
from rules import PolicyError

EXIT_USAGE = 2
EXIT_BAD_POLICY = 78
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as a shell says it
EXIT_BROKEN_PIPE = 141  # 128 + SIGPIPE

VERBS = ("run", "check", "audit", "policy", "rules", "doctor")
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
    hold_standard_descriptors()
    if argv is None and signal.getsignal(signal.SIGINT) is signal.default_int_handler:
        signal.signal(signal.SIGINT, signal.SIG_DFL)  # at once and without a traceback, wherever it comes
    try:
        args = build_parser().parse_args(argv)
        status: int = args.run(args)
    except PolicyError as error:
        for line in error.errors:
            say(line)
        return EXIT_BAD_POLICY
    except EgressError as error:
        say(str(error))
        return error.exit_code
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except BrokenPipeError:  # whoever read our output has seen enough
        os.dup2(os.open(os.devnull, os.O_WRONLY), sys.stdout.fileno())
        return EXIT_BROKEN_PIPE
    return status
