"""The plan of a cell with a device decides as ``gateway.decide`` does, packet by packet, and every spelling of the floor is in it."""

from collections.abc import Iterator
from dataclasses import replace
from functools import cache
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from itertools import product

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.addresses import AddressKind, classify, embedded
from gateway.decide import Verdict, compile_policy, settle
from gateway.flow import Endpoint, Flow, IPAddress
from gateway.forecast import Forecaster, Question
from rules import NetworkPolicy
from rules.floor import UNROUTED, floor
from rules.plan import VETH, Family, build_plan, faults
from rules.ranges import EMBEDDINGS, FLOOR, SINKHOLE
from tests.rules.walking import Fate, Kernel, Packet, in_network

ALL = "0.0.0.0/0"
ALL4 = ["0.0.0.0/1", "128.0.0.0/1"]
RESOLVER6 = "2001:4860:4860::8888"
POLICIES = {
    "full egress": None,
    "nothing": NetworkPolicy([], [ALL]),
    "names": NetworkPolicy(["api.openai.com", "*.anthropic.com:443"], [ALL]),
    "names at ports": NetworkPolicy(["api.openai.com:443", "api.github.com:80,443"], [ALL]),
    "addresses": NetworkPolicy(["203.0.113.0/24", "2001:db8:1::/48"], [ALL]),
    "addresses at ports": NetworkPolicy(
        ["203.0.113.0/24:22,53", "203.0.113.9", "[2001:db8:1::/48]:443"], [ALL]
    ),
    "addresses and names": NetworkPolicy(["203.0.113.0/24:22", "2001:db8:1::9", "api.openai.com:443"], [ALL]),
    "the resolver's address too": NetworkPolicy(["8.8.8.0/24", "api.openai.com"], [ALL]),
    "the resolver's address alone": NetworkPolicy(["8.8.8.8"], [ALL]),
    "the resolver's other ports": NetworkPolicy(["8.8.8.8:853"], [ALL]),
    "a resolver of IPv6": NetworkPolicy(["2001:4860::/32", "api.openai.com"], [ALL], resolver=RESOLVER6),
    "the resolver denied": NetworkPolicy([], ["8.8.8.0/24"]),
    "an open channel": NetworkPolicy(["api.openai.com"], [ALL], dns="passthrough"),
    "everything": NetworkPolicy([ALL], [ALL]),
    "everything at a port": NetworkPolicy([f"{ALL}:443"], [ALL]),
    "all of IPv6": NetworkPolicy(["::/0"], [ALL]),
    "the floor": NetworkPolicy(["169.254.0.0/16", "127.0.0.0/8", "fe80::/10", "2002::/16", "64:ff9b::/96"], [ALL]),
    "IPv4 denied in halves": NetworkPolicy([], ALL4),
    "IPv6 denied": NetworkPolicy(["203.0.113.0/24"], ["::/0"]),
    "denied network": NetworkPolicy([], ["203.0.113.0/24", "2001:db8:1::/48"]),
    "denied network, a name": NetworkPolicy(["api.openai.com"], ["203.0.113.0/24", "2001:db8:1::/48"]),
    "denied network, a name at a port": NetworkPolicy(["api.openai.com:443"], ["203.0.113.0/24", "2001:db8:1::/48"]),
    "denied ports": NetworkPolicy([], [f"{ALL}:22", "203.0.113.0/24:80,443"]),
    "all denied at a port, some at all": NetworkPolicy(["203.0.113.9:22"], [f"{ALL}:22", "0.0.0.0/1"]),
    "allowed inside denied": NetworkPolicy(["203.0.113.9", "2001:db8:1::9"], ["203.0.113.0/24", "2001:db8:1::/48"]),
    "denied inside allowed": NetworkPolicy(["203.0.113.0/24", "2001:db8:1::/48"], ["203.0.113.9", "2001:db8:1::9"]),
    "denied names": NetworkPolicy([], ["evil.example", "*.evil.example:80"]),
    "denied names and networks": NetworkPolicy(["api.openai.com:443"], ["evil.example:443", "203.0.113.0/24"]),
    "denied names and everything": NetworkPolicy(["203.0.113.9"], ["evil.example", ALL]),
    "the sinkhole denied": NetworkPolicy([], ["192.0.0.0/24"]),
    "the sinkhole allowed": NetworkPolicy(["192.0.0.0/24"], [ALL]),
    "the link's network allowed": NetworkPolicy(["192.0.0.0/29", "fd65:6772:6573:73::/64", "100::/64"], [ALL]),
    "private networks": NetworkPolicy(["10.0.0.0/8", "fd00::/8"], [ALL]),
}  # fmt: skip
OWN = {VETH.address, VETH.gateway, VETH.address6, VETH.gateway6, VETH.listen_ip6}
LOCAL = frozenset(ip_address(text) for text in OWN if text is not None)
PORTS = (22, 53, 80, 443, 853, 8443)


