"""The lab: an origin in a network namespace, and for each proxy that is started a fresh client and gateway host in two more.

Namespaces are held by descriptors of this process and by nothing else: they have no names and no mounts, and are gone when it ends, however that
comes. Nothing of the machine's own network is touched, and none of them has a way out of it.
"""

import contextlib
import itertools
import os
import shutil
import subprocess
import sys
import tempfile
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

ROOT: Final = Path(__file__).resolve().parents[1]
ORIGIN_IP: Final = "198.18.0.10"
ORIGIN_PORT: Final = 443
DNS_IP: Final = "8.8.8.8"
PROXY_PORT: Final = 15001
SHORT, BULK, HOLD = "short.bench.test", "bulk.bench.test", "hold.bench.test"
ALLOWED: Final = (SHORT, BULK, HOLD)
"""What a proxy under the bench lets through; each name is also what the origin is asked to do."""
FORBIDDEN: Final = "other.bench.test"

SCRATCH: Final = Path("/var/tmp/egress-bench-")  # noqa: S108 - a disk, where /tmp may be memory

Redirect = Literal["tproxy", "redirect", "none"]
"""How a client's connections reach the proxy: TPROXY, NAT, or not at all: routed."""

SYSCTLS: Final = {
    # A new namespace inherits some of the machine's settings: state what matters.
    "net/ipv4/conf/all/rp_filter": "0",
    "net/ipv4/conf/default/rp_filter": "0",
    "net/ipv4/ip_local_port_range": "2000 65000",
    "net/ipv4/tcp_tw_reuse": "1",
    "net/core/somaxconn": "4096",
}
ORIGIN: Final = f"""
ip link set lo up
ip addr add {ORIGIN_IP}/32 dev lo
ip addr add {DNS_IP}/32 dev lo
"""
JOIN: Final = """
ip link set lo up
ip link add wan type veth peer name isp{number} netns {origin}
ip addr add {host_ip}/30 dev wan
ip link set wan up
"""
ANSWER: Final = """
ip addr add {origin_ip}/30 dev isp{number}
ip link set isp{number} up
ip route add {client_net} via {host_ip}
"""
WAY_OUT: Final = "ip route add default via {origin_ip}\n"
CLIENT: Final = """
ip link set lo up
ip addr add {client_ip}/30 dev eth0
ip link set eth0 up
ip route add default via {gateway_ip}
"""
LAN: Final = """
ip link add lan type veth peer name eth0 netns {client}
ip addr add {gateway_ip}/30 dev lan
ip link set lan up
"""
CAUGHT: Final[dict[Redirect, str]] = {
    # As Documentation/networking/tproxy.rst of the kernel has it, but for SYNs: one that meets a TIME_WAIT would be diverted to its own port, where
    # nobody listens, and come again 10 ms later.
    "tproxy": f"""
ip rule add fwmark 1 lookup 100
ip route add local default dev lo table 100
iptables -w 10 -t mangle -N DIVERT
iptables -w 10 -t mangle -A DIVERT -j MARK --set-mark 1
iptables -w 10 -t mangle -A DIVERT -j ACCEPT
iptables -w 10 -t mangle -A PREROUTING -i lan -p tcp ! --syn -m socket -j DIVERT
iptables -w 10 -t mangle -A PREROUTING -i lan -p tcp -j TPROXY --on-port {PROXY_PORT} --tproxy-mark 1
""",
    "redirect": f"iptables -w 10 -t nat -A PREROUTING -i lan -p tcp -j REDIRECT --to-ports {PROXY_PORT}\n",
    "none": "echo 1 > /proc/sys/net/ipv4/ip_forward\n",
}


class Namespace:
    """A network namespace that lives as long as this object's descriptor and what runs in it."""

    def __init__(self, descriptor: int) -> None:
        self._descriptor = descriptor
        self.path = f"/proc/{os.getpid()}/fd/{descriptor}"

    @classmethod
    def new(cls) -> "Namespace":
        """An empty one. RuntimeError where there is no right to make it."""
        made = subprocess.Popen(
            ["unshare", "--net", "sh", "-c", "echo; read _"], stdin=subprocess.PIPE, stdout=subprocess.PIPE
        )
        with made:
            assert made.stdout is not None
            if not made.stdout.readline():
                raise RuntimeError("no network namespace can be made here: the bench needs root")
            found = cls.of(made.pid)
        found.run("".join(f"echo '{value}' > /proc/sys/{name}\n" for name, value in SYSCTLS.items()))
        return found

    @classmethod
    def of(cls, pid: int) -> "Namespace":
        """That which a process is in."""
        return cls(os.open(f"/proc/{pid}/ns/net", os.O_RDONLY | os.O_CLOEXEC))

    def enter(self, argv: Sequence[str | Path], core: int | None = None) -> list[str]:
        """A command line that runs another in here, on one core, and dies with whoever starts it."""
        pinned = [] if core is None else ["taskset", "-c", str(core)]
        return [
            "setpriv",
            "--pdeathsig",
            "KILL",
            "nsenter",
            f"--net={self.path}",
            *pinned,
            *map(str, argv),
        ]

    def run(self, script: str) -> None:
        """Some lines of shell. RuntimeError with what they said if one fails."""
        done = subprocess.run(self.enter(["sh", "-euc", script]), capture_output=True, text=True, check=False)
        if done.returncode:
            raise RuntimeError(f"{done.stderr.strip()} (in: {script.strip()})")

    def close(self) -> None:
        """Let it go. Safe twice."""
        if self._descriptor >= 0:
            os.close(self._descriptor)
            self._descriptor = -1


