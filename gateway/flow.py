"""The values that travel down the path with one connection."""

from functools import lru_cache
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple

IPAddress = IPv4Address | IPv6Address


class _Met4(IPv4Address):
    """One that is asked for its text and its hash again and again: they are worked out once. ``compressed`` is the text without a call in Python."""

    __slots__ = ("_hash", "compressed")

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.compressed, self._hash = super().__str__(), super().__hash__()  # type: ignore[misc]  # a property, of others

    def __str__(self) -> str:
        return self.compressed

    def __format__(self, _: str) -> str:
        return self.compressed

    def __hash__(self) -> int:
        return self._hash


class _Met6(IPv6Address):
    """As ``_Met4``."""

    __slots__ = ("_hash", "compressed")

    def __init__(self, text: str) -> None:
        super().__init__(text)
        self.compressed, self._hash = super().__str__(), super().__hash__()  # type: ignore[misc]  # a property, of others

    def __str__(self) -> str:
        return self.compressed

    def __format__(self, _: str) -> str:
        return self.compressed

    def __hash__(self) -> int:
        return self._hash


@lru_cache(maxsize=4096)
def met(text: str) -> IPAddress:
    """The address that the kernel, or a resolver's answer, spells so; its zone (``%eth0``) is dropped. ValueError if it is none."""
    return _Met6(text.partition("%")[0]) if ":" in text else _Met4(text)


class Endpoint(NamedTuple):
    """One side of a connection, as the kernel reports it."""

    ip: IPAddress
    port: int

    def __str__(self) -> str:
        return f"[{self.ip}]:{self.port}" if self.ip.version == 6 else f"{self.ip}:{self.port}"


class Flow(NamedTuple):
    """One attempt of a sandbox: who, from where, to what it dialled. Identity is the listener that accepted it, no address."""

    id: str
    """Unique over the audit directory: ``<worker life>-<counter>``, both in hex."""
    sandbox: str
    source: Endpoint
    dest: Endpoint
    """The original destination (what the sandbox dialled)."""
    proto: str = "tcp"