def edges(network: str) -> Iterator[IPAddress]:
    """The first and last address of ``network``, and their neighbours."""
    held = ip_network(network)
    first, last = int(held.network_address), int(held.broadcast_address)
    for number in (first - 1, first, last, last + 1):
        if 0 <= number < 1 << held.max_prefixlen:
            yield IPv4Address(number) if held.version == 4 else IPv6Address(number)


def spellings(ip: IPv4Address) -> Iterator[IPv6Address]:
    """IPv6 addresses that carry ``ip``."""
    for embedding in EMBEDDINGS:
        outer = int(ip_network(embedding.network).network_address)
        carried = int(ip) ^ (0xFFFFFFFF if embedding.inverted else 0)
        # Teredo carries two, and either may be the one: the other is 8.8.8.8.
        other = {64: 0xF7F7F7F7, 0: 0x08080808 << 64}[embedding.shift] if "2001::" in embedding.network else 0
        yield IPv6Address(outer | carried << embedding.shift | other)


PLACES = sorted(
    {
        *LOCAL,
        *(ip for text, _ in FLOOR for ip in edges(text)),
        *(spelt for text, _ in FLOOR for ip in edges(text) if ip.version == 4 for spelt in spellings(ip)),
        *spellings(IPv4Address("8.8.8.8")),
        *(IPv6Address(int(ip) ^ 1) for ip in spellings(IPv4Address("169.254.8.8"))),
        *(ip for text in ("203.0.113.0/24", "2001:db8:1::/48", "192.0.0.0/29") for ip in edges(text)),
        *map(ip_address, ("203.0.113.9", "2001:db8:1::9", "8.8.8.8", "8.8.4.4", RESOLVER6, "192.0.0.8")),
        *map(ip_address, ("10.1.2.3", "fd00::1", "1.1.1.1", "198.51.100.1", "2606:4700::1111", "100::57")),
    },
    key=lambda ip: (ip.version, int(ip)),
)
KINDS = [*product(("tcp", "udp", "sctp"), PORTS), ("icmp", 0), ("gre", 0)]


def kernels_of(policy: NetworkPolicy | None) -> dict[int, Kernel]:
    """By IP version."""
    return {4: Kernel(build_plan(policy, "veth", 4)), 6: Kernel(build_plan(policy, "veth", 6))}


compiled = cache(compile_policy)


def expected(policy: NetworkPolicy | None, ip: IPAddress, protocol: str, port: int) -> Fate:
    """What ``gateway.decide`` says must become of it."""
    if any(in_network(ip, text) for text in UNROUTED if (":" in text) is (ip.version == 6)):
        return Fate.DROPPED
    if classify(ip, LOCAL) is AddressKind.FLOOR:
        return Fate.REFUSED
    source = NetworkPolicy() if policy is None else policy
    if port == 53 and protocol in ("tcp", "udp") and ip == source.resolver_ip and source.allows_dns():
        return Fate.DNS
    if isinstance(ip, IPv6Address) and ip.ipv4_mapped is not None:
        return Fate.REFUSED  # on no wire; decide reads it as the IPv4 address that a socket would make of it
    flow = Flow("", "", Endpoint(IPv4Address(0), 0), Endpoint(ip, port), protocol)
    settled = settle(compiled(policy), flow, LOCAL)
    if settled is None:
        return Fate.PROXY
    if settled.verdict is Verdict.BLOCK:
        return Fate.REFUSED
    return Fate.PROXY if settled.row == 5 and protocol == "tcp" else Fate.FORWARDED


@pytest.mark.parametrize("name", POLICIES)
def test_the_kernel_decides_as_the_proxy_does(name: str) -> None:
    policy = POLICIES[name]
    kernels = kernels_of(policy)
    wrong = []
    for ip, (protocol, port) in product(PLACES, KINDS):
        fate = kernels[ip.version].walk(Packet(ip, protocol, port))
        meant = expected(policy, ip, protocol, port)
        if fate is not meant:
            wrong.append(f"{protocol} {ip} {port}: {fate}, not {meant}")
    assert wrong == []


