"""Making a cell: one forked process enters a new network namespace, builds it, and hands out its sockets.

A process of its own because python-iptables caches tables by process and must first be touched inside the namespace, and because a process that
has entered a namespace never has to come back: it ends.
"""

import errno
import os
import signal
import socket
import sys
import time
import traceback
from collections.abc import Callable, Container, Sequence
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Final

from gateway.netd.requests import (
    MAX_MESSAGE_BYTES,
    Answer,
    CellOpened,
    Failed,
    PlansSwapped,
    decode_answer,
    encode,
)
from gateway.netd.spaces import Spaces, enter_cell, within
from gateway.privilege import has_net_admin
from rules.backend import Backend, Firewall
from rules.link import Family
from rules.plan import Plan, faults

if TYPE_CHECKING:
    from gateway.netd.links import Way

MAX_DESCRIPTORS: Final = 16
WORK_TIMEOUT_S = 20.0
CLEAR_PAUSE_S: Final = 0.01
CLEAR_TIMEOUT_S: Final = 5.0


def open_cell(
    plan: Plan, plan6: Plan | None = None, firewall: Backend | None = None, owner: str = ""
) -> tuple[Answer, list[int]]:
    """The cell of ``plan`` and its descriptors, which the caller owns; or why not, and nothing is left but perhaps an uplink of ``owner``, for
    ``host.lower_uplinks``. OSError if this process can fork no more."""
    wrong = wrong_with(plan, plan6)
    if wrong:
        return Failed("refused plan: " + "; ".join(wrong)), []
    return in_child(lambda: _build(plan, plan6, firewall, owner), CellOpened)


def wrong_with(plan: Plan, plan6: Plan | None) -> list[str]:
    """Why no cell may have these; empty where one may."""
    wrong = faults(plan) + ([] if plan6 is None else faults(plan6))
    if plan.link.kind == "iface" or (plan6 is not None and plan6.link != plan.link):
        wrong.append("its link is not one that is made here, or not one in both families")
    if plan.family != 4 or (plan6 is not None and plan6.family != 6):
        wrong.append("its families are not IPv4, then IPv6")
    return wrong


def in_child(
    act: Callable[[], dict[str, int]], answer: type[CellOpened] | type[PlansSwapped]
) -> tuple[Answer, list[int]]:
    """Have a process of its own do it, for it enters a namespace; the ``answer`` with the descriptors that came of it, or why not."""
    ours, theirs = socket.socketpair(socket.AF_UNIX, socket.SOCK_SEQPACKET)
    with ours:
        pid = os.fork()
        if pid == 0:
            ours.close()
            os.setpgid(0, 0)
            _answer(act, answer, theirs)
        theirs.close()
        ours.settimeout(WORK_TIMEOUT_S)
        try:
            message, descriptors, _, _ = socket.recv_fds(ours, MAX_MESSAGE_BYTES, MAX_DESCRIPTORS)
        except TimeoutError:
            # With what it runs: whoever asked is told that nothing was done, and nothing may be done after that.
            os.killpg(pid, signal.SIGKILL)
            message, descriptors = b"", []
        status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    if not message:
        how = f"by signal {-status}" if status < 0 else f"with status {status}"
        return Failed(f"the process at work in the cell ended {how} and said nothing"), []
    return decode_answer(message), descriptors


def clear(cells: Sequence[int]) -> None:
    """Kill whatever still lives in the network namespaces that ``cells`` are descriptors of: once nobody decides, nobody may stay.

    As a rule there is nothing. But a gateway that was killed while bubblewrap made the sandbox leaves half of it waiting for the other half.
    Held open, for the number of a namespace that is gone may be another's by now.
    """
    inodes = {os.fstat(descriptor).st_ino for descriptor in cells}
    give_up = time.monotonic() + CLEAR_TIMEOUT_S
    while inodes and _kill_in(inodes) and time.monotonic() < give_up:
        time.sleep(CLEAR_PAUSE_S)


def _kill_in(cells: Container[int]) -> bool:
    found = False
    # Not "[0-9]*/ns/net": glob itself raises where a process ends meanwhile.
    for path in Path("/proc").glob("[0-9]*"):
        try:
            if (path / "ns" / "net").stat().st_ino not in cells:
                continue
            os.kill(int(path.name), signal.SIGKILL)
        except OSError:
            continue  # it ended meanwhile, or it is not ours to look at, and then it is in no cell of ours
        found = True
    return found


