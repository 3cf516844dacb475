"""docs/audit-asking.md and the configurations beside it: its commands are known, its program runs, its files parse and read what is written."""

import re
import shlex
from pathlib import Path

import pytest
import yaml

from audit.files import file_name
from audit.log import AuditLog
from gateway.cli import main
from tests.audit.example import blocked

DOCS = Path(__file__).parents[2] / "docs"
TEXT = (DOCS / "audit-asking.md").read_text()
BLOCKS = re.findall(r"^```(\w+)\n(.*?)^```$", TEXT, re.M | re.S)


@pytest.fixture
def directory(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where the commands look."""
    monkeypatch.setenv("EGRESS_AUDIT_DIR", str(tmp_path))
    monkeypatch.chdir(tmp_path)
    with AuditLog(tmp_path) as log:
        log.write(blocked())
    return tmp_path


@pytest.mark.parametrize(
    "line", [line for kind, text in BLOCKS if kind == "console" for line in text.splitlines()]
)
def test_its_commands_are_accepted(line: str, directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    program, *words = shlex.split(line.removeprefix("$ "))
    assert program == "egress"
    assert main([word for word in words if word != "-f"]) == 0
    assert capsys.readouterr().err == ""


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
