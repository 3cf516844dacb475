"""A checkout's gateway as pip installs it, compiled where that checkout compiles: what is measured is what people run."""

import atexit
import os
import shutil
import subprocess
import sys
import sysconfig
import tempfile
from functools import cache
from pathlib import Path
from typing import Final

from bench.machine import SOURCES
from bench.place import ROOT, SCRATCH

OWN: Final = Path(sysconfig.get_path("purelib"))
"""Where ``make setup`` has put this checkout's."""


@cache
def installed(checkout: Path) -> Path:
    """The directory to import it from. Another checkout's is built for as long as this process lives. RuntimeError where that fails, or this one's
    is not what was installed."""
    if checkout == ROOT:
        for package in SOURCES:
            for source in (ROOT / package).rglob("*.py"):
                if not same(source, OWN / source.relative_to(ROOT)):
                    raise RuntimeError(f"{source.relative_to(ROOT)} is not as it was installed: make setup")
        return OWN
    target = tempfile.mkdtemp(prefix=f"{SCRATCH.name}build-", dir=SCRATCH.parent)
    atexit.register(shutil.rmtree, target, ignore_errors=True)
    argv = [sys.executable, "-m", "pip", "install", "--quiet", "--no-deps", "--no-build-isolation"]
    done = subprocess.run(
        [*argv, "--target", target, str(checkout)], capture_output=True, text=True, check=False
    )
    if done.returncode:
        raise RuntimeError(f"{checkout} could not be built: {done.stderr[-500:]}")
    Path(target).chmod(0o755)
    return Path(target)


def insist(module: str) -> None:
    """Start ``python -m module`` anew with what is installed, where this process and those that it starts would import the checkout's sources."""
    import gateway

    own = installed(ROOT)
    if not Path(gateway.__file__).is_relative_to(own):
        environment = {**os.environ, "PYTHONSAFEPATH": "1", "PYTHONPATH": f"{own}:{ROOT}"}
        os.execve(sys.executable, [sys.executable, "-m", module, *sys.argv[1:]], environment)  # noqa: S606 - no shell is wanted


def same(one: Path, other: Path) -> bool:
    """Whether both are there and alike."""
    return one.is_file() and other.is_file() and one.read_bytes() == other.read_bytes()
