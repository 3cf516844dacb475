"""A DNS server on loopback that says what a test wants it to say, over UDP and TCP, right or wrong."""

import contextlib
import selectors
import socket
import threading
from collections.abc import Callable, Iterator, Sequence
from ipaddress import ip_address
from typing import NamedTuple

import dns.message
import dns.rdata
import dns.rdataclass
import dns.rdatatype
import dns.rrset

from gateway.flow import Endpoint
from tests.gateway.net.loop import WITHIN_S

# dnspython loads a type's module when it first meets it, unless the number was met in class ANY before: whichever test came first.
dns.rdata.get_rdata_class(dns.rdataclass.CH, dns.rdatatype.A)  # type: ignore[no-untyped-call]


ROOM = 1 << 20
"""For queries that this thread has not read yet: it may have to wait for the processor, and the usual buffer holds some 250."""


class Asked(NamedTuple):
    """One query, as it came."""

    wire: bytes
    tcp: bool

    @property
    def message(self) -> dns.message.Message:
        return dns.message.from_wire(self.wire)

    @property
    def name(self) -> str:
        return self.message.question[0].name.to_text()


Answering = Callable[[Asked], Sequence[bytes]]


class DnsServer:
    """Answers each query with the messages that ``answering`` gives: none, one, or several."""

    def __init__(self, answering: Answering) -> None:
        self.answering = answering
        self.asked: list[Asked] = []
        self._tcp = socket.create_server(("127.0.0.1", 0))
        self._udp = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._udp.bind(self._tcp.getsockname())
        self._udp.setblocking(False)
        self._udp.setsockopt(socket.SOL_SOCKET, socket.SO_RCVBUF, ROOM)
        self._wake, self._woken = socket.socketpair()
        self.endpoint = Endpoint(ip_address("127.0.0.1"), self._tcp.getsockname()[1])
        self.sources: list[int] = []
        self._thread = threading.Thread(target=self._serve)
        self._thread.start()

    def _serve(self) -> None:
        with selectors.DefaultSelector() as selector:
            selector.register(self._udp, selectors.EVENT_READ, self._on_udp)
            selector.register(self._tcp, selectors.EVENT_READ, self._on_tcp)
            selector.register(self._woken, selectors.EVENT_READ, None)
            while True:
                for key, _ in selector.select():
                    if key.data is None:
                        self._take_the_rest()
                        return
                    key.data()

    def _on_udp(self) -> None:
        wire, client = self._udp.recvfrom(65535)
        self.sources.append(client[1])
        for answer in self._take(Asked(wire, False)):
            self._udp.sendto(answer, client)

    def _take_the_rest(self) -> None:
        """What was asked by the end has been asked, though nobody waits for the answer any more."""
        with contextlib.suppress(BlockingIOError):
            while True:
                self.asked.append(Asked(self._udp.recv(65535), False))

    def say(self, answer: bytes, port: int) -> None:
        """Over UDP, to who asked from there: later than ``answering`` would."""
        self._udp.sendto(answer, ("127.0.0.1", port))

    def _on_tcp(self) -> None:
        client, _ = self._tcp.accept()
        client.settimeout(WITHIN_S)
        with client, contextlib.suppress(OSError), client.makefile("rb") as stream:
            while len(head := stream.read(2)) == 2:
                wire = stream.read(int.from_bytes(head, "big"))
                for answer in self._take(Asked(wire, True)):
                    client.sendall(len(answer).to_bytes(2, "big") + answer)

    def _take(self, asked: Asked) -> Sequence[bytes]:
        self.asked.append(asked)
        return self.answering(asked)

    def close(self) -> None:
        self._wake.send(b"x")
        self._thread.join()
        for sock in (self._tcp, self._udp, self._wake, self._woken):
            sock.close()


@contextlib.contextmanager
def serving(answering: Answering) -> Iterator[DnsServer]:
    server = DnsServer(answering)
    try:
        yield server
    finally:
        server.close()


def reply(asked: Asked, *records: str, rcode: int = 0, flags: int = 0) -> bytes:
    """A proper answer with ``records``, each as in a zone file: ``name ttl IN type data``."""
    answer = dns.message.make_response(asked.message)
    for record in records:
        name, ttl, rdclass, rdtype, data = record.split(maxsplit=4)
        answer.answer.append(dns.rrset.from_text(name, int(ttl), rdclass, rdtype, data))
    answer.set_rcode(rcode)  # type: ignore[arg-type]  # any number will do
    answer.flags |= flags
    return answer.to_wire()
