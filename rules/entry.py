"""One entry of ``allow_out`` or ``deny_out``: an address, a network, or what ``matcher`` reads as a name.

Addresses first, by their outline: what could be one to any reader is never a name. ``EntryError`` says in one
line what is wrong and what to write instead.
"""

import re
from collections.abc import Iterator
from dataclasses import dataclass
from ipaddress import IPv4Address, IPv4Network, IPv6Address, IPv6Network
from typing import Final

from matcher import Pattern, PatternError, parse_entry
from matcher.pattern import parse_ports
from rules.ranges import EMBEDDINGS

ALL_TRAFFIC: Final = "0.0.0.0/0"
"""Everything, of both families, in either list."""

EntryError = PatternError

_V4_OUTLINE: Final = re.compile(r"[0-9]+(?:\.[0-9]+)+\.?(?:/.*)?", re.DOTALL)
_WORDS: Final = frozenset(("all", "all_traffic", "any", "everything"))
"""Hostnames by their letters, and by nobody's intention."""
_LENGTH: Final = re.compile(r"[0-9]{1,3}")


@dataclass(frozen=True, slots=True)
class AddressEntry:
    """An IP or CIDR entry. ``str()`` is its canonical text, and ``read_entry`` of that text gives it back."""

    network: IPv4Network | IPv6Network
    ports: tuple[int, ...] | None = None
    """Ascending, each once, 1-65535; None is every port."""

    def __str__(self) -> str:
        network = self.network
        text = str(network) if network.prefixlen < network.max_prefixlen else str(network.network_address)
        if self.ports is None:
            return text
        ports = ",".join(map(str, self.ports))
        return f"[{text}]:{ports}" if network.version == 6 else f"{text}:{ports}"

    @property
    def everything(self) -> bool:
        """Whether it holds every address of its family: ``0.0.0.0/0`` (which speaks of both) or ``::/0``."""
        return self.network.prefixlen == 0

    def networks(self) -> tuple[IPv4Network | IPv6Network, ...]:
        """What it holds, by family."""
        if self.everything and self.network.version == 4:
            return (self.network, IPv6Network("::/0"))
        return (self.network,)

    def spellings(self) -> tuple[IPv4Network | IPv6Network, ...]:
        """``networks`` and, of IPv4, whatever may carry them in IPv6: what is denied must not be had under another spelling."""
        if self.network.version == 6 or self.everything:
            return self.networks()
        return tuple(dict.fromkeys((self.network, *_carriers(self.network))))

    def fits(self, port: int) -> bool:
        """Whether the entry speaks of this port."""
        return self.ports is None or port in self.ports

    def holds(self, ip: IPv4Address | IPv6Address, port: int) -> bool:
        """Whether the entry speaks of this address and port."""
        return self.fits(port) and any(ip in network for network in self.networks())


Entry = AddressEntry | Pattern


def _carriers(network: IPv4Network) -> Iterator[IPv6Network]:
    """By ``EMBEDDINGS``; the whole of a form in which what it carries does not follow its prefix."""
    for text, shift, inverted in EMBEDDINGS:
        form = IPv6Network(text)
        if inverted or form.prefixlen + 32 + shift != 128:
            yield form
        else:
            first = int(form.network_address) | int(network.network_address) << shift
            yield IPv6Network((first, form.prefixlen + network.prefixlen))


def read_entry(text: str) -> Entry:
    """Read one entry; raises ``EntryError``."""
    if text.startswith("["):
        return _bracketed(text)
    if text.startswith("~"):
        return parse_entry(text)
    if text.count(":") > 1 and "://" not in text and not text.startswith("*"):
        return _v6(text, text, None)
    host, colon, digits = text.partition(":")
    if host.lower() in _WORDS:
        raise EntryError(text, "a word, and no name that anybody has", f"for everything write {ALL_TRAFFIC}")
    if _V4_OUTLINE.fullmatch(host):
        return AddressEntry(
            _v4(host, text, f":{digits}" if colon else ""), parse_ports(digits, text) if colon else None
        )
    try:
        return parse_entry(text)
    except EntryError as error:
        if "," in host:
            raise EntryError(text, "several in one", "write each as an entry of its own") from None
        address = _address_within(text)
        raise (EntryError(text, error.problem, f"write {address}") if address else error) from None


