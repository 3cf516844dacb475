"""``egress audit verify`` as it is typed: what it prints, and what it does not let through to a terminal."""

import json
import os
import time
from pathlib import Path

import pytest

from audit.log import AuditLog
from audit.manifest import NAME, Kind, locked
from audit.upkeep import Job, keep_up
from gateway.cli import main
from tests.audit.directory import die
from tests.audit.example import blocked

NASTY = "\x1b]0;owned\x07\x1b[31m\u202e"


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """One file, signed."""
    monkeypatch.setenv("EGRESS_KEY_DIR", str(tmp_path / "keys"))
    records = tmp_path / "records"
    with AuditLog(records, keys=tmp_path / "keys") as log:
        log.write(blocked())
        log.finish()
        job = Job(records, tmp_path / "keys", log.settings, time.time_ns(), list(log.sealable))
        assert keep_up(job).trouble is None
    return records


def test_what_is_sound(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["audit", "verify", "--audit-dir", str(directory)]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert lines[0] == "1 files, 1 signed and as they were written; 0 removed in order"
    assert lines[-1] == "nothing was changed, removed or put in"


def test_of_what_nobody_signed_it_does_not_say_that_nothing_was_changed(
    directory: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    log = AuditLog(directory, keys=tmp_path / "keys")
    log.write(blocked())
    die(log)
    assert main(["audit", "verify", "--audit-dir", str(directory)]) == 3
    lines = capsys.readouterr().out.splitlines()
    assert lines[-1] == (
        "nothing that is signed was changed, removed or put in; an edit of what is not signed would not show: see above"
    )


@pytest.mark.parametrize("form", [[], ["--json"]])
def test_no_name_of_a_file_and_no_entry_is_obeyed(
    directory: Path, capsys: pytest.CaptureFixture[str], form: list[str]
) -> None:
    planted = f"egress-{NASTY}X.jsonl"
    (directory / planted).write_text("{}\n")
    (directory / os.fsdecode(b"egress-\xff.jsonl")).write_text("{}\n")
    with locked(directory) as held:
        file = f"egress-{NASTY}Y.jsonl"
        held.append(Kind.OPENED, 0, {"file": file, "writer": NASTY, "segment": 0, "sandbox": None})
    (directory / file).write_bytes(b"{}\n{}\n")
    assert main(["audit", "verify", "--audit-dir", str(directory), *form]) == 1
    said = capsys.readouterr().out
    assert said.isascii() and not [one for one in said if not one.isprintable() and one != "\n"]
    if form:
        assert planted in [json.loads(line).get("file") for line in said.splitlines()]
    else:
        assert "broken egress-\\x1b]0;owned\\x07\\x1b[31m\\x202eX.jsonl: is not in the manifest" in said
        assert "[\\x1b]0;owned\\x07\\x1b[31m\\x202e seq 0]" in said


def test_a_manifest_that_would_never_end_is_named(
    directory: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    (directory / NAME).unlink()
    os.mkfifo(directory / NAME)
    assert main(["audit", "verify", "--audit-dir", str(directory)]) == 1
    assert "broken MANIFEST: is no file any more" in capsys.readouterr().out
