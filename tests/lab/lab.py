"""``Lab``: the small internet, built in about a second and removed without a trace."""

import os
import select
import subprocess
import sys
import time
from collections.abc import Mapping, Sequence
from contextlib import ExitStack
from pathlib import Path
from types import TracebackType
from typing import Any

from tests.lab.capture import Capture
from tests.lab.control import Control
from tests.lab.farlog import FarLog
from tests.lab.network import NET_DEVICE, Network
from tests.lab.places import DNS_IP

ROOT = Path(__file__).resolve().parents[2]
READY_TIMEOUT_S = 15.0
PROXY_VARIABLES = ("http_proxy", "https_proxy", "all_proxy", "no_proxy")


class ZoneControl:
    """What DNS answers. ``dns.Zone`` has the words of a step."""

    def __init__(self, control: Control) -> None:
        self._control = control

    def put(self, name: str, *steps: Mapping[str, Any]) -> None:
        """Replace ``name``: the n-th query of a type gets the n-th step, the last for ever.

        Without a step there is no such name.
        """
        self._control.ask("zone", name=name, steps=list(steps))

    def reset(self) -> None:
        """Back to ``places.ZONE``."""
        self._control.ask("zone-reset")


class Process(subprocess.Popen[str]):
    """Ends with its ``with`` block if that fails: waiting for it could take for ever."""

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is not None:
            _end(self)
        super().__exit__(kind, error, trace)


