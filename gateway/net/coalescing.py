"""Fewer wake-ups for a bulk transfer: its source is told to gather, and is looked at a millisecond later.

An edge for every few packets costs more than what they carry, and each of them is passed on in smaller pieces. Network cards do the same with their
interrupts (ethtool(8), ``--coalesce``). No byte waits longer than ``LATER_S`` where there is room for it; an end of file, an error, urgent data and a
full window are told at once, SO_RCVLOWAT or not (socket(7)).

Where there is none, because the sink is full, nobody can use what comes, and nothing of it is told: the source is read first when the sink has room.
"""

import socket
from typing import Final

from gateway.net.clock import now
from gateway.net.events import BYTES, PRI
from gateway.net.sockets import Sock
from gateway.net.strand import current

GATHER_BYTES: Final = 4 * 1024 * 1024
"""Told before ``LATER_S`` if so much has come: 32 Gbit/s."""
OF_BYTES: Final = BYTES | PRI
"""For each of these the kernel tells of bytes that come."""
FAST_BYTES: Final = 4 * 1024 * 1024
FAST_S: Final = 0.1
"""Worth it: so many bytes in so short a time, 320 Mbit/s, and none the other way. Who asks again and again waits for each answer's end."""
SLOW_BYTES: Final = 32 * 1024
"""Between two looks: fewer, and each edge is heard again. The end of an answer is late by one look, not by two."""


class Coalescing:
    """What one source is told, by how fast it is."""

    __slots__ = ("_back", "_deaf", "_gathers", "_passed", "_since", "_source")

    def __init__(self, source: Sock) -> None:
        self._source = source
        self._gathers = self._deaf = False
        self._passed = self._back = 0
        self._since = now()

    def drained(self, passed: int, back: int) -> None:
        """Nothing more is there to read; ``passed``: bytes of it, ``back``: the other way, in all."""
        self._hear()
        came, alone = passed - self._passed, back == self._back
        if self._gathers:
            if came >= SLOW_BYTES and alone:
                self._passed = passed
                current().hear_later(self._source)
                return
            self.stop()
        elif alone:
            if came < FAST_BYTES:
                return
            if now() - self._since < FAST_S:
                self._gathers = True
                self._source.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, GATHER_BYTES)
                current().hear_later(self._source)
        self._passed, self._back, self._since = passed, back, now()

    def stop(self) -> None:
        """Every edge is to be heard."""
        self._hear()
        if self._gathers:
            self._gathers = False
            self._source.setsockopt(socket.SOL_SOCKET, socket.SO_RCVLOWAT, 1)

    def full(self) -> None:
        """The sink takes no more: nothing is to be heard before there is nothing left to read."""
        if not self._deaf:
            self._deaf = True
            current().ignore(self._source, OF_BYTES)

    def _hear(self) -> None:
        """What came meanwhile is told at once."""
        if self._deaf:
            self._deaf = False
            current().hear(self._source, OF_BYTES)
