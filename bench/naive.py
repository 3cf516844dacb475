"""The proxy that anyone would write first, as an honest yardstick: ``python bench/naive.py PORT NAME...``.

asyncio's streams on uvloop, TPROXY, the server name looked up in a set, a line a connection. It believes the name, dials what the client asked for,
trusts every length in the hello, has no deadline, no limit and all of its privileges.
"""

import asyncio
import socket
import sys

import uvloop

IP_TRANSPARENT = 19


def server_name(hello: bytes) -> str:
    """The SNI of a whole ClientHello record, or nothing."""
    try:
        at = 43
        at += 1 + hello[at]  # session
        at += 2 + int.from_bytes(hello[at : at + 2], "big")  # cipher suites
        at += 1 + hello[at]  # compression
        end = at + 2 + int.from_bytes(hello[at : at + 2], "big")
        at += 2
        while at < end:
            kind = int.from_bytes(hello[at : at + 2], "big")
            size = int.from_bytes(hello[at + 2 : at + 4], "big")
            if kind == 0:
                return hello[at + 9 : at + 4 + size].decode()
            at += 4 + size
    except (IndexError, UnicodeDecodeError):
        pass
    return ""


async def pump(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One direction, to its end."""
    try:
        while data := await reader.read(65536):
            writer.write(data)
            await writer.drain()
        if writer.can_write_eof():
            writer.write_eof()
    except OSError:
        writer.close()


async def serve(allowed: set[str], reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
    """One connection."""
    name = ""
    try:
        head = await reader.readexactly(5)
        hello = head + await reader.readexactly(int.from_bytes(head[3:], "big"))
        name = server_name(hello)
        if name in allowed:
            ip, port = writer.get_extra_info("sockname")[:2]
            upstream, onward = await asyncio.open_connection(ip, port)
            onward.write(hello)
            await asyncio.gather(pump(reader, onward), pump(upstream, writer))
            onward.close()
    except (OSError, asyncio.IncompleteReadError):
        pass
    writer.close()
    print(writer.get_extra_info("peername"), name, name in allowed)


async def main(port: int, allowed: set[str]) -> None:
    """Listen for whatever is redirected here."""
    sock = socket.socket()
    sock.setsockopt(socket.SOL_IP, IP_TRANSPARENT, 1)
    sock.setsockopt(socket.SOL_SOCKET, socket.SO_REUSEADDR, 1)
    sock.bind(("0.0.0.0", port))
    server = await asyncio.start_server(
        lambda one, other: serve(allowed, one, other), sock=sock, backlog=4096
    )
    await server.serve_forever()


if __name__ == "__main__":
    uvloop.install()
    asyncio.run(main(int(sys.argv[1]), set(sys.argv[2:])))
