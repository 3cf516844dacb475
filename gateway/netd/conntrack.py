"""What the kernel remembers of flows (nf_conntrack), in the network namespace of the calling process: listed, and some of it forgotten.

Raw netlink: a sandbox may have made as many flows as the table holds, and a swap waits for this. What a flow is called is not read but handed back as
it came, so every protocol can be forgotten.
"""

import socket
import struct
from collections.abc import Callable, Iterator
from itertools import islice
from typing import Final, NamedTuple

from rules.link import Family

NETLINK_NETFILTER: Final = 12  # linux/netlink.h
# linux/netfilter/nfnetlink.h, nfnetlink_conntrack.h
NEW, GET, DELETE = (1 << 8 | kind for kind in (0, 1, 2))
CTA_TUPLE_ORIG: Final = 1
CTA_TUPLE_IP, CTA_TUPLE_PROTO = 1, 2
CTA_IP_V4_DST, CTA_IP_V6_DST = 2, 4
CTA_PROTO_NUM, CTA_PROTO_DST_PORT = 1, 3
NLMSG_ERROR, NLMSG_DONE = 2, 3
NLM_F_REQUEST, NLM_F_ACK, NLM_F_DUMP = 1, 4, 0x300
READ_BYTES: Final = 1 << 18
ANSWER_TIMEOUT_S: Final = 5
MOST: Final = 16384
FAMILIES: Final[dict[Family, int]] = {4: socket.AF_INET, 6: socket.AF_INET6}
_HEAD = struct.Struct("=IHHII")
_ATTRIBUTE = struct.Struct("=HH")


class Remembered(NamedTuple):
    """One flow, by the packet that began it."""

    name: bytes
    """Its attribute as the kernel spells it."""
    protocol: int
    dest: bytes
    dest_port: int
    """0 where the protocol has none."""


def forget(family: Family, stays: Callable[[int, bytes, int], bool]) -> None:
    """Forget every flow of ``family`` for which ``stays(protocol, dest, port)`` is false. OSError.

    All flows, where there are more than ``MOST``: whoever floods must not have what is forbidden go on for as long as it takes to look at each.
    """
    with _connected() as netlink:
        looked_at = list(islice(_listed(netlink, family), MOST + 1))
        if len(looked_at) <= MOST:
            for flow in looked_at:
                if not stays(flow.protocol, flow.dest, flow.dest_port):
                    _forget(netlink, family, flow.name)
            return
    with _connected() as netlink:  # the listing went no further
        _forget(netlink, family)


def _connected() -> socket.socket:
    netlink = socket.socket(socket.AF_NETLINK, socket.SOCK_RAW | socket.SOCK_CLOEXEC, NETLINK_NETFILTER)
    netlink.bind((0, 0))
    netlink.settimeout(ANSWER_TIMEOUT_S)
    return netlink


def _forget(netlink: socket.socket, family: Family, name: bytes = b"") -> None:
    """The flow called that; without a name, every one."""
    netlink.send(_message(DELETE, NLM_F_REQUEST | NLM_F_ACK, family, name))
    netlink.recv(READ_BYTES)  # that it is done, or that it was gone already


def _message(kind: int, flags: int, family: Family, body: bytes = b"") -> bytes:
    body = struct.pack("!BBH", FAMILIES[family], 0, 0) + body
    return _HEAD.pack(16 + len(body), kind, flags, 0, 0) + body


def _listed(netlink: socket.socket, family: Family) -> Iterator[Remembered]:
    netlink.send(_message(GET, NLM_F_REQUEST | NLM_F_DUMP, family))
    while True:
        data = netlink.recv(READ_BYTES)
        for kind, start, end in _messages(data):
            if kind == NLMSG_DONE:
                return
            if kind == NLMSG_ERROR:
                (error,) = struct.unpack_from("=i", data, start)
                raise OSError(-error, "the kernel does not list its flows")
            flow = _flow(data, start + 4, end)
            if kind == NEW and flow is not None:
                yield flow


def _messages(data: bytes) -> Iterator[tuple[int, int, int]]:
    at = 0
    while at + 16 <= len(data):
        length, kind, _, _, _ = _HEAD.unpack_from(data, at)
        if length < 16:
            return
        yield kind, at + 16, min(at + length, len(data))
        at += length + 3 & ~3


def _attributes(data: bytes, at: int, end: int) -> Iterator[tuple[int, int, int]]:
    """Kind, start and end of each value."""
    while at + 4 <= end:
        length, kind = _ATTRIBUTE.unpack_from(data, at)
        if length < 4:
            return
        yield kind & 0x3FFF, at + 4, at + length
        at += length + 3 & ~3


def _flow(data: bytes, at: int, end: int) -> Remembered | None:
    for kind, start, stop in _attributes(data, at, end):
        if kind != CTA_TUPLE_ORIG:
            continue
        values = {
            (part, one): data[first:last]
            for part, begin, finish in _attributes(data, start, stop)
            for one, first, last in _attributes(data, begin, finish)
        }
        dest = values.get((CTA_TUPLE_IP, CTA_IP_V4_DST)) or values.get((CTA_TUPLE_IP, CTA_IP_V6_DST))
        number = values.get((CTA_TUPLE_PROTO, CTA_PROTO_NUM))
        if dest and number:
            port = int.from_bytes(values.get((CTA_TUPLE_PROTO, CTA_PROTO_DST_PORT), b""), "big")
            return Remembered(data[start - 4 : stop], number[0], dest, port)
    return None
