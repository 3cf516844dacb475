"""docs/audit-asking.md and the configurations beside it: its commands are known, its program runs, its files parse and read what is written."""

import re
import shlex
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import yaml

from audit.files import file_name
from audit.log import AuditLog
from audit.ocsf import to_ocsf
from audit.record import Cause, Event, Record, lost, pruned
from gateway.cli import build_parser, main
from gateway.cli.records import FORMS
from tests.audit.example import AT_NS, asked, blocked, ended

DOCS = Path(__file__).parents[2] / "docs"
TEXT = (DOCS / "audit-asking.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", TEXT, re.M | re.S)
CONSOLE = [text for kind, text in BLOCKS if kind == "console"]
"""Commands alone; then commands and what they print."""


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the commands look."""
    monkeypatch.setenv("EGRESS_AUDIT_DIR", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with AuditLog(tmp_path) as log:
        log.write(blocked())
    return tmp_path


@pytest.mark.parametrize("line", CONSOLE[0].splitlines())
def test_its_commands_are_accepted(line: str, directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    program, *words = shlex.split(line.removeprefix("$ "))
    assert program == "egress"
    assert main([word for word in words if word != "-f"]) == 0
    assert capsys.readouterr().err == ""


def _commands() -> list[tuple[str, list[str]]]:
    """Each command, and the lines that follow it."""
    found: list[tuple[str, list[str]]] = []
    for line in CONSOLE[1].splitlines():
        if line.startswith("$ "):
            found.append((line[2:], []))
        else:
            found[-1][1].append(line)
    return found


@pytest.mark.skipif(shutil.which("jq") is None, reason="needs jq")
@pytest.mark.parametrize(("command", "shown"), _commands())
def test_the_commands_say_what_is_shown(
    command: str, shown: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with AuditLog(tmp_path, clock=lambda: AT_NS) as log:
        for record in (asked(), blocked(), ended()):
            log.write(record)
    monkeypatch.setenv("EGRESS_AUDIT_DIR", str(tmp_path))
    monkeypatch.setenv("PATH", str(Path(sys.executable).parent), prepend=":")
    ran = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, check=True
    )
    assert ran.stdout.splitlines() == shown
    assert ran.stderr == ""


def test_the_forms_are_those_of_query() -> None:
    table = TEXT.partition("| `-o` |")[2].partition("\n\n")[0]
    assert {re.findall(r"`(\w+)`", row)[0] for row in table.splitlines()[2:]} == set(FORMS)
    args = vars(build_parser().parse_args(["audit", "query"]))
    others = {"audit_dir", "output", "limit", "run", "parser", "verb", "audit_verb"}
    said = TEXT.partition("`audit.read(directory, *, ")[2].partition(")")[0]
    assert said.split(", ") == [name for name in args if name not in others]


def test_the_classes_are_those_of_the_code() -> None:
    allowed = blocked() | {"event": Event.ALLOWED}
    dns_allowed = asked(event=Event.DNS_ALLOWED)
    gone = pruned(AT_NS, sandbox=None, cause=Cause.AGE, files=1, size=2, records=3, ended_ns=AT_NS)
    records: list[Record] = [blocked(), allowed, ended(), asked(), dns_allowed, lost(AT_NS, 1), gone]
    assert {record["event"] for record in records} == set(Event)
    table = TEXT.partition("| record | class |")[2].partition("\n\n")[0]
    said = {
        word: (row.split("|")[2].split()[0], row.split("|")[3].split()[0])
        for row in table.splitlines()[2:]
        for word in re.findall(r"`(\w+)`", row.split("|")[1])
    }
    made = {str(record["event"]): to_ocsf(record) for record in records}
    assert said == {event: (str(one["class_uid"]), str(one["activity_id"])) for event, one in made.items()}


def test_its_program_runs(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (program,) = (text for kind, text in BLOCKS if kind == "python")
    exec(program.replace("/var/log/egress", str(directory)).replace('since="1h", ', ""), {})  # noqa: S102 - the document's own
    assert capsys.readouterr().out == "agent-1 evil.example no_allow_entry\n"


def test_vector_reads_our_files() -> None:
    config = yaml.safe_load((DOCS / "shipping" / "vector.yaml").read_text())
    (pattern,) = config["sources"]["egress"]["include"]
    assert Path("/var/log/egress", file_name("20261123T071502Z", "b7e1-0", 1)).match(pattern)
    known = {*config["sources"], *config["transforms"]}
    for part in (*config["transforms"].values(), *config["sinks"].values()):
        assert set(part["inputs"]) <= known


def test_fluent_bit_reads_our_files() -> None:
    sections = _sections("fluent-bit.conf")
    (parsers,) = _sections("fluent-bit-parsers.conf")["PARSER"]
    (given,) = sections["INPUT"]
    assert Path("/var/log/egress", file_name("20261123T071502Z", "b7e1-0")).match(given["path"])
    assert given["parser"] == parsers["name"] and parsers["time_key"] in blocked()
    assert (DOCS / "shipping" / sections["SERVICE"][0]["parsers_file"]).exists()
    assert sections["OUTPUT"][0]["match"] == given["tag"]


def _sections(name: str) -> dict[str, list[dict[str, str]]]:
    """Of a file in Fluent Bit's own form: indented keys and values under a head."""
    found: dict[str, list[dict[str, str]]] = {}
    for line in (DOCS / "shipping" / name).read_text().splitlines():
        words = line.split(None, 1)
        if not words or words[0].startswith("#"):
            continue
        if line.startswith("["):
            found.setdefault(line.strip("[]"), []).append({})
        else:
            assert line.startswith(" ") and len(words) == 2, line
            list(found.values())[-1][-1][words[0].lower()] = words[1].strip()
    return found
