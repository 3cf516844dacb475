"""Files of records that somebody else wrote: every verb shows what is in them, fails at none, and lets nothing through to a
terminal."""

import json
import os
import subprocess
import sys
import time
from collections.abc import Iterator
from pathlib import Path
from tempfile import TemporaryDirectory
from typing import Any

import pytest

from audit.record import lost, timestamp
from gateway.cli import main
from tests.audit.example import AT_NS, asked, blocked, ended
from tests.lab.lab import ROOT
from tests.lab.sandboxed import egress_for

NOBODY = 65534
OBEYED = "\x1b[2J\x9b\u202e\x7f"
VALUES: tuple[Any, ...] = (None, [], {}, OBEYED, -5, 1.5, True, 10**30)
FORMS = {
    "table": ["query"],
    "csv": ["query", "-o", "csv"],
    "json": ["query", "-o", "json"],
    "jsonl": ["query", "-o", "jsonl"],
    "ocsf": ["query", "-o", "ocsf"],
    "tail": ["tail", "-n", "10000"],
    "stats": ["stats", "--since", "1970-01-01"],
    "stats in JSON": ["stats", "--since", "1970-01-01", "--json"],
}


def _forged() -> Iterator[dict[str, Any]]:
    """Every kind of record with each field left out, and with each of ``VALUES`` in it."""
    yield from ({}, {"event": []}, {"event": OBEYED}, {"event": "egress_blocked", "timestamp": OBEYED})
    yield {"event": "egress_blocked", "timestamp": f"~{OBEYED}"}
    for whole in (blocked(), ended(), asked(), lost(AT_NS, 3)):
        for name in whole:
            yield {key: value for key, value in whole.items() if key != name}
            yield from (whole | {name: value} for value in VALUES)


@pytest.fixture
def forged(tmp_path: Path) -> Path:
    lines = [json.dumps(record) for record in _forged()]
    (tmp_path / "egress-20261123T071502Z-0-0.jsonl").write_text("\n".join(lines) + "\n")
    return tmp_path


