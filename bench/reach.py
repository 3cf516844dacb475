"""How far the scaling goes: all of it, and in short."""

from collections.abc import Callable
from dataclasses import dataclass
from typing import Final

Say = Callable[[str], None]
AT_ONCE: Final = 50
"""Connections that are open at a time."""


@dataclass(frozen=True, slots=True)
class Reach:
    """How far to go."""

    entries: tuple[int, ...] = (10, 100, 1_000, 10_000, 100_000, 1_000_000)
    held: tuple[int, ...] = (500, 1_000, 2_000, 4_000, 8_000, 16_000)
    sandboxes: tuple[int, ...] = (1, 10, 100, 300, 1_000)
    rounds: int = 3
    crowd_rounds: int = 9
    """Of sandboxes beside one: the median of three moves by a tenth."""
    connections: int = 3_000
    starts: int = 10
    records_s: float = 4.0
    growing_s: float = 600.0
    """No more sandboxes are made after so long."""


QUICK = Reach(
    (10, 10_000),
    (500, 1_000),
    (1, 10),
    rounds=2,
    crowd_rounds=2,
    connections=800,
    starts=3,
    records_s=1.0,
    growing_s=30.0,
)
