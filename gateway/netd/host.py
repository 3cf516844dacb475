"""The host's half of uplinks: its devices, rules and forwarding, shared by every gateway on it, and all undone when the last uplink goes.

Nothing is counted: what stands is read from the kernel, under a lock. An uplink stands as long as its device does, which goes with the cell; its
alias names the process that it belongs to by a file which that process holds locked, so that what a killed one left is known for what it is.
"""

import contextlib
import errno
import fcntl
import os
import re
import secrets
import socket
from collections.abc import Iterable, Iterator
from ipaddress import ip_network
from pathlib import Path
from typing import Any, Final

import msgspec
from pyroute2 import IPRoute, NetlinkError

from gateway.netd import sysctls, variants
from gateway.netd.generation import generation
from gateway.netd.links import FAMILIES, NUD_PERMANENT, OF_HOST, OF_UPLINK, Way
from gateway.netd.variants import HostError
from rules import host
from rules.link import Family

STATE: Final = Path("/run/egress")
PREFIX: Final = host.DEVICES.removesuffix("+")
OWNERS: Final = f"{PREFIX}netd "
"""What each alias of ours begins with."""
NUMBERS: Final = ip_network(host.POOLS[4]).num_addresses - 2
SO_NETNS_COOKIE: Final = 71  # asm-generic/socket.h, Linux 5.14
RTM_F_FIB_MATCH: Final = 0x2000  # linux/rtnetlink.h, Linux 4.13
FORWARDING: Final[dict[Family, str]] = {4: "ipv4/ip_forward", 6: "ipv6/conf/all/forwarding"}
TOUCHED: Final[dict[Family, tuple[str, ...]]] = {
    4: ("ipv4/conf/*/forwarding", "ipv4/conf/*/accept_redirects"),
    6: ("ipv6/conf/*/forwarding", "ipv6/conf/*/accept_ra"),
}
"""What the kernel changes with ``FORWARDING``, and what we change lest it does."""

Held = dict[variants.Variant, dict[str, list[str]]]
"""Rules, by kind of tables and by table."""


class Before(msgspec.Struct):
    """The host as it was before the first uplink; kept in a file, for whoever takes the last one away."""

    last: int = msgspec.field(default_factory=lambda: secrets.randbelow(NUMBERS))
    """The number last given; where none is known, no telling which: what the host's conntrack remembers may be of any."""
    values: dict[Family, dict[str, str]] = {}
    """Settings, of the families that a gateway began to forward."""
    forward: dict[Family, list[str]] = {}
    """Others' rules in FORWARD then."""
    tables: dict[Family, str] = {}
    """Their generation in which all of ours was last seen to be in order."""
    rests_until: float = 0.0
    """By the monotonic clock: before that nobody looks again."""