@pytest.mark.parametrize("words", FORMS.values(), ids=FORMS)
def test_every_line_is_shown_and_none_obeyed(
    forged: Path, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    assert main(["audit", *words, "--audit-dir", str(forged)]) == 0
    said = capsys.readouterr()
    assert said.err == ""
    assert not set(OBEYED[4:] + "\x1b") & set(said.out)
    lines = said.out.splitlines()
    if words[0] != "stats":
        head = 1 if words[-1] in ("csv", "json") else 0
        assert len(lines) == len(list(_forged())) + head
    if words[-1] in ("jsonl", "ocsf"):
        assert all(isinstance(json.loads(line), dict) for line in lines)


def test_the_page_of_them(forged: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    page = tmp_path / "page.html"
    words = ["audit", "stats", "--since", "1970-01-01", "--audit-dir", str(forged), "--html", str(page)]
    assert main(words) == 0
    assert page.read_text(encoding="utf-8").endswith("</body></html>\n")


@pytest.mark.parametrize("words", FORMS.values(), ids=FORMS)
def test_what_may_not_be_read_is_one_line(
    forged: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    real = os.open

    def refused(path: Any, *args: Any, **more: Any) -> int:
        if str(path).endswith(".jsonl"):
            raise PermissionError(13, "Permission denied", str(path))
        return real(path, *args, **more)

    monkeypatch.setattr(os, "open", refused)
    assert main(["audit", *words, "--audit-dir", str(forged)]) == 125
    (said,) = capsys.readouterr().err.splitlines()
    assert "Permission denied; ask as the user who ran egress" in said


@pytest.fixture
def shared() -> Iterator[Path]:
    """A directory that everybody reaches and writes to, as /tmp is."""
    with TemporaryDirectory() as path:
        os.chmod(path, 0o1777)  # noqa: S103 - that is what it is about
        yield Path(path)


@pytest.mark.root
def test_of_a_directory_of_several_users_each_finds_his_own(shared: Path) -> None:
    """Also while he follows it, and somebody else's file comes."""
    try:
        egress = egress_for(NOBODY)
    except LookupError as error:
        pytest.skip(str(error))
    now = timestamp(time.time_ns())

    def put(name: str, uid: int) -> Path:
        path = shared / f"egress-20261123T071502Z-{name}.jsonl"
        path.write_text(json.dumps(blocked() | {"timestamp": now, "sandbox": name}) + "\n")
        path.chmod(0o600)
        os.chown(path, uid, uid)
        return path

    own = put("mine-0", NOBODY)
    put("other-0", 0)

    def ask(*words: str) -> subprocess.Popen[str]:
        become = ["setpriv", f"--reuid={NOBODY}", f"--regid={NOBODY}", "--clear-groups", "env"]
        argv = [*become, *egress, "audit", *words, "--audit-dir", shared]
        return subprocess.Popen(argv, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True, cwd="/")

    for words in (["query", "-o", "jsonl"], ["tail", "--json"], ["stats", "--json"]):
        out, err = ask(*words).communicate(timeout=30)
        assert "mine-0" in out and "other-0" not in out
        assert err == "egress: 1 files may not be read by this user and were passed over\n"
    with ask("tail", "-f", "--json") as following:
        assert following.stdout is not None and following.stderr is not None
        try:
            assert "mine-0" in following.stdout.readline()
            put("later-0", 0)
            with own.open("a") as file:
                file.write(json.dumps(blocked() | {"sandbox": "again"}) + "\n")
            assert "again" in following.stdout.readline()
        finally:
            following.kill()
        assert "Traceback" not in following.stderr.read()


def test_no_name_of_a_file_is_obeyed(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    name = f"egress-{OBEYED}-z.jsonl"
    (tmp_path / name).symlink_to("/proc/self/mem/x")
    assert main(["audit", "query", "--audit-dir", str(tmp_path)]) == 125
    said = capsys.readouterr().err
    assert "\\x1b[2J" in said and not set(OBEYED[4:] + "\x1b") & set(said)


def test_what_the_output_has_no_letter_for_is_written_as_a_number(tmp_path: Path) -> None:
    record = blocked() | {"sandbox": "ünï"}
    (tmp_path / "egress-20261123T071502Z-0-0.jsonl").write_text(json.dumps(record) + "\n")
    argv = [sys.executable, "-m", "gateway", "audit", "query", "--audit-dir", str(tmp_path)]
    ascii_only = {**os.environ, "PYTHONIOENCODING": "ascii"}
    asked = subprocess.run(argv, capture_output=True, text=True, env=ascii_only, cwd=ROOT, check=True)
    assert r"\xfcn\xef" in asked.stdout


@pytest.mark.parametrize("words", FORMS.values(), ids=FORMS)
@pytest.mark.parametrize("place", ["timestamp", "reason", "sandbox", "x"])
def test_what_is_nested_too_deeply_ends_no_question(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], words: list[str], place: str
) -> None:
    line = json.dumps(blocked() | {place: None}).replace(
        f'"{place}": null', f'"{place}": {"[" * 1000}{"]" * 1000}'
    )
    (tmp_path / "egress-20261123T071502Z-0-0.jsonl").write_text(json.dumps(blocked()) + "\n" + line + "\n")
    assert main(["audit", *words, "--audit-dir", str(tmp_path)]) == 0
    said = capsys.readouterr()
    assert "evil.example" in said.out
    assert said.err == (
        ""
        if words[0] == "tail"
        else "egress: 1 lines were no records and passed over: see egress audit verify\n"
    )


def test_sums_say_what_was_passed_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "egress-20261123T071502Z-0-0.jsonl").write_text('{"torn')
    assert main(["audit", "stats", "--audit-dir", str(tmp_path)]) == 0
    assert "1 lines were no records" in capsys.readouterr().err
