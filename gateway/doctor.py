"""Whether this host can enforce: nothing is guessed from versions where it can be tried.

What is tried is what ``egress run`` does for this user: as root a cell with an uplink, else one on ``lo``. Then packets are sent in it, of which none
leaves the machine: what must be refused has so few hops that this host would be its last, and what is allowed goes to an address that for this moment
is behind a device of our own, if the kernel says beforehand that it would go there.
"""

import errno
import os
import platform
import shutil
import signal
import socket
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Generator, Iterator
from contextlib import ExitStack, suppress
from functools import cache, partial
from ipaddress import ip_network
from pathlib import Path
from typing import Final, NamedTuple

from pyroute2 import IPRoute, NetlinkError

from audit.files import default_directory
from gateway.confine import landlock_version
from gateway.errors import EgressError, SetupError
from gateway.launch import PROGRAMS, SYSTEM_PATH, forwarded, launch
from gateway.netd import host, variants
from gateway.netd.cells import in_child
from gateway.netd.links import FAMILIES, IFA_F_NODAD, NUD_PERMANENT, OF_HOST, OF_UPLINK
from gateway.netd.requests import CellOpened
from gateway.netd.server import Netd
from gateway.netd.spaces import enter_cell, enter_made, within
from gateway.seccomp import program
from gateway.supervisor import has_ipv6
from gateway.userns import obstacle
from gateway.view import plan_view
from rules import ALL_TRAFFIC, NetworkPolicy, build_plan
from rules.backend import Backend
from rules.host import POOLS
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
NEAR: Final[dict[Family, str]] = {4: "192.0.0.12", 6: "fd65:6772:6573:7571::2"}
"""The host's own for this moment: of RFC 6890's protocol assignments, and a unique local address; nobody has them."""
FAR: Final[dict[Family, str]] = {4: "192.0.0.13", 6: "fd65:6772:6573:7571::3"}
PREFIXES: Final[dict[Family, int]] = {4: 31, 6: 127}
"""Of the network that is those two."""
ELSEWHERE: Final[dict[Family, str]] = {4: "203.0.113.1", 6: "2001:db8::1"}
"""For documentation (RFC 5737, RFC 3849)."""
METADATA: Final[dict[Family, str]] = {4: "169.254.169.254", 6: "fd00:ec2::254"}
HOPS_TO_HOST: Final = 2
HOPS_THROUGH_HOST: Final = 3
STATUS: Final = Path("/proc/self/status")
PROHIBITED: Final = (errno.EHOSTUNREACH, errno.EACCES)
"""What ICMP's administratively prohibited is to a socket, and ICMPv6's (net/ipv4/icmp.c, net/ipv6/icmp.c)."""
RESET: Final = (errno.ECONNREFUSED,)
PROBE_TIMEOUT_S: Final = 0.5
STRAY_TIMEOUT_S: Final = 0.1
"""What was sent before something that has arrived needs no longer."""
GONE_TIMEOUT_S: Final = 2.0
UNFORESEEN: Final = (
    "FRA_FWMARK",
    "FRA_IP_PROTO",
    "FRA_SPORT_RANGE",
    "FRA_DPORT_RANGE",
    "FRA_TUN_ID",
    "FRA_FLOW",
)
"""What a routing rule may ask that is not known of a packet beforehand (linux/fib_rules.h)."""
POLICY: Final = NetworkPolicy(["api.openai.com"], [ALL_TRAFFIC])


class Finding(NamedTuple):
    """One thing looked at."""

    what: str
    ok: bool
    needed: bool
    """Without it nothing can be enforced, or nothing started; else it is a wall less, or a way, and said so."""
    said: str
    """What was found; where it is not ok, with the mend."""