@pytest.mark.parametrize("name", [name for name in POLICIES if name != "an open channel"])
def test_the_forecast_names_the_layer_that_decides(name: str) -> None:
    policy = POLICIES[name]
    forecaster = Forecaster(policy, "veth", LOCAL)
    kernels = kernels_of(policy)
    layers = {
        Fate.DROPPED: "kernel",
        Fate.REFUSED: "kernel",
        Fate.FORWARDED: "kernel",
        Fate.PROXY: "proxy",
        Fate.DNS: "dns",
    }
    wrong = []
    for ip, port in product(PLACES, PORTS):
        if isinstance(ip, IPv6Address) and ip.ipv4_mapped is not None:
            continue
        fate = kernels[ip.version].walk(Packet(ip, "tcp", port))
        told = forecaster.ask(Question(ip, port))
        if told.layer != layers[fate]:
            wrong.append(f"{ip} {port}: {told}, and it is {fate}")
    assert wrong == []


def test_every_fate_is_met() -> None:
    """Or the tables above compare nothing."""
    met = {expected(policy, ip, *kind) for policy in POLICIES.values() for ip in PLACES for kind in KINDS}
    assert met == {Fate.DROPPED, Fate.REFUSED, Fate.FORWARDED, Fate.PROXY, Fate.DNS}


# -- the floor

_V4_IN_FLOOR = [ip_network(text) for text, _ in FLOOR if ":" not in text]
_NEAR = st.sampled_from(PLACES)
_CARRYING = st.builds(
    lambda ip, index: [*spellings(ip)][index],
    st.builds(lambda net, low: net.network_address + low % net.num_addresses, st.sampled_from(_V4_IN_FLOOR), st.integers(0, 2**28)),
    st.integers(0, len(EMBEDDINGS) - 1),
)  # fmt: skip
_FLIPPED = st.builds(lambda ip, bit: IPv6Address(int(ip) ^ 1 << bit), _CARRYING, st.integers(0, 127))


@given(_NEAR | _CARRYING | _FLIPPED | st.ip_addresses())
def test_the_floor_is_the_floor_of_the_proxy(ip: IPAddress) -> None:
    held = any(in_network(ip, text) for text in floor(4 if ip.version == 4 else 6))
    mapped = isinstance(ip, IPv6Address) and ip.ipv4_mapped is not None
    assert held is (mapped or classify(ip) is AddressKind.FLOOR)


def test_every_spelling_is_met() -> None:
    """Of each embedding, an address in the floor and one beside it."""
    kinds = {
        (embedding, classify(ip) is AddressKind.FLOOR)
        for ip in PLACES
        if isinstance(ip, IPv6Address) and embedded(ip)
        for embedding in EMBEDDINGS
        if ip in ip_network(embedding.network)
    }
    assert len(kinds) == 2 * len(EMBEDDINGS)


def test_what_routing_drops_is_of_the_floor() -> None:
    """As the floor spells it: what the rules look up is text."""
    assert {*floor(4), *floor(6)} >= UNROUTED


# -- what goes on, and what is too much


@pytest.mark.parametrize("name", POLICIES)
def test_a_connection_stays_with_the_proxy_that_has_it(name: str) -> None:
    """Where its address is not in the floor: whatever an IP entry says now of it."""
    kernels = kernels_of(POLICIES[name])
    for ip, port in product(PLACES, PORTS):
        fate = kernels[ip.version].walk(Packet(ip, "tcp", port))
        if fate in (Fate.PROXY, Fate.FORWARDED):
            assert kernels[ip.version].walk(Packet(ip, "tcp", port, carried=True)) is Fate.PROXY
        elif fate in (Fate.DROPPED, Fate.DNS):
            assert kernels[ip.version].walk(Packet(ip, "tcp", port, carried=True)) is fate


@pytest.mark.parametrize("name", POLICIES)
def test_a_flow_too_many_is_dropped_and_nothing_else_is_told_otherwise(name: str) -> None:
    kernels = kernels_of(POLICIES[name])
    for ip, kind in product(PLACES, KINDS):
        fate = kernels[ip.version].walk(Packet(ip, *kind))
        crowded = kernels[ip.version].walk(Packet(ip, *kind, crowded=True))
        assert crowded is (Fate.DROPPED if fate is Fate.FORWARDED else fate)


