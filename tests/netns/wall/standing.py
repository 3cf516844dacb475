"""A sandbox that stands on the ``veth`` link in the lab, with everything that root outside can do to it: send any frame, flush any table, kill
anybody."""

import contextlib
import json
import os
import re
import signal
import socket
import subprocess
import time
from collections.abc import Callable, Iterable, Iterator, Sequence
from ipaddress import ip_address
from pathlib import Path
from typing import Any

from gateway.netd.host import SO_NETNS_COOKIE
from gateway.netd.links import OF_CELL, OF_SANDBOX
from rules.plan import VETH
from tests.lab.lab import Lab
from tests.lab.network import HOST_DEVICE
from tests.lab.sandboxed import egress_argv, new_audit_dir, read_records
from tests.netns.puppet import children
from tests.rules.cell import ETH_P_ALL, Sources, entered, put
from tests.rules.frames import Flow, Seen, frame, read

OWN: Sources = {4: ip_address(VETH.address), 6: ip_address(VETH.address6)}
TO, BY = (bytes.fromhex(mac.replace(":", "")) for mac in (OF_CELL, OF_SANDBOX))
SO_RCVBUFFORCE = 33
COMMAND = ["/bin/sh", "-c", "echo ready; exec cat"]
HEARD_S = 0.3
"""After the last frame: everything that is answered at once has been."""
FOUND_S = 20.0


class Standing:
    """Use as a context manager: leaving it ends the sandbox."""

    def __init__(
        self,
        lab: Lab,
        allow: Sequence[str] = (),
        deny: Sequence[str] = (),
        options: Sequence[str] = (),
        command: Sequence[str] = COMMAND,
        prefix: Sequence[str] = (),
    ) -> None:
        self.lab = lab
        self.audit = new_audit_dir(lab)
        argv = egress_argv(self.audit, command, allow=allow, deny=deny, options=["--link", "veth", *options])
        self.process = lab.popen([*prefix, *argv], stdin=subprocess.PIPE)
        assert self.process.stdout is not None
        if self.process.stdout.readline() != "ready\n":
            raise RuntimeError(self.end())
        self.gateway = self.process.pid
        self.command = _last_descendant(self.gateway)
        self.space = Path(f"/proc/{self.command}/ns/net")
        self._wire: socket.socket | None = None

    def __enter__(self) -> "Standing":
        return self

    def __exit__(self, *exc: object) -> None:
        self.end()

    def end(self) -> str:
        """End the command, and so everything; what the gateway said. Safe twice."""
        if self._wire is not None:
            self._wire.close()
            self._wire = None
        if self.process.stdin is not None and not self.process.stdin.closed:
            self.process.stdin.close()
        assert self.process.stderr is not None
        said = "" if self.process.stderr.closed else self.process.stderr.read()
        self.process.wait(20)
        for stream in (self.process.stdout, self.process.stderr):
            assert stream is not None
            stream.close()
        return said

    def records(self) -> list[dict[str, Any]]:
        """What is on record by now."""
        return read_records(self.audit)

    def await_records(
        self, count: int, layer: str = "kernel", timeout_s: float = 30.0
    ) -> list[dict[str, Any]]:
        """Those of ``layer``, once they stand for so many attempts."""
        give_up = time.monotonic() + timeout_s
        while True:
            found = [record for record in self.records() if record.get("layer") == layer]
            if sum(record.get("count", 1) for record in found) >= count or time.monotonic() > give_up:
                return found
            time.sleep(0.05)

    def pid_of(self, role: str) -> int:
        """``netd``, ``worker`` or ``gateway``; LookupError where there is none, and none comes."""
        if role == "gateway":
            return self.gateway
        return _found(lambda: self._child(role), role)

    def _child(self, role: str) -> int | None:
        ours = os.stat(f"/proc/{self.gateway}/ns/net").st_ino
        for pid in children(self.gateway):
            with contextlib.suppress(OSError):  # it ended meanwhile
                if os.readlink(f"/proc/{pid}/exe") != os.readlink(f"/proc/{self.gateway}/exe"):
                    continue
                unprivileged = "\nUid:\t65534" in Path(f"/proc/{pid}/status").read_text()
                if os.stat(f"/proc/{pid}/ns/net").st_ino == ours and unprivileged is (role == "worker"):
                    return pid
        return None

    def kill(self, role: str) -> None:
        """SIGKILL, to nobody else."""
        os.kill(self.command if role == "command" else self.pid_of(role), signal.SIGKILL)

    def in_cell(self, script: str) -> str:
        """Run a shell script where the rules are; its output."""
        return self._run(f"/proc/{self.gateway}/fd/{self._cell()}", script)

    def in_sandbox(self, script: str) -> str:
        """Run one, as root, where the command is."""
        return self._run(str(self.space), script)

    def flush(self) -> None:
        """As if somebody had: no rule is left in the cell, and every policy accepts."""
        words = [f"{ip}tables-{kind}" for ip in ("ip", "ip6") for kind in ("legacy", "nft")]
        for table in ("mangle", "raw", "nat", "filter"):
            script = f"for tool in {' '.join(words)}; do $tool -t {table} -F; "
            if table == "filter":
                script += "for chain in INPUT FORWARD OUTPUT; do $tool -P $chain ACCEPT; done; "
            self.in_cell(script + "done")

    def send(
        self,
        flows: Iterable[Flow],
        sources: Sources = OWN,
        sport: int = 40000,
        heard_s: float = HEARD_S,
    ) -> set[Seen]:
        """Put the first packet of each flow on the sandbox's wire; what came back to it, until ``heard_s`` after the last."""
        wire = self._opened()
        seen: set[Seen] = set()
        for flow in flows:
            put(wire, frame(flow, sources[flow.destination.version], sport, to=TO, by=BY))
            seen |= set(_taken(wire))
        give_up = time.monotonic() + heard_s
        while time.monotonic() < give_up:
            seen |= set(_taken(wire))
            time.sleep(0.01)
        return seen

    def raw(self, frames: Iterable[bytes]) -> None:
        """Put frames on it that are whole already."""
        wire = self._opened()
        for one in frames:
            put(wire, one)

    def _opened(self) -> socket.socket:
        if self._wire is None:
            with entered(self.space):
                wire = socket.socket(socket.AF_PACKET, socket.SOCK_RAW, socket.htons(ETH_P_ALL))
                wire.bind(("eth0", ETH_P_ALL))
            wire.setsockopt(socket.SOL_SOCKET, SO_RCVBUFFORCE, 64 << 20)
            wire.setblocking(False)
            self._wire = wire
        return self._wire

    def _cell(self) -> int:
        """The gateway's descriptor of the cell: neither its own namespace nor the command's."""
        others = {os.stat(path).st_ino for path in (f"/proc/{self.gateway}/ns/net", self.space)}
        for path in Path(f"/proc/{self.gateway}/fd").iterdir():
            try:
                if os.readlink(path).startswith("net:") and path.stat().st_ino not in others:
                    return int(path.name)
            except FileNotFoundError:
                continue
        raise LookupError("no cell")

    def _run(self, space: str, script: str) -> str:
        done = subprocess.run(
            ["nsenter", f"--net={space}", "sh", "-ec", script], capture_output=True, text=True, check=False
        )
        assert done.returncode == 0, done.stderr
        return done.stdout


