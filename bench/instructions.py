"""``python -m bench.instructions``: what a short connection costs the worker in instructions of its own, in user mode.

Time tells two builds apart where they differ by a tenth; instructions, counted by callgrind (valgrind), by a thousandth, whatever else the machine is
doing. The worker is a real one, alone in a namespace with a client and an origin that are not counted; the kernel's part is not seen at all.
``--checkout DIR`` counts another checkout's.
"""

import argparse
import asyncio
import gc
import os
import re
import shutil
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Iterable
from pathlib import Path
from typing import Any, Final

from bench.installed import installed
from bench.machine import RESULTS, ROOT, keep

CONNECTIONS: Final = 1000
WARM: Final = 600
AT_ONCE: Final = 50
CLIENT_IP, PROXY_IP, ORIGIN_IP = "198.18.128.2", "198.18.0.10", "198.18.0.20"
PORT: Final = 443
NAME: Final = "short.bench.test"
ANSWER: Final = b"x" * 1024
CACHES: Final = ("--cache-sim=yes", "--I1=32768,8,64", "--D1=49152,12,64", "--LL=2097152,16,64")
"""Of a server's processor; that of the machine would make other figures on each."""
TOLD: Final = 30
"""Functions, the dearest with all that they call."""
SHOWN: Final = ("Ir", "I1mr", "D1mr")
"""callgrind's events: instructions, and misses of the first caches."""
COUNT: Final = r"([\d,.]+)(?: \([^)]*\))?"
LINE: Final = re.compile(rf"\s*{COUNT}\s+{COUNT}\s+{COUNT}\s+(\S.*)")


def main() -> int:
    """The command; its exit status."""
    parser = argparse.ArgumentParser(prog="python -m bench.instructions", description=__doc__)
    parser.add_argument("--checkout", type=Path, default=ROOT, metavar="DIR")
    parser.add_argument("--connections", type=int, default=CONNECTIONS, metavar="N")
    parser.add_argument(
        "--out", type=Path, default=RESULTS, metavar="DIR", help="where instructions.json goes"
    )
    args = parser.parse_args()
    if shutil.which("valgrind") is None:
        print("bench.instructions: valgrind is not installed: apt-get install valgrind", file=sys.stderr)
        return 2
    if os.geteuid() != 0:
        print("bench.instructions: it makes a network namespace: run it as root", file=sys.stderr)
        return 77
    figures = counted(args.checkout.resolve(), args.connections)
    print(keep("instructions", figures, args.out, args.checkout))
    for name, (instructions, *_) in figures["with_all_they_call"].items():
        print(f"{instructions:10,.0f}  {name}")
    print(f"{figures['instructions']:10,.0f}  instructions a connection")
    return 0


def counted(checkout: Path, connections: int) -> dict[str, Any]:
    """A connection's part of each event. RuntimeError where it cannot be counted."""
    with tempfile.TemporaryDirectory() as directory:
        data = Path(directory) / "callgrind"
        callgrind = [
            "valgrind",
            "--tool=callgrind",
            "--instr-atstart=no",
            *CACHES,
            f"--callgrind-out-file={data}",
        ]
        environment = {**os.environ, "PYTHONPATH": f"{installed(checkout)}:{ROOT}"}
        script = "import sys, bench.instructions as it; it.serve(int(sys.argv[1]))"
        done = subprocess.run(
            ["unshare", "--net", *callgrind, sys.executable, "-P", "-c", script, str(connections)],
            env=environment,
            capture_output=True,
            text=True,
            check=False,
        )
        if done.returncode or not data.exists():
            raise RuntimeError(f"callgrind ended with status {done.returncode}: {done.stderr[-800:]}")
        shown = f"--show={','.join(SHOWN)}"
        annotate = ["callgrind_annotate", "--inclusive=yes", "--threshold=100", shown, str(data)]
        told = subprocess.run(annotate, capture_output=True, text=True, check=True).stdout
    return figures_of(told.splitlines(), connections)


def figures_of(lines: Iterable[str], connections: int) -> dict[str, Any]:
    """What ``callgrind_annotate`` says, a connection's part. RuntimeError where it says no total."""
    rows: dict[str, list[float]] = {}
    for line in lines:
        if found := LINE.fullmatch(line):
            name = re.sub(r" \[.*", "", found[4]).rpartition(":")[2]
            counts = [0 if text == "." else int(text.replace(",", "")) for text in found.groups()[:3]]
            rows.setdefault(name, [round(count / connections, 1) for count in counts])
    total = rows.pop("PROGRAM TOTALS", None)
    if total is None:
        raise RuntimeError("callgrind_annotate tells no total")
    ours = sorted((name for name in rows if name.startswith("CPyDef_")), key=lambda name: -rows[name][0])
    return {
        "connections": connections,
        "instructions": total[0],
        "first_cache_misses": {"instructions": total[1], "data": total[2]},
        "with_all_they_call": {name.removeprefix("CPyDef_"): rows[name] for name in ours[:TOLD]},
    }


