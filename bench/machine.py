"""Where and of what a figure was measured: part of every result."""

import json
import os
import platform
import subprocess
from datetime import UTC, datetime
from importlib.metadata import version
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parents[1]
RESULTS = ROOT / "bench" / "results"
SOURCES = ("gateway", "matcher", "rules", "audit")
PACKAGES = ("uvloop", "dnspython", "python-iptables", "orjson", "google-re2", "pyroute2")


def machine(checkout: Path = ROOT) -> dict[str, Any]:
    """Machine, kernel, versions and commit; ``+`` behind it where the files are not as committed."""
    model = next(
        (line for line in Path("/proc/cpuinfo").read_text().splitlines() if line.startswith("model name")), ""
    )
    commit = _git(checkout, "rev-parse", "--short", "HEAD")
    changed = _git(checkout, "status", "--porcelain", "--untracked-files=no", "--", *SOURCES)
    return {
        "at": datetime.now(UTC).strftime("%Y-%m-%dT%H:%M:%SZ"),
        "cpu": model.partition(": ")[2],
        "cores": os.cpu_count(),
        "kernel": platform.release().partition("-")[0],
        "python": platform.python_version(),
        "packages": {name: version(name) for name in PACKAGES},
        "commit": commit + "+" * bool(changed),
    }


def keep(name: str, figures: dict[str, Any], directory: Path = RESULTS, checkout: Path = ROOT) -> Path:
    """Write one result; its path."""
    directory.mkdir(parents=True, exist_ok=True)
    path = directory / f"{name}.json"
    path.write_text(json.dumps({"machine": machine(checkout), "figures": figures}, indent=2) + "\n")
    return path


def _git(checkout: Path, *words: str) -> str:
    done = subprocess.run(["git", *words], cwd=checkout, capture_output=True, text=True, check=False)
    return done.stdout.strip()