class Place:
    """Where it is kept for one network namespace."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self._file = path / "before.json"
        try:
            self.before = msgspec.json.decode(self._file.read_bytes(), type=Before)
        except (FileNotFoundError, msgspec.MsgspecError):
            self.before = Before()

    def keep(self) -> None:
        """Whole or not at all."""
        self.path.mkdir(mode=0o700, exist_ok=True)
        aside = self._file.with_suffix(".new")
        aside.write_bytes(msgspec.json.encode(self.before))
        aside.replace(self._file)

    def forget(self) -> None:
        """There is nothing to be given back any more."""
        self._file.unlink(missing_ok=True)


class Lifeline:
    """A file that this process holds locked as long as it lives: what is called ``name`` is its."""

    def __init__(self) -> None:
        with locked() as place:
            place.path.mkdir(mode=0o700, exist_ok=True)
            self.name = f"{OWNERS}{os.getpid()}-{secrets.token_hex(4)}"
            self._path = alive(place.path, self.name)
            self._descriptor = os.open(self._path, os.O_RDWR | os.O_CREAT | os.O_EXCL | os.O_CLOEXEC, 0o600)
            fcntl.flock(self._descriptor, fcntl.LOCK_EX)

    def close(self) -> None:
        """Its owner is at its end."""
        with locked() as place:
            self._path.unlink(missing_ok=True)
            os.close(self._descriptor)
            _tidy(place.path)


def raise_uplink(cell: int, device: str, families: Iterable[Family], owner: str) -> dict[Family, Way]:
    """The pair whose one end is ``device`` in the namespace that ``cell`` is a descriptor of, and the host's rules; the ways that it gives. Where
    ``owner`` has one already, ``families`` are added to it.

    Rules first, the device up last. HostError, OSError or NetlinkError, and then whoever called takes down what there is (``lower_uplinks``).
    """
    families = tuple(families)
    with locked() as place, IPRoute() as netlink:
        _sweep(netlink, place.path)
        for family in families:
            open_host(family, place)
        index, name = _own_uplink(netlink, owner) or _new_uplink(netlink, place, cell, device, owner)
        number = int(name.removeprefix(PREFIX))
        sysctls.write(_device_settings(name, families), if_there=True)
        netlink.link("set", index=index, state="up")
        ways = {family: _way(family, number) for family in families}
        for family, way in ways.items():
            _lead_to(netlink, index, family, way)
    return ways


def _own_uplink(netlink: IPRoute, owner: str) -> tuple[int, str] | None:
    return next(((index, name) for index, name, alias in uplinks(netlink) if alias == owner), None)


def _new_uplink(netlink: IPRoute, place: Place, cell: int, device: str, owner: str) -> tuple[int, str]:
    number = place.before.last = _free_number(netlink, place.before.last)
    place.keep()
    name = f"{PREFIX}{number}"
    peer = {"ifname": device, "address": OF_UPLINK, "net_ns_fd": cell}
    netlink.link("add", ifname=name, kind="veth", address=OF_HOST, peer=peer)
    index = int(netlink.link_lookup(ifname=name)[0])
    netlink.link("set", index=index, ifalias=owner)
    sysctls.write({f"ipv6/conf/{name}/disable_ipv6": "1"}, if_there=True)
    return index, name


def lower_uplinks(owner: str) -> None:
    """Take away the uplinks of ``owner``, and, if no other stands, everything of ours. OSError, HostError or NetlinkError."""
    with locked() as place, IPRoute() as netlink:
        for index, _, alias in uplinks(netlink):
            if alias == owner:
                _take_away(netlink, index)
        _sweep(netlink, place.path)
        if not uplinks(netlink):
            _close_host(place)


def cut_uplinks(owner: str) -> None:
    """Let nothing pass by those of ``owner``; ``raise_uplink`` lets it again. NetlinkError."""
    with IPRoute() as netlink:
        for index, _, alias in uplinks(netlink):
            if alias == owner:
                netlink.link("set", index=index, state="down")


@contextlib.contextmanager
def locked() -> Iterator[Place]:
    """What is known of this network namespace, with nobody else at it."""
    STATE.mkdir(mode=0o700, exist_ok=True)
    descriptor = os.open(STATE / "lock", os.O_RDWR | os.O_CREAT | os.O_CLOEXEC, 0o600)
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX)
        yield Place(STATE / _name_of_namespace())
    finally:
        os.close(descriptor)


def _name_of_namespace() -> str:
    """A number that no later one gets, where the kernel has it."""
    try:
        with socket.socket(socket.AF_UNIX) as any_socket:
            cookie = any_socket.getsockopt(socket.SOL_SOCKET, SO_NETNS_COOKIE, 8)
        return f"host-{int.from_bytes(cookie, 'little')}"
    except OSError:
        return f"host-inode-{os.stat('/proc/self/ns/net').st_ino}"


def alive(place: Path, alias: str) -> Path:
    """The file of the process whose ``alias`` is: what stands behind the dot is its own counting."""
    return place / f"{alias.rpartition(' ')[2].partition('.')[0].replace('/', '')}.alive"


def is_dead(path: Path) -> bool:
    """Whether a file is there that nobody holds locked. Where there is none, its owner may have another view of the file system."""
    try:
        descriptor = os.open(path, os.O_RDWR | os.O_CLOEXEC | os.O_NOFOLLOW)
    except OSError:
        return False
    try:
        fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
    except BlockingIOError:
        return False
    finally:
        os.close(descriptor)
    return True


def _tidy(place: Path) -> None:
    """The directory goes with the last file in it."""
    with contextlib.suppress(OSError):
        place.rmdir()


def uplinks(netlink: IPRoute) -> list[tuple[int, str, str]]:
    """Index, name and alias of each that stands. The prefix is ours, but not everybody knows: ours have a number, and an alias that says whose they
    are. The kernel takes none with a new device: one whose maker was killed before it gave it one has the address that all of ours have."""
    found = []
    for link in netlink.get_links():
        name, alias = link.get_attr("IFLA_IFNAME"), link.get_attr("IFLA_IFALIAS") or ""
        ours = alias.startswith(OWNERS) if alias else link.get_attr("IFLA_ADDRESS") == OF_HOST
        if ours and re.fullmatch(f"{PREFIX}[0-9]+", name):
            found.append((link["index"], name, alias))
    return found


def _sweep(netlink: IPRoute, place: Path) -> None:
    """What dead processes left: a cell that something still holds open must not keep its way out."""
    for index, _, alias in uplinks(netlink):
        if not alias or is_dead(alive(place, alias)):  # who makes one does so under the lock, which we have
            _take_away(netlink, index)
    for path in place.glob("*.alive"):
        if is_dead(path):
            path.unlink()


def _take_away(netlink: IPRoute, index: int) -> None:
    """A device, which may be gone by now: the kernel takes it away with its cell, when it comes to that."""
    try:
        netlink.link("del", index=index)
    except NetlinkError as error:
        if error.code != errno.ENODEV:
            raise


def _free_number(netlink: IPRoute, last: int) -> int:
    """The next after ``last``: what the host's conntrack remembers of one that went is nobody's for a while. It keeps the port too, so that what a
    server still sends to that one comes to nobody."""
    taken = {link.get_attr("IFLA_IFNAME") for link in netlink.get_links()}  # others' too
    for step in range(NUMBERS):
        number = (last + step) % NUMBERS + 1
        if f"{PREFIX}{number}" not in taken and not _is_somebodys(netlink, _way(4, number).address):
            return number
    raise HostError(f"all {NUMBERS} uplinks are taken")


def _is_somebodys(netlink: IPRoute, address: str) -> bool:
    """Whether the host has it, or a route into the pool that leads there, as to the ends of a VPN's tunnels. What leads to all that is link-local
    gives way to the uplink's own."""
    try:
        (found,) = netlink.route("get", dst=address, flags=RTM_F_FIB_MATCH)
    except NetlinkError:
        return False  # there is no way there
    return bool(found["dst_len"] > ip_network(host.POOLS[4]).prefixlen)


