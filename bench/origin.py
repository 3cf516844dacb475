"""The far side: ``python bench/origin.py PORT DNS_IP`` answers until it is killed.

The server name in the first message says what is wanted: ``hold.`` a kilobyte and the connection stays, ``bulk.`` bytes until the client goes, any
other a kilobyte and an end. DNS: every name has one address. A process of its own, by epoll and without parsing, for it must not be the bottleneck.
"""

import contextlib
import select
import socket
import struct
import sys
from typing import Final

ANSWER: Final = b"\x17\x03\x03\x03\xfb" + bytes(1019)
RECORD: Final = b"\x17\x03\x03\x3f\xfb" + bytes(16379)
CHUNK: Final = RECORD * 16
"""TLS to whoever looks at it on the way: what is not would have the gateway look on, and copy."""
ADDRESS: Final = socket.inet_aton("198.18.0.10")
TTL_S: Final = 300
ACCEPTS_A_TURN: Final = 64


class Origin:
    """One listener, whatever it accepted and has not ended, and one DNS socket."""

    def __init__(self, port: int, dns_ip: str) -> None:
        self._listener = socket.create_server(("0.0.0.0", port), backlog=4096, reuse_port=True)
        # Accepted once the first message is there: no waiting for it afterwards.
        self._listener.setsockopt(socket.IPPROTO_TCP, socket.TCP_DEFER_ACCEPT, 5)
        self._listener.setblocking(False)
        self._dns = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
        self._dns.bind((dns_ip, 53))
        self._poll = select.epoll()
        self._poll.register(self._listener, select.EPOLLIN)
        self._poll.register(self._dns, select.EPOLLIN)
        self._open: dict[int, socket.socket] = {}
        self._streams: set[int] = set()

    def serve(self) -> None:
        """For ever."""
        listener, dns = self._listener.fileno(), self._dns.fileno()
        while True:
            for number, _ in self._poll.poll():
                if number == listener:
                    self._accept()
                elif number == dns:
                    query, peer = self._dns.recvfrom(4096)
                    self._dns.sendto(answer(query), peer)
                else:
                    self._go_on(number)

    def _accept(self) -> None:
        for _ in range(ACCEPTS_A_TURN):
            try:
                client, _ = self._listener.accept()
            except OSError:
                return
            try:
                said = client.recv(65536, socket.MSG_DONTWAIT)
            except BlockingIOError:
                said = b""
            except OSError:
                client.close()
                continue
            if said and not stays(said):
                _send(client)
                client.close()
            else:
                self._keep(client, said)

    def _keep(self, client: socket.socket, said: bytes) -> None:
        client.setblocking(False)
        number = client.fileno()
        self._open[number] = client
        streams = b"bulk." in said
        if streams:
            self._streams.add(number)
        elif said:
            _send(client)
        self._poll.register(number, select.EPOLLOUT if streams else select.EPOLLIN)

    def _go_on(self, number: int) -> None:
        client = self._open[number]
        try:
            if number in self._streams:
                client.send(CHUNK)
                return
            said = client.recv(65536)
            if stays(said):
                self._poll.unregister(number)
                self._keep(client, said)
                return
            if said:
                _send(client)
        except BlockingIOError:
            return
        except OSError:
            pass
        self._streams.discard(number)
        del self._open[number]
        client.close()


def _send(client: socket.socket) -> None:
    with contextlib.suppress(OSError):  # it is gone: whoever reads from it will see
        client.send(ANSWER)


def stays(said: bytes) -> bool:
    """Whether the connection is not over with the answer."""
    return b"hold." in said or b"bulk." in said


def answer(query: bytes) -> bytes:
    """One address for an A question, none for any other: RFC 1035, section 4."""
    end = query.index(0, 12) + 5
    asked = query[12:end]
    address = asked[-4:] == b"\x00\x01\x00\x01"
    header = query[:2] + struct.pack("!HHHHH", 0x8180, 1, address, 0, 0)
    return header + asked + (b"\xc0\x0c" + struct.pack("!HHIH", 1, 1, TTL_S, 4) + ADDRESS if address else b"")


if __name__ == "__main__":
    origin = Origin(int(sys.argv[1]), sys.argv[2])
    print("ready", flush=True)
    origin.serve()
