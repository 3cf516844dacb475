"""A program inside a sandbox that does with sockets what a test tells it, one step at a time, and the gateway around it."""

import contextlib
import json
import os
import signal
import subprocess
import time
from collections.abc import Sequence
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.lab.lab import Lab
from tests.lab.places import GOOD_IP, Port
from tests.lab.sandboxed import DECISIONS, Record, egress_argv, new_audit_dir, read_records
from tests.netns.hello import get

PYTHON = "/usr/bin/python3"
PROGRAM = r"""
import hashlib, json, socket, struct, sys
socks = {}
def connect(id, ip, port, timeout=30.0):
    sock = socket.socket(socket.AF_INET6 if ":" in ip else socket.AF_INET)
    sock.settimeout(timeout)
    sock.connect((ip, port))
    socks[id] = sock
def send(id, data):
    socks[id].sendall(bytes.fromhex(data))
def receive(id, most=65536, timeout=30.0):
    socks[id].settimeout(timeout)
    return socks[id].recv(most).hex()
def receive_all(id, timeout=30.0):
    socks[id].settimeout(timeout)
    got = b""
    while chunk := socks[id].recv(1 << 16):
        got += chunk
    return got.hex()
def digest_all(id, timeout=30.0):
    socks[id].settimeout(timeout)
    digest, size = hashlib.sha256(), 0
    while chunk := socks[id].recv(1 << 18):
        digest.update(chunk)
        size += len(chunk)
    return [digest.hexdigest(), size]
def shut(id):
    socks[id].shutdown(socket.SHUT_WR)
def close(id):
    socks.pop(id).close()
def reset(id):
    socks[id].setsockopt(socket.SOL_SOCKET, socket.SO_LINGER, struct.pack("ii", 1, 0))
    socks.pop(id).close()
print("ready", flush=True)
for line in sys.stdin:
    asked = json.loads(line)
    try:
        answer = {"ok": globals()[asked.pop("do")](**asked)}
    except Exception as error:
        answer = {"error": type(error).__name__}
    print(json.dumps(answer), flush=True)
"""


class Failure(Exception):
    """What the program met; ``args[0]`` is the name of its exception."""


