"""docs/audit-asking.md: its examples run, its choices and words are those of the code, its configurations parse and name the files there are."""

import re
import shutil
import subprocess
import sys
import tomllib
from fnmatch import fnmatch
from pathlib import Path

import pytest
import yaml

from audit.files import PATTERN, file_name
from audit.log import AuditLog
from audit.ocsf import to_ocsf
from audit.record import Cause, Event, Record, lost, pruned
from gateway.cli import build_parser
from gateway.cli.records import FORMS
from tests.audit.example import AT_NS, asked, blocked, ended

TEXT = (Path(__file__).parents[2] / "docs" / "audit-asking.md").read_text()
EXAMPLES = re.findall(r"^```(\w+)\n(.*?)^```$", TEXT, re.M | re.S)
EGRESS = Path(sys.executable).parent


def _of(language: str) -> list[str]:
    return [text for kind, text in EXAMPLES if kind == language]


def _commands() -> list[tuple[str, list[str]]]:
    """Each command, and the lines that follow it."""
    found: list[tuple[str, list[str]]] = []
    for text in _of("console"):
        for line in text.splitlines():
            if line.startswith("$ "):
                found.append((line[2:], []))
            else:
                found[-1][1].append(line)
    return found


def test_every_block_is_looked_at_below() -> None:
    assert {kind for kind, _ in EXAMPLES} == {"console", "toml", "yaml"}
    assert TEXT.count("```") == 2 * len(EXAMPLES)


@pytest.mark.skipif(shutil.which("jq") is None, reason="needs jq")
@pytest.mark.parametrize(("command", "shown"), _commands())
def test_the_commands_say_what_is_shown(
    command: str, shown: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with AuditLog(tmp_path, clock=lambda: AT_NS) as log:
        for record in (asked(), blocked(), ended()):
            log.write(record)
    monkeypatch.setenv("EGRESS_AUDIT_DIR", str(tmp_path))
    monkeypatch.setenv("PATH", str(EGRESS), prepend=":")
    ran = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command], capture_output=True, text=True, check=True
    )
    assert ran.stdout.splitlines() == shown
    assert ran.stderr == ""


def test_the_choices_are_those_of_query() -> None:
    table = TEXT.partition("| choice |")[2].partition("\n\n")[0]
    named = {word for row in table.splitlines()[2:] for word in re.findall(r"`(--\w+)`", row.split("|")[1])}
    args = build_parser().parse_args(["audit", "query"])
    others = {"audit_dir", "output", "run", "parser", "verb", "audit_verb"}
    assert named == {f"--{name}" for name in vars(args) if name not in others}
    assert f"`-o {'|'.join(FORMS)}`" in TEXT


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


def test_the_shippers_read_our_files() -> None:
    (vector,), (fluent,) = _of("toml"), _of("yaml")
    source = tomllib.loads(vector)["sources"]["egress"]
    pipeline = yaml.safe_load(fluent)
    (tail,) = pipeline["pipeline"]["inputs"]
    name = file_name("20261123T071502Z", "b7e1-0", 3)
    for pattern in (*source["include"], tail["path"]):
        assert fnmatch(f"/var/log/egress/{name}", pattern) and Path(pattern).name == PATTERN
    (parser,) = pipeline["parsers"]
    assert tail["parser"] == parser["name"] and parser["time_key"] in blocked()
