"""Other plans for a cell that stands, never wider on the way than the plans before and after together.

Each set first grows to hold both plans' entries, then the tables are replaced, then each set shrinks to the new plan's: a packet in between is
decided as one of the two plans decides it. What the kernel remembers of flows that no longer pass is forgotten last, for nothing asks about answers.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace
from typing import TYPE_CHECKING

from gateway.netd.cells import install
from gateway.netd.spaces import enter_made, within
from rules.backend import Backend
from rules.choose import choose
from rules.passing import Passing
from rules.plan import Plan, terms_in
from rules.rule import AddressSet

if TYPE_CHECKING:
    from rules.link import Family


@dataclass(frozen=True, slots=True)
class Standing:
    """A cell as it is, by descriptors."""

    cell: int
    user: int | None
    plans: tuple[Plan, ...]
    """In force: IPv4, then IPv6 where the cell has it."""
    dns: bool
    """Whether the gateway has sockets at the resolver's address."""
    owner: str
    """Of its uplink, or of the one that it gets."""


def swap(standing: Standing, plans: Sequence[Plan], backend: Backend | None) -> dict[str, int]:
    """Put ``plans`` in force; descriptors of what the gateway is to listen on beside what it has. Runs in a process of its own. If it fails, some
    of it may be done: ``restore``, in another."""
    from gateway.netd.sockets import open_dns
    from rules.sets import destroy_sets, install_sets

    host = enter_made(standing.cell, standing.user)
    before = standing.plans
    _raise_what_is_new(standing, plans, host)
    sockets = {name: sock for new in (() if standing.dns else plans) for name, sock in open_dns(new).items()}
    install(choose(plans, backend), [_together(old, new) for old, new in zip(before, plans, strict=True)])
    install_sets(one for plan in plans for one in plan.sets)
    named = {one.name for plan in plans for one in plan.sets}
    destroy_sets(one.name for plan in before for one in plan.sets if one.name not in named)
    _forget_what_no_longer_passes(plans)
    return {name: sock.detach() for name, sock in sockets.items()}


def restore(standing: Standing, backend: Backend | None) -> dict[str, int]:
    """Put what was in force in force again: what began under what was not is ended."""
    enter_made(standing.cell, standing.user)
    install(choose(standing.plans, backend), standing.plans)
    _forget_what_no_longer_passes(standing.plans)
    return {}


def _forget_what_no_longer_passes(plans: Sequence[Plan]) -> None:
    from gateway.netd.conntrack import forget

    for plan in plans:
        if plan.uplink:
            forget(plan.family, Passing(terms_in(plan)).holds)


def _together(old: Plan, new: Plan) -> Plan:
    """The new plan's rules, over sets that hold what either's do."""
    held = {one.name: one.entries for one in old.sets}

    def grown(one: AddressSet) -> AddressSet:
        return replace(one, entries=tuple(dict.fromkeys((*held.get(one.name, ()), *one.entries))))

    return replace(new, sets=tuple(grown(one) for one in new.sets))


def _raise_what_is_new(standing: Standing, plans: Sequence[Plan], host: int) -> None:
    families: list[Family] = [
        new.family for old, new in zip(standing.plans, plans, strict=True) if new.uplink and not old.uplink
    ]
    if not families:
        return
    from gateway.netd.host import raise_uplink
    from gateway.netd.links import open_ways

    link = plans[0].link
    device = str(link.uplink_device)
    ways = within(host, standing.cell, lambda: raise_uplink(standing.cell, device, families, standing.owner))
    open_ways(link, ways)