class Lab:
    """The far side and the gateway's own ``host`` namespace. A context manager; needs root.

    ``host`` and ``net`` are the namespaces' paths, ``ca_file`` what clients trust, ``directory`` a place
    that a sandbox can read, ``work`` one in it that anyone may write; ``far`` is what arrived, ``capture``
    every packet between the two, ``zone`` what DNS says.
    """

    far: FarLog
    capture: Capture
    zone: ZoneControl

    def __init__(self) -> None:
        self._network = Network()
        self.name = self._network.name
        self.host, self.net = self._network.host, self._network.net
        self.directory = self._network.directory
        self.ca_file = self.directory / "ca.pem"
        self.work = self.directory / "work"
        self._stack = ExitStack()

    def __enter__(self) -> "Lab":
        try:
            self._start()
        except BaseException:
            self.close()
            raise
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        self.close()

    def close(self) -> None:
        """Remove everything. Safe twice."""
        self._stack.close()

    def reset(self) -> None:
        """As new for the next test: zone, far log and capture."""
        self.zone.reset()
        self.far.mark()
        self.capture.clear()

    def leaf(self, host: str) -> str:
        """Certificate, chain and key of ``host`` in PEM, for a server that is not the lab's own."""
        return str(self._origin.ask("leaf", host=host))

    def keys(self, uid: int | None = None) -> Path:
        """Where ``uid``'s key is that signs records."""
        directory = self.directory / f"keys-{uid or 0}"
        if not directory.exists():
            directory.mkdir(mode=0o700)
            os.chown(directory, uid or 0, uid or 0)
        return directory

    def errors(self) -> str:
        """What the lab's own processes had to complain of; empty unless the lab itself is broken."""
        return (self.directory / "errors.txt").read_text()

    def environment(self) -> dict[str, str]:
        """The environment that clients get: the machine's, without proxies, trusting the lab's CA."""
        kept = {key: value for key, value in os.environ.items() if key.lower() not in PROXY_VARIABLES}
        trust = ("SSL_CERT_FILE", "CURL_CA_BUNDLE", "NODE_EXTRA_CA_CERTS", "REQUESTS_CA_BUNDLE")
        return {**kept, **dict.fromkeys(trust, str(self.ca_file)), "NO_COLOR": "1"}

    def popen(
        self,
        argv: Sequence[str | Path],
        *,
        namespace: str = "host",
        uid: int | None = None,
        env: Mapping[str, str] | None = None,
        own_resolver: bool = False,
        **options: Any,
    ) -> "subprocess.Popen[str]":
        """Start a command in ``host`` (or ``net``), as ``uid`` if one is given.

        ``own_resolver`` gives it a resolv.conf with the lab's DNS.
        ``options`` go to ``subprocess.Popen``; text and pipes are the defaults. The command leads a process
        group of its own.
        """
        settings: dict[str, Any] = {
            "stdin": subprocess.DEVNULL,
            "stdout": subprocess.PIPE,
            "stderr": subprocess.PIPE,
        }
        settings.update({"cwd": self.work, "text": True, "start_new_session": True, **options})
        # Whoever runs the tests in the background may have them ignored, and ignored they would stay.
        prefix = [
            "env",
            "--default-signal=HUP,INT,QUIT",
            "nsenter",
            f"--net={self.host if namespace == 'host' else self.net}",
        ]
        if own_resolver:
            bind = 'mount --bind "$1" /etc/resolv.conf; shift; exec "$@"'
            prefix += ["unshare", "--mount", "sh", "-ec", bind, "sh", str(self.directory / "resolv.conf")]
        if uid is not None:
            prefix += ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups"]
        environment = {**self.environment(), "EGRESS_KEY_DIR": str(self.keys(uid)), **(env or {})}
        return Process([*prefix, *map(str, argv)], env=environment, **settings)

    def run(
        self, argv: Sequence[str | Path], *, timeout: float = 60.0, **options: Any
    ) -> "subprocess.CompletedProcess[str]":
        """Run a command to its end, as ``popen``; ``input=`` is its text.

        subprocess.TimeoutExpired after ``timeout`` seconds.
        """
        text = options.pop("input", None)
        if text is not None:
            options["stdin"] = subprocess.PIPE
        with self.popen(argv, **options) as process:
            try:
                out, err = process.communicate(text, timeout=timeout)
            except BaseException:
                _end(process)
                raise
        return subprocess.CompletedProcess(process.args, process.returncode, out, err)

    def _start(self) -> None:
        self._stack.callback(self._network.remove)
        self._network.make()
        self.work.mkdir()
        self.work.chmod(0o1777)
        (self.directory / "resolv.conf").write_text(f"nameserver {DNS_IP}\noptions timeout:2 attempts:1\n")
        processes = [self._spawn("origin"), self._spawn("capture", NET_DEVICE)]
        for process in processes:
            _await_ready(process)
        self._origin = self._connect("origin.sock")
        self.far = FarLog(self.directory / "far.jsonl", lambda: self._origin.ask("settle"))
        self.zone = ZoneControl(self._origin)
        self.capture = Capture(self._connect("capture.sock"))

    def _connect(self, name: str) -> Control:
        control = Control(self.directory / name)
        self._stack.callback(control.close)
        return control

    def _spawn(self, module: str, *arguments: str) -> "subprocess.Popen[str]":
        """A process of the lab inside ``net``, which ends when its standard input does."""
        argv = [sys.executable, "-m", f"tests.lab.{module}", str(self.directory), *arguments]
        with (self.directory / "errors.txt").open("a") as errors:
            process = self.popen(argv, namespace="net", cwd=ROOT, stdin=subprocess.PIPE, stderr=errors)
        self._stack.callback(_dismiss, process)
        return process


def _await_ready(process: "subprocess.Popen[str]") -> None:
    assert process.stdout is not None
    ready, _, _ = select.select([process.stdout], [], [], READY_TIMEOUT_S)
    if not ready or process.stdout.readline() != "ready\n":
        raise RuntimeError(f"a process of the lab did not start: {process.args!r}")


def _dismiss(process: "subprocess.Popen[str]") -> None:
    """Close its standard input, which ends it; kill it if not."""
    assert process.stdin is not None and process.stdout is not None
    process.stdin.close()
    try:
        process.wait(3)
    except subprocess.TimeoutExpired:
        process.kill()
        process.wait()
    process.stdout.close()


def _end(process: "subprocess.Popen[str]") -> None:
    """TERM, then KILL, to the command's process group."""
    for number in (15, 9):
        try:
            os.killpg(process.pid, number)
        except ProcessLookupError:
            return
        deadline = time.monotonic() + 3
        while process.poll() is None and time.monotonic() < deadline:
            time.sleep(0.02)
