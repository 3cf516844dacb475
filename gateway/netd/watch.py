"""The host's half of standing uplinks, looked after: whoever reloads the host's firewall replaces our rules with his own."""

import time
from collections.abc import Iterable

from gateway.netd.generation import generation
from gateway.netd.host import locked, open_host
from rules.link import Family

MOST_SHARE = 0.1
"""Of the time, for all gateways of a host together: where somebody changes large tables all the while, each look takes long."""


class Watch:
    """Of one process."""

    def __init__(self) -> None:
        self._seen: dict[Family, str] = {}

    def look(self, families: Iterable[Family]) -> list[Family]:
        """Put in force again what somebody has taken away; the families of which something was. OSError or HostError where it cannot be told, or not
        be mended: the next look tries again."""
        changed = [family for family in families if generation(family) != self._seen.get(family)]
        if not changed:
            return []
        with locked() as place:
            before = place.before
            unknown = [family for family in changed if generation(family) != before.tables.get(family)]
            began = time.monotonic()
            if unknown and began < before.rests_until:
                return []
            gone = [family for family in unknown if open_host(family, place)]
            if unknown:  # or another process has looked
                now = time.monotonic()
                before.rests_until = now + (now - began) / MOST_SHARE
                place.keep()
            self._seen |= before.tables
        return gone