def examine() -> Generator[Finding, None, None]:
    """Look at everything, in the order in which ``egress run`` would come to need it. Close it to have all gone that was made."""
    running = f"Linux {platform.release()}, Python {platform.python_version()}"
    yield Finding("system", sys.platform == "linux", True, running)
    yield _capabilities()
    for name, package in {**PROGRAMS, **({"ipset": "ipset"} if _is_root() else {})}.items():
        yield _program(name, package)
    yield _user_namespaces()
    left: dict[str, str] = {}
    strangers: list[str] = []
    if _is_root():
        with suppress(SetupError):  # which is said at the end
            left, strangers = _left()
    netd = Netd()
    try:
        yield _firewall(netd)
        yield from _cell(netd, () if strangers else _forwarded())
    finally:
        netd.close()
    yield _leftovers(left)
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


# -- what there is


def _is_root() -> bool:
    return os.geteuid() == 0


@cache
def _families() -> tuple[Family, ...]:
    """Asked first in the host's namespace: processes that enter others are forked with the answer."""
    return (4, 6) if has_ipv6() else (4,)


def _forwarded() -> tuple[Family, ...]:
    """Those that an uplink is made for. A host that begins to forward IPv6 tells its networks so; ``run`` may, and this may not."""
    if not _is_root():
        return ()
    forwards = Path("/proc/sys/net/ipv6/conf/all/forwarding")
    return tuple(family for family in _families() if family == 4 or forwards.read_text().strip() != "0")


def _capabilities() -> Finding:
    if not _is_root():
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
        return Finding("user namespaces", True, not _is_root(), "open to ordinary users")
    return Finding("user namespaces", False, not _is_root(), problem)


def _records() -> Finding:
    directory = default_directory()
    place = next(path for path in (directory, *directory.parents) if path.exists())
    try:
        tempfile.TemporaryFile(dir=place).close()
    except OSError as error:
        mend = "name another directory with --audit-dir or $EGRESS_AUDIT_DIR"
        return Finding("records", False, True, f"{place} cannot be written ({error.strerror}): {mend}")
    return Finding("records", True, True, f"in {directory}")


# -- a cell


def _open(netd: Netd, policy: NetworkPolicy, firewall: Backend | None = None) -> dict[str, int]:
    """A cell as ``run`` makes it for this user; its descriptors. EgressError if it cannot be."""
    plans = [build_plan(policy, "veth" if _is_root() else "lo", family) for family in _families()]
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
        return f"namespace, rules and sockets were made{which if _is_root() else ' by an ordinary user'}"

    try:
        yield _tried("cell", open_cell, needed=True)
        if descriptors:
            yield _tried("sandbox", lambda: _start(descriptors), needed=True)
            yield _tried("wall", lambda: _refuses(descriptors), needed=True)
            if _is_root():
                yield _uplink(descriptors, netd.pid, uplink)
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


# -- the probe


def _made(stack: ExitStack, make: Callable[[], dict[str, socket.socket]]) -> dict[str, socket.socket]:
    """What a process of its own makes, which may enter namespaces for it: a socket stays in the one where it was made. SetupError."""
    answer, descriptors = in_child(lambda: {name: sock.detach() for name, sock in make().items()}, CellOpened)
    if not isinstance(answer, CellOpened):
        raise SetupError(f"nothing could be tried: {getattr(answer, 'message', answer)}")
    sockets = [stack.enter_context(socket.socket(fileno=descriptor)) for descriptor in descriptors]
    for sock in sockets:
        sock.settimeout(PROBE_TIMEOUT_S)
    return dict(zip(answer.descriptors, sockets, strict=True))


def _make_inside(descriptors: dict[str, int]) -> dict[str, socket.socket]:
    """Sockets of the sandbox's."""
    enter_made(descriptors["netns"], descriptors.get("userns"))
    made = {}
    for family in _families():
        for name, kind, hops in (
            ("tcp", socket.SOCK_STREAM, HOPS_TO_HOST),
            ("metadata", socket.SOCK_STREAM, HOPS_TO_HOST),
            ("udp", socket.SOCK_DGRAM, HOPS_TO_HOST),
            ("near", socket.SOCK_DGRAM, HOPS_TO_HOST),
            ("far", socket.SOCK_DGRAM, HOPS_THROUGH_HOST),
        ):
            sock = made[f"{name}{family}"] = socket.socket(FAMILIES[family], kind)
            if family == 4:
                sock.setsockopt(socket.IPPROTO_IP, socket.IP_TTL, hops)
            else:
                sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, hops)
    return made