def _way(family: Family, number: int) -> Way:
    network = ip_network(host.POOLS[family])
    first = network[0] if family == 4 else network[1 << 32]
    return Way(str(network[number]), str(first))


def _device_settings(name: str, families: tuple[Family, ...]) -> dict[str, str]:
    settings = {f"ipv4/conf/{name}/{key}": "0" for key in ("accept_redirects", "send_redirects", "proxy_arp")}
    if 4 in families:
        settings[f"ipv4/conf/{name}/forwarding"] = "1"
    if 6 in families:
        settings[f"ipv6/conf/{name}/disable_ipv6"] = "0"
        settings |= {
            f"ipv6/conf/{name}/{key}": "0" for key in ("accept_ra", "accept_redirects", "accept_dad")
        }
        settings[f"ipv6/conf/{name}/addr_gen_mode"] = "1"
    return settings


def _lead_to(netlink: IPRoute, index: int, family: Family, way: Way) -> None:
    kind, bits = FAMILIES[family], 32 if family == 4 else 128
    netlink.neigh(
        "replace", dst=way.address, lladdr=OF_UPLINK, ifindex=index, state=NUD_PERMANENT, family=kind
    )
    more: dict[str, Any] = {"scope": "link"} if family == 4 else {}
    netlink.route("replace", family=kind, dst=f"{way.address}/{bits}", oif=index, **more)


# -- rules and forwarding