def _last_descendant(pid: int) -> int:
    """The command: behind bubblewrap and its pid 1."""
    pid = _found(lambda: next((one for one in children(pid) if _name(one) == "bwrap"), None), "command")
    while below := children(pid):
        pid = below[0]
    return pid


def _found(look: Callable[[], int | None], what: str) -> int:
    """A process, once there is one: a list of children that is read while one of them ends may lack others too (proc(5)), and in the place of one
    that was killed another comes in a moment."""
    give_up = time.monotonic() + FOUND_S
    while (pid := look()) is None:
        if time.monotonic() > give_up:
            raise LookupError(what)
        time.sleep(0.01)
    return pid


def _name(pid: int) -> str:
    """Of its program; nothing where it ended meanwhile, as what looks after the records soon does."""
    try:
        return Path(f"/proc/{pid}/comm").read_text().strip()
    except OSError:
        return ""


def _taken(wire: socket.socket) -> Iterator[Seen]:
    """What came in; nothing of what went out."""
    while True:
        try:
            raw, (_, _, direction, *_) = wire.recvfrom(2048)
        except BlockingIOError:
            return
        seen = None if direction == socket.PACKET_OUTGOING else read(raw)
        if seen is not None:
            yield seen


EMPTY = {
    "ipset save",
    "ip neigh",
    "ip netns",
    *(f"{ip}tables-{kind}-save" for ip in ("ip", "ip6") for kind in ("legacy", "nft")),
}


def host_state(lab: Lab) -> dict[str, str]:
    """Everything of the host's network that a sandbox could change. Counters are left out, and tables that hold nothing: neither
    legacy iptables nor iptables-nft takes a table away again that it has once looked at."""
    said = {}
    for words in (
        *(f"{ip}tables-{kind}-save" for ip in ("ip", "ip6") for kind in ("legacy", "nft")),
        "ipset save",
        *(f"ip -{family} rule" for family in (4, 6)),
        *(f"ip -{family} route show table all" for family in (4, 6)),
        "ip -d link",
        "ip addr",
        "ip neigh",
        "ip netns",
        "grep -r . /proc/sys/net",
    ):
        done = lab.run(["sh", "-c", f"{words} 2>/dev/null"])
        said[words] = _still(done.stdout, words)
        assert done.stdout or words in EMPTY, f"{words} says nothing"
    ours = _cookie(lab.host)
    said["state"] = "\n".join(
        str(path) for path in Path("/run/egress").glob("host-*") if path.name == f"host-{ours}"
    )
    return said


def _cookie(namespace: Path) -> int:
    """Its number, by which netd calls what it keeps of it."""
    with entered(namespace), socket.socket(socket.AF_UNIX) as any_socket:
        return int.from_bytes(any_socket.getsockopt(socket.SOL_SOCKET, SO_NETNS_COOKIE, 8), "little")


def _still(text: str, words: str) -> str:
    lines = [re.sub(r"\[\d+:\d+\]|expires \d+sec|used \d+/\d+/\d+", "", line) for line in text.splitlines()]
    if "tables" in words:
        lines = [
            line for line in lines if line[:1] not in "#*:C" or (line[:1] == ":" and "ACCEPT" not in line)
        ]
    if words.startswith("ip neigh"):
        lines = [
            line
            for line in lines
            if f"dev {HOST_DEVICE}" not in line
            and "REACHABLE" not in line
            and "STALE" not in line
            and "DELAY" not in line
        ]
    if words == "ip netns":  # of all the machine's: those of other labs come and go
        lines = [line for line in lines if not re.match(r"eg\d+-\d+-(host|net)", line)]
    if words.startswith("grep"):
        lines = [
            line
            for line in lines
            if not re.search(
                r"nf_conntrack_(count|buckets|max)|dst.*entries|tcp_mem|_rand|\.stable_secret", line
            )
        ]
    return "\n".join(lines)


def json_of(lab: Lab, words: str) -> Any:
    """What a command of iproute2 says in JSON."""
    return json.loads(lab.run(words.split()).stdout or "[]")