@dataclass(frozen=True, slots=True)
class Cores:
    """Who runs where: the proxy alone, load and origin elsewhere."""

    proxy: int
    load: int
    origin: int

    @classmethod
    def of_machine(cls) -> "Cores":
        """Of those this process may use; where there are two, load and origin share the second."""
        found = sorted(os.sched_getaffinity(0))
        return cls(found[0], found[1 % len(found)], found[2 % len(found)] if len(found) > 2 else found[-1])


@dataclass(frozen=True, slots=True)
class Place:
    """Where one proxy runs: a host between a client and the origin, and a directory for its files."""

    host: Namespace
    client: Namespace
    directory: Path
    cores: Cores
    number: int

    def addresses(self) -> dict[str, str]:
        """Of the two links; each place has its own, so that no connection of one is met by another's TIME_WAIT."""
        high, low = self.number // 64 % 64, self.number % 64 * 4
        return {
            "host_ip": f"198.19.{high}.{low + 1}",
            "origin_ip": f"198.19.{high}.{low + 2}",
            "client_net": f"198.18.{128 + high}.{low}/30",
            "gateway_ip": f"198.18.{128 + high}.{low + 1}",
            "client_ip": f"198.18.{128 + high}.{low + 2}",
            "number": str(self.number),
        }


class Lab:
    """The origin, and places in front of it. A context manager; needs root."""

    def __init__(self, cores: Cores | None = None) -> None:
        self.cores = cores or Cores.of_machine()
        self._numbers = itertools.count()
        self._stack = contextlib.ExitStack()

    def __enter__(self) -> "Lab":
        sweep()
        with contextlib.ExitStack() as stack:
            self.origin = Namespace.new()
            stack.callback(self.origin.close)
            self.origin.run(ORIGIN)
            argv = [sys.executable, "-IS", str(ROOT / "bench" / "origin.py"), str(ORIGIN_PORT), DNS_IP]
            serving = subprocess.Popen(
                self.origin.enter(argv, self.cores.origin),
                stdout=subprocess.PIPE,
                text=True,
                start_new_session=True,
            )
            stack.callback(_end, serving)
            assert serving.stdout is not None
            if serving.stdout.readline() != "ready\n":
                raise RuntimeError("the origin did not start")
            self.origin_pid = serving.pid
            self._stack = stack.pop_all()
        return self

    def __exit__(self, *exc: object) -> None:
        self._stack.close()

    @contextlib.contextmanager
    def place(self, redirect: Redirect | None) -> Iterator[Place]:
        """A new one. ``None``: no client, for the proxy brings the client's namespace itself."""
        with contextlib.ExitStack() as stack:
            directory = Path(
                tempfile.mkdtemp(prefix=f"{SCRATCH.name}{os.getpid()}-", dir=SCRATCH.parent)
            )  # a disk, where /tmp may be memory
            stack.callback(shutil.rmtree, directory, ignore_errors=True)
            directory.chmod(0o777)
            host, client = Namespace.new(), Namespace.new()
            stack.callback(host.close)
            stack.callback(client.close)
            place = Place(host, client, directory, self.cores, next(self._numbers))
            words = place.addresses() | {"origin": self.origin.path, "client": client.path}
            host.run(JOIN.format(**words))
            self.origin.run(ANSWER.format(**words))
            host.run(WAY_OUT.format(**words))
            if redirect is not None:
                host.run(LAN.format(**words) + CAUGHT[redirect])
                client.run(CLIENT.format(**words))
            yield place


def sweep() -> None:
    """Remove the directories of benches that were killed."""
    for path in SCRATCH.parent.glob(f"{SCRATCH.name}*-*"):
        pid = path.name.removeprefix(SCRATCH.name).partition("-")[0]
        if pid.isdecimal() and not Path(f"/proc/{pid}").exists():
            shutil.rmtree(path, ignore_errors=True)


def _end(process: "subprocess.Popen[str]") -> None:
    process.kill()
    process.wait()
    if process.stdout is not None:
        process.stdout.close()
