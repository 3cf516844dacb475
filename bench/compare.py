"""This gateway beside HAProxy: CPU a short connection and a gigabyte, in one run. ``python -m bench.compare [ROUNDS]``, as root, on two cores.

Both stand behind the same cell (the ``lo`` link and its rules), see the same load from inside it, and reach the same far side over one veth pair.
The gateway's processes are alone on core 0; load and far side share core 1. Rounds alternate; the figure is the median of the ratios of neighbours.
"""

import contextlib
import json
import os
import shutil
import socket
import statistics
import subprocess
import sys
import threading
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any, NamedTuple

from bench.machine import keep
from gateway.netd.server import Netd
from rules import NetworkPolicy, build_plan
from tests.lab.lab import ROOT, Lab
from tests.lab.places import DNS_IP, GOOD_IP
from tests.lab.sandboxed import egress_argv, new_audit_dir
from tests.netns.hello import client_hello

PORT = 4443
COUNT, AT_ONCE = 10_000, 50
BULK_BYTES = 2_000_000_000
HAPROXY = """
global
  maxconn 6000
  nbthread 1
  log {log} local0
defaults
  mode tcp
  log global
  option tcplog
  timeout connect 10s
  timeout client 1h
  timeout server 1h
  {splice}
{resolvers}
frontend cell
  bind {listen} transparent interface lo namespace {namespace}
  tcp-request inspect-delay 5s
  acl allowed req.ssl_sni -m str allowed.test
  {bind}
  tcp-request content accept if {{ req.ssl_hello_type 1 }} allowed
  tcp-request content reject if {{ req.ssl_hello_type 1 }}
  default_backend asked
backend asked
  server asked 0.0.0.0:0
"""
RESOLVERS = f"""
resolvers lab
  nameserver one {DNS_IP}:53
  hold valid 300s
"""
BIND = """tcp-request content do-resolve(sess.ip,lab,ipv4) req.ssl_sni if allowed
  tcp-request content set-dst var(sess.ip) if allowed"""


class Run(NamedTuple):
    """What one load cost."""

    cpu_s: float
    seconds: float
    latencies_us: list[float]


Ask = Callable[..., Run]


def main() -> None:
    """Measure, print, keep."""
    rounds = int(sys.argv[1]) if len(sys.argv) > 1 else 5
    os.sched_setaffinity(0, {1})
    with contextlib.ExitStack() as stack:
        lab = stack.enter_context(Lab())
        lab.zone.put("allowed.test", {"A": [GOOD_IP]})
        for namespace in (lab.host, lab.net):
            _in(
                namespace,
                "sysctl",
                "-qw",
                "net.ipv4.ip_local_port_range=2000 65000",
                "net.ipv4.tcp_tw_reuse=1",
            )
        _serve(lab, stack)
        peers: dict[str, Ask] = {
            "egress": stack.enter_context(egress(lab)),
            "haproxy": stack.enter_context(haproxy(lab, bound=False)),
            "haproxy, do-resolve": stack.enter_context(haproxy(lab, bound=True)),
        }
        short: dict[str, list[Run]] = {name: [] for name in peers}
        bulk: dict[str, list[Run]] = {name: [] for name in peers}
        for ask in peers.values():
            ask("short", 2000, AT_ONCE)  # warm
        for number in range(rounds):
            for name, ask in peers.items():
                short[name].append(ask("short", COUNT, AT_ONCE))
                bulk[name].append(ask("bulk", BULK_BYTES))
            print(
                f"round {number + 1}: "
                + "; ".join(_shown(name, short[name][-1], bulk[name][-1]) for name in peers),
                flush=True,
            )
    figures: dict[str, Any] = {"rounds": rounds, "connections_a_round": COUNT, "bulk_bytes": BULK_BYTES}
    for name in peers:
        figures[name] = {
            "cpu_us_a_connection": round(
                statistics.median(run.cpu_s for run in short[name]) / COUNT * 1e6, 1
            ),
            "connections_a_s": round(statistics.median(COUNT / run.seconds for run in short[name])),
            "latency_p50_us": round(
                statistics.median(statistics.median(run.latencies_us) for run in short[name])
            ),
            "cpu_s_a_gb": round(statistics.median(run.cpu_s for run in bulk[name]) / BULK_BYTES * 1e9, 3),
        }
        if name != "egress":
            figures[name]["ratio_short"] = _ratio(short["egress"], short[name])
            figures[name]["ratio_bulk"] = _ratio(bulk["egress"], bulk[name])
    print(json.dumps(figures, indent=1))
    print(keep("compare", figures))


