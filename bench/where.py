"""``python -m bench.where``: where the time of a short connection goes in the worker, stage by stage, and what of it is the kernel's.

What a connection takes is the kernel's own account, of connections that nobody looks at. How it divides is seen by perf(1), from outside, in as many
more: a sample counts for the compiled function that is nearest on its stack, so that a stage has the system calls that it makes. ``--checkout DIR``
looks at another commit's worker, if that commit's is compiled too.
"""

import argparse
import contextlib
import os
import re
import shutil
import signal
import subprocess
import sys
from collections import Counter
from collections.abc import Iterable, Iterator, Sequence
from itertools import groupby
from pathlib import Path
from typing import Any, Final, NamedTuple

from bench.adapter import cpu_s
from bench.adapters.egress import Egress
from bench.machine import RESULTS, ROOT, keep
from bench.place import Lab
from bench.probe import Probe

CONNECTIONS: Final = 25_000
ROUNDS: Final = 2
"""Of that many connections each: so many to be counted, and as many to be sampled."""
CALLS: Final = 10
"""The dearest are told."""
PERF: Final = ("perf", "record", "-q", "-N", "-F", "1999", "-e", "cpu-clock", "--call-graph", "dwarf,4096")
"""Neither Python nor mypyc keeps frame pointers, and a prime number of looks a second falls in step with nothing. ``-N``: no copies in ~/.debug."""

PATH: Final = "CPyDef_"
"""With that mypyc begins the name of each function: then the module, three underscores, its class, three more, and its own name."""
MADE: Final = re.compile(r"^__mypyc__(_3)?")
"""In place of a class, where mypyc sets up an object of it; ``_3`` stands for what would else be one underscore too many."""
STAGES: Final = (
    ("accept", ("worker:", "sockets:Listener", "flow:")),
    ("sniff", ("session:_sniff", "tls:", "sniff:", "sockets:received")),
    ("decide", ("rulings:", "session:_judge", "session:_bind")),
    ("record", ("journal:", "feed:", "ledger:", "form:", "record:", "tally:", "wording:")),
    ("connect", ("connect:", "session:_connect")),
    ("relay", ("relay:", "direction:", "pipes:", "handshake:", "session:_watching")),
    ("close", ("session:close",)),
    ("driver", ("poller:", "strand:", "waits:")),
    ("other", ("",)),
)  # fmt: skip
"""By the compiled code that runs, or that called what runs: modules, or functions of one; the first that fits is taken."""
WHOLE: Final = "session:run_session"
METHOD: Final = "PyObject_VectorcallMethod"
"""What compiled code calls a method by that is of something not compiled. ``WHOLE`` itself calls one such: ``close()``, of its two sockets."""
CALL: Final = re.compile(r"(?:__(?:\w+?_)?|k)sys_(\w+)")
"""``__x64_sys_close``, ``__sys_sendto``, ``ksys_write``: the compiler leaves out what only passes on."""
KERNEL: Final = 1 << 63
"""Addresses from there on are its own. Their names do not say so: modules have names of their own, and a seccomp filter has none."""


class Found(NamedTuple):
    """Samples: of each stage, of ``kernel`` and ``user``, and the kernel's of each system call (``other``: before and behind it, and interrupts)."""

    stages: Counter[str]
    sides: Counter[str]
    calls: Counter[str]


