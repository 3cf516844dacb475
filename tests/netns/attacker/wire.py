"""Sending from inside a sandbox, and what comes back: for the programs of attempts by network."""

import socket
from collections.abc import Callable

from tests.netns.attacker.trying import arguments

FAR = arguments["far"]
FAR6 = arguments["far6"]
RESOLVER = arguments["resolver"]
RESOLVER6 = arguments["resolver6"]
HOST = arguments["host"]
HOST6 = arguments["host6"]
HOST_PORT = int(arguments["host_port"])
"""A service of the machine, on loopback and on its own address."""
WAIT_S = 0.5
"""An answer that comes later is seen on the far side."""
PATIENCE_S = float(arguments.get("patience_s", WAIT_S))
"""With port 80, whose answer is to show that an attempt does get through."""
QUERY = b"\x12\x34\x01\0\0\1\0\0\0\0\0\0\7blocked\4test\0\0\1\0\1"
HELLO = bytes.fromhex("16030100050100000100")
IP_OPTIONS = 4  # linux/in.h


def any_of(*tries: Callable[[], object]) -> list[str]:
    """Evidence of each that works."""
    found = []
    for one in tries:
        try:
            evidence = one()
        except OSError:
            continue
        if evidence:
            found.append(str(evidence))
    return found


def datagram(
    to: tuple[str, int], data: bytes = QUERY, *, source: tuple[str, int] | None = None, options: bytes = b""
) -> bytes:
    """What comes back."""
    with socket.socket(socket.AF_INET6 if ":" in to[0] else socket.AF_INET, socket.SOCK_DGRAM) as sock:
        sock.settimeout(WAIT_S)
        sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
        if options:
            sock.setsockopt(socket.SOL_IP, IP_OPTIONS, options)
        if source:
            sock.bind(source)
        sock.sendto(data, to)
        sock.connect(to)  # so that a refusal is told
        sock.send(data)
        return sock.recv(4096)


def stream(to: tuple[str, int], data: bytes = b"GET / HTTP/1.0\r\n\r\n", *, source: tuple[str, int] | None = None, protocol: int = 0,
           options: bytes = b"", wait_s: float = WAIT_S) -> bytes:  # fmt: skip
    """The first bytes of an answer. A TLS alert and a refusal in HTTP are the gateway's own and no evidence."""
    with socket.socket(
        socket.AF_INET6 if ":" in to[0] else socket.AF_INET, socket.SOCK_STREAM, protocol
    ) as sock:
        sock.settimeout(wait_s)
        if options:
            sock.setsockopt(socket.SOL_IP, IP_OPTIONS, options)
        if source:
            sock.bind(source)
        sock.connect(to)
        sock.sendall(data)
        answer = sock.recv(4096)
    return b"" if answer.startswith((b"\x15\x03", b"HTTP/1.1 403")) else answer
