"""Whether this host can enforce: nothing is guessed from versions where it can be tried.

What is tried is what ``egress run`` does for this user: as root a cell with an uplink, else one on ``lo``. Then packets are sent in it, of which none
leaves the machine (``gateway.probe``).
"""

import os
import platform
import shutil
import signal
import subprocess
import sys
import tempfile
from collections.abc import Generator, Iterator
from contextlib import suppress
from pathlib import Path
from typing import Final

from audit.files import default_directory
from gateway.confine import landlock_version
from gateway.errors import EgressError, SetupError
from gateway.finding import Finding, families_here, is_root, tried
from gateway.launch import PROGRAMS, SYSTEM_PATH, forwarded, launch
from gateway.leftovers import left as left_here
from gateway.leftovers import leftovers
from gateway.netd.server import Netd
from gateway.probe import NEAR, PREFIXES, refuses
from gateway.probe import uplink as probe_uplink
from gateway.seccomp import program
from gateway.supervisor import has_ipv6
from gateway.userns import obstacle
from gateway.view import plan_view
from rules import ALL_TRAFFIC, NetworkPolicy, build_plan
from rules.backend import Backend
from rules.link import Family

FIREWALLS: Final[dict[Backend, str]] = {
    "legacy": "legacy tables by python-iptables",
    "nft": "nf_tables by iptables-nft-restore",
}
"""In the order in which ``run`` takes them."""
CAPABILITIES: Final = {
    "SETGID": 6,
    "SETUID": 7,
    "NET_BIND_SERVICE": 10,
    "NET_ADMIN": 12,
    "NET_RAW": 13,
    "SYS_ADMIN": 21,
}
"""Without any of which root can run nothing, as measured (linux/capability.h)."""
LESSER_CAPABILITIES: Final = {"KILL": 5, "SETPCAP": 8, "SYS_PTRACE": 19}
"""Without which less is taken from a command, and not everything of it is found and ended."""
STATUS: Final = Path("/proc/self/status")
POLICY: Final = NetworkPolicy(["api.openai.com"], [ALL_TRAFFIC])


def examine() -> Generator[Finding, None, None]:
    """Look at everything, in the order in which ``egress run`` would come to need it. Close it to have all gone that was made."""
    running = f"Linux {platform.release()}, Python {platform.python_version()}"
    yield Finding("system", sys.platform == "linux", True, running)
    yield _capabilities()
    for name, package in {**PROGRAMS, **({"ipset": "ipset"} if is_root() else {})}.items():
        yield _program(name, package)
    yield _user_namespaces()
    left: dict[str, str] = {}
    strangers: list[str] = []
    if is_root():
        with suppress(SetupError):  # which is said at the end
            left, strangers = left_here()
    netd = Netd()
    try:
        yield _firewall(netd)
        yield from _cell(netd, () if strangers else _forwarded())
    finally:
        netd.close()
    yield leftovers(left)
    version = landlock_version()
    yield Finding(
        "Landlock",
        version > 0,
        False,
        f"version {version}" if version > 0 else "not in this kernel: a worker may open files",
    )
    yield tried(
        "seccomp", lambda: f"{len(program()) // 8} instructions for {platform.machine()}", needed=True
    )
    yield Finding(
        "IPv6",
        True,
        False,
        "sandboxes get it" if has_ipv6() else "this host has no address of it, so sandboxes get none",
    )
    yield _records()


# -- what there is


def _forwarded() -> tuple[Family, ...]:
    """Those that an uplink is made for. A host that begins to forward IPv6 tells its networks so; ``run`` may, and this may not."""
    if not is_root():
        return ()
    forwards = Path("/proc/sys/net/ipv6/conf/all/forwarding")
    return tuple(family for family in families_here() if family == 4 or forwards.read_text().strip() != "0")


def _capabilities() -> Finding:
    if not is_root():
        said = "an ordinary user needs none: a user namespace of one's own brings them"
        return Finding("capabilities", True, True, said)
    lines = STATUS.read_text().splitlines()
    effective = int(next(line.split()[1] for line in lines if line.startswith("CapEff:")), 16)
    wanted = CAPABILITIES | LESSER_CAPABILITIES
    lacking = [name for name, bit in wanted.items() if not effective >> bit & 1]
    if not lacking:
        return Finding("capabilities", True, True, " ".join(f"CAP_{name}" for name in wanted))
    mend = f"a container needs {' '.join(f'--cap-add={name}' for name in lacking)}, a unit has CapabilityBoundingSet="
    said = f"this root lacks {' '.join(f'CAP_{name}' for name in lacking)}: {mend}"
    return Finding("capabilities", False, not CAPABILITIES.keys().isdisjoint(lacking), said)


