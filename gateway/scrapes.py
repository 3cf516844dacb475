"""Whoever asks for metrics: HTTP/1.0 on a unix socket that only its owner may open, answered between two turns of a loop that has better to do.

Nothing here waits. A scraper that says nothing, or does not read, costs a descriptor until its deadline, or until there are too many of them. Who
may ask is said twice: by the file's mode, and by where the asker comes from. A socket remembers the network namespace it was made in, also the one
that accept(2) makes for the asker's: so nobody inside a sandbox is answered, even one who finds the file.
"""

import contextlib
import errno
import os
import selectors
import socket
import stat
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final

from gateway.errors import SetupError

MAX_SCRAPERS: Final = 8
"""At once; the next one takes the place of whoever has been there longest."""
MAX_REQUEST_BYTES: Final = 8192
SCRAPE_S: Final = 5.0
"""From accept to the last byte of the answer."""
PAUSE_S: Final = 1.0
"""How long nobody is accepted after accepting failed: descriptors have run out, most likely, and asking again at once would help nobody."""
MAX_PATH_BYTES: Final = 107  # unix(7): sun_path, and its NUL
SO_NETNS_COOKIE: Final = 71  # asm-generic/socket.h; Linux 5.14 and later
CONTENT_TYPE: Final = "text/plain; version=0.0.4; charset=utf-8"


class Scrapes:
    """The socket at ``path``, and everybody who is on it."""

    def __init__(
        self,
        path: Path,
        selector: selectors.BaseSelector,
        text: Callable[[], bytes],
        clock: Callable[[], float] = time.monotonic,
    ) -> None:
        """Make the socket; whoever connects is answered when ``selector`` says so, with ``text``. SetupError where it cannot be made."""
        self.path = path
        self._selector = selector
        self._text = text
        self._clock = clock
        self._scrapers: dict[_Scraper, float] = {}
        """Until when each may take; oldest first."""
        self._listener, self._file = _listen(path)
        self._home = _namespace(self._listener)
        self._paused_until: float | None = None
        selector.register(self._listener, selectors.EVENT_READ, self._accept)

    def due_in(self) -> float | None:
        """Seconds until ``tick`` has something to do."""
        oldest = next(iter(self._scrapers.values()), None)
        due = min((moment for moment in (oldest, self._paused_until) if moment is not None), default=None)
        return None if due is None else max(0.0, due - self._clock())

    def tick(self) -> None:
        """Let go of those who take too long; accept again after a pause."""
        now = self._clock()
        if self._paused_until is not None and self._paused_until <= now:
            self._paused_until = None
            self._selector.register(self._listener, selectors.EVENT_READ, self._accept)
        for scraper in [one for one, deadline in self._scrapers.items() if deadline <= now]:
            self._drop(scraper)

    def close(self) -> None:
        """Take the socket away, if it is still the one that was made. Safe to call twice."""
        if self._listener.fileno() < 0:
            return
        for scraper in list(self._scrapers):
            self._drop(scraper)
        if self._paused_until is None:
            self._selector.unregister(self._listener)
        self._listener.close()
        with contextlib.suppress(OSError):
            if _identity(self.path) == self._file:
                self.path.unlink()

    def _accept(self) -> None:
        try:
            asker, _ = self._listener.accept()
        except BlockingIOError:
            return
        except OSError:
            self._selector.unregister(self._listener)
            self._paused_until = self._clock() + PAUSE_S
            return
        asker.setblocking(False)
        if _namespace(asker) != self._home:
            with asker, contextlib.suppress(OSError):
                asker.send(_answer("403 Forbidden", b"ask from the network namespace of the gateway\n"))
            return
        if len(self._scrapers) >= MAX_SCRAPERS:
            self._drop(next(iter(self._scrapers)))
        scraper = _Scraper(asker)
        self._scrapers[scraper] = self._clock() + SCRAPE_S
        self._selector.register(asker, selectors.EVENT_READ, lambda: self._hear(scraper))

    def _hear(self, scraper: "_Scraper") -> None:
        if scraper not in self._scrapers:
            return  # dropped earlier in this turn
        request = scraper.hear()
        if request is None:
            self._drop(scraper)
        elif request:
            scraper.rest = memoryview(self._reply(request))
            self._selector.modify(scraper.socket, selectors.EVENT_WRITE, lambda: self._tell(scraper))
            self._tell(scraper)

    def _tell(self, scraper: "_Scraper") -> None:
        if scraper in self._scrapers and scraper.tell():
            self._drop(scraper)

    def _reply(self, request: bytes) -> bytes:
        method, _, target = request.split(b"\r\n", 1)[0].partition(b" ")
        if method != b"GET":
            return _answer("405 Method Not Allowed", b"GET /metrics\n", "Allow: GET\r\n")
        if target.split(b" ", 1)[0].split(b"?", 1)[0] != b"/metrics":
            return _answer("404 Not Found", b"GET /metrics\n")
        return _answer("200 OK", self._text())

    def _drop(self, scraper: "_Scraper") -> None:
        del self._scrapers[scraper]
        self._selector.unregister(scraper.socket)
        scraper.socket.close()


