"""What a look at this host found, and for whom it is looked at."""

import os
from collections.abc import Callable
from functools import cache
from typing import NamedTuple

from gateway.errors import EgressError
from gateway.supervisor import has_ipv6
from rules.link import Family


class Finding(NamedTuple):
    """One thing looked at."""

    what: str
    ok: bool
    needed: bool
    """Without it nothing can be enforced, or nothing started; else it is a wall less, or a way, and said so."""
    said: str
    """What was found; where it is not ok, with the mend."""


def is_root() -> bool:
    return os.geteuid() == 0


@cache
def families_here() -> tuple[Family, ...]:
    """Asked first in the host's namespace: processes that enter others are forked with the answer."""
    return (4, 6) if has_ipv6() else (4,)


def tried(what: str, act: Callable[[], str], *, needed: bool) -> Finding:
    try:
        return Finding(what, True, needed, act())
    except (EgressError, OSError, KeyError) as error:
        return Finding(what, False, needed, str(error))
