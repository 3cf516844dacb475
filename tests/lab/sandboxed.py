"""``egress run`` inside the lab: one command in one sandbox, and what it left on record."""

import functools
import itertools
import json
import os
import subprocess
import sys
import time
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from jsonschema import Draft202012Validator
from jsonschema.exceptions import best_match

from audit.schema import json_schema
from bench.installed import installed
from tests.lab.lab import ROOT, Lab
from tests.lab.places import DNS_IP

EGRESS = Path(sys.executable).parent / "egress"
"""As pip installs it: compiled."""
DECISIONS = frozenset(("egress_allowed", "egress_blocked"))
NOTICE = "egress: "
WHOLE_S = 10.0
"""After which a line without an end is one that was torn."""

Record = dict[str, Any]
_numbers = itertools.count(1)


@dataclass(frozen=True)
class Outcome:
    """How a sandboxed command ended: ``stderr`` is its own, ``notices`` the lines that ``egress`` added."""

    status: int
    stdout: str
    stderr: str
    notices: list[str]
    records: list[Record]

    @property
    def decisions(self) -> list[Record]:
        """The records that decide, one an accepted socket."""
        return [record for record in self.records if record["event"] in DECISIONS]


def egress_run(
    lab: Lab,
    command: Sequence[str | Path],
    *,
    allow: Sequence[str] = (),
    deny: Sequence[str] = (),
    options: Sequence[str | Path] = (),
    uid: int | None = None,
    timeout: float = 60.0,
    **more: Any,
) -> Outcome:
    """Run ``command`` by ``egress run`` in the lab's ``host``; ``more`` goes to ``Lab.run``.

    subprocess.TimeoutExpired after ``timeout`` seconds.
    """
    audit = new_audit_dir(lab, uid)
    argv = egress_argv(audit, command, allow=allow, deny=deny, options=options, uid=uid)
    done = lab.run(argv, uid=uid, timeout=timeout, **more)
    lines = done.stderr.splitlines(keepends=True)
    return Outcome(
        done.returncode,
        done.stdout,
        "".join(line for line in lines if not line.startswith(NOTICE)),
        [line.removeprefix(NOTICE).rstrip("\n") for line in lines if line.startswith(NOTICE)],
        read_records(audit),
    )


def egress_argv(
    audit: Path,
    command: Sequence[str | Path],
    *,
    allow: Sequence[str] = (),
    deny: Sequence[str] = (),
    options: Sequence[str | Path] = (),
    uid: int | None = None,
) -> list[str | Path]:
    """The command line, for ``Lab.popen`` too."""
    argv = [*egress_for(uid), "run", "--audit-dir", audit]
    if "--policy" not in options:  # which says itself what the resolver is
        argv += ["--resolver", DNS_IP]
    for entry in allow:
        argv += ["--allow-out", entry]
    for entry in deny:
        argv += ["--deny-out", entry]
    return [*argv, *options, "--", *command]


@functools.cache
def egress_for(uid: int | None) -> list[str | Path]:
    """How ``uid`` runs what was installed of this checkout: the command; or the system's Python, where the one that ``.venv`` was made with lies in
    a home directory. LookupError says why neither works; RuntimeError, that something else was installed."""
    packages = str(installed(ROOT))
    if uid is None:
        return [EGRESS]
    by_system = [
        "env",
        f"PYTHONPATH={packages}",
        "PYTHONDONTWRITEBYTECODE=1",
        "/usr/bin/python3",
        "-P",
        "-m",
        "gateway",
    ]
    ways: list[list[str | Path]] = [[EGRESS], [*by_system]]
    for argv in ways:
        tried = subprocess.run(
            [*_become(uid), *argv, "run", "--help"], capture_output=True, cwd="/", check=False
        )
        if tried.returncode == 0:
            return argv
    raise LookupError(f"uid {uid} can run no Python with this checkout: {tried.stderr.decode()[-200:]}")


@functools.cache
def user_namespaces_for(uid: int) -> bool:
    """Whether this machine lets ``uid`` make one: not in a chroot, for example."""
    argv = [*_become(uid), "unshare", "--user", "--net", "true"]
    return subprocess.run(argv, capture_output=True, check=False).returncode == 0


def _become(uid: int) -> list[str]:
    """With ``env`` in between: what setpriv itself starts is still looked up with root's capabilities."""
    return ["setpriv", f"--reuid={uid}", f"--regid={uid}", "--clear-groups", "env"]


def new_audit_dir(lab: Lab, uid: int | None = None) -> Path:
    """An empty directory for records, of ``uid`` if one is given."""
    directory = lab.directory / f"audit-{next(_numbers)}"
    directory.mkdir(mode=0o700)
    if uid is not None:
        os.chown(directory, uid, uid)
    return directory


def read_records(directory: Path) -> list[Record]:
    """Every record in an audit directory, file by file in the order of their names; each is of the published form."""
    lines = [line for path in sorted(directory.glob("egress-*.jsonl")) for line in _whole(path).splitlines()]
    for line in lines:
        _must_be_of_the_published_form(line)
    return [json.loads(line) for line in lines]


def _whole(path: Path) -> str:
    """All of a file. Where it is being written, the kernel lets it grow page by page: the end of a line that was begun is waited for."""
    give_up = time.monotonic() + WHOLE_S
    while (data := path.read_bytes())[-1:] not in (b"", b"\n") and time.monotonic() < give_up:
        time.sleep(0.001)
    return data.decode()


@functools.lru_cache(maxsize=1 << 14)
def _must_be_of_the_published_form(line: str) -> None:
    """Who waits for a record reads all of them again and again, but each line is looked at once."""
    record = json.loads(line)
    if (fault := best_match(_validator(record.get("event")).iter_errors(record))) is not None:
        raise AssertionError(f"{record} is not of the published form: {fault.message}")


@functools.cache
def _validator(event: str | None) -> Draft202012Validator:
    """Of the one form that it may have: to try all of them takes seven times as long."""
    schema = json_schema()
    return Draft202012Validator(schema["$defs"].get(event, schema))


def in_session(pid: int) -> list[str]:
    """Processes that run in the session that ``pid`` led: proc(5), stat."""
    found = []
    for path in Path("/proc").glob("[0-9]*/stat"):
        try:
            text = path.read_text()
        except OSError:
            continue
        state, _, _, session, *_ = text.rpartition(") ")[2].split()
        if int(session) == pid and state != "Z":
            found.append(text)
    return found
