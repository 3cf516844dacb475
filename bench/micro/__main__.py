"""What the parts cost, one by one: ``python -m bench.micro [--passes N] [--out DIR] [PYTEST ARGUMENTS]`` -> ``micro.json``.

pytest-benchmark runs the suite as often as there are passes, and each figure is kept as a median of every pass: in microseconds to read, and in
yardsticks (``test_yardstick.py``: the same pass's plain Python, which no commit changes) for ``python -m bench compare``.
A benchmark that does many things a round says in its ``extra_info`` what one of them takes.
"""

import argparse
import json
import os
import subprocess
import sys
import tempfile
from collections.abc import Mapping, Sequence
from pathlib import Path
from typing import Any, Final

from bench.figures import median
from bench.installed import installed
from bench.machine import RESULTS, ROOT, keep

YARDSTICK: Final = "test_yardstick.py::test_yardstick"
OPTIONS: Final = (
    *("--benchmark-enable", "--benchmark-only", "-q"),
    *("-o", "timeout=600", "-o", "pythonpath=", "--import-mode=append"),
)

Report = Mapping[str, Any]


def main() -> int:
    """Run, print, keep; pytest's status where it fails."""
    parser = argparse.ArgumentParser(prog="python -m bench.micro", description=__doc__)
    parser.add_argument("--passes", type=int, default=3)
    parser.add_argument("--out", type=Path, default=RESULTS)
    args, more = parser.parse_known_args()
    reports = []
    # The parts as they are installed, compiled; of the checkout only what is not: the suite itself.
    environment = {**os.environ, "PYTHONPATH": f"{installed(ROOT)}:{ROOT}"}
    with tempfile.TemporaryDirectory() as directory:
        for number in range(args.passes):
            path = Path(directory) / f"{number}.json"
            print(f"pass {number + 1} of {args.passes}", flush=True)
            argv = [
                sys.executable,
                "-P",
                "-m",
                "pytest",
                "bench/micro",
                *OPTIONS,
                f"--benchmark-json={path}",
                *more,
            ]
            done = subprocess.run(
                argv, cwd=ROOT, env=environment, check=False, stdout=subprocess.PIPE, text=True
            )
            if done.returncode:
                print(done.stdout, file=sys.stderr)
                return done.returncode
            reports.append(json.loads(path.read_text()))
    figures = gather(reports)
    for name, found in figures["benchmarks"].items():
        print(f"{found['median_us']:12.3f} us  {name}  {found.get('extra_info', '')}")
    print(keep("micro", figures, args.out))
    return 0


def gather(reports: Sequence[Report]) -> dict[str, Any]:
    """pytest-benchmark's reports of several passes as one result."""
    passes = [_medians_us(report) for report in reports]
    sticks = [found[YARDSTICK] for found in passes]
    extra = {_name(found): found["extra_info"] for found in reports[-1]["benchmarks"]}
    benchmarks = {}
    for name in sorted(passes[-1]):
        took = [found[name] for found in passes if name in found]
        benchmarks[name] = {
            "median_us": round(median(took) or 0.0, 3),
            "rounds_us": [round(one, 3) for one in took],
            "in_yardsticks": [round(one / stick, 5) for one, stick in zip(took, sticks, strict=True)],
        }
        if extra.get(name):
            benchmarks[name]["extra_info"] = extra[name]
    return {"passes": len(reports), "benchmarks": benchmarks}


def _medians_us(report: Report) -> dict[str, float]:
    return {_name(found): found["stats"]["median"] * 1e6 for found in report["benchmarks"]}


def _name(found: Mapping[str, Any]) -> str:
    return str(found["fullname"]).removeprefix("bench/micro/")


if __name__ == "__main__":
    sys.exit(main())