def _refuses(descriptors: dict[str, int]) -> str:
    with ExitStack() as stack:
        inside = _made(stack, lambda: _make_inside(descriptors))
        faults = []
        for family in _families():
            name = "listener" if family == 4 else "listener6"
            listener = stack.enter_context(socket.socket(fileno=os.dup(descriptors[name])))
            listener.settimeout(PROBE_TIMEOUT_S)
            if not _reaches(inside[f"tcp{family}"], (ELSEWHERE[family], 443), listener):
                faults.append(f"TCP over IPv{family} does not come to the gateway")
            if not _refused(inside[f"udp{family}"], (ELSEWHERE[family], 443), PROHIBITED):
                faults.append(f"UDP over IPv{family} is not refused")
            # On lo it is the proxy that refuses it.
            metadata = inside[f"metadata{family}"], (METADATA[family], 80)
            if _is_root() and not _refused(*metadata, RESET):
                faults.append(f"the metadata address {METADATA[family]} is not refused")
    if faults:
        raise SetupError(f"{'; '.join(faults)}: do not rely on it here, and see egress rules show")
    also = ", and so was the metadata address" if _is_root() else ""
    return f"TCP came to the gateway, whatever it dialled; UDP was refused at once{also}"


def _reaches(sock: socket.socket, place: tuple[str, int], listener: socket.socket) -> bool:
    """Whether a connection to ``place`` is handed to ``listener``, and says where it was going."""
    try:
        sock.connect(place)
        accepted, _ = listener.accept()
    except OSError:
        return False
    with accepted:
        dialled: tuple[str, int] = accepted.getsockname()[:2]
        return dialled == place


def _refused(sock: socket.socket, place: tuple[str, int], how: tuple[int, ...]) -> bool:
    """Whether the cell says so, and at once: what got as far as the host is told something else, or nothing."""
    try:
        sock.connect(place)
        sock.send(b"egress doctor")
        sock.recv(1)
    except OSError as error:
        return error.errno in how
    return False


def _uplink(descriptors: dict[str, int], netd: int, families: tuple[Family, ...]) -> Finding:
    """Whether an allowed packet gets through the host under the host's own address, and none to the host itself."""
    if not families:
        said = "not tried: what it takes would stay as long as the device does that is named under leftovers"
        return Finding("uplink", False, False, said)
    device, lost, reached = f"egprobe{os.getpid()}", [], []
    try:
        with ExitStack() as stack:
            ends = _made(stack, partial(_make_ends, device, netd, families))
            if not ends:
                said = "made, but nothing sent: by this host's routing rules it might leave the machine"
                return Finding("uplink", True, False, said)
            inside = _made(stack, lambda: _make_inside(descriptors))
            for family in families:
                near, far = ends[f"near{family}"], ends[f"far{family}"]
                source = _sent(inside[f"near{family}"], near, inside[f"far{family}"], far)
                if source != NEAR[family]:
                    lost.append(f"IPv{family}" + (f" comes from {source}" if source else ""))
                near.settimeout(STRAY_TIMEOUT_S)
                if _arrived(near) is not None:
                    reached.append(f"IPv{family}")
    except (EgressError, OSError) as error:
        return Finding("uplink", False, False, str(error))
    finally:
        _await_end_of(device)
    where = "see nft list ruleset, iptables-save"
    if reached:
        said = f"from a sandbox the host itself is reached ({', '.join(reached)}): something undoes the EGRESS- chains, {where}"
        return Finding("uplink", False, True, said)
    if lost:
        said = f"what an address entry allows does not get through this host ({', '.join(lost)})"
        mend = "have its own firewall accept what comes in by egress-*"
        return Finding("uplink", False, False, f"{said}: {mend}, {where}")
    said = "what is allowed got through, under the host's address; to the host itself nothing did"
    if families != _families():
        said += "; not tried for IPv6, which this host does not forward yet: run would have it begin"
    return Finding("uplink", True, False, said)


