"""The values that travel down the path with one connection."""

from dataclasses import dataclass
from ipaddress import IPv4Address, IPv6Address
from typing import NamedTuple

IPAddress = IPv4Address | IPv6Address


class Endpoint(NamedTuple):
    """One side of a connection, as the kernel reports it."""

    ip: IPAddress
    port: int

    def __str__(self) -> str:
        return f"[{self.ip}]:{self.port}" if self.ip.version == 6 else f"{self.ip}:{self.port}"


@dataclass(frozen=True, slots=True)
class Flow:
    """One attempt of a sandbox: who, from where, to what it dialled. Identity is the listener that accepted it, no address."""

    id: str
    """Unique over the audit directory: ``<worker life>-<counter>``, both in hex."""
    sandbox: str
    source: Endpoint
    dest: Endpoint
    """The original destination (what the sandbox dialled)."""
    proto: str = "tcp"
