"""The forwarder between a sandbox's sockets and a resolver, all on loopback."""

import asyncio
import socket

from audit.record import Record
from gateway.dns.guard import Guard
from gateway.dns.records import QueryRecords
from gateway.dns.server import DnsForwarder
from gateway.flow import Endpoint
from gateway.net.resolve import Resolver
from gateway.net.sockets import send_all
from tests.gateway.dns.queries import guard
from tests.gateway.dns_server import Answering, Asked, DnsServer
from tests.gateway.net.loop import WITHIN_S, readable, receive, until


class Sink:
    """Takes records, as long as it is told to."""

    def __init__(self) -> None:
        self.records: list[Record] = []
        self.full = False
        self.held = 0

    def offer(self, record: Record) -> bool:
        return not self.full and self.send(record)

    def send(self, record: Record) -> bool:
        self.records.append(record)
        return True

    def hold(self, count: int) -> None:
        self.held += count


class Front:
    """The forwarder on loopback, and the sandbox's side of it."""

    def __init__(self, resolver: Endpoint, by: Guard) -> None:
        self.tcp = socket.create_server(("127.0.0.1", 0))
        self.udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self.udp.bind(self.tcp.getsockname())
        self.tcp.setblocking(False)
        self.udp.setblocking(False)
        self.address: tuple[str, int] = self.tcp.getsockname()
        self.sink = Sink()
        # Its clock stands: what it is asked for late has the TTL that it came with.
        self.resolver = Resolver(resolver, lambda: 1000.0)
        self.query_records = QueryRecords(self.sink, "agent-1", resolver)
        self.forwarder = DnsForwarder(self.udp, self.tcp, self.resolver, by, self.query_records)
        self.forwarder.start()

    def client(self, kind: socket.SocketKind = socket.SOCK_DGRAM) -> socket.socket:
        sock = socket.socket(socket.AF_INET, kind)
        sock.connect(self.address)
        sock.setblocking(False)
        return sock

    async def ask_udp(self, wire: bytes) -> bytes:
        with self.client() as sock:
            sock.send(wire)
            async with asyncio.timeout(WITHIN_S):
                await readable(sock)
            return sock.recv(65535)

    async def ask_tcp(self, wire: bytes) -> bytes:
        with self.client(socket.SOCK_STREAM) as sock:
            try:
                await send_all(sock, framed(wire))
                return await read_message(sock)
            except ConnectionResetError:
                return b""

    def has_read_all(self) -> bool:
        """No query waits in the socket for UDP."""
        try:
            self.udp.recv(1, socket.MSG_PEEK)
        except BlockingIOError:
            return True
        return False

    async def settled(self) -> None:
        """Nothing is under way any more."""
        await until(lambda: not self.forwarder._in_flight)

    async def close(self) -> None:
        self.forwarder.stop()
        for task in asyncio.all_tasks():
            if task.get_name().startswith(("dns ", "resolve ")):
                task.cancel()
        await asyncio.sleep(0.01)
        self.tcp.close()
        self.udp.close()


def framed(wire: bytes) -> bytes:
    return len(wire).to_bytes(2, "big") + wire


async def read_message(sock: socket.socket) -> bytes:
    """One framed answer; empty at the end of the connection."""
    got = bytearray()
    async with asyncio.timeout(WITHIN_S):
        while len(got) < 2 or len(got) < 2 + int.from_bytes(got[:2], "big"):
            if not await receive(sock, got, 65535):
                return b""
    return bytes(got[2:])


class Desk:
    """A resolver that answers as a test says, and forwarders in front of it."""

    def __init__(self, server: DnsServer) -> None:
        self.server = server
        self.fronts: list[Front] = []

    def front(self, answering: Answering | None = None, by: Guard | None = None) -> Front:
        if answering is not None:
            self.server.answering = answering
        made = Front(self.server.endpoint, by or guard())
        self.fronts.append(made)
        return made

    @property
    def asked(self) -> list[Asked]:
        return self.server.asked
