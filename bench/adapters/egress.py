"""This gateway: ``egress run`` on the veth link, policy, binding, records and all."""

import contextlib
import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator, Sequence
from importlib.metadata import version
from pathlib import Path

from bench.adapter import Adapter, Running, popen
from bench.installed import installed
from bench.place import ALLOWED, DNS_IP, ROOT, Namespace, Place

READY_S = 300.0


class Egress(Adapter):
    name = "egress"
    note = "egress run --link veth; names bound to the gateway's own answers; two records a connection, numbered and digested"
    redirect = None

    def __init__(self, checkout: Path = ROOT, entries: Sequence[str] = ()) -> None:
        """``checkout``: of which code, as it is installed; ``entries``: more of ``allow_out``."""
        self.checkout = checkout
        self._entries = entries

    def version(self) -> str:
        return version("egress-gateway")

    def files(self, place: Place) -> dict[str, str]:
        network = {"allow_out": [*ALLOWED, *self._entries], "deny_out": ["0.0.0.0/0"], "resolver": DNS_IP}
        return {"policy.json": json.dumps({"network": network})}

    def argv(self, place: Place) -> list[str]:
        options = [
            "--policy",
            str(place.directory / "policy.json"),
            "--audit-dir",
            str(place.directory / "records"),
        ]
        command = ["sh", "-c", "echo begun; exec cat"]
        return [
            sys.executable,
            "-P",
            "-m",
            "gateway",
            "run",
            "--link",
            "veth",
            "--name",
            "bench",
            *options,
            "--",
            *command,
        ]

    @contextlib.contextmanager
    def start(self, place: Place) -> Iterator[Running]:
        """The client is in the sandbox's namespace, which the gateway made."""
        for name, text in self.files(place).items():
            (place.directory / name).write_text(text)
        for name in ("records", "keys", "work"):
            (place.directory / name).mkdir(mode=0o700)
        env = {
            **os.environ,
            "PYTHONPATH": str(installed(self.checkout)),
            "EGRESS_KEY_DIR": str(place.directory / "keys"),
        }
        argv = place.host.enter(self.argv(place), place.cores.proxy)
        with popen(argv, place, env=env, cwd=place.directory / "work") as process:
            running = Running(process, place.client)
            with contextlib.closing(Namespace.of(_command(process, running, place))) as inside:
                running.client = inside
                yield running


def _command(process: "subprocess.Popen[bytes]", running: Running, place: Place) -> int:
    """The pid of the sandbox's command, once it runs."""
    give_up = time.monotonic() + READY_S
    while time.monotonic() < give_up and process.poll() is None:
        if "begun" in (place.directory / "output").read_text():
            for pid in reversed(running.pids()):
                with contextlib.suppress(OSError):
                    if Path(f"/proc/{pid}/comm").read_text() == "cat\n":
                        return pid
        time.sleep(0.005)
    raise RuntimeError(f"egress run did not start: {(place.directory / 'output').read_text()[-500:]}")