class Puppet:
    """A sandbox with the program in it. Leaving it ends both; ``records`` are complete then."""

    def __init__(
        self,
        lab: Lab,
        *,
        allow: Sequence[str] = (),
        deny: Sequence[str] = (),
        options: Sequence[str] = (),
        uid: int | None = None,
    ) -> None:
        self.audit = new_audit_dir(lab, uid)
        command = [PYTHON, "-c", PROGRAM]
        argv = egress_argv(self.audit, command, allow=allow, deny=deny, options=options, uid=uid)
        self.process = lab.popen(argv, stdin=subprocess.PIPE, uid=uid)
        assert self.process.stdout is not None
        if self.process.stdout.readline() != "ready\n":
            raise RuntimeError(self.close())

    def __enter__(self) -> "Puppet":
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> str:
        """End the program, and with it the sandbox; what the gateway said on stderr. Safe twice."""
        if self.process.stdin is not None and not self.process.stdin.closed:
            self.process.stdin.close()
        try:
            self.process.wait(30)
        finally:
            if self.process.poll() is None:
                os.killpg(self.process.pid, signal.SIGKILL)
                self.process.wait()
        assert self.process.stdout is not None and self.process.stderr is not None
        said = "" if self.process.stderr.closed else self.process.stderr.read()
        self.process.stdout.close()
        self.process.stderr.close()
        return said

    def tell(self, do: str, **arguments: Any) -> None:
        """Start one step and do not wait for its end."""
        assert self.process.stdin is not None
        self.process.stdin.write(json.dumps({"do": do, **arguments}) + "\n")
        self.process.stdin.flush()

    def hear(self) -> Any:
        """The outcome of the step that was told. Failure as the program met it."""
        assert self.process.stdout is not None
        answer = json.loads(self.process.stdout.readline())
        if "error" in answer:
            raise Failure(answer["error"])
        return answer["ok"]

    def do(self, do: str, **arguments: Any) -> Any:
        """One step and its outcome."""
        self.tell(do, **arguments)
        return self.hear()

    def connect(self, ip: str, port: int, number: int = 1) -> None:
        """Connect socket ``number``."""
        self.do("connect", id=number, ip=ip, port=int(port))

    def send(self, data: bytes, number: int = 1) -> None:
        """Send all of it."""
        self.do("send", id=number, data=data.hex())

    def receive_all(self, number: int = 1) -> bytes:
        """Everything until the end of file."""
        return bytes.fromhex(self.do("receive_all", id=number))

    def await_read(self, number: int = 99) -> None:
        """Return when the worker has read what the program has sent before: it has carried a request that came later, to ``allowed.test``."""
        self.connect(GOOD_IP, Port.HTTP, number)
        self.send(get("allowed.test"), number)
        if b" 200 OK" not in self.receive_all(number):
            raise RuntimeError("the request was not carried")

    @property
    def worker(self) -> int:
        """The process id of the worker: the child that is confined and not bubblewrap."""
        for pid in children(self.process.pid):
            try:
                status = Path(f"/proc/{pid}/status").read_text()
            except (FileNotFoundError, ProcessLookupError):
                continue
            if "\nSeccomp:\t2" in status and not status.startswith("Name:\tbwrap"):
                return pid
        raise LookupError("no worker")

    def kill_worker(self) -> None:
        """End it as a crash would, and wait for its successor."""
        old = self.worker
        os.kill(old, signal.SIGKILL)
        give_up = time.monotonic() + 30
        while time.monotonic() < give_up:
            with contextlib.suppress(LookupError):
                if self.worker != old:
                    return
            time.sleep(0.02)
        raise TimeoutError("the worker was not replaced")

    def records(self) -> list[Record]:
        """What is on record by now."""
        return read_records(self.audit)

    def decisions(self) -> list[Record]:
        """The records that decide."""
        return [record for record in self.records() if record["event"] in DECISIONS]

    def await_decisions(self, count: int, timeout_s: float = 30.0) -> list[Record]:
        """The decisions, once there are ``count``. TimeoutError shows what there is instead."""
        give_up = time.monotonic() + timeout_s
        while len(found := self.decisions()) < count:
            if time.monotonic() > give_up:
                raise TimeoutError(f"{len(found)} decisions, not {count}: {self.records()}")
            time.sleep(0.02)
        return found

    def await_closed(self, timeout_s: float = 30.0) -> Record:
        """The first ``egress_closed``, once it is there."""
        give_up = time.monotonic() + timeout_s
        while time.monotonic() < give_up:
            for record in self.records():
                if record["event"] == "egress_closed":
                    return record
            time.sleep(0.02)
        raise TimeoutError(f"nothing closed: {self.records()}")


def descriptors(pid: int) -> int:
    """How many it holds."""
    return len(os.listdir(f"/proc/{pid}/fd"))


def await_taken(worker: int, held: int, timeout_s: float = 30.0) -> None:
    """Return when ``worker`` has taken a connection, so that it holds more than ``held`` descriptors, and waits for what comes next."""
    give_up = time.monotonic() + timeout_s
    while descriptors(worker) <= held or not sleeps(worker):
        if time.monotonic() > give_up:
            raise TimeoutError(f"{descriptors(worker)} descriptors, not more than {held}")
        time.sleep(0.005)


def sleeps(pid: int) -> bool:
    """Whether it has nothing to do at the moment: proc(5), stat."""
    return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] == "S"


def children(pid: int) -> list[int]:
    """Of a process with one thread. Read until it is twice the same: one that ends meanwhile may hide another (proc(5))."""
    path = Path(f"/proc/{pid}/task/{pid}/children")
    said = path.read_text()
    while said != (said := path.read_text()):
        continue
    return [int(word) for word in said.split()]
