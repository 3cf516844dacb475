"""Attempts that were accepted and not yet recorded, in memory that outlives the process that accepted them.

A slot is written at accept and cleared once the decision has been handed over. Whoever survives reads what is left, and writes it down.
The survivor does not trust what it finds: a process that was taken over may have scribbled on it.
"""

import mmap
from typing import Final, NamedTuple

FREE: Final = 0
OPEN: Final = 1
SENDING: Final = 2
"""The decision is being handed over right now: it may or may not have arrived."""
OFFERING: Final = 3
"""The same, and it allows: the record of an end is owed from now on, unless it has not arrived."""

SLOTS: Final = 1024
"""Of one sandbox; what comes while so many are undecided is refused."""
SLOT_BYTES: Final = 160
HEAD_BYTES: Final = 2  # state, length
OWED_BYTES: Final = 8
ACCEPTING: Final = OWED_BYTES
"""Where the byte is that says: inside accept(2), or just behind it."""
FRONT_BYTES: Final = 16
"""Before the slots."""
MAX_OWED: Final = 2**32
_HEADS: Final = [bytes((OPEN, length)) for length in range(SLOT_BYTES - HEAD_BYTES + 1)]


class Leftover(NamedTuple):
    """One attempt that has no record yet, or may have none (``sending``)."""

    sending: bool
    payload: bytes
    offering: bool = False
    """An end is owed for it."""


class Ledger:
    """Fixed slots in anonymous shared memory, which a forked process shares."""

    def __init__(self, slots: int = SLOTS) -> None:
        self._memory = mmap.mmap(-1, FRONT_BYTES + slots * SLOT_BYTES)
        self._owed = memoryview(self._memory)[:OWED_BYTES].cast("Q")
        self._slots = slots
        self._free = list(range(slots - 1, -1, -1))

    def accepting(self, now: bool) -> None:
        """Whether a connection may have been accepted that is not noted yet; ``open`` notes it, and ends this."""
        self._memory[ACCEPTING] = now

    def owe(self, records: int) -> None:
        """How many records are still to come, or wait, that no slot stands for."""
        self._owed[0] = records

    def open(self, payload: bytes) -> int | None:
        """Note an attempt; its slot, or None where all are taken. ``payload``: at most 158 bytes."""
        if not self._free:
            return None
        slot = self._free.pop()
        at = FRONT_BYTES + slot * SLOT_BYTES
        body = payload[: SLOT_BYTES - HEAD_BYTES]
        memory, begin = self._memory, at + HEAD_BYTES
        memory[begin : begin + len(body)] = body
        memory[at:begin] = _HEADS[len(body)]
        memory[ACCEPTING] = 0
        return slot

    def sending(self, slot: int) -> None:
        """Its decision is being handed over."""
        self._memory[FRONT_BYTES + slot * SLOT_BYTES] = SENDING

    def offering(self, slot: int) -> None:
        """Its decision, which allows, is being handed over; its end was added to what is owed (``owe``)."""
        self._memory[FRONT_BYTES + slot * SLOT_BYTES] = OFFERING

    def unsent(self, slot: int) -> None:
        """It was not taken, and is to be decided still."""
        self._memory[FRONT_BYTES + slot * SLOT_BYTES] = OPEN

    def close(self, slot: int) -> None:
        """Its decision has been handed over."""
        self._memory[FRONT_BYTES + slot * SLOT_BYTES] = FREE
        self._free.append(slot)

    def undecided(self) -> int:
        """How many slots are taken."""
        states = self._memory[FRONT_BYTES::SLOT_BYTES]
        return len(states) - states.count(FREE)

    def leftovers(self) -> list[Leftover]:
        """What a dead process left, for the one that survived it."""
        found = []
        for slot in range(self._slots):
            at = FRONT_BYTES + slot * SLOT_BYTES
            state = self._memory[at]
            if state:
                length = min(self._memory[at + 1], SLOT_BYTES - HEAD_BYTES)
                payload = self._memory[at + HEAD_BYTES : at + HEAD_BYTES + length]
                found.append(Leftover(state in (SENDING, OFFERING), payload, state == OFFERING))
        return found

    def missing(self) -> int:
        """How many records a dead process took with it, besides the leftovers: what it owed, and one if it died while it accepted."""
        return min(self._owed[0], MAX_OWED) + bool(self._memory[ACCEPTING])

    def reset(self) -> None:
        """Free every slot, for the next process."""
        self._memory[:FRONT_BYTES] = bytes(FRONT_BYTES)
        for slot in range(self._slots):
            self._memory[FRONT_BYTES + slot * SLOT_BYTES] = FREE
        self._free = list(range(self._slots - 1, -1, -1))