def _sent(
    to_near: socket.socket, near: socket.socket, to_far: socket.socket, far: socket.socket
) -> str | None:
    """Send to both; from where the far one has it, if it has."""
    for sock, end in ((to_near, near), (to_far, far)):
        try:
            sock.sendto(b"egress doctor", end.getsockname()[:2])
        except OSError:
            continue  # refused before it left
    return _arrived(far)


def _arrived(sock: socket.socket) -> str | None:
    try:
        source: str = sock.recvfrom(64)[1][0]
    except OSError:
        return None
    return source


def _make_ends(device: str, netd: int, families: tuple[Family, ...]) -> dict[str, socket.socket]:
    """A network behind the host, for as long as its sockets are held: ``near`` on the host's side of ``device``, ``far`` on the other. Empty where
    it is not sure that the host would send there, and nowhere else, what comes from a cell of ``netd``'s."""
    near, far = ({family: place[family] for family in families} for place in (NEAR, FAR))
    spaces = enter_cell(apart=False)

    def make_near() -> dict[str, socket.socket]:
        with IPRoute() as netlink:
            peer = {"ifname": "far0", "address": OF_UPLINK, "net_ns_fd": spaces.cell}
            netlink.link("add", ifname=device, kind="veth", address=OF_HOST, peer=peer)
            index = _raise(netlink, device, near)
            for family in families:
                at = {"dst": FAR[family], "lladdr": OF_UPLINK, "ifindex": index, "family": FAMILIES[family]}
                netlink.neigh("replace", state=NUD_PERMANENT, **at)
            if not all(_leads_there(netlink, family, index, netd) for family in families):
                netlink.link("del", index=index)
                return {}
        return _bound("near", near)

    made = within(spaces.host, spaces.cell, make_near)
    if not made:
        return {}
    with IPRoute() as netlink:
        _raise(netlink, "far0", far)
    return made | _bound("far", far)


def _raise(netlink: IPRoute, device: str, addresses: dict[Family, str]) -> int:
    """Its index."""
    index = int(netlink.link_lookup(ifname=device)[0])
    for family, address in addresses.items():
        more = {"family": FAMILIES[family], "prefixlen": PREFIXES[family], "flags": IFA_F_NODAD}
        netlink.addr("add", index=index, address=address, **more)
    netlink.link("set", index=index, state="up")
    return index


def _bound(name: str, addresses: dict[Family, str]) -> dict[str, socket.socket]:
    made = {}
    for family, address in addresses.items():
        sock = made[f"{name}{family}"] = socket.socket(FAMILIES[family], socket.SOCK_DGRAM)
        sock.bind((address, 0))
    return made


def _leads_there(netlink: IPRoute, family: Family, index: int, netd: int) -> bool:
    """Whether what comes in by an uplink of that netd's, for the far end, goes out by the device ``index``, whatever else is in it."""
    kind = FAMILIES[family]
    if any(rule.get_attr(word) is not None for rule in netlink.get_rules(family=kind) for word in UNFORESEEN):
        return False
    leads = []
    for uplink, name, alias in host._uplinks(netlink):
        if alias.startswith(f"{host.PREFIX}netd {netd}-"):
            source = str(ip_network(POOLS[family])[int(name.removeprefix(host.PREFIX))])
            found = netlink.route("get", family=kind, dst=FAR[family], src=source, iif=uplink)
            leads += [route.get_attr("RTA_OIF") for route in found]
    return set(leads) == {index}


