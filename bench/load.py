"""The load: ``python bench/load.py VERB IP PORT HELLO NUMBERS...`` prints one line of JSON.

``one SECONDS``            one connection; is it answered so soon?
``short COUNT AT_ONCE``    COUNT connections, AT_ONCE at a time, each to the far side's end: how many a second the proxy can do
``paced RATE COUNT``       COUNT connections at random moments (Poisson), RATE a second whatever becomes of them: how long they take
``bulk BYTES``             one connection that brings so much
``hold COUNT``             COUNT connections that are answered and stay; another line when standard input ends, and they do

Whatever is not answered in full is an error. ``cpu_s`` is what this process itself took: where that is all of its core, it was the bottleneck.
One epoll and no parsing, two to four system calls a connection beyond the unavoidable.
"""

import json
import random
import resource
import select
import socket
import sys
import time
from typing import Any, Final

ANSWER_BYTES: Final = 1024
GIVE_UP_S: Final = 10.0
"""Without one event."""
EVENTS: Final = select.EPOLLIN | select.EPOLLOUT | select.EPOLLRDHUP | select.EPOLLET
READ: Final = select.EPOLLIN | select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR
ENDED: Final = select.EPOLLRDHUP | select.EPOLLHUP | select.EPOLLERR
CONNECTIONS_AT_ONCE: Final = 50

clock = time.perf_counter


class Load:
    """Connections to one address that all say the same."""

    def __init__(self, address: tuple[str, int], hello: bytes, *, stay: bool = False) -> None:
        self._address = address
        self._hello = hello
        self._stay = stay
        self._poll = select.epoll()
        self._got: dict[int, int] = {}
        self.live: dict[int, tuple[socket.socket, float]] = {}
        self.held: list[socket.socket] = []
        self.errors: dict[str, int] = {}
        self.took: list[float] = []

    def begin(self) -> None:
        """Dial one more."""
        sock = socket.socket(socket.AF_INET, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
        number = sock.fileno()
        self.live[number] = sock, clock()
        sock.connect_ex(self._address)
        self._poll.register(number, EVENTS)

    def turn(self, timeout_s: float) -> int:
        """What has happened, or until ``timeout_s``; the number of events. The kernel's own waits for an epoll are whole milliseconds."""
        if timeout_s < 1:
            select.select([self._poll], [], [], max(timeout_s, 0.0))
            timeout_s = 0
        events = self._poll.poll(timeout_s)
        for number, event in events:
            self._see(number, event)
        return len(events)

    def give_up(self) -> None:
        """On all that are open."""
        for number in list(self.live):
            self._over(number, "no answer")

    def _see(self, number: int, event: int) -> None:
        sock, _ = self.live[number]
        try:
            if number not in self._got and not event & ENDED:
                self._got[number] = 0
                sock.send(self._hello)
            if not event & READ:
                return
            got = self._got.get(number, 0)
            while said := sock.recv(65536):
                got += len(said)
                # All is there once the far side's end is.
                if got == ANSWER_BYTES and (self._stay or event & select.EPOLLRDHUP):
                    break
            self._got[number] = got
        except BlockingIOError:
            self._got[number] = got
            return
        except OSError as error:
            self._over(number, type(error).__name__)
            return
        self._over(number, "" if got == ANSWER_BYTES else "refused" if got < ANSWER_BYTES else "too much")

    def _over(self, number: int, error: str) -> None:
        sock, at = self.live.pop(number)
        self._got.pop(number, None)
        if error:
            self.errors[error] = self.errors.get(error, 0) + 1
        else:
            self.took.append(clock() - at)
            if self._stay:
                self._poll.unregister(number)
                self.held.append(sock)
                return
        sock.close()


def short(load: Load, count: int, at_once: int, give_up_s: float = GIVE_UP_S) -> dict[str, Any]:
    """As many as go, ``at_once`` open at a time."""
    begun, started = 0, clock()
    while begun < count or load.live:
        while begun < count and len(load.live) < at_once:
            load.begin()
            begun += 1
        if not load.turn(give_up_s):
            load.give_up()
    return {"seconds": clock() - started}


def paced(load: Load, rate: float, count: int) -> dict[str, Any]:
    """At moments of their own; ``late_p99_us`` is by how much this process missed them."""
    gaps = random.Random(1)
    late: list[float] = []
    started = due = clock()
    while len(late) < count or load.live:
        while len(late) < count and (now := clock()) >= due:
            late.append(now - due)
            load.begin()
            due += gaps.expovariate(rate)
        if len(late) < count:
            load.turn(max(0.0, due - clock()))
        elif not load.turn(GIVE_UP_S):
            load.give_up()
    return {"seconds": clock() - started, "late_p99_us": quantile_us(late, 0.99)}


def bulk(load: Load, address: tuple[str, int], hello: bytes, size: int) -> dict[str, Any]:
    """``size`` bytes; what comes after is not waited for."""
    buffer = bytearray(1 << 20)
    started = clock()
    got = 0
    with socket.create_connection(address, GIVE_UP_S) as sock:
        sock.sendall(hello)
        while got < size and (taken := sock.recv_into(buffer)):
            got += taken
    if got < size:
        load.errors["ended early"] = 1
    return {"seconds": clock() - started, "bytes": got}


def hold(load: Load, count: int) -> dict[str, Any]:
    """Open them and say so; close them when standard input ends."""
    said = short(load, count, CONNECTIONS_AT_ONCE)
    print(json.dumps(said | outcome(load) | {"held": len(load.held)}), flush=True)
    sys.stdin.read()
    lost = sum(not still_open(sock) for sock in load.held)
    for sock in load.held:
        sock.close()
    return {"lost": lost}


def still_open(sock: socket.socket) -> bool:
    """Whether nobody has ended it."""
    try:
        return bool(sock.recv(1))
    except BlockingIOError:
        return True
    except OSError:
        return False


def outcome(load: Load) -> dict[str, Any]:
    """What every load says."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return {
        "errors": sum(load.errors.values()),
        "kinds": load.errors,
        "cpu_s": used.ru_utime + used.ru_stime,
        "answered": len(load.took),
        "p50_us": quantile_us(load.took, 0.5),
        "p99_us": quantile_us(load.took, 0.99),
    }


def quantile_us(took: list[float], share: float) -> float:
    """Of seconds, in microseconds."""
    return round(sorted(took)[int(len(took) * share)] * 1e6, 1) if took else 0.0


def main() -> None:
    verb, ip, port, said, *words = sys.argv[1:]
    _, most = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (most, most))
    address, hello = (ip, int(port)), bytes.fromhex(said)
    load = Load(address, hello, stay=verb == "hold")
    if verb == "paced":
        done = paced(load, float(words[0]), int(words[1]))
    elif verb == "one":
        done = short(load, 1, 1, float(words[0]))
    elif verb == "bulk":
        done = bulk(load, address, hello, int(words[0]))
    elif verb == "hold":
        done = hold(load, int(words[0]))
    else:
        done = short(load, int(words[0]), int(words[1]))
    print(json.dumps(done | outcome(load)), flush=True)


if __name__ == "__main__":
    main()
