"""The process that is the far side: ``python -m tests.lab.origin DIRECTORY``, started inside ``net``.

It listens on every address of the namespace, speaks TLS, HTTP, DNS and the raw services of ``raw``, and
logs all that arrives to ``DIRECTORY/far.jsonl``. Says ``ready`` on standard output when it listens, and
ends when its standard input does.
"""

import asyncio
import contextlib
import gc
import resource
import socket
import ssl
import sys
from pathlib import Path
from typing import ClassVar

from gateway.tasks import spawn
from tests.lab import control, dns, raw, web
from tests.lab.ca import CertificateAuthority
from tests.lab.farlog import FarLogWriter
from tests.lab.places import DNS_SERVERS, HOSTILE, HTTP_PORTS, SERVED, TLS_PORTS, Port
from tests.lab.raw import Arrival

UDP_PORTS = (Port.ECHO, Port.DNS, Port.HTTPS)
FIRST_BYTES = 512
MOST_BYTES = 1 << 16
"""Of a datagram."""
MOST_WAITING = 1024
"""Datagrams: more than the buffer of one socket holds."""
BACKLOG = 4096
STREAM_LIMIT = 1 << 20
QUIET_PORTS = frozenset((Port.BANNER, Port.RESETS_AT_ONCE, Port.NEVER_READS))
"""Served without waiting for the client's first bytes."""


class Origin:
    """All listeners of the far side, and what they share."""

    def __init__(self, directory: Path) -> None:
        self._directory = directory
        self._log = FarLogWriter(directory / "far.jsonl")
        self._ca = CertificateAuthority()
        (directory / "ca.pem").write_bytes(self._ca.root_pem)
        self._zone = dns.Zone(self._log)
        self._doors = {hostile: self._door(hostile=hostile) for hostile in (False, True)}
        self._listeners: list[socket.socket] = []
        self._datagrams: list[Datagrams] = []
        self._count = 0

    async def start(self) -> None:
        """Listen everywhere."""
        loop = asyncio.get_running_loop()
        ports = sorted({*raw.SERVICES, *HTTP_PORTS, Port.DNS})
        for family, any_address in ((socket.AF_INET, "0.0.0.0"), (socket.AF_INET6, "::")):
            for port in ports:
                listener = _listen(family, any_address, port)
                self._listeners.append(listener)
                loop.add_reader(listener, self._accept, listener)
        for address in SERVED:
            for port in UDP_PORTS:
                datagrams = Datagrams(self._zone, self._log, (address, port))
                self._datagrams.append(datagrams)
                loop.add_reader(datagrams.sock, datagrams.take)
        operations: dict[str, control.Ask] = {
            "settle": lambda _: self._take_all(),
            "zone": lambda request: self._zone.put(request["name"], request["steps"]),
            "zone-reset": lambda _: self._zone.reset(),
            "leaf": lambda request: self._ca.leaf_pem(request["host"]).decode(),
        }
        await control.serve(self._directory / "origin.sock", operations)

    def _take_all(self) -> None:
        for listener in self._listeners:
            self._accept(listener)
        for datagrams in self._datagrams:
            datagrams.take()

    def _accept(self, listener: socket.socket) -> None:
        """Take everything that waits."""
        while True:
            try:
                sock, peer = listener.accept()
            except (BlockingIOError, ConnectionError):
                return
            local = sock.getsockname()
            self._count += 1
            where: dict[str, object] = {"src": peer[0], "sport": peer[1], "dst": local[0], "dport": local[1]}
            self._log.write("connect", conn=self._count, **where)
            spawn(self._serve(sock, self._count, where), f"conn-{self._count}")

    async def _serve(self, sock: socket.socket, number: int, where: dict[str, object]) -> None:
        """One connection, from its first byte to its entry in the log."""
        sock.setblocking(False)
        sock.setsockopt(socket.IPPROTO_TCP, socket.TCP_NODELAY, 1)
        ended: dict[str, object] = {}
        arrival = None
        try:
            if where["dport"] not in QUIET_PORTS:
                first = await _peek(sock)
                self._log.write("first", conn=number, bytes=first.hex(), **where)
            arrival = await self._open(sock, number, where)
            await self._speak(arrival)
        except (
            OSError,
            ssl.SSLError,
            asyncio.IncompleteReadError,
            asyncio.LimitOverrunError,
            ValueError,
        ) as error:
            ended["error"] = f"{type(error).__name__}: {error}"
        finally:
            if arrival is None:
                sock.close()
            else:
                ended.update(arrival.note)
                arrival.writer.close()
                with contextlib.suppress(OSError, ssl.SSLError):
                    await arrival.writer.wait_closed()
            self._log.write("end", conn=number, **ended, **where)

    async def _open(self, sock: socket.socket, number: int, where: dict[str, object]) -> Arrival:
        loop = asyncio.get_running_loop()
        door = self._doors[where["dst"] in HOSTILE] if where["dport"] in TLS_PORTS else None
        reader = asyncio.StreamReader(limit=STREAM_LIMIT)
        protocol = asyncio.StreamReaderProtocol(reader)
        transport, _ = await loop.connect_accepted_socket(lambda: protocol, sock, ssl=door)
        return Arrival(number, sock, reader, asyncio.StreamWriter(transport, protocol, reader, loop), where)

    async def _speak(self, arrival: Arrival) -> None:
        port = arrival.where["dport"]
        if port in HTTP_PORTS:
            tls = arrival.writer.get_extra_info("ssl_object")
            name = getattr(tls, "asked_name", None)
            await web.serve(arrival, self._log, tls=tls is not None, sni=name)
        elif port == Port.DNS and arrival.where["dst"] in DNS_SERVERS:
            await dns.serve_tcp(self._zone, arrival.reader, arrival.writer, arrival.where)
        else:
            await raw.SERVICES.get(Port(int(str(port))), raw.discard)(arrival)

    def _door(self, *, hostile: bool) -> ssl.SSLContext:
        """What a handshake starts with: a certificate for nobody.

        It is exchanged for the asked name's, where the address may have that one.
        """
        default = "attacker.invalid" if hostile else "default.invalid"
        door = CertificateAuthority.context(self._ca, default, self._directory)

        def choose(tls: ssl.SSLSocket | ssl.SSLObject, name: str | None, _: ssl.SSLContext) -> None:
            tls.asked_name = name  # type: ignore[union-attr]
            if name is not None and not hostile and self._zone.knows(name.lower()):
                tls.context = self._ca.context(name.lower(), self._directory)

        door.sni_callback = choose
        return door


