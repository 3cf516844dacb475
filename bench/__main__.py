"""``python -m bench``: what transparent egress proxies cost, one beside the other, in one command."""

import argparse
import os
import signal
import sys
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

from bench import adapter as adapters
from bench import compare, plot, reach, rounds, scale, table
from bench.adapter import Adapter, load_adapters
from bench.adapters.egress import Egress
from bench.machine import RESULTS, keep
from bench.place import ROOT, Cores, Lab

ORDER = ("direct", "egress", "haproxy", "nginx", "envoy", "squid", "mitmproxy", "naive")
"""Files of ``bench/adapters``."""
ABOUT = """\
What transparent egress proxies cost: this gateway beside HAProxy, nginx, Envoy, Squid, mitmproxy and a naive one, as root, in network namespaces of
its own (a client, a gateway host, an origin); nothing leaves the machine, and nothing is left behind.

Each proxy reads the server name of a TLS hello, lets three names through and no others, carries the bytes, and writes a line a connection. Rounds are
interleaved (A B C, C B A), every round starts every proxy anew, and only ratios within a round mean anything on a machine that others use. A load
with a single error gives no figure. The proxy has a core of its own; load and origin share another, and where they were the bottleneck it is said.
"""
EPILOG = f"""\
figures   CPU a connection, connections/s, added latency p50 and p99 at half of each one's own rate, CPU a GB, memory a held connection, idle memory;
          then what grows: with entries of the policy, held connections, sandboxes; the time to start; records a second
files     proxies.json, scaling.json, table.md, *.svg in {RESULTS.relative_to(ROOT)}/, or --out; each JSON with machine, kernel, versions, commit

examples
  python -m bench                                  everything, about 20 minutes (make bench)
  python -m bench --quick                          the same in short, about 3 minutes: sizes, no more
  python -m bench --only egress,haproxy,naive --no-scaling
  python -m bench --path ~/envoy/bin               programs are looked for there, beside Python, in PATH
  python -m bench --checkout ../other --out /tmp/b another checkout's gateway, by this bench
  python -m bench compare A.json B.json            what changed beyond the noise; exit status 1 where something did

a proxy of your own: {(adapters.__doc__ or "").partition(chr(10) * 2)[2]}"""


def main(argv: Sequence[str] | None = None) -> int:
    """The command; its exit status."""
    words = list(sys.argv[1:] if argv is None else argv)
    if words[:1] == ["compare"]:
        return _compare(words[1:])
    args = _parser().parse_args(words)
    if args.list:
        return _list(args)
    if os.geteuid() != 0:
        print("bench: it makes network namespaces: run it as root", file=sys.stderr)
        return 77
    for number in (signal.SIGTERM, signal.SIGHUP):
        signal.signal(number, _interrupt)
    try:
        return _run(args)
    except KeyboardInterrupt:
        print("bench: interrupted; everything was taken down, nothing was written", file=sys.stderr)
        return 130


