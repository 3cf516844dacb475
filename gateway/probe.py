"""Packets that are sent in a cell to see what becomes of them, of which none leaves the machine.

What must be refused has so few hops that this host would be its last, and what is allowed goes to an address that for this moment is behind a device
of our own, if the kernel says beforehand that it would go there.
"""

import errno
import os
import socket
import time
from collections.abc import Callable
from contextlib import ExitStack
from functools import partial
from ipaddress import ip_network
from typing import Final

from pyroute2 import IPRoute

from gateway.errors import EgressError, SetupError
from gateway.finding import Finding, families_here, is_root
from gateway.netd import host
from gateway.netd.cells import in_child
from gateway.netd.links import FAMILIES, IFA_F_NODAD, NUD_PERMANENT, OF_HOST, OF_UPLINK
from gateway.netd.requests import CellOpened
from gateway.netd.spaces import enter_cell, enter_made, within
from rules.host import POOLS
from rules.link import Family

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
    for family in families_here():
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


def refuses(descriptors: dict[str, int]) -> str:
    with ExitStack() as stack:
        inside = _made(stack, lambda: _make_inside(descriptors))
        faults = []
        for family in families_here():
            name = "listener" if family == 4 else "listener6"
            listener = stack.enter_context(socket.socket(fileno=os.dup(descriptors[name])))
            listener.settimeout(PROBE_TIMEOUT_S)
            if not _reaches(inside[f"tcp{family}"], (ELSEWHERE[family], 443), listener):
                faults.append(f"TCP over IPv{family} does not come to the gateway")
            if not _refused(inside[f"udp{family}"], (ELSEWHERE[family], 443), PROHIBITED):
                faults.append(f"UDP over IPv{family} is not refused")
            # On lo it is the proxy that refuses it.
            metadata = inside[f"metadata{family}"], (METADATA[family], 80)
            if is_root() and not _refused(*metadata, RESET):
                faults.append(f"the metadata address {METADATA[family]} is not refused")
    if faults:
        raise SetupError(f"{'; '.join(faults)}: do not rely on it here, and see egress rules show")
    also = ", and so was the metadata address" if is_root() else ""
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


def uplink(descriptors: dict[str, int], netd: int, families: tuple[Family, ...]) -> Finding:
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
    if families != families_here():
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
    for uplink, name, alias in host.uplinks(netlink):
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
