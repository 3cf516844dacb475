"""What a worker is forked with, and what it and the process that forked it say to each other. Pure but for the descriptors that it names."""

import socket
from dataclasses import dataclass, field
from typing import Final

import orjson

from audit.ledger import Ledger
from gateway.flow import Endpoint
from gateway.tally import Tally
from rules.policy import NetworkPolicy

READY: Final = b"ready"
"""Said once, by a worker that accepts."""
STOP: Final = b"stop"
HOLD: Final = b"hold"
"""Another policy is about to be: what the kernel decides meanwhile is not to be judged yet."""
MORE: Final = b"+"
"""Begins a piece of what is to be obeyed (``Orders``), ``LAST`` the last piece, which brings the DNS sockets where there were none."""
LAST: Final = b"="
OBEYED: Final = b"obeyed"
WORD_BYTES: Final = 65536


@dataclass(frozen=True, slots=True)
class Bundle:
    """One sandbox, as it is handed to a worker: everything is open already, and outlives the worker in the process that forked it."""

    sandbox: str
    policy: NetworkPolicy | None
    resolver: Endpoint
    listeners: tuple[socket.socket, ...]
    """One a family."""
    dns_udp: socket.socket | None
    dns_tcp: socket.socket | None
    ledger: Ledger
    feed: int
    """Write end of the pipe to whoever keeps the records."""
    kept: int | None = None
    """Where it is read how many more are on the disk (``audit.feed.open_answer``), if allowed connections wait for that."""
    refused: socket.socket | None = None
    """Where the kernel tells of what it refused, and of what it let out."""
    allowed: socket.socket | None = None
    dropped: tuple[int, int] = (0, 0)
    """What the two had no room for by the time when the worker before this one ended."""
    generation: int = 1
    """Of the policy."""
    tally: Tally = field(default_factory=Tally)

    @property
    def descriptors(self) -> set[int]:
        """All that it holds."""
        sockets = (*self.listeners, self.dns_udp, self.dns_tcp, self.refused, self.allowed)
        kept = () if self.kept is None else (self.kept,)
        return {self.feed, *kept, *(sock.fileno() for sock in sockets if sock is not None)}


@dataclass(frozen=True, slots=True)
class Orders:
    """Which policy is to decide from now on."""

    policy: NetworkPolicy | None
    generation: int

    def pieces(self) -> list[bytes]:
        """As messages of ``WORD_BYTES`` at the most."""
        policy = None if self.policy is None else self.policy.to_dict()
        raw = orjson.dumps({"policy": policy, "generation": self.generation})
        step = WORD_BYTES - 1
        parts = [raw[at : at + step] for at in range(0, len(raw), step)]
        return [*(MORE + part for part in parts[:-1]), LAST + parts[-1]]

    @classmethod
    def read(cls, raw: bytes) -> "Orders":
        """What the pieces make, without their first bytes."""
        said = orjson.loads(raw)
        policy = None if said["policy"] is None else NetworkPolicy.from_dict(said["policy"])
        return cls(policy, said["generation"])
