"""``python -m bench.where``: where the time of a short connection goes in the worker, stage by stage, and what of it is the kernel's.

The worker is looked at by SIGPROF every few milliseconds of its own processor time; a sample counts for the stage whose code runs then, with the
system calls that it makes. ``--checkout DIR`` looks at another commit's worker. Sampling takes a little itself: shares mean something, sums are the
kernel's.
"""

import argparse
import fcntl
import json
import os
import signal
import sys
from collections import Counter
from pathlib import Path
from types import FrameType
from typing import Any, Final

from bench.adapter import cpu_s
from bench.adapters.egress import Egress
from bench.machine import RESULTS, ROOT, keep
from bench.place import Lab, Place
from bench.probe import Probe

CONNECTIONS: Final = 25_000
ROUNDS: Final = 4
EVERY_S: Final = 0.001
"""Or as often as the kernel's tick comes."""
STAGES: Final = (
    ("accept", ("gateway/worker.py", "gateway/net/sockets.py", "gateway/flow.py")),
    ("sniff", ("gateway/sniff/tls.py", "gateway/sniff/__init__.py", "matcher/", "session.py:_sniff")),
    ("decide", ("gateway/rulings.py", "gateway/decide.py", "gateway/net/resolve.py", "session.py:_judge", "session.py:_bind")),
    ("record", ("gateway/journal.py", "gateway/wording.py", "gateway/tally.py", "audit/")),
    ("connect", ("gateway/net/connect.py", "session.py:_connect")),
    ("relay", ("gateway/net/relay.py", "gateway/net/direction.py", "gateway/sniff/handshake.py", "session.py:_watching", "session.py:_splice")),
    ("close", ("session.py:run_session",)),
    ("driver", ("gateway/net/poller.py", "uvloop", "asyncio")),
)  # fmt: skip
"""By the code that runs: files, or one function of ``session.py``, where the first that fits is taken."""


class Sampled(Egress):
    """The gateway, started by this file, so that its worker is looked at."""

    def argv(self, place: Place) -> list[str]:
        """``python bench/where.py OUT run ...`` in place of ``python -m gateway run ...``."""
        python, _, _, *rest = super().argv(place)
        return [
            python,
            "-P",
            str(Path(__file__).resolve()),
            "--inside",
            str(place.directory / "samples"),
            *rest,
        ]


def main() -> int:
    """The command; its exit status."""
    if sys.argv[1:2] == ["--inside"]:
        return inside(Path(sys.argv[2]), sys.argv[3:])
    parser = argparse.ArgumentParser(prog="python -m bench.where", description=__doc__)
    parser.add_argument("--checkout", type=Path, default=ROOT, metavar="DIR")
    parser.add_argument("--out", type=Path, default=RESULTS, metavar="DIR", help="where NAME.json goes")
    parser.add_argument("--name", default="where", metavar="NAME", help="of the result (where)")
    args = parser.parse_args()
    if os.geteuid() != 0:
        print("bench.where: it makes network namespaces: run it as root", file=sys.stderr)
        return 77
    found = where(args.checkout.resolve())
    print(keep(args.name, found, args.out, args.checkout))
    print(
        f"worker: {found['user_us']:.0f} us user, {found['kernel_us']:.0f} us kernel a connection; keeper: {found['keeper_us']:.0f} us"
    )
    for stage, us in found["stages_us"].items():
        print(f"  {stage:8} {us:5.1f} us")
    return 0


def where(checkout: Path) -> dict[str, Any]:
    """Microseconds a connection, by stage."""
    adapter = Sampled(checkout)
    with Lab() as lab, lab.place(adapter.redirect) as place:
        with adapter.start(place) as running:
            probe = Probe(lab, running)
            probe.await_ready()
            before = {pid: cpu_s(pid) for pid in running.pids()}
            probe.short(2000, 50)
            worker, keeper, *_ = sorted(before, key=lambda pid: before[pid] - cpu_s(pid))
            marks = cpu_s(worker), cpu_s(keeper), ticks(worker)
            for _ in range(ROUNDS):
                probe.short(CONNECTIONS, 50)
            count = ROUNDS * CONNECTIONS
            used, kept = cpu_s(worker) - marks[0], cpu_s(keeper) - marks[1]
            user, kernel = (after - then for after, then in zip(ticks(worker), marks[2], strict=True))
            running.stop()
        samples = json.loads((place.directory / "samples").read_text())
    stages: Counter[str] = Counter()
    for code, times in samples.items():
        stages[stage_of(code)] += times
    each, total = used / count * 1e6, stages.total()
    return {
        "connections": count,
        "samples": total,
        "user_us": round(each * user / (user + kernel), 1),
        "kernel_us": round(each * kernel / (user + kernel), 1),
        "keeper_us": round(kept / count * 1e6, 1),
        "stages_us": {
            stage: round(each * stages[stage] / total, 1)
            for stage in (*(name for name, _ in STAGES), "other")
        },
    }


def ticks(pid: int) -> tuple[int, int]:
    """User and kernel time: proc(5), stat."""
    fields = Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2].split()
    return int(fields[11]), int(fields[12])


def stage_of(code: str) -> str:
    """``code``: file and function."""
    return next((stage for stage, parts in STAGES if any(part in code for part in parts)), "other")


def inside(out: Path, argv: list[str]) -> int:
    """The gateway's own command, and a signal handler in the worker that it forks. The samples leave the worker by a pipe: it has no files."""
    import gateway.process as process
    from gateway.cli import main as run

    read_end, write_end = os.pipe()
    os.set_blocking(read_end, False)
    fcntl.fcntl(write_end, fcntl.F_SETPIPE_SZ, 1 << 20)
    samples: Counter[str] = Counter()

    def sample(_: int, frame: FrameType | None) -> None:
        if frame is not None:
            samples[f"{frame.f_code.co_filename}:{frame.f_code.co_name}"] += 1

    class Kept:
        """Of a bundle, what this needs, and the pipe."""

        def __init__(self, descriptors: set[int]) -> None:
            self.descriptors = descriptors

    close_all_but, serve = process._close_all_but, process._serve

    def close_and_begin(bundle: Any, control: Any) -> None:
        close_all_but(Kept(bundle.descriptors | {write_end}), control)  # type: ignore[arg-type]
        signal.signal(signal.SIGPROF, sample)
        signal.setitimer(signal.ITIMER_PROF, EVERY_S, EVERY_S)

    async def serve_and_tell(*words: Any) -> None:
        try:
            await serve(*words)
        finally:
            signal.setitimer(signal.ITIMER_PROF, 0)
            os.write(write_end, json.dumps(samples).encode())

    process._close_all_but = close_and_begin
    process._serve = serve_and_tell  # type: ignore[assignment]
    status = run(argv)
    out.write_bytes(os.read(read_end, 1 << 20))
    return status


if __name__ == "__main__":
    sys.exit(main())
