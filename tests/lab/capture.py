"""Every packet on the wire between ``host`` and ``net``.

A process of its own, inside ``net``: ``python -m tests.lab.capture DIRECTORY DEVICE``.

An AF_PACKET socket (packet(7)) sees both directions. The kernel says how many packets it had no room for: a
test that asserts that nothing was sent also asserts that nothing was missed.
"""

import asyncio
import contextlib
import ipaddress
import socket
import struct
import sys
from pathlib import Path
from typing import NamedTuple

from tests.lab import control
from tests.lab.control import Control
from tests.lab.places import HOST_IP6, NET_IP6

SOL_PACKET = 263  # linux/socket.h
PACKET_STATISTICS = 6  # linux/if_packet.h
ETH_P_ALL = 3  # linux/if_ether.h
SO_RCVBUFFORCE = 33  # asm-generic/socket.h
QUEUE_BYTES = 256 << 20
SNAP_BYTES = 128
ETHERNET_BYTES = 14
PROTOCOLS = {1: "icmp", 6: "tcp", 17: "udp", 58: "icmp6", 132: "sctp", 47: "gre"}
ARP = "0x0806"
HOP_BY_HOP = "0"
"""The header that a listener's report has before it (RFC 3810 section 5)."""
TCP_FLAGS = "FSRPAUEC"  # RFC 9293 section 3.1, from the lowest bit


class Packet(NamedTuple):
    """One packet. ``flags`` are TCP's, as letters of ``FSRPAUEC``; ``length`` is the frame's, in bytes."""

    src: str
    dst: str
    proto: str
    sport: int
    dport: int
    flags: str
    length: int


def parse(frame: bytes, length: int) -> Packet:
    """The frame's addresses and ports. What is not IP has empty addresses and its ethertype as ``proto``."""
    ethertype = int.from_bytes(frame[12:14], "big")
    if ethertype == 0x0800 and len(frame) >= ETHERNET_BYTES + 20:
        start = ETHERNET_BYTES + (frame[ETHERNET_BYTES] & 15) * 4
        number = frame[ETHERNET_BYTES + 9]
        src, dst = (
            frame[ETHERNET_BYTES + 12 : ETHERNET_BYTES + 16],
            frame[ETHERNET_BYTES + 16 : ETHERNET_BYTES + 20],
        )
    elif ethertype == 0x86DD and len(frame) >= ETHERNET_BYTES + 40:
        start = ETHERNET_BYTES + 40
        number = frame[ETHERNET_BYTES + 6]
        src, dst = (
            frame[ETHERNET_BYTES + 8 : ETHERNET_BYTES + 24],
            frame[ETHERNET_BYTES + 24 : ETHERNET_BYTES + 40],
        )
    else:
        return Packet("", "", f"{ethertype:#06x}", 0, 0, "", length)
    ports, flags = (0, 0), ""
    if number in (6, 17, 132) and len(frame) >= start + 4:
        ports = struct.unpack_from("!HH", frame, start)
    if number == 6 and len(frame) >= start + 14:
        flags = "".join(letter for bit, letter in enumerate(TCP_FLAGS) if frame[start + 13] >> bit & 1)
    proto = PROTOCOLS.get(number, str(number))
    return Packet(
        str(ipaddress.ip_address(src)), str(ipaddress.ip_address(dst)), proto, *ports, flags, length
    )


class Wire:
    """The capturing side: takes frames in as they come, reads them only when asked."""

    def __init__(self, device: str) -> None:
        self._socket = socket.socket(
            socket.AF_PACKET, socket.SOCK_RAW | socket.SOCK_NONBLOCK, socket.htons(ETH_P_ALL)
        )
        self._socket.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, QUEUE_BYTES)
        self._socket.bind((device, ETH_P_ALL))
        self._frames: list[tuple[bytes, int]] = []
        self._lost = 0
        asyncio.get_running_loop().add_reader(self._socket, self.take)

    def take(self) -> None:
        """Everything that waits in the socket."""
        buffer = bytearray(SNAP_BYTES)
        with contextlib.suppress(BlockingIOError):
            while True:
                length = self._socket.recv_into(buffer, SNAP_BYTES, socket.MSG_TRUNC)
                self._frames.append((bytes(buffer[:length]), length))

    def packets(self) -> list[Packet]:
        """All since the last ``clear``."""
        self.take()
        return [parse(frame, length) for frame, length in self._frames]

    def lost(self) -> int:
        """Packets since the last ``clear`` that found the queue full."""
        # packet(7): reading resets the counters.
        _, drops = struct.unpack("II", self._socket.getsockopt(SOL_PACKET, PACKET_STATISTICS, 8))
        self._lost += drops
        return self._lost

    def clear(self) -> None:
        """Forget everything so far."""
        self.take()
        self.lost()
        self._lost = 0
        self._frames.clear()


class Capture:
    """The asking side."""

    def __init__(self, asked: Control) -> None:
        self._control = asked

    def clear(self) -> None:
        """Start anew."""
        self._control.ask("clear")

    def packets(
        self, *, to: str | None = None, src: str | None = None, proto: str | None = None
    ) -> list[Packet]:
        """What was sent since ``clear``, in order, both ways; or only that to or from an address."""
        found = [Packet(*fields) for fields in self._control.ask("packets", to=to, src=src)]
        return [packet for packet in found if proto is None or packet.proto == proto]

    def beyond(self) -> list[Packet]:
        """What was sent since ``clear`` but for what the two ends of the wire tell each other of themselves: ARP, neighbour discovery, multicast
        listeners."""
        return [packet for packet in self.packets() if not _of_the_link(packet)]

    def involving(self, *addresses: str) -> list[Packet]:
        """Packets from or to any of ``addresses``."""
        return [
            packet for address in addresses for packet in self.packets(to=address) + self.packets(src=address)
        ]

    def lost(self) -> int:
        """How many packets the capture missed. A clean result counts only where this is 0."""
        return int(self._control.ask("lost"))


def _of_the_link(packet: Packet) -> bool:
    if packet.proto == ARP:
        return True
    here = packet.dst in (HOST_IP6, NET_IP6) or packet.dst.startswith(("ff02:", "fe80:"))
    return here and packet.proto in ("icmp6", HOP_BY_HOP)


async def main(directory: Path, device: str) -> None:
    """Capture until orphaned."""
    wire = Wire(device)
    operations: dict[str, control.Ask] = {
        "clear": lambda _: wire.clear(),
        "lost": lambda _: wire.lost(),
        "packets": lambda request: [
            packet
            for packet in wire.packets()
            if request["to"] in (None, packet.dst) and request["src"] in (None, packet.src)
        ],
    }
    await control.serve(directory / "capture.sock", operations)
    print("ready", flush=True)
    await control.until_orphaned()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1]), sys.argv[2]))