def _program(name: str, package: str) -> Finding:
    path = shutil.which(name, path=SYSTEM_PATH)
    if path is None:
        return Finding(name, False, True, f"not found: apt-get install {package}")
    done = subprocess.run([path, "--version"], capture_output=True, stdin=subprocess.DEVNULL, check=False)
    if done.returncode:
        mend = " ".join(done.stderr.decode(errors="replace").split())
        said = f"{path} does not run ({done.returncode}): {mend or f'apt-get install --reinstall {package}'}"
        return Finding(name, False, True, said)
    return Finding(name, True, True, path)


def _user_namespaces() -> Finding:
    problem = obstacle()
    if problem is None:
        return Finding("user namespaces", True, not is_root(), "open to ordinary users")
    return Finding("user namespaces", False, not is_root(), problem)


def _records() -> Finding:
    mend = "name another directory with --audit-dir or $EGRESS_AUDIT_DIR"
    try:
        directory = default_directory()
    except OSError as error:  # nobody knows of a home
        return Finding("records", False, True, str(error.strerror or error))
    place = next(path for path in (directory, *directory.parents) if path.exists())
    try:
        tempfile.TemporaryFile(dir=place).close()
    except OSError as error:
        return Finding("records", False, True, f"{place} cannot be written ({error.strerror}): {mend}")
    return Finding("records", True, True, f"in {directory}")


# -- a cell


def _open(netd: Netd, policy: NetworkPolicy, firewall: Backend | None = None) -> dict[str, int]:
    """A cell as ``run`` makes it for this user; its descriptors. EgressError if it cannot be."""
    plans = [build_plan(policy, "veth" if is_root() else "lo", family) for family in families_here()]
    return netd.open_cell(plans[0], plans[1] if len(plans) > 1 else None, firewall)


def _close(netd: Netd, descriptors: dict[str, int]) -> None:
    """Its uplink first: with its namespace the kernel would take it away at the same time."""
    try:
        if descriptors:
            netd.close_cell(descriptors["netns"])
    finally:
        for descriptor in descriptors.values():
            os.close(descriptor)


def _firewall(netd: Netd) -> Finding:
    """Have each backend keep the rules of a cell. One is enough."""
    working, refused = [], []
    for backend, name in FIREWALLS.items():
        try:
            _close(netd, _open(netd, POLICY, backend))
            working.append(f"{name} (--firewall {backend})")
        except EgressError as error:
            refused.append(f"not {name}: {error}")
    said = "; ".join([" or ".join(working) or "nothing can keep the rules", *refused])
    return Finding("firewall", bool(working), True, said)


def _cell(netd: Netd, uplink: tuple[Family, ...]) -> Iterator[Finding]:
    """Make one, with an ``uplink`` for those families; start a command in it, and send what must be refused and what must pass."""
    descriptors: dict[str, int] = {}

    def open_cell() -> str:
        allowed = [f"{NEAR[family]}/{PREFIXES[family]}" for family in uplink]
        descriptors.update(_open(netd, NetworkPolicy([*POLICY.allow_out, *allowed], [ALL_TRAFFIC])))
        which = f", and an uplink for {' and '.join(f'IPv{family}' for family in uplink)}" if uplink else ""
        return f"namespace, rules and sockets were made{which if is_root() else ' by an ordinary user'}"

    try:
        yield tried("cell", open_cell, needed=True)
        if descriptors:
            yield tried("sandbox", lambda: _start(descriptors), needed=True)
            yield tried("wall", lambda: refuses(descriptors), needed=True)
            if is_root():
                yield probe_uplink(descriptors, netd.pid, uplink)
    finally:
        _close(netd, descriptors)


def _start(descriptors: dict[str, int]) -> str:
    namespaces: dict[str, int] = {
        name: descriptors[name] for name in ("userns", "netns") if name in descriptors
    }
    view = plan_view(
        cwd=Path("/"), binds=[], protected=[], user=None, resolver=POLICY.resolver, environment=os.environ
    )
    try:
        status = launch(view, ["true"], namespaces).finish()
    finally:
        signal.pthread_sigmask(signal.SIG_UNBLOCK, forwarded())
    if status:
        raise EgressError(f"the command in it ended with {status}")
    return f"a command ran in it as uid {view.identity.uid}"
