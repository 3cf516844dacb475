"""The host's half of standing uplinks, looked after: whoever reloads the host's firewall replaces our rules with his own."""

import time
from collections.abc import Iterable

from gateway.netd.generation import generation, is_told_of
from gateway.netd.host import locked, open_host
from rules.link import Family

MOST_SHARE = 0.1
"""Of the time, for all gateways of a host together: where somebody changes large tables all the while, each look takes long."""


class Watch:
    """Of one process."""

    def __init__(self) -> None:
        self._seen: dict[Family, str] = {}
        self.settled = False
        """Whether the last look found all in order, in tables of whose every change the kernel tells."""

    def look(self, families: Iterable[Family]) -> list[Family]:
        """Put in force again what somebody has taken away; the families of which something was. OSError or HostError where it cannot be told, or not
        be mended: the next look tries again."""
        self.settled = False
        found = {family: generation(family) for family in families}
        changed = [family for family, now in found.items() if now != self._seen.get(family)]
        gone = self._put_back(changed) if changed else []
        self.settled = all(now == self._seen.get(family) and is_told_of(now) for family, now in found.items())
        return gone

    def _put_back(self, changed: Iterable[Family]) -> list[Family]:
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
