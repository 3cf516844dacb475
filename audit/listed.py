"""What one writer tells the manifest of its files: that there is such a one, so that it is missed if it goes.

Where it cannot be told now, the disk or who holds the manifest being what they are, it is told later: the file is written to all the same.
"""

import time
from collections.abc import Callable
from pathlib import Path

from audit import manifest
from audit.locks import PATIENCE_S
from audit.segment import Segment


class Listed:
    """``trouble``: why the manifest does not know of all files that were begun."""

    def __init__(
        self,
        directory: Path,
        keys: Path | None,
        writer: str,
        sandbox: str | None,
        clock: Callable[[], int],
        *,
        durable: bool,
    ) -> None:
        """``durable``: what the manifest is told outlives a power cut."""
        self.trouble: OSError | None = None
        self._directory = directory
        self._keys = keys
        self._writer = writer
        self._sandbox = sandbox
        self._clock = clock
        self._durable = durable
        self._untold: dict[str, int] = {}
        """Segments' numbers by file, in their order."""
        self._tried = 0.0

    def begun(self, segment: Segment) -> None:
        """There is this one now."""
        self._untold[segment.path.name] = segment.number
        # Who held the manifest for so long is not waited for at every file.
        self._tell(PATIENCE_S if self.trouble is None else 0.0)

    def sealed(self, file: str) -> None:
        """The manifest has an entry that says more."""
        self._untold.pop(file, None)

    def tick(self, every_s: float) -> None:
        """Try again, without waiting, if that is due."""
        if self.due_in(every_s) == 0.0:
            self._tell(0.0)

    def due_in(self, every_s: float) -> float:
        """Seconds until ``tick`` has something to do; infinite where all is told."""
        if self.trouble is None:
            return float("inf")
        return max(0.0, self._tried + every_s - time.monotonic())

    def _tell(self, patience_s: float) -> None:
        try:
            for file, number in tuple(self._untold.items()):
                now = self._clock()
                manifest.opened(
                    self._directory,
                    self._keys,
                    now,
                    file,
                    self._writer,
                    number,
                    self._sandbox,
                    patience_s,
                    durable=self._durable,
                )
                del self._untold[file]
            self.trouble = None
        except OSError as error:
            self.trouble = error
        self._tried = time.monotonic()