# -- what is not TCP or UDP to somewhere


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("name", POLICIES)
def test_another_source_is_dropped_twice(name: str, family: Family) -> None:
    """In raw, and without raw in mangle."""
    plan = build_plan(POLICIES[name], "veth", family)
    other: IPAddress = IPv4Address("192.0.0.3") if family == 4 else IPv6Address("fe80::2")
    for table in ("raw", "mangle"):
        chains = (replace(one, rules=() if one.table == table else one.rules) for one in plan.chains)
        kernel = Kernel(replace(plan, chains=tuple(chains)))
        for ip in (ip for ip in PLACES if ip.version == family):
            assert kernel.walk(Packet(ip, "udp", 53, source=other)) is Fate.DROPPED


@pytest.mark.parametrize("kind", [135, 136])
@pytest.mark.parametrize(
    ("source", "hop_limit", "fate"),
    [
        (VETH.address6, 255, Fate.NEIGHBOUR),
        (VETH.link_local6, 255, Fate.NEIGHBOUR),
        (VETH.address6, 64, Fate.DROPPED),
        ("fe80::3", 255, Fate.DROPPED),
        ("fd65:6772:6573:73::3", 255, Fate.DROPPED),
        ("::", 255, Fate.DROPPED),
    ],
)
def test_neighbour_discovery(kind: int, source: str, hop_limit: int, fate: Fate) -> None:
    for policy, to in product(POLICIES.values(), ("ff02::1:ff00:1", VETH.gateway6, "2001:db8:1::9")):
        packet = Packet(ip_address(str(to)), "icmpv6", source=ip_address(str(source)), icmpv6_type=kind)
        packet.hop_limit = hop_limit
        assert kernels_of(policy)[6].walk(packet) is fate


@pytest.mark.parametrize("kind", [133, 134, 137])
def test_routers_and_redirects_are_dropped(kind: int) -> None:
    packet = Packet(ip_address("ff02::2"), "icmpv6", icmpv6_type=kind, hop_limit=255)
    assert kernels_of(None)[6].walk(packet) is Fate.DROPPED


# -- what a plan needs


@pytest.mark.parametrize(
    ("name", "families"),
    [
        ("full egress", {4, 6}),
        ("nothing", set()),
        ("names", set()),
        ("the resolver's address alone", {4}),
        ("all of IPv6", {6}),
        ("everything at a port", {4, 6}),
        ("IPv4 denied in halves", {6}),
        ("IPv6 denied", {4}),
        ("denied names", {4, 6}),
    ],
)
def test_an_uplink_only_where_something_is_forwarded(name: str, families: set[int]) -> None:
    plans = [build_plan(POLICIES[name], "veth", 4), build_plan(POLICIES[name], "veth", 6)]
    assert {plan.family for plan in plans if plan.uplink} == families
    for plan in plans:
        words = plan.tables_text()
        for word in ("up0", "conntrack", "*nat", "--set-xmark 0x1/0xf"):
            assert (word in words) is plan.uplink, word


@pytest.mark.parametrize("family", [4, 6])
def test_another_list_is_other_sets_under_the_same_rules(family: Family) -> None:
    few = NetworkPolicy(["10.1.0.0/16", "[fd01::/32]:443", "a.test:1"], [ALL])
    many = NetworkPolicy(
        [*(f"10.{i}.0.0/16:80" for i in range(256)), *(f"fd{i:02x}::/16" for i in range(256)), "b.test"],
        [ALL],
    )
    ours, theirs = build_plan(few, "veth", family), build_plan(many, "veth", family)
    assert ours.chains == theirs.chains
    assert ours.sets != theirs.sets


def test_without_its_sets_an_allowlist_refuses() -> None:
    """Whatever empties a set takes something away and gives nothing."""
    for policy in (one for one in POLICIES.values() if one is not None and ALL in one.deny_out):
        plan = build_plan(policy, "veth")
        kernel = Kernel(replace(plan, sets=tuple(replace(one, entries=()) for one in plan.sets)))
        for ip, kind in product((ip for ip in PLACES if ip.version == 4 and ip != SINKHOLE), KINDS):
            assert kernel.walk(Packet(ip, *kind)) in (Fate.DROPPED, Fate.REFUSED, Fate.DNS)


@pytest.mark.parametrize("link", ["veth", "iface"])
@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("name", POLICIES)
def test_what_build_plan_makes_is_taken(name: str, family: Family, link: str) -> None:
    assert faults(build_plan(POLICIES[name], link, family)) == []  # type: ignore[arg-type]  # one of the literals
