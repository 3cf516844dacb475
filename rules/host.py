"""The host's half of every uplink: what keeps a cell from the host itself and from its neighbours, and lets the rest through. Pure.

Four chains of our own, each jumped to first, so that nobody else's rule is touched and all of ours are found again. They speak of devices by a
wildcard: their number does not grow with sandboxes.
"""

from dataclasses import dataclass
from typing import Final

from rules.link import Family
from rules.terms import PORT_PROTOCOLS

DEVICES: Final = "egress-+"
"""The host's end of every uplink."""
POOLS: Final[dict[Family, str]] = {4: "169.254.64.0/18", 6: "fd65:6772:6573:7570::/64"}
"""The cells' addresses on their uplinks. Link-local for IPv4 (RFC 3927): no route of a host's leads there, it holds no address that a cloud is known
to use, and a sandbox can dial none of it, for it is in the floor."""
PORTS: Final = {"tcp": "1024-32767", "udp": "61000-65535", "sctp": "61000-65535"}
"""Of the host's address, for what cells send: outside of those that its own programs are given (ip_local_port_range, 32768 to 60999 where nobody
changed it), which no cell is to use up. Datagrams have the few above, where no service lives: what a peer sends unasked to one of the host's own,
from a port that a cell has sent to, would be the cell's. TCP keeps each a while and has more; nobody knows beforehand from which a peer calls."""


@dataclass(frozen=True, slots=True)
class OwnChain:
    """One chain: where it is jumped to from, and what it holds."""

    table: str
    parent: str
    name: str
    match: str
    """What the jump is for; empty is everything."""
    rules: tuple[str, ...]
    last: bool = False
    """Jumped to after everybody else's rules, not before."""

    @property
    def jump(self) -> str:
        """As iptables-save(8) spells it."""
        return " ".join(filter(None, (f"-A {self.parent}", self.match, f"-j {self.name}")))


def host_chains(family: Family, *, closed: bool) -> tuple[OwnChain, ...]:
    """Everything of ours in the host's tables while nobody else forwards there. ``closed``: the host forwarded nothing before, and is to forward
    nothing else now."""
    return guard_chain(family), input_chain(), forward_chain(closed=closed), masquerade_chain(family)


def all_chains(family: Family) -> tuple[OwnChain, ...]:
    """Whatever of ours there may be, to be found and taken away."""
    return *host_chains(family, closed=False), closing_chain()


def guard_chain(family: Family) -> OwnChain:
    """Before conntrack: a source that is not the cell's is forged; what is local to the host, broadcast or multicast is not to be had from a cell.

    A rule a type: for IPv6 the kernel calls its own addresses unicast too, and of several types at once it wants all.
    """
    kinds = ("LOCAL", "ANYCAST", "MULTICAST", *(("BROADCAST",) if family == 4 else ()))
    rules = ("-m rpfilter --invert -j DROP", *(f"-m addrtype --dst-type {kind} -j DROP" for kind in kinds))
    return OwnChain("raw", "PREROUTING", "EGRESS-GUARD", f"-i {DEVICES}", rules)


def input_chain() -> OwnChain:
    """To the host itself, nothing: what others' DNAT has turned to it since the guard saw it, as kube-proxy does with a service's address."""
    return OwnChain("filter", "INPUT", "EGRESS-INPUT", f"-i {DEVICES}", ("-j DROP",))


def forward_chain(*, closed: bool) -> OwnChain:
    """From cells outwards, and what answers; between cells, and to a cell from outside, nothing."""
    rules = [
        # What is not followed is given no address of the host's.
        f"-i {DEVICES} -m conntrack --ctstate INVALID,UNTRACKED -j DROP",
        f"-i {DEVICES} -o {DEVICES} -j DROP",
        f"-i {DEVICES} -j ACCEPT",
        f"-o {DEVICES} -m conntrack --ctstate RELATED,ESTABLISHED -j ACCEPT",
        f"-o {DEVICES} -j DROP",
    ]
    if closed:
        rules.append("-j DROP")
    return OwnChain("filter", "FORWARD", "EGRESS-FORWARD", "", tuple(rules))


def closing_chain() -> OwnChain:
    """Where somebody else has come who forwards, what he accepts passes; what nobody does is dropped, as before."""
    return OwnChain("filter", "FORWARD", "EGRESS-CLOSE", "", ("-j DROP",), last=True)


def is_closed(held: dict[str, list[str]]) -> bool:
    """Whether these rules, by table, keep the host from being a router: only a gateway that had it begin to forward sets one."""
    rules = held.get("filter", ())
    return "-A EGRESS-FORWARD -j DROP" in rules or closing_chain().jump in rules


def masquerade_chain(family: Family) -> OwnChain:
    """The host's own address for what a cell sends, and of its ports those that no program of the host's is given."""
    ours = f"-s {POOLS[family]} ! -o {DEVICES}"
    ported = (
        f"{ours} -p {protocol} -j MASQUERADE --to-ports {PORTS[protocol]}" for protocol in PORT_PROTOCOLS
    )
    return OwnChain("nat", "POSTROUTING", "EGRESS-MASQUERADE", "", (*ported, f"{ours} -j MASQUERADE"))


def restore_text(chains: tuple[OwnChain, ...], held: dict[str, list[str]]) -> str:
    """For iptables-restore(8) with ``--noflush``: make or refill each chain and have it jumped to first, or last; empty where all is so already.
    ``held``: rules of each table, as saved."""
    lines: list[str] = []
    for chain in chains:
        rules = held.get(chain.table, ())
        others = [rule for rule in rules if rule.startswith(f"-A {chain.parent} ")]
        jumped = bool(others) and others[-1 if chain.last else 0] == chain.jump
        filled = [f"-A {chain.name} {rule}" for rule in chain.rules]
        if jumped and filled == [rule for rule in rules if rule.startswith(f"-A {chain.name} ")]:
            continue
        lines += [f"*{chain.table}", f":{chain.name} - [0:0]"]
        if not jumped:
            lines += [f"-D{rule[2:]}" for rule in others if rule == chain.jump]
            jump = chain.jump.removeprefix(f"-A {chain.parent}")
            lines.append(f"-A {chain.parent}{jump}" if chain.last else f"-I {chain.parent} 1{jump}")
        lines += [*filled, "COMMIT"]
    return "\n".join(lines) + "\n" if lines else ""


def removal_text(chains: tuple[OwnChain, ...], held: dict[str, list[str]]) -> str:
    """The reverse; empty where nothing of ours is held."""
    lines: list[str] = []
    for chain in chains:
        rules = held.get(chain.table, ())
        if f":{chain.name}" not in rules:
            continue
        lines.append(f"*{chain.table}")
        lines += [f"-D{rule[2:]}" for rule in rules if rule == chain.jump]
        lines += [f"-F {chain.name}", f"-X {chain.name}", "COMMIT"]
    return "\n".join(lines) + "\n" if lines else ""


def saved_rules(text: str) -> dict[str, list[str]]:
    """What iptables-save(8) said, by table: ``:CHAIN``, then ``-A CHAIN ...``."""
    found: dict[str, list[str]] = {}
    table = ""
    for line in text.splitlines():
        if line.startswith("*"):
            table = line[1:]
            found[table] = []
        elif line.startswith(":"):
            found[table].append(line.split()[0])
        elif line.startswith("-A"):
            found[table].append(line)
    return found
