"""How a test speaks to a process of the lab: JSON lines over a unix socket, one answer a request."""

import asyncio
import json
import os
import socket
import sys
from collections.abc import Callable
from pathlib import Path
from typing import Any

Ask = Callable[[dict[str, Any]], object]


class Control:
    """The asking side. Blocking; one connection kept open."""

    def __init__(self, path: Path) -> None:
        self._socket = socket.socket(socket.AF_UNIX, socket.SOCK_STREAM)
        self._socket.settimeout(15)
        self._socket.connect(str(path))
        self._lines = self._socket.makefile("rb")

    def ask(self, op: str, **arguments: object) -> Any:
        """The process's answer. RuntimeError if it has none."""
        self._socket.sendall(json.dumps({"op": op, **arguments}).encode() + b"\n")
        answer = json.loads(self._lines.readline() or b'{"error": "the process ended"}')
        if "error" in answer:
            raise RuntimeError(f"{op}: {answer['error']}")
        return answer["is"]

    def close(self) -> None:
        """Hang up."""
        self._lines.close()
        self._socket.close()


async def serve(path: Path, operations: dict[str, Ask]) -> asyncio.Server:
    """Answer requests on ``path`` from now on."""

    async def answer(reader: asyncio.StreamReader, writer: asyncio.StreamWriter) -> None:
        try:
            while line := await reader.readline():
                writer.write(json.dumps(_run(operations, json.loads(line))).encode() + b"\n")
                await writer.drain()
        except ConnectionError:
            pass
        finally:
            writer.close()

    return await asyncio.start_unix_server(answer, path, limit=1 << 22)


def _run(operations: dict[str, Ask], request: dict[str, Any]) -> dict[str, Any]:
    try:
        return {"is": operations[request.pop("op")](request)}
    except Exception as error:  # the asker is a test: it gets the error, whatever it is
        return {"error": f"{type(error).__name__}: {error}"}


async def until_orphaned() -> None:
    """Return when standard input ends: whoever started this process closed it, or died."""
    loop = asyncio.get_running_loop()
    gone = loop.create_future()

    def check() -> None:
        if not os.read(sys.stdin.fileno(), 4096) and not gone.done():
            gone.set_result(None)

    loop.add_reader(sys.stdin.fileno(), check)
    await gone
    loop.remove_reader(sys.stdin.fileno())
