"""The sockets on which the kernel tells of packets that it decided itself: NFLOG, one a group, opened inside a cell and read elsewhere."""

import os
import socket
import struct
from typing import Final

from rules.words import ALLOWED_GROUP, REFUSED_GROUP

GROUPS: Final = {"nflog_refused": REFUSED_GROUP, "nflog_allowed": ALLOWED_GROUP}
NETLINK_NETFILTER: Final = 12  # linux/netlink.h
SO_RCVBUFFORCE: Final = 33  # asm-generic/socket.h
# linux/netfilter/nfnetlink_log.h, nfnetlink.h, netlink.h
NFULNL_MSG_CONFIG: Final = 4 << 8 | 1
NLM_F_REQUEST_ACK: Final = 1 | 4
NFULA_CFG_CMD, NFULA_CFG_MODE, NFULA_CFG_QTHRESH, NFULA_CFG_FLAGS = 1, 2, 5, 6
NFULNL_CFG_CMD_BIND: Final = 1
NFULNL_COPY_PACKET: Final = 2
NFULNL_CFG_F_SEQ: Final = 1
COPIED_BYTES: Final = 128
"""Of each packet: its headers, and of an ICMP error what it speaks of."""
AT_ONCE: Final = 1
"""Messages that the kernel gathers before it hands them over: what was decided is known when the command ends."""
BUFFER_BYTES: Final = 4 << 20
SOL_NETLINK: Final = 270  # linux/socket.h
NETLINK_NO_ENOBUFS: Final = 5  # linux/netlink.h


def open_logs() -> dict[str, socket.socket]:
    """By name, in the order in which they are handed over. OSError where the kernel has no NFLOG."""
    return {name: _open(group) for name, group in GROUPS.items()}


def _open(group: int) -> socket.socket:
    sock = socket.socket(
        socket.AF_NETLINK,
        socket.SOCK_RAW | socket.SOCK_CLOEXEC | socket.SOCK_NONBLOCK,
        NETLINK_NETFILTER,
    )
    sock.bind((0, 0))
    try:
        sock.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, BUFFER_BYTES)
    except PermissionError:  # in a user namespace: as much as anybody may have
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, BUFFER_BYTES)
    # What does not fit is lost, and counted by the socket; what comes when there is room again is told at once.
    sock.setsockopt(SOL_NETLINK, NETLINK_NO_ENOBUFS, 1)
    for kind, value in (
        (NFULA_CFG_CMD, struct.pack("B", NFULNL_CFG_CMD_BIND)),
        (NFULA_CFG_MODE, struct.pack("!IBx", COPIED_BYTES, NFULNL_COPY_PACKET)),
        (NFULA_CFG_QTHRESH, struct.pack("!I", AT_ONCE)),
        (NFULA_CFG_FLAGS, struct.pack("!H", NFULNL_CFG_F_SEQ)),  # so that a gap says how many were lost
    ):
        _configure(sock, group, kind, value)
    return sock


def _configure(sock: socket.socket, group: int, kind: int, value: bytes) -> None:
    attribute = struct.pack("=HH", 4 + len(value), kind) + value + bytes(-len(value) % 4)
    body = struct.pack("!BBH", socket.AF_UNSPEC, 0, group) + attribute
    head = struct.pack("=IHHII", 16 + len(body), NFULNL_MSG_CONFIG, NLM_F_REQUEST_ACK, 0, 0)
    sock.setblocking(True)
    sock.send(head + body)
    answer = sock.recv(4096)
    sock.setblocking(False)
    (error,) = struct.unpack_from("=i", answer, 16)
    if error:
        raise OSError(-error, f"NFLOG group {group}: {os.strerror(-error)}")
