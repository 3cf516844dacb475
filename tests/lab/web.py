"""The lab's HTTP/1.1 origin: a few routes, plain or inside TLS, that behave well and badly."""

import asyncio
import hashlib
import json
from collections.abc import Awaitable, Callable
from dataclasses import dataclass

from tests.lab import raw
from tests.lab.farlog import FarLogWriter
from tests.lab.raw import Arrival

MAX_HEAD_BYTES = 1 << 20


@dataclass
class Request:
    """One request's head, as it came."""

    method: str
    target: str
    headers: list[tuple[str, str]]

    def header(self, name: str) -> str | None:
        """The first value of a header, any case."""
        return next((value for key, value in self.headers if key.lower() == name), None)


@dataclass
class Exchange:
    """A request, and the way back."""

    request: Request
    arrival: Arrival
    sni: str | None
    tls: bool
    arguments: list[str]
    keep: bool = True

    def respond(self, body: bytes, *, status: str = "200 OK", kind: str = "application/json") -> None:
        """A whole response."""
        self.head(status, kind, f"Content-Length: {len(body)}")
        if self.request.method != "HEAD":
            self.arrival.writer.write(body)

    def head(self, status: str, kind: str, *lines: str) -> None:
        """A response's head; ``lines`` frame its body."""
        fields = [f"HTTP/1.1 {status}", f"Content-Type: {kind}", *lines]
        if not self.keep:
            fields.append("Connection: close")
        self.arrival.writer.write("\r\n".join([*fields, "", ""]).encode())

    def number(self, index: int, default: int) -> int:
        """The ``index``-th argument of the path."""
        return int(self.arguments[index]) if len(self.arguments) > index else default

    async def body(self) -> tuple[str, int]:
        """Digest and size of the request's body."""
        digest, size = hashlib.sha256(), 0
        reader = self.arrival.reader
        if self.request.header("expect"):
            self.arrival.writer.write(b"HTTP/1.1 100 Continue\r\n\r\n")
        if (self.request.header("transfer-encoding") or "").lower() == "chunked":
            while length := int((await reader.readline()).split(b";")[0], 16):
                digest.update(await reader.readexactly(length))
                size += length
                await reader.readline()
            await reader.readline()
            return digest.hexdigest(), size
        left = int(self.request.header("content-length") or 0)
        while left:
            chunk = await reader.read(min(left, raw.READ_BYTES))
            if not chunk:
                raise asyncio.IncompleteReadError(b"", left)
            digest.update(chunk)
            size += len(chunk)
            left -= len(chunk)
        return digest.hexdigest(), size


async def serve(arrival: Arrival, log: FarLogWriter, *, tls: bool, sni: str | None) -> None:
    """Answer requests until the connection ends. Whatever breaks ends the connection alone."""
    while True:
        try:
            head = await arrival.reader.readuntil(b"\r\n\r\n")
        except asyncio.IncompleteReadError:
            return
        request = _parse(head)
        host = request.header("host")
        names = {"method": request.method, "target": request.target, "host": host, "tls": tls, "sni": sni}
        log.write("request", conn=arrival.number, **names, **arrival.where)
        first, *arguments = request.target.split("?")[0].lstrip("/").split("/")
        keep = (request.header("connection") or "").lower() != "close"
        exchange = Exchange(request, arrival, sni, tls, arguments, keep)
        await ROUTES.get(first, _unknown)(exchange)
        await arrival.writer.drain()
        if not exchange.keep:
            return


def _parse(head: bytes) -> Request:
    first, *lines = head.decode("latin-1").split("\r\n")[:-2]
    words = first.split(" ")
    pairs = [line.partition(":") for line in lines]
    return Request(
        words[0], words[1] if len(words) > 1 else "", [(key, value.strip()) for key, _, value in pairs]
    )


async def _here(exchange: Exchange) -> None:
    """Which address, host and name were seen."""
    await exchange.body()
    where = exchange.arrival.where
    seen = {
        "address": where["dst"],
        "port": where["dport"],
        "host": exchange.request.header("host"),
        "sni": exchange.sni,
        "tls": exchange.tls,
        "client": where["src"],
    }
    exchange.respond(json.dumps(seen).encode() + b"\n")


