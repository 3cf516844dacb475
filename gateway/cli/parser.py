"""The parser of the command line, whose errors are one line."""

import argparse
from typing import Any, Final, NoReturn

from gateway.cli.streams import say

EXIT_USAGE: Final = 2


class Parser(argparse.ArgumentParser):
    """What ``add_subparsers`` makes of it is of this class, too."""

    def parse_known_args(self, args: Any = None, namespace: Any = None) -> tuple[Any, list[str]]:
        """As it is made, but that a verb says itself what it does not know."""
        found, unknown = super().parse_known_args(args, namespace)
        if unknown:
            self.error(f"unrecognized arguments: {' '.join(unknown)}")
        return found, unknown

    def error(self, message: str) -> NoReturn:
        """Say what is wrong and who tells more, and exit."""
        # What was typed is quoted as it is.
        text = "".join(letter if letter.isprintable() else ascii(letter)[1:-1] for letter in message)
        say(f"error: {text}; {self.prog} --help says more")
        raise SystemExit(EXIT_USAGE)
