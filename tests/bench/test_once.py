"""Benches that nothing else starts: what they call may change, and they run."""

import os
import subprocess
import sys
from pathlib import Path

import pytest

from bench.place import ROOT
from bench.startup import parts_of_one


@pytest.mark.root
@pytest.mark.timeout(60)
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: it starts what is installed in a namespace")
def test_the_parts_of_a_start(tmp_path: Path) -> None:
    parts = parts_of_one(str(tmp_path / "records"))
    assert [what.split(",")[0].split(":")[0] for what, _ in parts] == [
        "command line",
        "imports of the worker",
        "view",
        "cell",
        "worker",
        "bubblewrap and the command",
        "taking down",
    ]
    assert all(took > 0 for _, took in parts)


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_each_part_is_measured() -> None:
    """Of ``bench.micro``, once each, as the sources are."""
    argv = [
        sys.executable,
        "-m",
        "pytest",
        "-q",
        "--benchmark-disable",
        "-p",
        "no:cacheprovider",
        "bench/micro",
    ]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)
    assert not done.returncode, done.stdout[-2000:]