# -- under callgrind


def serve(connections: int) -> None:
    """Be the worker of so many connections, and have them counted."""
    import uvloop

    for ip in (CLIENT_IP, PROXY_IP, ORIGIN_IP):
        subprocess.run(["ip", "address", "add", f"{ip}/32", "dev", "lo"], check=True)
    subprocess.run(["ip", "link", "set", "lo", "up"], check=True)
    uvloop.run(_serve(connections))


async def _serve(connections: int) -> None:
    from audit.feed import open_pipe
    from audit.ledger import Ledger
    from gateway.bundle import STOP, Bundle
    from gateway.flow import Endpoint, met
    from gateway.process import COLLECT_AFTER
    from gateway.worker import Worker
    from rules import NetworkPolicy

    gc.freeze()  # as in a worker's process: else the collector takes 3 % of what is counted, more in one run than in the next
    gc.set_threshold(*COLLECT_AFTER)
    listener = socket.create_server((PROXY_IP, PORT), backlog=1024)
    listener.setblocking(False)
    ours, control = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    reader, feed = open_pipe()
    os.set_inheritable(reader, True)
    policy = NetworkPolicy(allow_out=[NAME, "*.example.test", "10.0.0.0/8"], deny_out=["0.0.0.0/0"])
    nobody = Endpoint(met("127.0.0.1"), 9)
    bundle = Bundle("bench", policy, nobody, (listener,), None, None, Ledger(), feed)
    worker = Worker(bundle, control, frozenset())  # type: ignore[arg-type]  # no address is the host's
    _remember(worker._house.gate.resolver)
    peers = await asyncio.create_subprocess_exec(
        *(
            sys.executable,
            "-P",
            "-c",
            "import sys, bench.instructions as it; it.peers(int(sys.argv[1]))",
            str(reader),
        ),
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        pass_fds=(reader,),
    )
    assert peers.stdin is not None and peers.stdout is not None
    serving = asyncio.get_running_loop().create_task(worker.serve())
    await peers.stdout.readline()
    for count, counting in ((WARM, False), (connections, True)):
        if counting:
            _count("on")
        peers.stdin.write(b"%d\n" % count)
        answered = await peers.stdout.readline()
        if counting:
            _count("off")
        if answered != b"%d\n" % count:
            raise RuntimeError(f"{answered!r} of {count} were answered")
    peers.stdin.close()
    await peers.wait()
    ours.send(STOP)
    await serving


def _remember(resolver: Any) -> None:
    """Where the name leads, as if it had been asked for."""
    import dns.rcode
    import dns.rdatatype

    from gateway.flow import met
    from gateway.net.answers import Answer

    until = time.monotonic() + 3600
    resolver.answers.remember(
        (NAME, dns.rdatatype.A), Answer(b"x", until, dns.rcode.NOERROR, (met(ORIGIN_IP),))
    )


def _count(state: str) -> None:
    subprocess.run(
        ["callgrind_control", "-i", state, str(os.getpid())], check=True, stdout=subprocess.DEVNULL
    )


# -- beside it


def peers(records: int) -> None:
    """Client and origin: for each number read, so many connections, ``AT_ONCE`` at a time; how many were answered in full. ``records`` is emptied."""
    asyncio.run(_peers(records))


def _hello() -> bytes:
    """Of hellos that differ in what is random the same one, as dear as any other run's: what is looked at in them is what stands about a colon."""
    from tests.netns.hello import client_hello

    while True:
        hello = client_hello(NAME)
        if hello.count(b":") == 1:
            return hello


async def _peers(records: int) -> None:
    hello = _hello()
    loop = asyncio.get_running_loop()
    loop.add_reader(records, os.read, records, 1 << 20)

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        await reader.readexactly(len(hello))
        writer.write(ANSWER)
        writer.close()

    slots = asyncio.Semaphore(AT_ONCE)

    async def ask() -> bool:
        async with slots:
            reader, writer = await asyncio.open_connection(PROXY_IP, PORT, local_addr=(CLIENT_IP, 0))
            writer.write(hello)
            answered = await reader.read() == ANSWER
            writer.close()
            return answered

    async with await asyncio.start_server(answer, ORIGIN_IP, PORT, backlog=1024):
        print("ready", flush=True)
        while line := await loop.run_in_executor(None, sys.stdin.readline):
            print(sum(await asyncio.gather(*(ask() for _ in range(int(line))))), flush=True)


if __name__ == "__main__":
    sys.exit(main())