def _await_end_of(device: str) -> None:
    """The kernel takes it away after the last socket behind it."""
    give_up = time.monotonic() + GONE_TIMEOUT_S
    while any(name == device for _, name in socket.if_nameindex()) and time.monotonic() < give_up:
        time.sleep(0.005)


# -- leftovers


def _left() -> tuple[dict[str, str], list[str]]:
    """What killed gateways left in the host's namespace, each with what to do about it: what was in their cells ended with these. And devices of
    which nobody here can say whether they are left. SetupError where it cannot be told."""
    strangers = []
    try:
        with host._locked() as place, IPRoute() as netlink:
            left = dict(_left_files(place.path))
            ours = {name: alias for _, name, alias in host._uplinks(netlink)}
            for name in (name for _, name in socket.if_nameindex() if name.startswith(host.PREFIX)):
                alias, command = ours.get(name, ""), f"ip link del {name}"
                owner = host._alive(place.path, alias)
                if name not in ours:
                    left[f"device {name}, which no gateway made"] = f"{command}, if nobody needs it"
                elif not alias or str(owner) in left:
                    left[f"device {name}"] = command
                elif not owner.exists():
                    strangers.append(name)
                    left[f"device {name}, of a process unknown here ({alias})"] = (
                        f"{command}, unless a gateway in another container has it; the next run then sweeps the rest"
                    )
            if not strangers and not _lives(place.path):
                left |= dict(_left_chains())
    except (OSError, variants.HostError, NetlinkError) as error:
        raise SetupError(f"cannot be looked for: {error}") from error
    return left, strangers


def _lives(place: Path) -> bool:
    """Whether a gateway does, in the network namespace whose directory that is."""
    return not all(host._is_dead(path) for path in place.glob("*.alive"))


def _left_files(here: Path) -> Iterator[tuple[str, str]]:
    """Beside them are those of other network namespaces, which may be gone."""
    for place in host.STATE.glob("host-*"):
        if place != here and not _lives(place):
            what = f"{place}, of another network namespace"
            yield what, f"rm -r {place}, if that is gone; else the next run in it sweeps it"
    for path in here.glob("*"):
        if host._is_dead(path) if path.suffix == ".alive" else not _lives(here):
            yield str(path), f"rm {path}"


def _left_chains() -> Iterator[tuple[str, str]]:
    for family, iptables in variants.PROGRAMS.items():
        for variant in variants.in_use(family):
            for table, rules in variants.saved(variant, family).items():
                for name in (rule[1:] for rule in rules if rule.startswith(":EGRESS-")):
                    jumps = [f"-D{rule[2:]}" for rule in rules if rule.endswith(f" -j {name}")]
                    argv = f"{iptables}-{variant} -t {table}"
                    command = "; ".join(f"{argv} {step}" for step in (*jumps, f"-F {name}", f"-X {name}"))
                    yield f"chain {name} of {iptables}-{variant}, table {table}", command


def _leftovers(before: dict[str, str]) -> Finding:
    """What was there before the trial and is not any more was swept by it, as by any uplink that comes and goes."""
    if not _is_root():
        return Finding(
            "leftovers", True, False, "an ordinary user's sandboxes leave none; only root sees root's"
        )
    try:
        now, _ = _left()
    except SetupError as error:
        return Finding("leftovers", False, False, str(error))
    said = [f"{what} (to take it away: {command})" for what, command in now.items()]
    if swept := [what for what in before if what not in now]:
        said.append(f"swept just now, as by the next run with an uplink: {', '.join(swept)}")
    return Finding("leftovers", not now, False, "; ".join(said) or "none")


def _tried(what: str, act: Callable[[], str], *, needed: bool) -> Finding:
    try:
        return Finding(what, True, needed, act())
    except (EgressError, OSError, KeyError) as error:
        return Finding(what, False, needed, str(error))
