"""The two namespaces, and that they go: a lab's directory is locked as long as its process lives."""

import contextlib
import fcntl
import itertools
import os
import shutil
import subprocess
import time
from pathlib import Path

from tests.lab.places import BLACKHOLE_IP, HOST_IP, HOST_IP6, NET_IP, NET_IP6, SERVED

NETNS = Path("/run/netns")
SCRATCH = Path(
    "/var/tmp"
)  # not /tmp or /run: a sandbox has its own of those, and must be able to read the lab's CA
PREFIX = "egress-lab."
HOST_DEVICE = "wan"
NET_DEVICE = "isp"
ORPHAN_AGE_S = 60
UP_S = 20.0

_numbers = itertools.count(1)

SYSCTLS = {
    # A new namespace inherits some of the machine's settings: state all that matter.
    "ipv4/ip_forward": 0,
    "ipv4/conf/all/rp_filter": 0,
    "ipv4/conf/default/rp_filter": 0,
    "ipv4/icmp_ratelimit": 0,
    "ipv6/conf/all/forwarding": 0,
    "ipv6/conf/all/accept_ra": 0,
    "ipv6/conf/default/accept_ra": 0,
    "ipv6/conf/all/accept_dad": 0,
    "ipv6/conf/default/accept_dad": 0,
    "bridge/bridge-nf-call-iptables": 0,
    "bridge/bridge-nf-call-ip6tables": 0,
}


class Network:
    """``host`` and ``net``, joined by a veth pair, and a directory: built by ``make``, gone by ``remove``."""

    def __init__(self) -> None:
        self.name = f"eg{os.getpid()}-{next(_numbers):03}"
        self.directory = SCRATCH / f"{PREFIX}{self.name}"
        self.host = NETNS / f"{self.name}-host"
        self.net = NETNS / f"{self.name}-net"
        self._lock = -1
        self._mounted_netns = False

    def make(self) -> None:
        """Build it; RuntimeError, with what ``ip`` said, if the kernel refuses."""
        sweep()
        self.directory.mkdir(mode=0o755)
        self._lock = os.open(self.directory / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
        fcntl.flock(self._lock, fcntl.LOCK_EX)
        self._mounted_netns = not os.path.ismount(NETNS)
        for namespace in (self.host, self.net):
            _ip("netns", "add", namespace.name)
            _set_sysctls(namespace)
        _ip(
            "-n",
            self.host.name,
            "link",
            "add",
            HOST_DEVICE,
            "type",
            "veth",
            "peer",
            "name",
            NET_DEVICE,
            "netns",
            self.net.name,
        )
        _batch(self.host, _host_commands())
        _batch(self.net, _net_commands())
        await_up(self.host.name, HOST_DEVICE)

    def remove(self) -> None:
        """Delete the namespaces, with all that is in them, and the directory. Safe at any time, and twice."""
        _remove(self.name, self.directory)
        if self._lock >= 0:
            os.close(self._lock)
            self._lock = -1
        if self._mounted_netns and os.path.ismount(NETNS) and not any(NETNS.iterdir()):
            # iproute2 mounts it over itself for the first namespace, and leaves it.
            subprocess.run(["umount", str(NETNS)], check=False, capture_output=True)


def sweep() -> None:
    """Remove what labs of dead processes left behind."""
    for directory in SCRATCH.glob(f"{PREFIX}*"):
        try:
            lock = os.open(directory / "lock", os.O_RDWR | os.O_CLOEXEC)
        except FileNotFoundError:
            if time.time() - directory.stat().st_mtime > ORPHAN_AGE_S:
                shutil.rmtree(directory, ignore_errors=True)
            continue
        try:
            fcntl.flock(lock, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            continue
        else:
            _remove(directory.name.removeprefix(PREFIX), directory)
        finally:
            os.close(lock)


def await_up(namespace: str, device: str) -> None:
    """Return when it carries: one whose other end came up later is seen to by a thread of the kernel's, and drops what it is given until then."""
    give_up = time.monotonic() + UP_S
    while " state UP " not in _run(["ip", "-n", namespace, "-o", "link", "show", "dev", device]):
        if time.monotonic() > give_up:
            raise RuntimeError(f"{device} in {namespace} does not come up")
        time.sleep(0.01)


def traces(name: str) -> list[str]:
    """What of lab ``name`` is on this machine: namespaces, directories, mounts, processes."""
    found = [str(path) for place in (NETNS, SCRATCH) if place.exists() for path in place.glob(f"*{name}*")]
    mounts = Path("/proc/self/mounts").read_text().splitlines()
    found += [f"mount {line}" for line in mounts if name in line]
    for path in Path("/proc").glob("[0-9]*/cmdline"):
        with contextlib.suppress(OSError):  # it ended meanwhile
            words = path.read_bytes().split(b"\0")
            if any(f"{PREFIX}{name}".encode() in word for word in words):
                found.append(f"process {path.parent.name}: {b' '.join(words).decode(errors='replace')}")
    return found


def _remove(name: str, directory: Path) -> None:
    for end in ("host", "net"):
        if (NETNS / f"{name}-{end}").exists():
            _ip("netns", "del", f"{name}-{end}")
    shutil.rmtree(directory, ignore_errors=True)


def _host_commands() -> list[str]:
    return [
        "link set lo up",
        f"addr add {HOST_IP}/30 dev {HOST_DEVICE}",
        f"addr add {HOST_IP6}/64 dev {HOST_DEVICE} nodad",
        f"link set {HOST_DEVICE} up",
        f"route add default via {NET_IP}",
        f"route add default via {NET_IP6}",
    ]


def _net_commands() -> list[str]:
    return [
        "link set lo up",
        f"addr add {NET_IP}/30 dev {NET_DEVICE}",
        f"addr add {NET_IP6}/64 dev {NET_DEVICE} nodad",
        f"link set {NET_DEVICE} up",
        *(f"addr add {address}/{128 if ':' in address else 32} dev lo" for address in SERVED),
        f"route add blackhole {BLACKHOLE_IP}/32",
    ]


def _set_sysctls(namespace: Path) -> None:
    script = "".join(
        f"[ ! -e /proc/sys/net/{name} ] || echo {value} > /proc/sys/net/{name}\n"
        for name, value in SYSCTLS.items()
    )
    _run(["nsenter", f"--net={namespace}", "sh", "-e"], script)


def _batch(namespace: Path, commands: list[str]) -> None:
    _run(["ip", "-n", namespace.name, "-batch", "-"], "\n".join(commands))


def _ip(*words: str) -> None:
    _run(["ip", *words])


def _run(argv: list[str], script: str = "") -> str:
    done = subprocess.run(argv, input=script, text=True, capture_output=True, check=False, timeout=10)
    if done.returncode:
        raise RuntimeError(f"{' '.join(argv)}: {done.stderr.strip() or done.returncode}")
    return done.stdout
