"""What ``make bench`` measured, in short: ``python -m bench.micro.gather REPORT`` reads pytest-benchmark's JSON, keeps the medians.

A benchmark that does many things a round says in its ``extra_info`` what one of them takes.
"""

import json
import sys
from pathlib import Path

from bench.machine import keep


def main() -> None:
    """Read, print, keep."""
    report = json.loads(Path(sys.argv[1]).read_text())
    figures = {}
    for found in sorted(report["benchmarks"], key=lambda found: str(found["fullname"])):
        median_us = round(found["stats"]["median"] * 1e6, 3)
        figures[found["fullname"].removeprefix("bench/micro/")] = {
            "median_us": median_us,
            **found["extra_info"],
        }
    for name, took in figures.items():
        print(name, *(f"{what}={value}" for what, value in took.items()))
    print(keep("micro", figures))


if __name__ == "__main__":
    main()
