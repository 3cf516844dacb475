"""How a proxy is put under the bench: what an adapter says, and the start, ports, processes and stop that all of them share.

An adapter is a file with one class. ``python -m bench --adapter path.py`` measures what it describes beside the others::

    from bench.adapter import Adapter
    from bench.place import ALLOWED, PROXY_PORT, Place

    class Mine(Adapter):
        name = "mine"
        program = "mine"                      # looked for in PATH
        install = "apt-get install mine"      # said where it is not found
        redirect = "tproxy"                   # or "redirect": how connections reach PROXY_PORT

        def files(self, place: Place) -> dict[str, str]:
            return {"mine.conf": f"listen {PROXY_PORT}; allow {' '.join(ALLOWED)}"}

        def argv(self, place: Place) -> list[str]:
            return [self.path(), "--foreground", str(place.directory / "mine.conf")]

It runs in the gateway host's namespace, as root, on the core of proxies. It must carry connections to the names ``ALLOWED`` and no others: the bench
asks for one that is not among them and takes no figure where that is answered. A proxy that makes its clients' namespaces itself overrides ``start``.
"""

import contextlib
import importlib.util
import inspect
import os
import re
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from typing import ClassVar, Final

from bench.place import Namespace, Place, Redirect

STOP_S: Final = 5.0
VERSION: Final = re.compile(r"\d+\.\d+[\w.+-]*")
extra_path: list[str] = []
"""Where programs are looked for before PATH: ``--path``."""


class Running:
    """A proxy that was started: its processes, and the namespace that its clients are in."""

    def __init__(self, process: "subprocess.Popen[bytes]", client: Namespace) -> None:
        self._process = process
        self.client = client

    def pids(self) -> list[int]:
        """It and all of its descendants."""
        return family(self._process.pid)

    def cpu_s(self) -> float:
        """Processor time so far, of all their threads: proc(5), schedstat."""
        return sum(map(cpu_s, self.pids()))

    def settled_cpu_s(self) -> float:
        """The same, once what was asked of it is done to the end, records and all."""
        before, give_up = self.cpu_s(), time.monotonic() + 2
        while time.monotonic() < give_up:
            time.sleep(0.05)
            now = self.cpu_s()
            if now - before < 0.0005:
                break
            before = now
        return before

    def rss_kib(self) -> int:
        """Resident, all of them; what they share is counted for each, so only differences mean something."""
        return sum(memory_kib(pid, "status", "VmRSS:") for pid in self.pids())

    def pss_kib(self) -> int:
        """Resident, what is shared divided by those that share it."""
        return sum(memory_kib(pid, "smaps_rollup", "Pss:") for pid in self.pids())

    def stop(self) -> None:
        """End it as its user would, by the end of its input, and wait until it has."""
        assert self._process.stdin is not None
        self._process.stdin.close()
        self._process.wait(STOP_S)

    def said(self) -> str:
        """That it ended, where it has."""
        status = self._process.poll()
        return "" if status is None else f"it ended with status {status}"


class Adapter:
    """One proxy. ``note`` is what a reader must know to compare it."""

    name: ClassVar[str] = ""
    program: ClassVar[str] = ""
    install: ClassVar[str] = ""
    note: ClassVar[str] = ""
    redirect: ClassVar[Redirect | None] = "tproxy"
    filters: ClassVar[bool] = True
    """Whether it refuses what is not allowed."""
    version_argument: ClassVar[str] = "--version"

    def path(self) -> str:
        """Of its program."""
        places = [
            *extra_path,
            str(Path(sys.executable).parent),
            os.environ.get("PATH", os.defpath),
            "/usr/sbin",
        ]
        return shutil.which(self.program, path=os.pathsep.join(places)) or ""

    def missing(self) -> str | None:
        """Why it cannot be measured here; None where it can."""
        return None if not self.program or self.path() else f"{self.program} is not installed: {self.install}"

    def version(self) -> str:
        """As it says itself: the first word that looks like one."""
        if not self.program:
            return "?"
        done = subprocess.run(
            [self.path(), self.version_argument], capture_output=True, text=True, check=False, timeout=30
        )
        found = VERSION.search(done.stdout + done.stderr)
        return found[0] if found else "?"

    def files(self, place: Place) -> dict[str, str]:
        """Its configuration: what is written into ``place.directory`` before it is started."""
        return {}

    def argv(self, place: Place) -> list[str]:
        """The command line, in the foreground."""
        raise NotImplementedError

    @contextlib.contextmanager
    def start(self, place: Place) -> Iterator[Running]:
        """Started when entered, stopped when left. What it says is in ``output`` of its directory."""
        for name, text in self.files(place).items():
            (place.directory / name).write_text(text)
        argv = place.host.enter(self.argv(place), place.cores.proxy)
        with popen(argv, place) as process:
            yield Running(process, place.client)


@contextlib.contextmanager
def popen(
    argv: list[str], place: Place, *, env: dict[str, str] | None = None, cwd: Path | None = None
) -> Iterator["subprocess.Popen[bytes]"]:
    """A process that leads a group of its own, which is ended when this is left."""
    with (place.directory / "output").open("wb") as output:
        process = subprocess.Popen(
            argv,
            stdin=subprocess.PIPE,
            stdout=output,
            stderr=subprocess.STDOUT,
            cwd=cwd or place.directory,
            env=env,
            start_new_session=True,
        )
    try:
        yield process
    finally:
        assert process.stdin is not None
        process.stdin.close()
        for number in (signal.SIGTERM, signal.SIGKILL):
            with contextlib.suppress(ProcessLookupError):
                os.killpg(process.pid, number)
            with contextlib.suppress(subprocess.TimeoutExpired):
                process.wait(STOP_S)


def family(pid: int) -> list[int]:
    """A process and all of its descendants."""
    found = [pid]
    for one in found:
        with contextlib.suppress(OSError):
            found += map(int, Path(f"/proc/{one}/task/{one}/children").read_text().split())
    return found


def cpu_s(pid: int) -> float:
    """Of one process; nothing where it has ended."""
    total = 0
    with contextlib.suppress(OSError):
        for task in Path(f"/proc/{pid}/task").iterdir():
            total += int((task / "schedstat").read_text().split()[0])
    return total / 1e9


def memory_kib(pid: int, file: str, field: str) -> int:
    """One line of what proc(5) says of a process; 0 where it has ended."""
    with contextlib.suppress(OSError):
        for line in Path(f"/proc/{pid}/{file}").read_text().splitlines():
            if line.startswith(field):
                return int(line.split()[1])
    return 0


def load_adapters(path: Path) -> list[Adapter]:
    """Of every class in a file. ValueError where there is none, or one says too little."""
    spec = importlib.util.spec_from_file_location(f"adapter_{path.stem}", path)
    if spec is None or spec.loader is None or not path.is_file():
        raise ValueError(f"{path}: not a Python file")
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    classes = [
        found
        for _, found in inspect.getmembers(module, inspect.isclass)
        if issubclass(found, Adapter) and found.__module__ == module.__name__
    ]
    found = [one() for one in classes if one.name]
    if not found:
        raise ValueError(f"{path}: no class in it is a bench.adapter.Adapter with a name")
    return found