class _Scraper:
    """One connection: what it has said, then what it is still to be told."""

    __slots__ = ("_said", "rest", "socket")

    def __init__(self, sock: socket.socket) -> None:
        self.socket = sock
        self._said = b""
        self.rest = memoryview(b"")

    def hear(self) -> bytes | None:
        """The request's head once it is whole, nothing before; None from somebody who is gone, or never ends."""
        try:
            said = self.socket.recv(MAX_REQUEST_BYTES)
        except BlockingIOError:
            return b""
        except OSError:
            return None
        self._said += said
        if b"\r\n\r\n" in self._said:
            return self._said
        return None if not said or len(self._said) > MAX_REQUEST_BYTES else b""

    def tell(self) -> bool:
        """Send what the socket takes. True at the end, or where nobody listens any more."""
        try:
            self.rest = self.rest[self.socket.send(self.rest) :]
        except BlockingIOError:
            return False
        except OSError:
            return True
        return not self.rest


def _answer(status: str, body: bytes, more: str = "") -> bytes:
    head = f"HTTP/1.0 {status}\r\nContent-Type: {CONTENT_TYPE}\r\nContent-Length: {len(body)}\r\n{more}Connection: close\r\n\r\n"
    return head.encode() + body


def _listen(path: Path) -> tuple[socket.socket, tuple[int, int]]:
    """The socket, and what file it is. What a gateway that was killed left there is replaced; nothing else is."""
    name = os.fsencode(path)
    if len(name) > MAX_PATH_BYTES:
        raise SetupError(f"metrics: {path}: a socket's path is {MAX_PATH_BYTES} bytes long at the most")
    listener = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK)
    mask = os.umask(0o177)  # from its first moment on nobody else may connect
    try:
        try:
            listener.bind(name)
        except OSError as error:
            if error.errno != errno.EADDRINUSE or not _is_left_over(path):
                raise
            path.unlink()
            listener.bind(name)
        file = _identity(path)
        listener.listen(MAX_SCRAPERS)
    except OSError as error:
        listener.close()
        what = "there is such a file already" if error.errno == errno.EADDRINUSE else error.strerror
        raise SetupError(f"metrics: no socket can be made at {path}: {what}") from error
    finally:
        os.umask(mask)
    return listener, file


def _is_left_over(path: Path) -> bool:
    """Whether it is a socket that nobody listens at."""
    if not stat.S_ISSOCK(path.lstat().st_mode):
        return False
    with socket.socket(socket.AF_UNIX, socket.SOCK_STREAM | socket.SOCK_NONBLOCK) as asked:
        return asked.connect_ex(os.fsencode(path)) == errno.ECONNREFUSED


def _identity(path: Path) -> tuple[int, int]:
    status = path.lstat()
    return status.st_dev, status.st_ino


def _namespace(sock: socket.socket) -> bytes:
    """A cookie of the network namespace of a socket; empty where the kernel tells none."""
    try:
        return sock.getsockopt(socket.SOL_SOCKET, SO_NETNS_COOKIE, 8)
    except OSError:
        return b""
