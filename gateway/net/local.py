"""Which addresses are local to the host right now: asked of the kernel's own routing, when a decision needs it.

One RTM_GETROUTE over a kept netlink socket is exact for both families, for addresses that came up a moment ago, and for whole local prefixes;
a list of interface addresses is none of these.
"""

import errno
import os
import socket
import struct
import time
from collections import OrderedDict
from typing import Final

from gateway.flow import IPAddress

# linux/rtnetlink.h, linux/netlink.h
RTM_GETROUTE: Final = 26
RTM_NEWROUTE: Final = 24
NLM_F_REQUEST: Final = 1
RTA_DST: Final = 1
RTN_LOCAL: Final = 2
RTN_BROADCAST: Final = 3
RTN_ANYCAST: Final = 4
RTN_MULTICAST: Final = 5
HEADER: Final = struct.Struct("=IHHII")  # nlmsghdr: length, type, flags, sequence, port
ROUTE: Final = struct.Struct(
    "=BBBBBBBBI"
)  # rtmsg: family, dst_len, src_len, tos, table, protocol, scope, type, flags
ATTRIBUTE: Final = struct.Struct("=HH")  # rtattr: length, type
ERROR: Final = struct.Struct("=i")  # nlmsgerr: error, negative

NOT_HERE: Final = {
    errno.ENETUNREACH,
    errno.EHOSTUNREACH,  # an unreachable route
    errno.EACCES,  # a prohibit route
    errno.EINVAL,  # a blackhole route
    errno.EOPNOTSUPP,  # a kernel without this family
    errno.EAFNOSUPPORT,
}
"""How the kernel says that there is no route, so certainly none to itself."""

FRESH_S: Final = 0.5
REMEMBERED: Final = 4096


class LocalAddresses:
    """A container: ``ip in local`` asks whether this network namespace holds ``ip`` itself. An answer is good for ``FRESH_S``."""

    def __init__(self) -> None:
        """Open the netlink socket in the calling process's network namespace. OSError where the kernel refuses."""
        self._socket = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, 0)
        self._socket.settimeout(1.0)
        self._sequence = 0
        self._known: OrderedDict[IPAddress, tuple[float, bool]] = OrderedDict()

    def __contains__(self, ip: object) -> bool:
        known = self._known.get(ip)  # type: ignore[call-overload]  # any key may be asked for
        moment = time.monotonic()
        if known is not None and known[0] > moment:
            return bool(known[1])
        answer = self._ask(ip)  # type: ignore[arg-type]
        self._known[ip] = (moment + FRESH_S, answer)  # type: ignore[index]
        self._known.move_to_end(ip)  # type: ignore[arg-type]
        if len(self._known) > REMEMBERED:
            self._known.popitem(last=False)
        return answer

    def _ask(self, ip: IPAddress) -> bool:
        """True also for what is local by nature: broadcast, anycast and multicast routes. OSError when the kernel does not say: refuse."""
        self._sequence = (self._sequence + 1) & 0xFFFFFFFF
        family = socket.AF_INET if ip.version == 4 else socket.AF_INET6
        body = ROUTE.pack(family, ip.max_prefixlen, 0, 0, 0, 0, 0, 0, 0)
        body += ATTRIBUTE.pack(ATTRIBUTE.size + len(ip.packed), RTA_DST) + ip.packed
        self._socket.send(
            HEADER.pack(HEADER.size + len(body), RTM_GETROUTE, NLM_F_REQUEST, self._sequence, 0) + body
        )
        while True:
            answer = self._socket.recv(8192)
            _, kind, _, sequence, _ = HEADER.unpack_from(answer)
            if sequence == self._sequence:
                break
        if kind != RTM_NEWROUTE:
            error = -ERROR.unpack_from(answer, HEADER.size)[0]
            if error in NOT_HERE:
                return False
            raise OSError(error, os.strerror(error))
        return answer[HEADER.size + 7] in (RTN_LOCAL, RTN_BROADCAST, RTN_ANYCAST, RTN_MULTICAST)

    def close(self) -> None:
        """Close the socket; the container is of no use afterwards."""
        self._socket.close()
