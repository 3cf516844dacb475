"""The sockets that the gateway listens on, opened inside a cell and handed out as descriptors."""

import socket
from typing import Final

from rules.plan import Plan

BACKLOG: Final = 4096
DNS_PORT: Final = 53


IPV6_TRANSPARENT: Final = 75  # linux/in6.h; the socket module does not have it


def open_sockets(plan: Plan) -> dict[str, socket.socket]:
    """By name, in the order in which they are handed over. Every socket is bound to the link's device; OSError where the kernel refuses."""
    opened = {"listener" if plan.family == 4 else "listener6": _listener(plan)}
    return opened | open_dns(plan)


def open_dns(plan: Plan) -> dict[str, socket.socket]:
    """Those at the resolver's address; none where the plan has no resolver."""
    if plan.resolver is None:
        return {}
    udp = _bound(plan, socket.SOCK_DGRAM, plan.resolver, DNS_PORT)
    tcp = _bound(plan, socket.SOCK_STREAM, plan.resolver, DNS_PORT)
    tcp.listen(BACKLOG)
    return {"dns_udp": udp, "dns_tcp": tcp}


def _listener(plan: Plan) -> socket.socket:
    """Where TPROXY delivers: an accepted socket's own name is the destination that the workload dialled."""
    address = plan.link.listen_ip if plan.family == 4 else plan.link.listen_ip6
    listener = _bound(plan, socket.SOCK_STREAM, address, plan.link.listen_port, transparent=True)
    listener.listen(BACKLOG)
    return listener


def _bound(
    plan: Plan, kind: socket.SocketKind, ip: str, port: int, *, transparent: bool = False
) -> socket.socket:
    family = socket.AF_INET if plan.family == 4 else socket.AF_INET6
    sock = socket.socket(family, kind | socket.SOCK_NONBLOCK | socket.SOCK_CLOEXEC)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, plan.link.device.encode() + b"\0")
    if plan.family == 6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
        # Unlike IPv4, a local route does not make an address one that can be bound.
        sock.setsockopt(socket.IPPROTO_IPV6, IPV6_TRANSPARENT, 1)
    elif transparent:
        sock.setsockopt(socket.SOL_IP, socket.IP_TRANSPARENT, 1)
    sock.bind((ip, port))
    return sock
