"""Upkeep in a process of its own, which reads the signing key and ends: the writer forks workers that are not trusted, and they would inherit it."""

import errno
import os
import signal
from contextlib import ExitStack
from pathlib import Path
from typing import NoReturn

import orjson

from audit.keys import import_cryptography
from audit.record import Cause
from audit.segment import Closed
from audit.settings import AuditSettings, Fsync, OnFull
from audit.upkeep import Job, Pruned, Report, keep_up


class Upkeep:
    """A child that does one job. It is made early, for what it imports takes longer than what it does; ``fileno`` is readable when it is done."""

    def __init__(self, *, early: bool = False) -> None:
        """Fork it; of what is open it keeps standard error. ``early``: the job comes later, and it gets ready to sign. OSError."""
        with ExitStack() as opened:
            job_end, self._job = _pipe(opened)
            self._report, report_end = _pipe(opened)
            self.pid = os.fork()
            if self.pid == 0:
                _in_child(job_end, report_end, early)
            opened.pop_all()
        os.close(job_end)
        os.close(report_end)

    def fileno(self) -> int:
        """Of the pipe that its report comes by."""
        return self._report

    def start(self, job: Job) -> None:
        """Tell it what to do."""
        try:
            with os.fdopen(self._job, "wb") as pipe:
                pipe.write(orjson.dumps(job, default=_spelt))
        except OSError as error:
            if error.errno != errno.EPIPE:
                raise

    def finish(self) -> Report:
        """Wait for its end, and hear what it did. A child that died reports nothing, however far it had come in saying it."""
        with os.fdopen(self._report, "rb") as pipe:
            said = pipe.read()
        os.waitpid(self.pid, 0)
        try:
            report = orjson.loads(said)
        except orjson.JSONDecodeError:
            return Report(trouble="the process that signs and removes records ended by an error")
        pruned = [Pruned(**one | {"cause": Cause(one["cause"])}) for one in report["pruned"]]
        return Report(report["sealed"], pruned, report["trouble"])


def _pipe(opened: ExitStack) -> tuple[int, int]:
    """Both ends closed with ``opened``."""
    ends = os.pipe2(os.O_CLOEXEC)
    for end in ends:
        opened.callback(os.close, end)
    return ends


def _in_child(job_end: int, report_end: int, early: bool) -> NoReturn:
    status = 1
    try:
        _alone({2, job_end, report_end})
        if early:
            import_cryptography()

        with os.fdopen(job_end, "rb") as pipe:
            text = pipe.read()
        if text:
            with os.fdopen(report_end, "wb") as pipe:
                pipe.write(orjson.dumps(keep_up(_job(text))))
        status = 0
    finally:
        os._exit(status)


def _alone(keep: set[int]) -> None:
    """What a terminal or a service manager sends to all is for others: this child ends when its work is done. And nobody waits for the end of a
    descriptor that only it still holds."""
    signal.set_wakeup_fd(-1)
    os.setpgid(0, 0)
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP, signal.SIGQUIT, signal.SIGTTOU):
        signal.signal(number, signal.SIG_IGN)
    null = os.open(os.devnull, os.O_RDWR)
    os.dup2(null, 0)
    os.dup2(null, 1)
    for name in os.listdir("/proc/self/fd"):
        if int(name) not in keep | {0, 1}:
            try:
                os.close(int(name))
            except OSError:
                continue  # the listing's own, closed already


def _spelt(path: object) -> str:
    """A path's bytes, which may be no UTF-8, as letters."""
    if not isinstance(path, Path):
        raise TypeError(path)
    return os.fsencode(path).decode("latin-1")


def _path(spelt: str) -> Path:
    return Path(os.fsdecode(spelt.encode("latin-1")))


def _job(text: bytes) -> Job:
    said = orjson.loads(text)
    settings = said["settings"]
    words = {"fsync": Fsync(settings["fsync"]), "on_full": OnFull(settings["on_full"])}
    return Job(
        _path(said["directory"]),
        None if said["keys"] is None else _path(said["keys"]),
        AuditSettings(**settings | words),
        said["now_ns"],
        [Closed(**closed) for closed in said["closed"]],
        said["prune"],
    )