class Datagrams:
    """One UDP socket: DNS on the DNS servers, an echo elsewhere."""

    elsewhere: ClassVar[dict[str, socket.socket]] = {}
    """Shared: a lie leaves from another socket."""

    def __init__(self, zone: dns.Zone, log: FarLogWriter, local: tuple[str, int]) -> None:
        self._zone, self._log, self._local = zone, log, local
        self.sock = socket.socket(socket.AF_INET6 if ":" in local[0] else socket.AF_INET, socket.SOCK_DGRAM)
        self.sock.bind(local)
        if local[1] == Port.HTTPS:
            self.elsewhere[local[0]] = self.sock

    def take(self) -> None:
        """Everything that waits."""
        with contextlib.suppress(BlockingIOError):
            for _ in range(MOST_WAITING):
                self._received(*self.sock.recvfrom(MOST_BYTES, socket.MSG_DONTWAIT))

    def _received(self, data: bytes, addr: tuple[str, int]) -> None:
        """Log and answer."""
        where: dict[str, object] = {
            "src": addr[0],
            "sport": addr[1],
            "dst": self._local[0],
            "dport": self._local[1],
        }
        if self._local[1] == Port.DNS and self._local[0] in DNS_SERVERS:
            reply = self._zone.reply(data, transport="udp", where=where)
            asyncio.get_running_loop().call_later(reply.delay_s, self._send, reply, addr)
            return
        self._log.write("udp", bytes=data[:FIRST_BYTES].hex(), size=len(data), **where)
        _sent(self.sock, data, addr)

    def _send(self, reply: dns.Reply, to: tuple[str, int]) -> None:
        for kind, wire in reply.lies:
            _sent(self.elsewhere[self._local[0]] if kind == "source" else self.sock, wire, to)
        if reply.wire is not None:
            _sent(self.sock, reply.wire, to)


def _sent(sock: socket.socket, data: bytes, to: tuple[str, int]) -> None:
    """By UDP, so it may be lost: there may be no way there."""
    with contextlib.suppress(OSError):
        sock.sendto(data, to)


def _wake(ready: asyncio.Future[None]) -> None:
    if not ready.done():
        ready.set_result(None)


async def _peek(sock: socket.socket) -> bytes:
    """The first bytes, left where they are; b"" if the peer ended without any."""
    loop = asyncio.get_running_loop()
    ready: asyncio.Future[None] = loop.create_future()
    loop.add_reader(sock, _wake, ready)
    try:
        await ready
    finally:
        loop.remove_reader(sock)
    return sock.recv(FIRST_BYTES, socket.MSG_PEEK)


def _listen(family: socket.AddressFamily, address: str, port: int) -> socket.socket:
    listener = socket.socket(family, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    listener.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    if family == socket.AF_INET6:
        listener.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    listener.bind((address, port))
    listener.listen(BACKLOG)
    return listener


async def main(directory: Path) -> None:
    """Serve until orphaned."""
    soft_and_hard = resource.getrlimit(resource.RLIMIT_NOFILE)[1]
    resource.setrlimit(resource.RLIMIT_NOFILE, (soft_and_hard, soft_and_hard))
    await Origin(directory).start()
    gc.freeze()
    print("ready", flush=True)
    await control.until_orphaned()


if __name__ == "__main__":
    asyncio.run(main(Path(sys.argv[1])))
