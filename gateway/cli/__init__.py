"""The command line, ``egress`` (= ``python -m gateway``): one file a verb family, this one puts them together."""

import argparse
import importlib
import os
import signal
import sys
from collections.abc import Sequence
from contextlib import redirect_stdout
from typing import TextIO, cast

from gateway.cli.parser import Parser
from gateway.cli.streams import (
    Output,
    OutputError,
    drop_output,
    hold_standard_descriptors,
    say,
    take_every_letter,
)
from gateway.errors import EgressError
from rules import PolicyError

EXIT_BAD_POLICY = 78
EXIT_INTERRUPTED = 130  # 128 + SIGINT, as a shell says it
EXIT_BROKEN_PIPE = 141  # 128 + SIGPIPE

VERBS = ("run", "check", "audit", "policy", "rules", "doctor")
"""Modules of this package; each has ``register(subparsers)``, which sets ``run``: a function of the parsed arguments."""


def build_parser(verbs: Sequence[str] = VERBS) -> argparse.ArgumentParser:
    """The command line as argparse sees it; the whole one, or that of some verbs: each brings imports of its own."""
    parser = Parser(
        prog="egress",
        description="Decide what a sandbox may reach, enforce it, and keep every attempt on record.",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    subparsers = parser.add_subparsers(dest="verb", metavar="VERB", required=True)
    for verb in verbs:
        importlib.import_module(f"gateway.cli.{verb}").register(subparsers)
    return parser


def main(argv: list[str] | None = None) -> int:
    """Run one verb; the value is the process's exit status."""
    hold_standard_descriptors()
    take_every_letter()
    try:
        with redirect_stdout(cast(TextIO, Output(sys.stdout))):
            try:
                return _status_of(argv)
            finally:
                sys.stdout.flush()  # also what --help says
    except BrokenPipeError:  # whoever read our output has seen enough
        drop_output()
        return EXIT_BROKEN_PIPE
    except OutputError as error:
        drop_output()
        say(str(error))
        return error.exit_code


def _status_of(argv: list[str] | None) -> int:
    if argv is None:
        signal.signal(
            signal.SIGCHLD, signal.SIG_DFL
        )  # whoever started us may ignore it, and then no child can be waited for
        if signal.getsignal(signal.SIGINT) is signal.default_int_handler:
            signal.signal(signal.SIGINT, signal.SIG_DFL)  # at once and without a traceback, wherever it comes
    try:
        words = sys.argv[1:] if argv is None else argv
        args = build_parser(words[:1] if words[:1] and words[0] in VERBS else VERBS).parse_args(words)
        status: int = args.run(args)
    except (BrokenPipeError, OutputError):
        raise
    except PolicyError as error:
        for line in error.errors:
            say(line)
        return EXIT_BAD_POLICY
    except EgressError as error:
        say(str(error))
        return error.exit_code
    except KeyboardInterrupt:
        return EXIT_INTERRUPTED
    except OSError as error:
        if os.environ.get("EGRESS_DEBUG"):
            import traceback

            traceback.print_exc()
        what = f"{error.filename}: " if error.filename else ""
        say(f"{what}{error.strerror or error}; EGRESS_DEBUG=1 says where")
        return EgressError.exit_code
    return status
