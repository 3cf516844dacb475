"""What gateways that were killed left on this host, and how to take it away."""

import socket
from collections.abc import Iterator
from pathlib import Path

from pyroute2 import IPRoute, NetlinkError

from gateway.errors import SetupError
from gateway.finding import Finding, is_root
from gateway.netd import host, variants
from rules.link import Family


def left() -> tuple[dict[str, str], list[str]]:
    """What killed gateways left in the host's namespace, each with what to do about it: what was in their cells ended with these. And devices of
    which nobody here can say whether they are left. SetupError where it cannot be told."""
    strangers = []
    try:
        with host.locked() as place, IPRoute() as netlink:
            left = dict(_left_files(place.path))
            ours = {name: alias for _, name, alias in host.uplinks(netlink)}
            for name in (name for _, name in socket.if_nameindex() if name.startswith(host.PREFIX)):
                alias, command = ours.get(name, ""), f"ip link del {name}"
                owner = host.alive(place.path, alias)
                if name not in ours:
                    left[f"device {name}, which no gateway made"] = f"{command}, if nobody needs it"
                elif not alias or str(owner) in left:
                    left[f"device {name}"] = command
                elif not owner.exists():
                    strangers.append(name)
                    left[f"device {name}, of a process unknown here ({alias})"] = (
                        f"{command}, unless a gateway in another container has it; the next run then sweeps the rest"
                    )
            if not strangers and not _lives(place.path):
                left |= dict(_kept_files(place)) | dict(_left_chains())
    except (OSError, variants.HostError, NetlinkError) as error:
        raise SetupError(f"cannot be looked for: {error}") from error
    return left, strangers


def _lives(place: Path) -> bool:
    """Whether a gateway does, in the network namespace whose directory that is."""
    return not all(host.is_dead(path) for path in place.glob("*.alive"))


def _left_files(here: Path) -> Iterator[tuple[str, str]]:
    """Beside them are those of other network namespaces, which may be gone."""
    for place in host.STATE.glob("host-*"):
        if place != here and not _lives(place):
            what = f"{place}, of another network namespace"
            yield what, f"rm -r {place}, if that is gone; else the next run in it sweeps it"
    for path in here.glob("*.alive"):
        if host.is_dead(path):
            yield str(path), f"rm {path}"


def _kept_files(place: host.Place) -> Iterator[tuple[str, str]]:
    """What says how the host was before: as long as it forwards, somebody needs that."""
    switches = [_switch_off(family) for family in place.before.values]
    for path in place.path.glob("before.*"):
        yield str(path), "; ".join((*switches, f"rm {path}"))


def _switch_off(family: Family) -> str:
    """Before rules go that keep the host from being a router."""
    return f"echo 0 > /proc/sys/net/{host.FORWARDING[family]}"


def _left_chains() -> Iterator[tuple[str, str]]:
    for family, iptables in variants.PROGRAMS.items():
        for variant in variants.in_use(family):
            for table, rules in variants.saved(variant, family).items():
                for name in (rule[1:] for rule in rules if rule.startswith(":EGRESS-")):
                    jumps = [f"-D{rule[2:]}" for rule in rules if rule.endswith(f" -j {name}")]
                    argv = f"{iptables}-{variant} -t {table}"
                    steps = [f"{argv} {step}" for step in (*jumps, f"-F {name}", f"-X {name}")]
                    if f"-A {name} -j DROP" in rules and name == "EGRESS-FORWARD":
                        steps.insert(0, _switch_off(family))
                    yield f"chain {name} of {iptables}-{variant}, table {table}", "; ".join(steps)


def leftovers(before: dict[str, str]) -> Finding:
    """What was there before the trial and is not any more was swept by it, as by any uplink that comes and goes."""
    if not is_root():
        return Finding(
            "leftovers", True, False, "an ordinary user's sandboxes leave none; only root sees root's"
        )
    try:
        now, _ = left()
    except SetupError as error:
        return Finding("leftovers", False, False, str(error))
    said = [f"{what} (to take it away: {command})" for what, command in now.items()]
    if swept := [what for what in before if what not in now]:
        said.append(f"swept just now, as by the next run with an uplink: {', '.join(swept)}")
    return Finding("leftovers", not now, False, "; ".join(said) or "none")