def _build(plan: Plan, plan6: Plan | None, backend: Backend | None, owner: str) -> dict[str, int]:
    """Order: rules that drop, then the redirection, the way out, the listener; last the sandbox's own end."""
    # Only in this process: the one that answers requests needs no netlink.
    from gateway.netd.links import equip_sandbox
    from gateway.netd.nflog import open_logs
    from gateway.netd.sockets import open_sockets
    from rules.choose import choose

    plans = [plan] if plan6 is None else [plan, plan6]
    spaces = enter_cell(apart=plan.link.kind != "lo")
    firewall = choose(plans, backend)
    install(firewall, plans)
    _join(plans, spaces, owner)
    sockets = open_logs() | {name: sock for one in plans for name, sock in open_sockets(one).items()}
    if spaces.cell != spaces.sandbox:
        within(spaces.sandbox, spaces.cell, lambda: equip_sandbox(plan.link, ipv6=plan6 is not None))
    found = {"userns": spaces.user, "netns": spaces.sandbox, "cell": spaces.cell}
    if spaces.cell == spaces.sandbox:
        del found["cell"]
    descriptors = {name: space for name, space in found.items() if space is not None}
    return descriptors | {name: sock.detach() for name, sock in sockets.items()}


def install(firewall: Firewall, plans: Sequence[Plan]) -> None:
    """IPv6 first, by a process of its own: python-iptables takes rules of one family in each."""
    for one in plans[1:]:
        _in_own_process(lambda one=one: firewall.install(one))  # type: ignore[misc]
    firewall.install(plans[0])


def _join(plans: Sequence[Plan], spaces: Spaces, owner: str) -> None:
    """Devices and routes, and the uplink where a plan forwards."""
    from gateway.netd import links, sysctls

    link, ipv6 = plans[0].link, len(plans) > 1
    if link.kind == "lo":
        links.raise_lo(link, ipv6=ipv6)
        return
    sysctls.state_cell(ipv6=ipv6)
    links.make_link(link, spaces.sandbox)
    families = [plan.family for plan in plans if plan.uplink]
    ways: dict[Family, Way] = {}
    if families:
        from gateway.netd.host import raise_uplink

        raising = partial(raise_uplink, spaces.cell, str(link.uplink_device), families, owner)
        ways = within(spaces.host, spaces.cell, raising)
    links.route_cell(link, ways, ipv6=ipv6)


def _in_own_process(install: Callable[[], None]) -> None:
    """Whatever goes wrong is raised here as RuntimeError."""
    reader, writer = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            install()
        except BaseException as error:
            os.write(writer, f"{type(error).__name__}: {error}".encode()[:4096] or b"?")
        finally:
            os._exit(0)
    os.close(writer)
    with os.fdopen(reader, "rb") as pipe:
        complaint = pipe.read()
    status = os.waitpid(pid, 0)[1]
    if complaint or status:
        raise RuntimeError(
            complaint.decode(errors="replace") or f"the process that sets the rules ended with {status}"
        )


def _answer(
    act: Callable[[], dict[str, int]],
    answer: type[CellOpened] | type[PlansSwapped],
    channel: socket.socket,
) -> None:
    """Answer on ``channel`` and end this process, whatever happens."""
    try:
        try:
            made = act()
            socket.send_fds(channel, [encode(answer(tuple(made)))], list(made.values()))
        except BaseException as error:
            if os.environ.get("EGRESS_DEBUG"):
                traceback.print_exc()
            what = (
                "the cell could not be built"
                if answer is CellOpened
                else "the cell's rules could not be replaced"
            )
            channel.send(encode(_failed(what, error)))
    finally:
        sys.stderr.flush()
        os._exit(0)


def _failed(what: str, error: BaseException) -> Failed:
    if isinstance(error, PermissionError):
        return Failed(str(error), privilege=True)
    said = str(error) if isinstance(error, Exception) and str(error) else repr(error)
    # What comes from a C library need not be text.
    text = f"{what}: {said.encode(errors='backslashreplace').decode()}"
    return Failed(text, privilege=_not_permitted(error))


def _not_permitted(error: BaseException) -> bool:
    """Netlink says so by a number; programs and C libraries do in words of their own, so what this root may is asked instead."""
    from pyroute2 import NetlinkError

    if isinstance(error, NetlinkError):
        return error.code in (errno.EPERM, errno.EACCES)
    return os.geteuid() == 0 and not has_net_admin()
