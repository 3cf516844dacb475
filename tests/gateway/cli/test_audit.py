"""``egress audit query``, ``tail``, ``stats`` and ``schema`` as they are typed."""

import csv
import io
import json
import os
import signal
import subprocess
import sys
from pathlib import Path

import pytest
from jsonschema import Draft202012Validator

from audit.log import AuditLog
from audit.record import Record
from gateway.cli import main
from gateway.cli.records import cell
from gateway.cli.streams import shown
from tests.audit.example import asked, blocked, ended
from tests.lab.lab import ROOT

NASTY = "=1+1\x1b[31m\u202e"


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Three records of the day of the published example."""
    with AuditLog(tmp_path) as log:
        for record in (blocked(), ended(), asked()):
            log.write(record)
    return tmp_path


def ask(capsys: pytest.CaptureFixture[str], directory: Path, *words: str) -> list[str]:
    """What a query prints."""
    assert main(["audit", "query", "--audit-dir", str(directory), *words]) == 0
    return capsys.readouterr().out.splitlines()


def test_a_table_for_people(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    lines = ask(capsys, directory)
    assert lines[0] == (
        "2026-11-23 07:15:02.123  blocked      agent-1       evil.example (203.0.113.9):443 tcp  no_allow_entry  deny_out[0] 0.0.0.0/0"
    )
    assert "517 up, 4,096 down, 0.0 s" in lines[1] and "evil.example A" in lines[2]


@pytest.mark.parametrize("form", ["json", "jsonl", "csv", "ocsf", "table"])
def test_each_form(directory: Path, capsys: pytest.CaptureFixture[str], form: str) -> None:
    lines = ask(capsys, directory, "-o", form)
    if form == "json":
        assert [record["seq"] for record in json.loads("\n".join(lines))] == [0, 1, 2]
    elif form == "csv":
        rows = list(csv.DictReader(io.StringIO("\n".join(lines))))
        assert [row["event"] for row in rows] == ["egress_blocked", "egress_closed", "dns_blocked"]
        assert rows[0]["upstream_ip"] == "" and rows[1]["bytes_up"] == "517"
    elif form == "ocsf":
        assert [json.loads(line)["class_uid"] for line in lines] == [4001, 4001, 4003]
    else:
        assert len(lines) == 3


def test_nothing_is_still_an_answer(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert ask(capsys, directory, "--sandbox", "nobody", "-o", "json") == ["[]"]
    assert len(ask(capsys, directory, "--sandbox", "nobody", "-o", "csv")) == 1
    assert ask(capsys, directory, "--sandbox", "nobody") == []


@pytest.mark.parametrize(
    ("words", "seqs"),
    [
        (["--event", "egress_blocked"], [0]),
        (["--domain", "*.example"], [0, 1, 2]),
        (["--ip", "8.8.8.8"], [2]),
        (["--limit", "2"], [0, 1]),
        (["--since", "2026-11-23T07:15:02.123456Z"], [0, 1, 2]),
        (["--since", "2026-11-23T07:15:03"], []),
        (["--until", "2026-11-23T07:15:02"], []),
        (["--rule", "deny_out[0]", "--event", "dns_blocked"], [2]),
    ],
)
def test_what_is_asked_for(
    directory: Path, capsys: pytest.CaptureFixture[str], words: list[str], seqs: list[int]
) -> None:
    assert [json.loads(line)["seq"] for line in ask(capsys, directory, "-o", "jsonl", *words)] == seqs


@pytest.mark.parametrize(
    "words", [["--since", "yesterday"], ["--ip", "x"], ["--event", "x"], ["--limit", "0"]]
)
def test_what_is_no_question_is_a_usage_error(
    directory: Path, capsys: pytest.CaptureFixture[str], words: list[str]
) -> None:
    with pytest.raises(SystemExit) as end:
        ask(capsys, directory, *words)
    assert end.value.code == 2


@pytest.mark.parametrize("verb", ["query", "tail", "stats"])
def test_without_a_directory_the_mend_is_named(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], verb: str
) -> None:
    assert main(["audit", verb, "--audit-dir", str(tmp_path / "none")]) == 125
    assert "--audit-dir" in capsys.readouterr().err


def test_torn_lines_are_said(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (path,) = directory.glob("*.jsonl")
    with path.open("a") as file:
        file.write('{"schema":')
    assert main(["audit", "query", "--audit-dir", str(directory)]) == 0
    assert "1 lines were no records" in capsys.readouterr().err


@pytest.mark.parametrize("form", ["table", "csv"])
def test_no_record_can_speak_to_a_terminal_or_a_spreadsheet(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], form: str
) -> None:
    forged: Record = blocked() | {
        "sandbox": NASTY,
        "domain": NASTY,
        "rule": NASTY,
        "reason": NASTY,
        "domain_raw": NASTY,
    }
    (tmp_path / "egress-20261123T071502Z-0-0.jsonl").write_text(json.dumps(forged) + "\n")
    text = "\n".join(ask(capsys, tmp_path, "-o", form))
    assert "\x1b" not in text and "\u202e" not in text and "\\x1b[31m" in text
    if form == "csv":
        rows = list(csv.DictReader(io.StringIO(text)))
        assert not [value for value in rows[0].values() if value.startswith(("=", "+", "-", "@"))]


@pytest.mark.parametrize("start", ["=", "+", "-", "@", "\t", "\r"])
def test_a_cell_is_no_formula(start: str) -> None:
    assert not cell(f"{start}1").startswith(("=", "+", "-", "@", "\t", "\r"))
    assert cell(-5) == "-5"
    assert shown("ä ok") == "ä ok"


def test_the_latest(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["audit", "tail", "-n", "2", "--json", "--audit-dir", str(directory)]) == 0
    assert [json.loads(line)["seq"] for line in capsys.readouterr().out.splitlines()] == [1, 2]


def test_following_shows_what_comes_until_it_is_interrupted(directory: Path) -> None:
    argv = [
        *("env", "--default-signal=INT"),
        sys.executable,
        "-m",
        "gateway",
        "audit",
        "tail",
        "-f",
        "-n",
        "1",
        "--json",
        "--audit-dir",
        str(directory),
    ]
    with subprocess.Popen(argv, stdout=subprocess.PIPE, text=True, cwd=ROOT) as process:
        assert process.stdout is not None
        assert json.loads(process.stdout.readline())["seq"] == 2
        with AuditLog(directory) as log:
            log.write(blocked(sandbox="agent-2"))
            log.flush()
            assert json.loads(process.stdout.readline())["sandbox"] == "agent-2"
        os.kill(process.pid, signal.SIGINT)
        assert process.wait(10) in (0, -signal.SIGINT)


def test_sums_for_people_and_for_programs(
    directory: Path, capsys: pytest.CaptureFixture[str], tmp_path: Path
) -> None:
    words = ["audit", "stats", "--audit-dir", str(directory), "--since", "2026-11-23"]
    assert main(words) == 0
    text = capsys.readouterr().out
    assert "0 connections allowed, 1 blocked" in text and "evil.example" in text
    assert main([*words, "--json"]) == 0
    assert json.loads(capsys.readouterr().out)["blocked"] == {"evil.example": 1}
    assert main([*words, "--html", str(tmp_path / "page.html")]) == 0
    assert "evil.example" in (tmp_path / "page.html").read_text()
    assert main([*words, "--html", str(tmp_path)]) == 125


def test_the_schema_is_printed(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["audit", "schema"]) == 0
    Draft202012Validator.check_schema(json.loads(capsys.readouterr().out))
