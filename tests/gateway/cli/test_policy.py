"""``egress policy``: every fault of a file at once, and the policy as the gateway reads it."""

import json
from pathlib import Path

import pytest

from gateway.cli import main
from rules.document import parse_policy
from rules.schema import policy_schema
from tests.rules.test_policy import TEN_ERRORS, TEN_MISTAKES


@pytest.fixture
def bad(tmp_path: Path) -> str:
    file = tmp_path / "bad.json"
    file.write_text(json.dumps(TEN_MISTAKES))
    return str(file)


def test_ten_mistakes_are_ten_lines(bad: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["policy", "validate", bad]) == 78
    lines = capsys.readouterr().err.splitlines()
    assert len(lines) == 10
    for line, (begin, end) in zip(lines, TEN_ERRORS, strict=True):
        assert line.startswith(f"egress: {begin}")
        assert line.endswith(end)


def test_ten_mistakes_for_a_script(bad: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["policy", "validate", "--json", "--policy", bad]) == 78
    answer = json.loads(capsys.readouterr().out)
    assert answer["valid"] is False
    assert len(answer["errors"]) == 10


def test_a_sound_policy_and_what_is_worth_knowing_of_it(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["policy", "validate", "--allow-out", "*.github.io", "--dns", "passthrough"]) == 0
    output = capsys.readouterr()
    assert output.out == "the policy is sound\n"
    assert [line.split(":")[1] for line in output.err.splitlines()] == [
        " --allow-out without --deny-out",
        " warning",
        " warning",
    ]
    assert main(["policy", "validate", "--json", "--deny-out", "evil.example"]) == 0
    assert json.loads(capsys.readouterr().out) == {"valid": True, "errors": [], "notes": []}


def test_what_is_shown_is_a_policy_file(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["policy", "show", "--allow-out", "API.openai.com.:443"]) == 0
    text = capsys.readouterr().out
    file = tmp_path / "policy.yaml"
    file.write_text(text)
    assert main(["policy", "show", "--json", str(file)]) == 0
    shown = capsys.readouterr().out
    assert parse_policy(text) == parse_policy(shown, is_json=True)
    assert json.loads(shown)["network"]["allow_out"] == ["api.openai.com:443"]
    assert json.loads(shown)["network"]["deny_out"] == ["0.0.0.0/0"]


def test_two_files_are_a_usage_error(bad: str, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["policy", "show", "--policy", bad, bad]) == 2
    assert capsys.readouterr().err == "egress: FILE and --policy both name a file: drop one\n"


def test_the_schema(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["policy", "schema"]) == 0
    assert json.loads(capsys.readouterr().out) == policy_schema()
