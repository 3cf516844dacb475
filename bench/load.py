"""The load of the comparisons: many short TLS-like connections, or a few that move bytes, from inside a cell; and the far side that answers.

``python -m bench.load origin PORT`` answers: a first message of the client by 1 KB and an end; where it says ``bulk N`` behind its hello, by N bytes.
``python -m bench.load short IP PORT HELLO COUNT AT_ONCE`` dials COUNT times, AT_ONCE at once, and prints one line of JSON: errors, seconds, and
the latencies of every 16th connection in microseconds. One epoll and no parsing: it must not be the bottleneck.
"""

import json
import select
import socket
import sys
import time
from typing import Final

ANSWER: Final = b"\x17\x03\x03\x03\xfb" + bytes(1019)
BULK: Final = b"bulk "
CHUNK: Final = bytes(1 << 18)


def origin(port: int) -> None:
    """Serve until killed."""
    listener = socket.create_server(("0.0.0.0", port), backlog=4096, reuse_port=True)
    listener.setblocking(False)
    poll = select.epoll()
    poll.register(listener.fileno(), select.EPOLLIN)
    clients: dict[int, socket.socket] = {}
    left: dict[int, int] = {}
    print("ready", flush=True)
    while True:
        for number, _ in poll.poll():
            if number == listener.fileno():
                for _ in range(64):
                    try:
                        client, _ = listener.accept()
                    except BlockingIOError:
                        break
                    client.setblocking(False)
                    clients[client.fileno()] = client
                    poll.register(client.fileno(), select.EPOLLIN)
                continue
            client = clients[number]
            try:
                if number in left:
                    left[number] -= client.send(CHUNK[: left[number]])
                    if left[number] > 0:
                        continue
                else:
                    said = client.recv(65536)
                    at = said.find(BULK)
                    if at >= 0:
                        left[number] = int(said[at + len(BULK) :])
                        poll.modify(number, select.EPOLLOUT)
                        continue
                    if said:
                        client.send(ANSWER)
            except BlockingIOError:
                continue
            except OSError:
                pass
            left.pop(number, None)
            del clients[number]
            client.close()


def short(address: tuple[str, int], hello: bytes, count: int, at_once: int) -> dict[str, object]:
    """Dial ``count`` times; each is over at the far side's end."""
    poll = select.epoll()
    live: dict[int, tuple[socket.socket, float]] = {}
    begun = ended = errors = 0
    got: dict[int, int] = {}
    latencies: list[float] = []
    clock = time.perf_counter
    started = clock()

    def begin() -> None:
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        sock.connect_ex(address)
        live[sock.fileno()] = sock, clock()
        poll.register(sock.fileno(), select.EPOLLOUT)

    while ended < count:
        while begun < count and len(live) < at_once:
            begin()
            begun += 1
        for number, event in poll.poll(10):
            sock, at = live[number]
            try:
                if event & select.EPOLLOUT:
                    sock.send(hello)
                    poll.modify(number, select.EPOLLIN)
                    continue
                size = len(sock.recv(65536))
                got[number] = got.get(number, 0) + size
                if size:
                    continue
            except OSError:
                size = 0
            ended += 1
            errors += got.pop(number, 0) != len(ANSWER)
            if ended % 16 == 0:
                latencies.append(round((clock() - at) * 1e6, 1))
            del live[number]
            sock.close()
    return {"errors": errors, "seconds": clock() - started, "latencies_us": latencies}


def bulk(address: tuple[str, int], hello: bytes, size: int) -> dict[str, object]:
    """One connection that brings ``size`` bytes."""
    buffer = bytearray(1 << 20)
    started = time.perf_counter()
    with socket.create_connection(address, 30) as sock:
        # In a record of its own: what follows a hello in its record is refused.
        request = BULK + str(size).encode()
        sock.sendall(hello + b"\x14\x03\x03" + len(request).to_bytes(2, "big") + request)
        got = 0
        while taken := sock.recv_into(buffer):
            got += taken
    return {"errors": int(got != size), "seconds": time.perf_counter() - started, "bytes": got}


def main() -> None:
    verb, *words = sys.argv[1:]
    if verb == "origin":
        origin(int(words[0]))
    ip, port, hello, *numbers = words
    address = (ip, int(port))
    run = short if verb == "short" else bulk
    print(json.dumps(run(address, bytes.fromhex(hello), *map(int, numbers))), flush=True)


if __name__ == "__main__":
    main()
