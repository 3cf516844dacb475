"""The standard streams, which a caller may have closed or broken: what is said there is for people, and changes nothing else."""

import os
import sys


def hold_standard_descriptors() -> None:
    """Open what the caller closed on /dev/null: the next socket would otherwise get its number, and be taken for a standard stream."""
    while (descriptor := os.open(os.devnull, os.O_RDWR)) <= 2:
        pass
    os.close(descriptor)
    # What Python found closed at its start is None, which libraries do not expect. These are for as long as the process lives.
    sys.stdin = sys.stdin or open(os.devnull)
    sys.stdout = sys.stdout or open(os.devnull, "w")
    sys.stderr = sys.stderr or open(os.devnull, "w")


def say(line: str) -> None:
    """One line on standard error, if anybody can be told."""
    try:
        print(f"egress: {line}", file=sys.stderr, flush=True)
    except OSError:
        sys.stderr = open(os.devnull, "w")  # the descriptor stays as it is: it is the command's too
