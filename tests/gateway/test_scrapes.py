"""The socket that tells metrics, in a loop of this process: who asks well, who asks badly, who is slow."""

import contextlib
import os
import resource
import selectors
import socket
import stat
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.errors import SetupError
from gateway.scrapes import MAX_PATH_BYTES, MAX_REQUEST_BYTES, MAX_SCRAPERS, PAUSE_S, SCRAPE_S, Scrapes

ASKED = b"GET /metrics HTTP/1.1\r\nHost: localhost\r\n\r\n"


class Bench:
    """A socket, a loop that only turns when it is told, and a clock likewise."""

    def __init__(self, path: Path) -> None:
        self.now = 1000.0
        self.text = b"egress_up 1\n"
        self.asked = 0
        self.selector = selectors.DefaultSelector()
        self.scrapes = Scrapes(path, self.selector, self._tell, lambda: self.now)

    def _tell(self) -> bytes:
        self.asked += 1
        return self.text

    def turn(self) -> int:
        """What the supervisor's loop does once, as long as there is something to do; how much there was."""
        done = 0
        while ready := self.selector.select(0):
            done += len(ready)
            assert done < 1000, "it spins"
            for key, _ in ready:
                key.data()
        self.scrapes.tick()
        return done

    def connect(self) -> socket.socket:
        sock = socket.socket(socket.AF_UNIX)
        sock.connect(str(self.scrapes.path))
        sock.settimeout(0)
        self.turn()
        return sock

    def watched(self) -> int:
        """Descriptors besides the listener."""
        return len(self.selector.get_map()) - 1


@pytest.fixture
def bench(tmp_path: Path) -> Iterator[Bench]:
    bench = Bench(tmp_path / "m.sock")
    yield bench
    bench.scrapes.close()
    bench.selector.close()


def everything(sock: socket.socket) -> bytes:
    """Until the end of file."""
    said = b""
    with sock:
        while chunk := sock.recv(1 << 16):
            said += chunk
    return said


def gone(sock: socket.socket) -> bool:
    with sock:
        try:
            return sock.recv(1) == b""
        except BlockingIOError:
            return False
        except ConnectionResetError:
            return True


def test_an_answer_is_whole_http(bench: Bench) -> None:
    sock = bench.connect()
    sock.send(ASKED)
    bench.turn()
    head, _, body = everything(sock).partition(b"\r\n\r\n")
    status, *lines = head.split(b"\r\n")
    assert status == b"HTTP/1.0 200 OK"
    assert lines == [
        b"Content-Type: text/plain; version=0.0.4; charset=utf-8",
        b"Content-Length: %d" % len(bench.text),
        b"Connection: close",
    ]
    assert body == bench.text
    assert bench.watched() == 0


def test_a_request_may_come_byte_by_byte(bench: Bench) -> None:
    sock = bench.connect()
    for byte in ASKED:
        assert bench.asked == 0
        sock.send(bytes([byte]))
        bench.turn()
    assert everything(sock).endswith(bench.text)


@pytest.mark.parametrize(
    ("request_", "status"),
    [
        (b"GET /metrics?name[]=x HTTP/1.0\r\n\r\n", b"200"),
        (b"GET /metrics\r\n\r\n", b"200"),
        (b"GET / HTTP/1.1\r\n\r\n", b"404"),
        (b"GET /metricsx HTTP/1.1\r\n\r\n", b"404"),
        (b"POST /metrics HTTP/1.1\r\nContent-Length: 0\r\n\r\n", b"405"),
        (b"HEAD /metrics HTTP/1.1\r\n\r\n", b"405"),
        (b"\x16\x03\x01\0\0\r\n\r\n", b"405"),
        (b"\r\n\r\n", b"405"),
    ],
)
def test_what_is_asked(bench: Bench, request_: bytes, status: bytes) -> None:
    sock = bench.connect()
    sock.send(request_)
    bench.turn()
    said = everything(sock)
    assert said.startswith(b"HTTP/1.0 " + status)
    assert bench.asked == (status == b"200")