def open_host(family: Family, place: Place) -> bool:
    """Rules, then forwarding. What we begin to forward for is remembered first. Whether one of our chains was not jumped to.
    OSError or HostError."""
    before = place.before
    seen = generation(family)
    held = _held(family)
    if family not in before.values and not _forwards(family):
        _remember(family, place, sysctls.read((FORWARDING[family], *TOUCHED[family])), held)
    elif family not in before.values and any(map(host.is_closed, held.values())):
        # A gateway began to, whose file is not seen here: whichever is the last ends it. That it forwarded nothing is all that is known.
        _remember(family, place, {FORWARDING[family]: "0"}, held)
    gone, in_order = False, True
    for variant, chains in _meant(family, before, held).items():
        tables = held.get(variant, {})
        gone |= any(chain.jump not in tables.get(chain.table, ()) for chain in chains)
        if text := host.restore_text(chains, tables):
            variants.apply(variant, family, text)
            in_order = False
    if in_order:
        before.tables[family] = seen
    if not _forwards(family):
        if family == 6:
            # A host that forwards would no longer heed router advertisements, and lose its way out.
            sysctls.write(
                {
                    name: "2"
                    for name, value in before.values[family].items()
                    if name.endswith("/accept_ra") and value == "1"
                }
            )
        sysctls.write({FORWARDING[family]: "1"})
    return gone


def _remember(family: Family, place: Place, values: dict[str, str], held: Held) -> None:
    place.before.values[family] = values
    place.before.forward[family] = _others_forward(held)
    place.keep()


def _meant(family: Family, before: Before, held: Held) -> dict[variants.Variant, tuple[host.OwnChain, ...]]:
    """The chains of each kind of tables: all of them in the first, and where both are in use a packet has to pass both. What nobody forwarded before
    is dropped, after others' rules where these have become more since: whoever forwards himself now is not to be cut off."""
    closed, known = family in before.values, set(before.forward.get(family, ()))
    came = [
        variant
        for variant, tables in held.items()
        if closed and not known.issuperset(_others_forward({variant: tables}))
    ]
    first, *others = held or [variants.to_use(family)]
    chains = {first: host.host_chains(family, closed=closed and not came)}
    for variant in others:
        chains[variant] = (host.forward_chain(closed=closed and not came),)
    for variant in came:  # this one first: at no moment is neither there
        chains[variant] = (host.closing_chain(), *chains[variant])
    return chains


def _close_host(place: Place) -> None:
    """Everything of ours away, and forwarding as it was. HostError says what would not go: then, in that family, the host still drops what it
    forwarded for nobody before, or forwards nothing; whoever comes next finds what was before in the file."""
    failed: list[str] = []
    for family in variants.PROGRAMS:
        try:
            _close_family(family, place)
        except (OSError, HostError) as error:
            failed.append(f"IPv{family}: {error}")
    if failed:
        raise HostError("; ".join(failed))
    place.forget()


def _close_family(family: Family, place: Place) -> None:
    """All is read before anything is changed, and forwarding given back, unless others have come meanwhile who need it, before the rule goes that
    keeps the host from being a router."""
    before = place.before
    held = _held(family)
    if family in before.values and _others_forward(held) == before.forward[family]:
        _give_back(family, before.values[family])
    for variant, rules in held.items():
        variants.apply(variant, family, host.removal_text(host.all_chains(family), rules))
    if before.values.pop(family, None) is not None:
        place.keep()  # what is given back is not what was before the next uplink, should the other family fail


def _give_back(family: Family, values: dict[str, str]) -> None:
    """The switch first, for it sets the others."""
    sysctls.write({FORWARDING[family]: values[FORWARDING[family]]})
    now = sysctls.read(TOUCHED[family])
    sysctls.write(
        {name: value for name, value in values.items() if now.get(name, value) != value}, if_there=True
    )


def _forwards(family: Family) -> bool:
    return (sysctls.SYSCTL_ROOT / FORWARDING[family]).read_text().strip() != "0"


def _held(family: Family) -> Held:
    return {variant: variants.saved(variant, family) for variant in variants.in_use(family)}


def _others_forward(held: Held) -> list[str]:
    ours = {host.forward_chain(closed=False).jump, host.closing_chain().jump}
    rules = (rule for tables in held.values() for rule in tables.get("filter", ()))
    return [rule for rule in rules if rule.startswith("-A FORWARD ") and rule not in ours]