def _parser() -> argparse.ArgumentParser:
    parser = argparse.ArgumentParser(
        prog="python -m bench",
        description=ABOUT,
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--quick", action="store_true", help="about 3 minutes")
    parser.add_argument("--rounds", type=int, metavar="N", help="of the comparison (5; quick: 3)")
    parser.add_argument("--only", metavar="NAME,...", help="these proxies alone; names as --list has them")
    parser.add_argument(
        "--adapter",
        metavar="FILE",
        type=Path,
        action="append",
        default=[],
        help="one more proxy (repeatable)",
    )
    parser.add_argument(
        "--path", metavar="DIR", action="append", default=[], help="look for programs here first (repeatable)"
    )
    parser.add_argument(
        "--checkout", metavar="DIR", type=Path, default=ROOT, help="measure the gateway of this checkout"
    )
    parser.add_argument("--out", metavar="DIR", type=Path, default=RESULTS, help="where results go")
    part = parser.add_mutually_exclusive_group()
    part.add_argument("--no-scaling", action="store_true", help="the comparison alone")
    part.add_argument("--scaling-only", action="store_true", help="what grows, alone")
    parser.add_argument(
        "--list",
        action="store_true",
        help="say which proxies there are, which can be measured here, and stop",
    )
    return parser


def _compare(words: Sequence[str]) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m bench compare",
        description=compare.__doc__,
        epilog="exit status: 0 nothing changed beyond the noise, 1 something did, 2 these cannot be compared",
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("before", type=Path, help="proxies.json or micro.json of one commit")
    parser.add_argument("after", type=Path, help="the same file of another")
    parser.add_argument(
        "--subject", default="egress", metavar="NAME", help="whose figures: the others are the yardstick"
    )
    args = parser.parse_args(words)
    try:
        return compare.report(args.before, args.after, args.subject)
    except (ValueError, KeyError, OSError) as error:
        print(f"bench: {error}", file=sys.stderr)
        return 2


def _candidates(args: argparse.Namespace) -> list[Adapter]:
    adapters.extra_path[:] = [str(path) for path in args.path]
    found: list[Adapter] = []
    for name in ORDER:
        found += load_adapters(ROOT / "bench" / "adapters" / f"{name}.py")
    for path in args.adapter:
        found += load_adapters(path)
    found = [Egress(args.checkout.resolve()) if one.name == "egress" else one for one in found]
    if args.only:
        names = args.only.split(",")
        if strange := set(names) - {one.name for one in found}:
            raise SystemExit(
                f"bench: no such proxy: {', '.join(strange)}; there are: {', '.join(one.name for one in found)}"
            )
        found = [one for one in found if one.name in names or one.name == "direct"]
    return found


def _list(args: argparse.Namespace) -> int:
    for one in _candidates(args):
        why = one.missing()
        print(f"{one.name:20} {f'left out: {why}' if why else one.version()}")
    return 0


def _run(args: argparse.Namespace) -> int:
    candidates = _candidates(args)
    left_out = {one.name: why for one in candidates if (why := one.missing())}
    present = [one for one in candidates if one.name not in left_out]
    for name, why in left_out.items():
        say(f"left out: {name}: {why}")
    settings = rounds.QUICK if args.quick else rounds.Settings()
    if args.rounds:
        settings = rounds.with_rounds(settings, args.rounds)
    cores = Cores.of_machine()
    os.sched_setaffinity(0, {cores.load})
    args.out.mkdir(parents=True, exist_ok=True)
    document: list[str] = []
    with Lab(cores) as lab:
        if not args.scaling_only:
            figures = rounds.compare_proxies(lab, present, settings, say)
            figures["left_out"] = left_out
            document.append(table.proxies(figures))
            _write(args, "proxies", figures, plot.plots_of_proxies(figures))
        if not args.no_scaling:
            figures = scale.scale(
                lab, Egress(args.checkout.resolve()), reach.QUICK if args.quick else reach.Reach(), say
            )
            document.append(table.scaling(figures))
            _write(args, "scaling", figures, plot.plots_of_scaling(figures))
    text = "\n".join(document)
    (args.out / "table.md").write_text(text)
    print(f"\n{text}\n{args.out}/: proxies.json, scaling.json, table.md, *.svg")
    return 0


def _write(args: argparse.Namespace, name: str, figures: dict[str, Any], plots: dict[str, str]) -> None:
    keep(name, figures, args.out, args.checkout)
    for file, text in plots.items():
        (args.out / file).write_text(text)


_started = time.monotonic()


def say(text: str) -> None:
    """Progress."""
    passed = int(time.monotonic() - _started)
    print(f"{passed // 60:2}:{passed % 60:02} {text}", flush=True)


def _interrupt(number: int, frame: object) -> None:
    raise KeyboardInterrupt


if __name__ == "__main__":
    sys.exit(main())
