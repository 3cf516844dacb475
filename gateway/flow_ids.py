"""What each flow of a worker is called."""

from typing import Final

LIFE_BYTES: Final = 8
"""Of chance, that name a worker's life: in one directory no two are ever alike."""
STEP: Final = 0x1000
_FIRST: Final = [f"{number:x}" for number in range(STEP)]
_LATER: Final = [f"{number:03x}" for number in range(STEP)]


class FlowIds:
    """``<worker life>-<counter>``, both in hex: no two alike, for lives are not. From tables, for each connection asks for one."""

    __slots__ = ("_digits", "_front", "_life", "_made")

    def __init__(self, life: str) -> None:
        self._life = life
        self._front = f"{life}-"
        self._digits = _FIRST
        self._made = 0

    def next(self) -> str:
        """One that was not given before."""
        self._made += 1
        low = self._made % STEP
        if not low:
            self._front = f"{self._life}-{self._made // STEP:x}"
            self._digits = _LATER
        return self._front + self._digits[low]
