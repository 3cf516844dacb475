"""IP and CIDR entries of one list, compiled: one binary search finds all that hold an address, the narrowest
first.

Networks nest or are disjoint, so their edges cut the family's addresses into stretches, in each of which the
same networks hold. A table of n networks has 2n + 1 stretches at most, and each knows its chain of networks
from the narrowest out: as long as networks are nested deep, however many there are.
"""

from bisect import bisect_right
from collections.abc import Iterable
from dataclasses import dataclass, field
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import NamedTuple

from rules.entry import AddressEntry


class Held(NamedTuple):
    """An entry as a lookup finds it."""

    rule: str
    """What a record shows: list, index and text."""
    everything: bool
    """Whether it holds the whole family."""


@dataclass(slots=True)
class _Slot:
    """The entries of one network. An entry that an earlier one of the same network hides is not in it."""

    any_port: Held | None = None
    by_port: dict[int, Held] = field(default_factory=dict)

    def add(self, ports: tuple[int, ...] | None, held: Held) -> None:
        if self.any_port is not None:
            return
        if ports is None:
            self.any_port = held
            return
        for port in ports:
            self.by_port.setdefault(port, held)


_Chain = tuple[_Slot, ...]


class _Stretches:
    """One family: where each stretch begins, and its chain."""

    __slots__ = ("chains", "starts")

    def __init__(self, slots: dict[IPv4Network | IPv6Network, _Slot]) -> None:
        self.starts = [0]
        self.chains: list[_Chain] = [()]
        around: list[tuple[int, _Chain]] = []  # the networks that the sweep is within: last address, chain
        for first, last, slot in sorted(
            ((int(n.network_address), int(n.broadcast_address), slot) for n, slot in slots.items()),
            key=lambda found: (found[0], -found[1]),
        ):
            self._leave(around, first)
            chain = (slot, *(around[-1][1] if around else ()))
            self._begin(first, chain)
            around.append((last, chain))
        self._leave(around, 1 << 128)

    def _leave(self, around: list[tuple[int, _Chain]], first: int) -> None:
        """Step out of every network that ends before ``first``."""
        while around and around[-1][0] < first:
            last, _ = around.pop()
            self._begin(last + 1, around[-1][1] if around else ())

    def _begin(self, start: int, chain: _Chain) -> None:
        if self.starts[-1] == start:
            self.chains[-1] = chain
        else:
            self.starts.append(start)
            self.chains.append(chain)


class AddressTable:
    """Immutable. Asked for every connection."""

    __slots__ = ("_any_port", "_ports", "_v4", "_v6")

    def __init__(self, entries: Iterable[tuple[str, AddressEntry]], *, spelt: bool = False) -> None:
        """``entries``: the rule that a record shows, and the entry, in the order of the list; ``spelt``: in every spelling, to deny it."""
        slots: dict[int, dict[IPv4Network | IPv6Network, _Slot]] = {4: {}, 6: {}}
        ports: set[int] = set()
        self._any_port = False
        for rule, entry in entries:
            self._any_port |= entry.ports is None
            ports.update(entry.ports or ())
            for network in entry.spellings() if spelt else entry.networks():
                slot = slots[network.version].setdefault(network, _Slot())
                slot.add(entry.ports, Held(rule, entry.everything))
        self._ports = frozenset(ports)
        self._v4 = _Stretches(slots[4])
        self._v6 = _Stretches(slots[6])

    def covers_port(self, port: int) -> bool:
        """Whether any entry speaks of an address at this port."""
        return self._any_port or port in self._ports

    def holds(self, ip: IPv4Address | IPv6Address) -> bool:
        """Whether any entry speaks of ``ip``, at whatever port."""
        family = self._v4 if ip.version == 4 else self._v6
        return bool(family.chains[bisect_right(family.starts, int(ip)) - 1])

    def find(self, ip: IPv4Address | IPv6Address, port: int) -> Held | None:
        """Return the entry that speaks of ``ip`` at ``port``: the narrowest, of one network the earliest."""
        family = self._v4 if ip.version == 4 else self._v6
        for slot in family.chains[bisect_right(family.starts, int(ip)) - 1]:
            held = slot.by_port.get(port, slot.any_port)
            if held is not None:
                return held
        return None
