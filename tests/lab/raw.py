"""TCP services without a protocol, one a port: how servers behave well, and how they do not."""

import asyncio
import hashlib
import socket
import struct
from collections.abc import Awaitable, Callable
from dataclasses import dataclass, field
from typing import Any

from tests.lab import payload
from tests.lab.places import Port

LINGER_NONE = struct.pack("ii", 1, 0)  # socket(7), SO_LINGER: close sends RST
READ_BYTES = 1 << 18


@dataclass
class Arrival:
    """One accepted connection. ``note`` is what the log says of its end."""

    number: int
    sock: socket.socket
    reader: asyncio.StreamReader
    writer: asyncio.StreamWriter
    where: dict[str, object]
    note: dict[str, Any] = field(default_factory=dict)

    def reset(self) -> None:
        """End it with RST."""
        self.sock.setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, LINGER_NONE)
        self.writer.transport.abort()

    async def read_to_end(self) -> str:
        """Read until the peer's FIN; the digest, which is noted even if the connection breaks."""
        digest = hashlib.sha256()
        self.note.update(received=0)
        while chunk := await self.reader.read(READ_BYTES):
            digest.update(chunk)
            self.note.update(received=self.note["received"] + len(chunk), sha256=digest.hexdigest())
        self.note.update(sha256=digest.hexdigest(), eof=True)
        return digest.hexdigest()


async def echo(arrival: Arrival) -> None:
    """Send back what comes; pass the peer's half-close on."""
    arrival.note["received"] = 0
    while chunk := await arrival.reader.read(READ_BYTES):
        arrival.note["received"] += len(chunk)
        arrival.writer.write(chunk)
        await arrival.writer.drain()
    if arrival.writer.can_write_eof():
        arrival.writer.write_eof()


async def banner(arrival: Arrival) -> None:
    """Speak first."""
    arrival.writer.write(b"SSH-2.0-lab\r\n")
    await echo(arrival)


async def send_bytes(arrival: Arrival) -> None:
    """As many bytes as the first line says."""
    await send_payload(arrival.writer, int(await arrival.reader.readline() or b"0"))


async def send_payload(writer: asyncio.StreamWriter, size: int) -> None:
    """``size`` bytes of ``payload``, no faster than they are taken."""
    for chunk in payload.chunks(size):
        writer.write(chunk)
        await writer.drain()


async def upload(arrival: Arrival) -> None:
    """Answer the digest after the client half-closed."""
    digest = await arrival.read_to_end()
    arrival.writer.write(f"{digest} {arrival.note['received']}\n".encode())
    await arrival.writer.drain()


async def closes_first(arrival: Arrival) -> None:
    """Half-close from this side, and keep reading."""
    arrival.writer.write(b"bye\n")
    arrival.writer.write_eof()
    await arrival.read_to_end()


async def slow(arrival: Arrival) -> None:
    """Single bytes, at a pace."""
    count, interval_ms = (int(word) for word in (await arrival.reader.readline() or b"0 0").split())
    await send_slowly(arrival.writer, count, interval_ms)


async def send_slowly(writer: asyncio.StreamWriter, count: int, interval_ms: int) -> None:
    """``count`` bytes of ``payload``, one every ``interval_ms``."""
    for i in range(count):
        writer.write(payload.BLOCK[i : i + 1])
        await writer.drain()
        await asyncio.sleep(interval_ms / 1000)


async def resets(arrival: Arrival) -> None:
    """RST at the first bytes."""
    await arrival.reader.read(1)
    arrival.reset()


async def resets_at_once(arrival: Arrival) -> None:
    """RST before anything."""
    arrival.reset()


async def silent(arrival: Arrival) -> None:
    """Read, say nothing; stay open even after the client's end, until the client is gone altogether."""
    await arrival.read_to_end()
    while not arrival.writer.transport.is_closing():
        await asyncio.sleep(0.2)


async def discard(arrival: Arrival) -> None:
    """Read, say nothing, close when the client does."""
    await arrival.read_to_end()


async def never_reads(arrival: Arrival) -> None:
    """Leave everything in the kernel's queues."""
    arrival.writer.transport.pause_reading()  # type: ignore[attr-defined]
    while not arrival.writer.transport.is_closing():
        await asyncio.sleep(0.2)


Service = Callable[[Arrival], Awaitable[None]]

SERVICES: dict[Port, Service] = {
    Port.ECHO: echo,
    Port.BANNER: banner,
    Port.BYTES: send_bytes,
    Port.UPLOAD: upload,
    Port.CLOSES_FIRST: closes_first,
    Port.SLOW: slow,
    Port.RESETS: resets,
    Port.RESETS_AT_ONCE: resets_at_once,
    Port.SILENT: silent,
    Port.DISCARD: discard,
    Port.NEVER_READS: never_reads,
}
