"""Which flows a plan forwards: what the kernel remembers of the others has to be forgotten when the plan becomes the one in force. Pure.

The rules themselves are asked for each packet of the sandbox's, but not for what answers it.
"""

from typing import Final

from rules.policy import QUIC_PORTS
from rules.terms import PORT_PROTOCOLS, Held, Terms

TCP: Final = 6
UDP: Final = 17
NUMBERS: Final = {"tcp": TCP, "udp": UDP, "sctp": 132}
"""IANA's assigned protocol numbers."""
WITH_PORTS: Final = frozenset(NUMBERS[protocol] for protocol in PORT_PROTOCOLS)


class Passing:
    """The rows of the decision that need no name, for one family."""

    def __init__(self, terms: Terms) -> None:
        self._allowed = _Holding(terms.allowed)
        self._denied = None if terms.denied is None else _Holding(terms.denied)
        self._refuse_quic = terms.refuse_quic

    def holds(self, protocol: int, address: bytes, port: int) -> bool:
        """Whether packets of that kind leave by the uplink. ``protocol``: IANA's number; ``address``: the destination's 4 or 16 bytes."""
        if self._allowed.holds(protocol, address, port):
            return True
        if self._denied is None or protocol == TCP:  # the proxy's, whatever is denied
            return False
        if self._refuse_quic and protocol == UDP and port in QUIC_PORTS:
            return False
        return not self._denied.holds(protocol, address, port)


class _Holding:
    """Networks, with the ports at which they count."""

    def __init__(self, held: Held) -> None:
        self._by_length: dict[int, dict[int, set[int | None]]] = {}
        for network, port in held:
            length, first = network.prefixlen, int(network.network_address)
            shifted = first >> network.max_prefixlen - length
            self._by_length.setdefault(length, {}).setdefault(shifted, set()).add(port)

    def holds(self, protocol: int, address: bytes, port: int) -> bool:
        number, bits = int.from_bytes(address, "big"), len(address) * 8
        for length, networks in self._by_length.items():
            ports = networks.get(number >> bits - length)
            if ports and (None in ports or (protocol in WITH_PORTS and port in ports)):
                return True
        return False