def test_a_head_without_end_is_not_kept(bench: Bench) -> None:
    sock = bench.connect()
    sock.settimeout(5)
    sock.send(b"GET /metrics HTTP/1.1\r\nX: ")
    for _ in range(MAX_REQUEST_BYTES // 1024):
        sock.send(b"x" * 1024)
        bench.turn()
    assert gone(sock) and bench.watched() == 0


def test_who_leaves_is_forgotten(bench: Bench) -> None:
    bench.connect().close()
    bench.turn()
    assert bench.watched() == 0
    sock = bench.connect()
    sock.send(ASKED)
    sock.close()
    bench.turn()
    assert bench.watched() == 0


def test_who_says_nothing_is_let_go_at_a_deadline(bench: Bench) -> None:
    assert bench.scrapes.due_in() is None
    sock = bench.connect()
    assert bench.scrapes.due_in() == SCRAPE_S
    bench.now += SCRAPE_S - 0.5
    sock.send(b"GET")  # which wins no time
    bench.turn()
    assert (bench.scrapes.due_in(), bench.watched()) == (0.5, 1)
    bench.now += 0.5
    bench.turn()
    assert gone(sock) and bench.watched() == 0
    assert bench.scrapes.due_in() is None


def test_who_does_not_read_holds_up_nobody(bench: Bench) -> None:
    """An answer of more than a socket takes; somebody else has the whole of it meanwhile."""
    bench.text = b"x" * (4 << 20)
    slow = bench.connect()
    slow.send(ASKED)
    bench.turn()
    assert bench.watched() == 1
    quick = bench.connect()
    quick.send(ASKED)
    got = b""
    while not got.endswith(b"x" * 10) or len(got) < len(bench.text):
        bench.turn()
        got += quick.recv(1 << 20)
    assert got.count(b"x", got.index(b"\r\n\r\n")) == len(bench.text)
    slow_got = len(slow.recv(1 << 16))
    bench.now += SCRAPE_S
    bench.turn()
    while chunk := slow.recv(1 << 16):
        slow_got += len(chunk)
    assert slow_got < len(bench.text)
    assert bench.watched() == 0
    slow.close()
    quick.close()


def test_there_are_only_so_many(bench: Bench) -> None:
    """The newest is answered, whoever sits there."""
    silent = [bench.connect() for _ in range(3 * MAX_SCRAPERS)]
    assert bench.watched() == MAX_SCRAPERS
    sock = bench.connect()
    sock.send(ASKED)
    bench.turn()
    assert everything(sock).endswith(bench.text)
    assert [gone(one) for one in silent] == [True] * (2 * MAX_SCRAPERS + 1) + [False] * (MAX_SCRAPERS - 1)


def test_two_of_one_turn_of_which_the_first_displaces_the_second(bench: Bench) -> None:
    """Both are ready in the same look at the selector."""
    oldest = bench.connect()
    others = [bench.connect() for _ in range(MAX_SCRAPERS - 1)]
    oldest.send(ASKED)
    newest = socket.socket(socket.AF_UNIX)
    newest.connect(str(bench.scrapes.path))
    ready = sorted(bench.selector.select(0), key=lambda one: one[0].data != bench.scrapes._accept)
    assert len(ready) == 2
    for key, _ in ready:
        key.data()
    assert bench.asked == 0 and gone(oldest)
    for sock in (*others, newest):
        sock.close()


def test_without_descriptors_nothing_spins_and_it_goes_on_later(bench: Bench) -> None:
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(str(bench.scrapes.path))
    sock.send(ASKED)
    soft, hard = resource.getrlimit(resource.RLIMIT_NOFILE)
    resource.setrlimit(resource.RLIMIT_NOFILE, (sock.fileno() + 1, hard))
    filling = []
    try:
        with contextlib.suppress(OSError):
            while True:
                filling.append(os.dup(0))
        assert bench.turn() == 1
        assert (bench.scrapes.due_in(), bench.watched()) == (PAUSE_S, -1)
    finally:
        resource.setrlimit(resource.RLIMIT_NOFILE, (soft, hard))
        for descriptor in filling:
            os.close(descriptor)
    bench.now += PAUSE_S
    assert bench.turn() == 0
    bench.turn()
    assert everything(sock).endswith(bench.text)


def test_only_the_owner_may_connect_and_the_mask_is_as_before(tmp_path: Path) -> None:
    mask = os.umask(0o022)
    try:
        bench = Bench(tmp_path / "m.sock")
        assert stat.S_IMODE((tmp_path / "m.sock").stat().st_mode) == 0o600
        assert os.umask(0o022) == 0o022
        bench.scrapes.close()
    finally:
        os.umask(mask)


def test_the_end_takes_the_socket_away_and_whoever_is_on_it(bench: Bench) -> None:
    sock = bench.connect()
    bench.scrapes.close()
    assert gone(sock) and not bench.scrapes.path.exists()
    bench.scrapes.close()


def test_what_somebody_else_put_there_stays(bench: Bench) -> None:
    bench.scrapes.path.unlink()
    bench.scrapes.path.write_text("another's")
    bench.scrapes.close()
    assert bench.scrapes.path.read_text() == "another's"


def test_a_socket_that_nobody_listens_at_is_replaced(tmp_path: Path) -> None:
    path = tmp_path / "m.sock"
    with socket.socket(socket.AF_UNIX) as left:
        left.bind(str(path))
    bench = Bench(path)
    sock = bench.connect()
    sock.send(ASKED)
    bench.turn()
    assert everything(sock).endswith(bench.text)
    bench.scrapes.close()


@pytest.mark.parametrize("what", ["served", "file", "directory", "dangling link", "no directory", "too long"])
def test_where_no_socket_can_be(tmp_path: Path, what: str) -> None:
    path = tmp_path / "m.sock"
    said = "there is such a file already"
    with socket.socket(socket.AF_UNIX) as other:
        if what == "served":
            other.bind(str(path))
            other.listen()
        elif what == "file":
            path.write_text("x")
        elif what == "directory":
            path.mkdir()
        elif what == "dangling link":
            path.symlink_to(tmp_path / "nowhere")
        elif what == "no directory":
            path, said = tmp_path / "no" / "m.sock", "No such file or directory"
        else:
            path, said = tmp_path / ("x" * MAX_PATH_BYTES), f"{MAX_PATH_BYTES} bytes long at the most"
        before = sorted(tmp_path.iterdir())
        with pytest.raises(SetupError, match=said), selectors.DefaultSelector() as selector:
            Scrapes(path, selector, lambda: b"")
        assert sorted(tmp_path.iterdir()) == before
