"""What anyone would write first: a hundred lines of asyncio on uvloop (``bench/naive.py``)."""

import sys
from importlib.metadata import version

from bench.adapter import Adapter
from bench.place import ALLOWED, PROXY_PORT, ROOT, Place


class Naive(Adapter):
    name = "naive"
    note = (
        "bench/naive.py: uvloop streams, a name in a set, a printed line; nothing bound, bounded or confined"
    )

    def version(self) -> str:
        return f"uvloop {version('uvloop')}"

    def argv(self, place: Place) -> list[str]:
        return [sys.executable, str(ROOT / "bench" / "naive.py"), str(PROXY_PORT), *ALLOWED]
