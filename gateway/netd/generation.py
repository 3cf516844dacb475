"""What of the host's tables is another number once anybody has changed them: asked so often that the kernel is to list none of them for it."""

import contextlib
import socket
import struct
from ctypes import CDLL, byref, c_uint32, create_string_buffer, get_errno
from pathlib import Path
from typing import Final

from gateway.netd.variants import PROGRAMS
from rules.link import Family

NETLINK_NETFILTER: Final = 12  # linux/netlink.h
NFT_MSG_GETGEN: Final = 10 << 8 | 16  # linux/netfilter/nfnetlink.h, nf_tables.h
NLMSG_ERROR: Final = 2
NLM_F_REQUEST: Final = 1
IPT_SO_GET_INFO: Final = 64  # linux/netfilter_ipv4/ip_tables.h, and for IPv6 the same
INFO_BYTES: Final = 84
KINDS: Final[dict[Family, tuple[int, int]]] = {
    4: (socket.AF_INET, socket.IPPROTO_IP),
    6: (socket.AF_INET6, socket.IPPROTO_IPV6),
}
ANSWER_TIMEOUT_S: Final = 5
_libc = CDLL(None, use_errno=True)
"""Python's own getsockopt cannot ask with something in its hand."""


def generation(family: Family) -> str:
    """The same as long as no rule of ``family`` is changed in this network namespace: of nf_tables the kernel counts changes, of legacy tables it
    says how many rules and bytes they are. OSError."""
    return f"{_nft().hex()} {_legacy(family).hex()}"


def is_told_of(generation: str) -> bool:
    """Whether the kernel tells of every change to it: of those to legacy tables it does not, nor does one without nf_tables."""
    nft, _, legacy = generation.partition(" ")
    return bool(nft) and not legacy


def _nft() -> bytes:
    head = struct.pack("=IHHIIBBH", 20, NFT_MSG_GETGEN, NLM_F_REQUEST, 0, 0, 0, 0, 0)
    with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, NETLINK_NETFILTER) as netlink:
        netlink.settimeout(ANSWER_TIMEOUT_S)
        netlink.send(head)
        said = netlink.recv(4096)
    (kind,) = struct.unpack_from("=H", said, 4)
    # The number comes first; who asked, behind it.
    return b"" if kind == NLMSG_ERROR else said[20:28]


def _legacy(family: Family) -> bytes:
    """To ask for a table that is not there would make it."""
    kind, level = KINDS[family]
    names = ""
    with contextlib.suppress(FileNotFoundError):
        names = Path(f"/proc/self/net/{PROGRAMS[family].replace('tables', '_tables')}_names").read_text()
    said = b""
    with socket.socket(kind, socket.SOCK_DGRAM) as any_socket:
        for name in sorted(names.split()):
            info = create_string_buffer(name.encode(), INFO_BYTES)
            size = c_uint32(INFO_BYTES)
            if _libc.getsockopt(any_socket.fileno(), level, IPT_SO_GET_INFO, info, byref(size)):
                raise OSError(get_errno(), f"the table {name} is not told of")
            said += info.raw
    return said