async def _headers(exchange: Exchange) -> None:
    exchange.respond(json.dumps(exchange.request.headers).encode() + b"\n")


async def _bytes(exchange: Exchange) -> None:
    size = exchange.number(0, 0)
    exchange.head("200 OK", "application/octet-stream", f"Content-Length: {size}")
    await raw.send_payload(exchange.arrival.writer, size)


async def _chunked(exchange: Exchange) -> None:
    """/chunked/COUNT/SIZE"""
    exchange.head("200 OK", "application/octet-stream", "Transfer-Encoding: chunked")
    size = exchange.number(1, 10)
    for _ in range(exchange.number(0, 3)):
        exchange.arrival.writer.write(f"{size:x}\r\n".encode() + b"x" * size + b"\r\n")
        await exchange.arrival.writer.drain()
    exchange.arrival.writer.write(b"0\r\n\r\n")


async def _upload(exchange: Exchange) -> None:
    digest, size = await exchange.body()
    exchange.respond(json.dumps({"sha256": digest, "count": size}).encode() + b"\n")


async def _upload_to_end(exchange: Exchange) -> None:
    """As /upload, but the answer waits for the client's half-close."""
    exchange.keep = False
    digest, size = await exchange.body()
    rest = await exchange.arrival.reader.read()
    exchange.respond(json.dumps({"sha256": digest, "count": size, "rest": len(rest)}).encode() + b"\n")


async def _closes_first(exchange: Exchange) -> None:
    """Answer, half-close, and go on reading until the client ends."""
    exchange.keep = False
    exchange.respond(b"bye\n", kind="text/plain")
    if exchange.arrival.writer.can_write_eof():
        exchange.arrival.writer.write_eof()
    await exchange.arrival.read_to_end()


async def _slow(exchange: Exchange) -> None:
    """/slow/COUNT/INTERVAL_MS"""
    count = exchange.number(0, 10)
    exchange.head("200 OK", "application/octet-stream", f"Content-Length: {count}")
    await raw.send_slowly(exchange.arrival.writer, count, exchange.number(1, 50))


async def _status(exchange: Exchange) -> None:
    exchange.respond(b"{}\n", status=f"{exchange.number(0, 200)} Asked For")


async def _reset(exchange: Exchange) -> None:
    exchange.keep = False
    exchange.arrival.reset()


async def _cut(exchange: Exchange) -> None:
    """/cut/N: promise twice N bytes, send N, reset."""
    exchange.keep = False
    size = exchange.number(0, 1000)
    exchange.head("200 OK", "application/octet-stream", f"Content-Length: {2 * size}")
    await raw.send_payload(exchange.arrival.writer, size)
    await asyncio.sleep(0.05)
    exchange.arrival.reset()


async def _close(exchange: Exchange) -> None:
    exchange.keep = False


async def _silent(exchange: Exchange) -> None:
    exchange.keep = False
    await raw.silent(exchange.arrival)


async def _echo(exchange: Exchange) -> None:
    """Switch protocols, then echo: what a WebSocket is to a splice."""
    exchange.keep = False
    lines = (b"HTTP/1.1 101 Switching Protocols", b"Upgrade: websocket", b"Connection: Upgrade", b"", b"")
    exchange.arrival.writer.write(b"\r\n".join(lines))
    await raw.echo(exchange.arrival)


async def _unknown(exchange: Exchange) -> None:
    await exchange.body()
    exchange.respond(b'{"error": "no such route"}\n', status="404 Not Found")


ROUTES: dict[str, Callable[[Exchange], Awaitable[None]]] = {
    "": _here,
    "headers": _headers,
    "bytes": _bytes,
    "chunked": _chunked,
    "upload": _upload,
    "upload-to-end": _upload_to_end,
    "closes-first": _closes_first,
    "slow": _slow,
    "status": _status,
    "reset": _reset,
    "cut": _cut,
    "close": _close,
    "silent": _silent,
    "echo": _echo,
    "latest": _here,  # /latest/meta-data: what a metadata server is asked for
}
