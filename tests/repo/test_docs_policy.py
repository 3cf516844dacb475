"""Every example in docs/policy.md runs, and shows what the document says it shows."""

import re
import shlex
from pathlib import Path
from typing import NamedTuple

import pytest

from gateway.cli import main
from rules.document import parse_policy

DOCUMENT = Path(__file__).parents[2] / "docs" / "policy.md"


class Example(NamedTuple):
    """One fenced block."""

    language: str
    text: str


EXAMPLES = [
    Example(*found) for found in re.findall(r"^```(\w+)\n(.*?)^```$", DOCUMENT.read_text(), re.M | re.S)
]


def _of(language: str) -> list[str]:
    return [example.text for example in EXAMPLES if example.language == language]


def test_every_block_is_run_by_a_test_below() -> None:
    assert {example.language for example in EXAMPLES} == {"yaml", "console", "python"}
    assert DOCUMENT.read_text().count("```") == 2 * len(EXAMPLES)


@pytest.mark.parametrize("text", _of("yaml"))
def test_yaml(text: str) -> None:
    policy = parse_policy(text)
    assert policy.network is not None
    assert policy.warnings == ()


@pytest.mark.parametrize("text", _of("python"))
def test_python(text: str) -> None:
    exec(compile(text, str(DOCUMENT), "exec"), {})  # noqa: S102 - the document's own example


@pytest.mark.parametrize("text", _of("console"))
def test_console(
    text: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    (tmp_path / "policy.yaml").write_text(_of("yaml")[0])
    monkeypatch.chdir(tmp_path)
    command, *shown = text.splitlines()
    program, *argv = shlex.split(command.removeprefix("$ "))
    assert program == "egress"
    status = main(argv)
    output = capsys.readouterr()
    assert [
        *output.err.splitlines(),
        *output.out.splitlines(),
        *([f"[exit status {status}]"] if status else []),
    ] == shown


def test_every_form_of_entry_in_the_table_is_one() -> None:
    table = DOCUMENT.read_text().partition("## Entries")[2].partition("Nothing is guessed")[0]
    entries = [text for text in re.findall(r"`([^`]+)`", table) if "." in text or "::" in text]
    refused = {"xn--...", "0x"}
    network = ", ".join(f"'{entry}'" for entry in entries if entry not in refused)
    policy = parse_policy(f"network: {{allow_out: [{network}], deny_out: ['0.0.0.0/0']}}").network
    assert policy is not None
    assert set(policy.allow_out) == set(entries) - refused
