"""Whether this host can enforce: nothing is guessed from versions where it can be tried."""

import os
import platform
import shutil
import sys
import tempfile
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Final, NamedTuple

from audit.files import default_directory
from gateway.confine import landlock_version
from gateway.errors import EgressError
from gateway.launch import PROGRAMS, SYSTEM_PATH, launch
from gateway.netd.server import Netd
from gateway.seccomp import program
from gateway.supervisor import has_ipv6
from gateway.userns import obstacle
from gateway.view import plan_view
from rules import ALL_TRAFFIC, NetworkPolicy, build_plan
from rules.backend import Backend

POLICY = NetworkPolicy(["api.openai.com"], [ALL_TRAFFIC])
FIREWALLS: Final[dict[Backend, str]] = {
    "legacy": "legacy tables by python-iptables",
    "nft": "nf_tables by iptables-nft-restore",
}
"""In the order in which ``run`` takes them."""


class Finding(NamedTuple):
    """One thing looked at."""

    what: str
    ok: bool
    needed: bool
    """Without it nothing can be enforced, or nothing started; else it is a wall less, said so."""
    said: str
    """What was found; where it is not ok, with the mend."""


def examine() -> Iterator[Finding]:
    """Look at everything, in the order in which ``egress run`` would come to need it."""
    yield Finding(
        "system",
        sys.platform == "linux",
        True,
        f"Linux {platform.release()}, Python {platform.python_version()}",
    )
    for name, package in PROGRAMS.items():
        path = shutil.which(name, path=SYSTEM_PATH)
        yield Finding(name, path is not None, True, path or f"not found: apt-get install {package}")
    if os.geteuid() != 0:
        problem = obstacle()
        yield Finding("user namespaces", problem is None, True, problem or "open to ordinary users")
    else:
        path = shutil.which("ipset", path=SYSTEM_PATH)
        yield Finding("ipset", path is not None, True, path or "not found: apt-get install ipset")
    netd = Netd()
    try:
        yield _firewall(netd)
        yield from _cell(netd)
    finally:
        netd.close()
    version = landlock_version()
    yield Finding(
        "Landlock",
        version > 0,
        False,
        f"version {version}" if version > 0 else "not in this kernel: a worker may open files",
    )
    yield _tried(
        "seccomp", lambda: f"{len(program()) // 8} instructions for {platform.machine()}", needed=True
    )
    yield Finding(
        "IPv6",
        True,
        False,
        "sandboxes get it" if has_ipv6() else "this host has no address of it, so sandboxes get none",
    )
    yield _records()


def _open(netd: Netd, firewall: Backend | None = None) -> dict[str, int]:
    """A cell as ``run`` makes it; its descriptors. EgressError if it cannot be."""
    return netd.open_cell(build_plan(POLICY), build_plan(POLICY, family=6) if has_ipv6() else None, firewall)


def _firewall(netd: Netd) -> Finding:
    """Have each backend keep the rules of a cell. One is enough."""
    working, refused = [], []
    for backend, name in FIREWALLS.items():
        try:
            for descriptor in _open(netd, backend).values():
                os.close(descriptor)
            working.append(f"{name} (--firewall {backend})")
        except EgressError as error:
            refused.append(f"not {name}: {error}")
    said = "; ".join([" or ".join(working) or "nothing can keep the rules", *refused])
    return Finding("firewall", bool(working), True, said)


def _cell(netd: Netd) -> Iterator[Finding]:
    """Make one, as ``run`` would, and start a command in it."""
    namespaces: dict[str, int] = {}
    descriptors: dict[str, int] = {}

    def open_cell() -> str:
        descriptors.update(_open(netd))
        namespaces.update({name: descriptors[name] for name in ("userns", "netns") if name in descriptors})
        return "namespace, rules and sockets were made" + (
            " by an ordinary user" if "userns" in namespaces else ""
        )

    def start() -> str:
        view = plan_view(
            cwd=Path("/"), binds=[], protected=[], user=None, resolver=POLICY.resolver, environment=os.environ
        )
        status = launch(view, ["true"], namespaces).finish()
        if status:
            raise EgressError(f"the command in it ended with {status}")
        return f"a command ran in it as uid {view.identity.uid}"

    try:
        yield _tried("cell", open_cell, needed=True)
        if namespaces:
            yield _tried("sandbox", start, needed=True)
    finally:
        for descriptor in descriptors.values():
            os.close(descriptor)


def _records() -> Finding:
    directory = default_directory()
    place = next(path for path in (directory, *directory.parents) if path.exists())
    try:
        tempfile.TemporaryFile(dir=place).close()
    except OSError as error:
        mend = "name another directory with --audit-dir or $EGRESS_AUDIT_DIR"
        return Finding("records", False, True, f"{place} cannot be written ({error.strerror}): {mend}")
    return Finding("records", True, True, f"in {directory}")


def _tried(what: str, act: Callable[[], str], *, needed: bool) -> Finding:
    try:
        return Finding(what, True, needed, act())
    except (EgressError, OSError, KeyError) as error:
        return Finding(what, False, needed, str(error))
