"""The driver's clock, which is the loop's."""

import time
from typing import Final

now: Final = time.monotonic
"""Seconds. A global that is not final is looked up by name, compiled too."""
now_ns: Final = time.monotonic_ns
"""The same in nanoseconds."""
NEVER: Final = float("inf")
