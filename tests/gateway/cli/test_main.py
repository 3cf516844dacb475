"""What becomes of an error that no verb expects, and of output that cannot be written: one line and a status, never a traceback."""

import io
import os
import subprocess
import sys
from pathlib import Path
from typing import NoReturn

import pytest

from audit.log import AuditLog
from gateway.cli import main
from gateway.cli.streams import Output, OutputError
from tests.audit.example import blocked
from tests.lab.lab import ROOT

NO_ROOM = "egress: standard output: No space left on device; make room, or send it elsewhere"


@pytest.fixture
def records(tmp_path: Path) -> Path:
    """One."""
    with AuditLog(tmp_path) as log:
        log.write(blocked())
    return tmp_path


@pytest.mark.parametrize("unbuffered", ["", "1"], ids=["at the end", "at once"])
@pytest.mark.parametrize(
    "verb",
    [
        "--help",
        "policy schema",
        "policy validate",
        "check --json a.test",
        "rules show",
        "audit schema",
        "audit tail --audit-dir RECORDS",
        "audit query --audit-dir RECORDS",
    ],
)
def test_output_that_cannot_be_written_is_one_line(records: Path, verb: str, unbuffered: str) -> None:
    argv = [str(records) if word == "RECORDS" else word for word in verb.split()]
    with Path("/dev/full").open("w") as full:
        done = subprocess.run(
            [sys.executable, "-m", "gateway", *argv],
            stdout=full,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
            check=False,
        )
    assert (done.returncode, done.stderr.splitlines()) == (125, [NO_ROOM])


@pytest.mark.parametrize("unbuffered", ["", "1"], ids=["at the end", "at once"])
def test_whoever_read_enough_is_told_nothing(unbuffered: str) -> None:
    """He is gone before anything is written."""
    read_end, write_end = os.pipe()
    os.close(read_end)
    with (
        os.fdopen(write_end, "wb") as output,
        subprocess.Popen(
            [sys.executable, "-m", "gateway", "audit", "schema"],
            stdout=output,
            stderr=subprocess.PIPE,
            text=True,
            cwd=ROOT,
            env={**os.environ, "PYTHONUNBUFFERED": unbuffered},
        ) as process,
    ):
        assert process.stderr is not None
        assert (process.stderr.read(), process.wait(10)) == ("", 141)


@pytest.mark.parametrize(
    ("error", "said"),
    [
        (FileNotFoundError(2, "No such file or directory"), "egress: No such file or directory;"),
        (PermissionError(13, "Permission denied", "/x"), "egress: /x: Permission denied;"),
        (OSError("odd"), "egress: odd;"),
    ],
)
def test_an_error_that_no_verb_expects_is_one_line(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], error: OSError, said: str
) -> None:
    def trouble(*_: object) -> NoReturn:
        raise error

    monkeypatch.setattr("gateway.cli.rules.build_plan", trouble)
    monkeypatch.delenv("EGRESS_DEBUG", raising=False)
    assert main(["rules", "show"]) == 125
    (line,) = capsys.readouterr().err.splitlines()
    assert line == f"{said} EGRESS_DEBUG=1 says where"
    monkeypatch.setenv("EGRESS_DEBUG", "1")
    assert main(["rules", "show"]) == 125
    assert "Traceback" in capsys.readouterr().err


def test_what_output_does_not_take_has_a_class_of_its_own(capsys: pytest.CaptureFixture[str]) -> None:
    class Full(io.StringIO):
        def write(self, _: str) -> NoReturn:
            raise OSError(28, "No space left on device")

    with pytest.raises(OutputError, match="standard output: No space left") as caught:
        print("x", file=Output(Full()))
    assert caught.value.exit_code == 125
    before = sys.stdout
    assert main(["audit", "schema"]) == 0
    assert sys.stdout is before and capsys.readouterr().out.startswith("{")
