"""``make fuzz``: the fast parsers against the plain ones, on FUZZ_RUNS mutants (1,000,000), half of them TLS, half HTTP.

Then mutated packets at the DNS guard for FUZZ_DNS_SECONDS (60).

FUZZ_ENGINE is ``atheris`` or ``loop`` (mutants by chance alone; taken where atheris is not installed). FUZZ_SEED repeats a run.
"""

import json
import os
import random
import subprocess
import sys
import tempfile
from collections import Counter
from importlib.metadata import PackageNotFoundError, version
from pathlib import Path
from traceback import print_exc

from tests.gateway.dns.flood import flood

SHOWN_LINES = 60


def main() -> int:
    runs = int(os.environ.get("FUZZ_RUNS", "1000000"))
    seed = int(os.environ.get("FUZZ_SEED", random.SystemRandom().randrange(1, 1 << 31)))
    engine, named = chosen_engine(os.environ.get("FUZZ_ENGINE", ""))
    print(f"fuzz: {runs:,} mutants, engine {named}, FUZZ_SEED={seed}", flush=True)
    total: Counter[str] = Counter()
    for kind, share in (("tls", runs // 2), ("http", runs - runs // 2)):
        counts = share and one_kind(kind, engine, share, seed)
        if counts is None:
            print(
                f"fuzz: FAILED ({kind}, {named}, FUZZ_SEED={seed}): mend it, and add the bytes above to the cases"
            )
            return 1
        total.update(counts or {})
    print(
        f"fuzz: {total['mutants']:,} mutants by {named}, FUZZ_SEED={seed}: {total['names']:,} names, {total['refused']:,} refused,"
        f" {total['undecided']:,} undecided, 0 differences, 0 exceptions, {total['seconds']} s"
    )
    seconds = float(os.environ.get("FUZZ_DNS_SECONDS", "60"))
    return 0 if total["mutants"] == runs and dns_guard(seconds, seed) else 1


def chosen_engine(wanted: str) -> tuple[str, str]:
    """The engine, and how it is called in what is printed."""
    try:
        installed = version("atheris")
    except PackageNotFoundError:
        if wanted == "atheris":
            sys.exit("fuzz: atheris is not installed")
        return "loop", "a loop of our own (atheris is not installed)"
    return ("loop", "a loop of our own") if wanted == "loop" else ("atheris", f"atheris {installed}")


def one_kind(kind: str, engine: str, runs: int, seed: int) -> dict[str, int] | None:
    """In a process of its own, for libFuzzer ends the one it runs in. None where there is a finding."""
    with tempfile.TemporaryDirectory(prefix="egress-fuzz.") as name:
        directory = Path(name)
        log = directory / "log"
        (directory / "corpus").mkdir()
        command = [
            sys.executable,
            "-m",
            "tests.fuzz.run",
            kind,
            engine,
            str(runs),
            str(seed),
            name + "/corpus",
        ]
        last = ""
        with (
            log.open("wb") as said,
            subprocess.Popen(command, stdout=subprocess.PIPE, stderr=said, text=True) as child,
        ):
            for line in child.stdout or ():
                last = line
                if line.startswith("fuzz:"):
                    print(line, end="", flush=True)
        if child.returncode == 0 and last.startswith("{"):
            counts: dict[str, int] = json.loads(last)
            print(f"fuzz: {kind} done: {last}", end="", flush=True)
            return counts
        lines = [line for line in log.read_text("utf-8", "backslashreplace").splitlines() if line[:1] != "#"]
        print(*lines[-SHOWN_LINES:], f"fuzz: {kind} ended with {child.returncode}", sep="\n")
        return None


def dns_guard(seconds: float, seed: int) -> bool:
    """Flood it; whether that found nothing."""
    try:
        packets = flood(seconds, seed)
    except Exception:  # whatever was raised is the finding
        print_exc(file=sys.stdout)
        print(f"fuzz: FAILED (dns, FUZZ_SEED={seed}): mend what is said above")
        return False
    print(
        f"fuzz: dns guard: {packets:,} mutated packets, FUZZ_SEED={seed}: 0 exceptions, 0 forwarded as they came,"
        f" no growth, {seconds:g} s"
    )
    return True


if __name__ == "__main__":
    sys.exit(main())