def _address_within(text: str) -> AddressEntry | None:
    """The address entry that a URL or stray white space hides."""
    bare = "".join(text.split())
    if "://" in bare:
        bare = re.split(r"[/?#]", bare.partition("://")[2])[0].rpartition("@")[2]
    try:
        entry = read_entry(bare) if bare != text else None
    except EntryError:
        return None
    return entry if isinstance(entry, AddressEntry) else None


def _v4(host: str, entry: str, ports: str) -> IPv4Network:
    """``ports`` is the rest of the entry, for the mend."""
    address, slash, length = host.partition("/")
    try:
        ip = IPv4Address(address)
    except ValueError:
        mend = "write four numbers from 0 to 255, no leading zero"
        raise EntryError(entry, "it looks like an IPv4 address and is none", mend) from None
    prefix = _prefix(length, 32, entry) if slash else 32
    network = IPv4Network((ip, prefix), strict=False)
    if network.network_address != ip:
        mend = f"write {network}{ports} for the network, {ip}{ports} for the one address"
        raise EntryError(entry, _HOST_BITS, mend)
    return network


def _bracketed(text: str) -> AddressEntry:
    inside, bracket, after = text[1:].partition("]")
    if not bracket or (after and not after.startswith(":")):
        problem = "brackets hold an IPv6 address, and a colon and ports follow"
        raise EntryError(text, problem, "write [2001:db8::1]:443")
    if _V4_OUTLINE.fullmatch(inside):
        raise EntryError(text, "brackets are for IPv6", f"write {inside}{after}")
    return _v6(inside, text, parse_ports(after[1:], text) if after else None)


def _v6(host: str, entry: str, ports: tuple[int, ...] | None) -> AddressEntry:
    address, slash, length = host.partition("/")
    if "%" in address:
        raise EntryError(entry, "an address here has no zone", "drop the % and what follows it")
    try:
        ip = IPv6Address(address)
    except ValueError:
        mend = "write 2001:db8::1, or with ports [2001:db8::1]:443"
        raise EntryError(entry, "it looks like an IPv6 address and is none", mend) from None
    prefix = _prefix(length, 128, entry) if slash else 128
    if ip.ipv4_mapped is not None and prefix >= 96:
        raise EntryError(
            entry, "an IPv4 address in IPv6 form is never seen on a wire", _v4_meant(ip, prefix, ports)
        )
    network = IPv6Network((ip, prefix), strict=False)
    if network.network_address != ip:
        one = AddressEntry(IPv6Network(ip), ports)
        mend = f"write {AddressEntry(network, ports)} for the network, {one} for the one address"
        raise EntryError(entry, _HOST_BITS, mend)
    return AddressEntry(network, ports)


_HOST_BITS: Final = "bits are set behind the prefix"


def _v4_meant(ip: IPv6Address, prefix: int, ports: tuple[int, ...] | None) -> str:
    if prefix == 96:  # all of IPv4, which 0.0.0.0/0 is not: that is both families
        halves = (AddressEntry(IPv4Network(half), ports) for half in ("0.0.0.0/1", "128.0.0.0/1"))
        return "write " + " and ".join(map(str, halves))
    network = IPv4Network((int(ip) & 0xFFFFFFFF, prefix - 96), strict=False)
    return f"write {AddressEntry(network, ports)}"


def _prefix(length: str, most: int, entry: str) -> int:
    if not _LENGTH.fullmatch(length) or int(length) > most or (length[0] == "0" and length != "0"):
        mend = f"write a number from 0 to {most}, no leading zero"
        raise EntryError(entry, "what follows the slash is no prefix length", mend)
    return int(length)