@contextlib.contextmanager
def egress(lab: Lab) -> Iterator[Ask]:
    """With everything on: policy, binding, records."""
    script = "import json, subprocess, sys\nprint('ready', flush=True)\nfor line in sys.stdin:\n subprocess.run(json.loads(line), check=True)"
    argv = egress_argv(
        new_audit_dir(lab),
        ["/usr/bin/python3", "-c", script],
        allow=["allowed.test"],
        options=["--name", "bench"],
    )
    with lab.popen(["taskset", "-c", "0", *argv], stdin=subprocess.PIPE, cwd=lab.work) as process:
        assert process.stdout is not None and process.stdin is not None
        if process.stdout.readline() != "ready\n":
            raise RuntimeError(process.communicate()[1])
        gateway = [process.pid, *(pid for pid in _children(process.pid) if _command(pid).endswith("egress"))]
        stdin, stdout = process.stdin, process.stdout

        def ask(verb: str, *numbers: int) -> Run:
            before = _cpu(gateway)
            stdin.write(json.dumps(["taskset", "-c", "1", *_load(verb, *numbers)]) + "\n")
            stdin.flush()
            said = json.loads(stdout.readline())
            time.sleep(0.2)
            return _run(said, _cpu(gateway) - before)

        yield ask
        process.stdin.close()


@contextlib.contextmanager
def haproxy(lab: Lab, *, bound: bool) -> Iterator[Ask]:
    """Behind a cell that netd makes as for us."""
    if shutil.which("haproxy") is None:
        raise RuntimeError("HAProxy is not installed: apt-get install haproxy")
    name = f"{lab.name}-{'bound' if bound else 'plain'}"
    plan = build_plan(NetworkPolicy(allow_out=["allowed.test"], deny_out=["0.0.0.0/0"]))
    netd = Netd()
    cell = netd.open_cell(plan)
    path = Path("/run/netns") / name
    path.touch()
    log = lab.directory / f"{name}.log"
    _reader(log)
    config = lab.directory / f"{name}.cfg"
    config.write_text(
        HAPROXY.format(
            log=log,
            splice="option splice-request\n  option splice-response",
            resolvers=RESOLVERS if bound else "",
            listen=f"{plan.link.listen_ip}:{plan.link.listen_port}",
            namespace=name,
            bind=BIND if bound else "",
        )
    )
    subprocess.run(
        ["mount", "--bind", f"/proc/self/fd/{cell['netns']}", str(path)], check=True, pass_fds=[cell["netns"]]
    )
    try:
        for descriptor in cell.values():
            os.close(descriptor)
        with lab.popen(["taskset", "-c", "0", "haproxy", "-db", "-f", config]) as process:
            time.sleep(0.5)

            def ask(verb: str, *numbers: int) -> Run:
                before = _cpu([process.pid])
                argv = ["taskset", "-c", "1", "nsenter", f"--net={path}", *_load(verb, *numbers)]
                done = subprocess.run(argv, cwd=ROOT, check=True, capture_output=True, text=True)
                time.sleep(0.2)
                return _run(json.loads(done.stdout), _cpu([process.pid]) - before)

            yield ask
            process.terminate()
            process.wait()
    finally:
        netd.close()
        subprocess.run(["umount", str(path)], check=True)
        path.unlink()


def _load(verb: str, *numbers: int) -> list[str]:
    script = str(ROOT / "bench" / "load.py")
    return [
        "/usr/bin/python3",
        script,
        verb,
        GOOD_IP,
        str(PORT),
        client_hello("allowed.test").hex(),
        *map(str, numbers),
    ]


def _serve(lab: Lab, stack: contextlib.ExitStack) -> None:
    process = lab.popen([sys.executable, ROOT / "bench" / "load.py", "origin", str(PORT)], namespace="net")
    stack.callback(process.wait)
    stack.callback(process.kill)
    assert process.stdout is not None
    process.stdout.readline()


def _reader(path: Path) -> None:
    """Whoever takes the log lines, as syslogd would; not counted."""
    sock = socket.socket(socket.AF_UNIX, socket.SOCK_DGRAM)
    sock.bind(str(path))

    def read() -> None:
        while sock.recv(65536):
            pass

    threading.Thread(target=read, daemon=True).start()


def _run(said: dict[str, Any], cpu_s: float) -> Run:
    if said["errors"]:
        raise RuntimeError(f"{said['errors']} errors: no figure from a run with errors")
    return Run(cpu_s, said["seconds"], said.get("latencies_us", []))


def _cpu(pids: list[int]) -> float:
    """Seconds on a processor so far, of all their threads: proc(5), schedstat."""
    total = 0
    for pid in pids:
        for task in Path(f"/proc/{pid}/task").iterdir():
            total += int((task / "schedstat").read_text().split()[0])
    return total / 1e9


def _children(pid: int) -> list[int]:
    return [int(word) for word in Path(f"/proc/{pid}/task/{pid}/children").read_text().split()]


def _command(pid: int) -> str:
    return Path(f"/proc/{pid}/comm").read_text().strip()


def _in(namespace: Path, *argv: str) -> None:
    subprocess.run(["nsenter", f"--net={namespace}", *argv], check=True)


def _shown(name: str, short: Run, bulk: Run) -> str:
    return f"{name} {short.cpu_s / COUNT * 1e6:.0f} us, {COUNT / short.seconds:,.0f}/s, {bulk.cpu_s / BULK_BYTES * 1e9:.2f} s/GB"


def _ratio(ours: list[Run], theirs: list[Run]) -> float:
    return round(
        statistics.median(one.cpu_s / other.cpu_s for one, other in zip(ours, theirs, strict=True)), 3
    )


if __name__ == "__main__":
    main()