def main() -> int:
    """The command; its exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.where", description=__doc__)
    parser.add_argument("--checkout", type=Path, default=ROOT, metavar="DIR")
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="DIR", help="where NAME.json goes")
    parser.add_argument("--name", default="where", metavar="NAME", help="of the result (where)")
    args = parser.parse_args()
    if shutil.which(PERF[0]) is None:
        print("bench.where: perf is not installed: apt-get install linux-perf", file=sys.stderr)
        return 2
    if os.geteuid() != 0:
        print("bench.where: it makes network namespaces: run it as root", file=sys.stderr)
        return 77
    found = where(args.checkout.resolve())
    print(keep(args.name, found, args.out, args.checkout))
    print(
        f"worker: {found['user_us']:.0f} us user, {found['kernel_us']:.0f} us kernel a connection; keeper: {found['keeper_us']:.0f} us"
    )
    for title in ("stages_us", "calls_us"):
        print(title.removesuffix("_us"))
        for name, us in found[title].items():
            print(f"  {name:12} {us:5.1f} us")
    return 0


def where(checkout: Path) -> dict[str, Any]:
    """Microseconds a connection, by stage and by system call. RuntimeError where perf could not look, or saw no compiled code."""
    adapter = Egress(checkout)
    with Lab() as lab, lab.place(adapter.redirect) as place, adapter.start(place) as running:
        probe = Probe(lab, running)
        probe.await_ready()
        before = {pid: cpu_s(pid) for pid in running.pids()}
        probe.short(2000, 50)
        worker, keeper, *_ = sorted(before, key=lambda pid: before[pid] - cpu_s(pid))
        marks = cpu_s(worker), cpu_s(keeper)
        for _ in range(ROUNDS):
            probe.short(CONNECTIONS, 50)
        count = ROUNDS * CONNECTIONS
        used, kept = cpu_s(worker) - marks[0], cpu_s(keeper) - marks[1]
        data = place.directory / "perf.data"
        with recording(worker, data, place.cores.load):
            for _ in range(ROUNDS):
                probe.short(CONNECTIONS, 50)
        found = attribute(script(data))
    return figures(found, count, used / count * 1e6, kept / count * 1e6)


def figures(found: Found, count: int, worker_us: float, keeper_us: float) -> dict[str, Any]:
    """What is kept of it: shares of ``worker_us``. RuntimeError where the samples have nothing of the path."""
    total = found.stages.total()
    if found.stages["driver"] == total:
        raise RuntimeError(f"{total} samples, and nothing compiled in them: is the checkout's path compiled?")

    def us(samples: int) -> float:
        return round(worker_us * samples / total, 1)

    return {
        "connections": count,
        "samples": total,
        "user_us": us(found.sides["user"]),
        "kernel_us": us(found.sides["kernel"]),
        "keeper_us": round(keeper_us, 1),
        "stages_us": {stage: us(found.stages[stage]) for stage, _ in STAGES},
        "calls_us": {call: us(samples) for call, samples in found.calls.most_common(CALLS)},
    }


@contextlib.contextmanager
def recording(pid: int, data: Path, core: int) -> Iterator[None]:
    """While perf looks at a process, from ``core``, not from its own. RuntimeError where it did not."""
    argv = ["taskset", "-c", str(core), *PERF, "-p", str(pid), "-o", str(data)]
    with subprocess.Popen(argv, stderr=subprocess.PIPE, text=True) as process:
        try:
            yield
            ended = process.poll()
        finally:
            process.send_signal(signal.SIGINT)
            _, said = process.communicate()
    if ended is not None or not data.exists():
        raise RuntimeError(f"perf did not look at the worker: {said.strip()}")


def script(data: Path) -> Iterator[str]:
    """The lines of ``perf script``: a frame each, the innermost first, and an empty one between samples. RuntimeError where it fails."""
    argv = ["perf", "script", "--no-inline", "-i", str(data), "-F", "ip,sym"]
    with subprocess.Popen(
        argv, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, errors="replace"
    ) as process:
        assert process.stdout is not None
        yield from process.stdout
    if process.returncode:
        raise RuntimeError(f"perf script ended with status {process.returncode}")


def attribute(lines: Iterable[str]) -> Found:
    """Counts of the samples that ``perf script`` tells in these lines."""
    found = Found(Counter(), Counter(), Counter())
    for told, sample in groupby(lines, key=lambda line: bool(line.strip())):
        if told:
            frames = [line.split(maxsplit=2) for line in sample]
            symbols = [symbol for _, symbol, *_ in frames]
            found.stages[stage_of(symbols)] += 1
            in_kernel = int(frames[0][0], 16) >= KERNEL
            found.sides["kernel" if in_kernel else "user"] += 1
            if in_kernel:
                found.calls[call_of(symbols)] += 1
    return found


def stage_of(symbols: Sequence[str]) -> str:
    """``symbols``: of a stack, the innermost first."""
    depth = next((depth for depth, symbol in enumerate(symbols) if symbol.startswith(PATH)), None)
    if depth is None:
        return "driver"  # uvloop and libuv, which call what is compiled
    module, _, name = symbols[depth].removeprefix(PATH).partition("___")
    code = f"{module}:{MADE.sub('', name)}"
    if code.startswith(WHOLE) and METHOD in symbols[:depth]:
        code = "session:close"
    return next(stage for stage, parts in STAGES if code.startswith(parts))


def call_of(symbols: Sequence[str]) -> str:
    """The system call that a stack of the kernel's is in: the outermost, for one may call another's inside."""
    names = (found[1] for found in map(CALL.fullmatch, reversed(symbols)) if found)
    return next(names, "other")


if __name__ == "__main__":
    sys.exit(main())
