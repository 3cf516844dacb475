"""docs/audit.md says what the code does: its words are the code's words, and its examples run."""

import json
import re
import shutil
import subprocess
from pathlib import Path

import pytest

from audit.claim import OPTIONAL, REQUIRED
from audit.log import AuditLog
from audit.record import EndedBy, Event, Phase
from gateway.decide import Verdict
from gateway.reasons import Reason
from tests.audit.example import PUBLISHED, blocked, ended

TEXT = (Path(__file__).parents[2] / "docs" / "audit.md").read_text()
EXAMPLES = re.findall(r"^```(\w+)\n(.*?)^```$", TEXT, re.M | re.S)
PLACE = "/var/log/egress"
ALLOWING = {Reason.ALLOWED_ADDRESS, Reason.ALLOWED_NAME, Reason.DEFAULT_ALLOW}


def _rows(heading: str) -> list[list[str]]:
    """The cells of the table whose first line begins with ``heading``."""
    table = TEXT.partition(f"\n{heading}")[2].partition("\n\n")[0]
    return [[cell.strip() for cell in re.split(r"(?<!\\)\|", line)[1:-1]] for line in table.splitlines()[2:]]


def _words(heading: str) -> list[str]:
    return [word for row in _rows(heading) for word in re.findall(r"`(\w+)`", row[0])]


def _of(language: str) -> list[str]:
    return [text for kind, text in EXAMPLES if kind == language]


def test_every_block_is_run_by_a_test_below() -> None:
    assert {kind for kind, _ in EXAMPLES} == {"json", "python", "console"}
    assert TEXT.count("```") == 2 * len(EXAMPLES)


def test_the_example_is_the_published_one() -> None:
    assert _of("json") == [PUBLISHED + "\n"]


def test_the_events_are_those_of_the_code() -> None:
    assert _words("| event |") == list(Event)


def test_the_reasons_are_those_of_the_code_on_their_own_side() -> None:
    assert Verdict.ALLOW
    assert set(_words("| reason | allowed because |")) == ALLOWING
    assert set(_words("| reason | blocked because |")) == set(Reason) - ALLOWING
    assert len(_words("| reason | blocked because |")) + len(ALLOWING) == len(Reason)


def test_how_a_connection_ends_and_in_which_phase() -> None:
    assert sorted(_words("| `ended_by` | meaning |")) == sorted(EndedBy)
    shown, hidden = (
        re.findall(r"`(\w+)`", TEXT.partition(before)[2].partition("\n")[0])
        for before in ("how far it had come:", "`phase` has two more words")
    )
    assert sorted(shown + hidden) == sorted(Phase) and len(hidden) == 2


def test_the_fields_of_each_event_in_their_order() -> None:
    rows = _rows("| field |")
    names = [row[0].strip("`") for row in rows]
    assert len(set(names)) == len(names)

    def having(column: int, marks: set[str]) -> list[str]:
        return [name for name, row in zip(names, rows, strict=True) if row[column] in marks]

    first, last = ["schema", "timestamp", "event", "sandbox"], ["writer", "seq"]
    assert having(1, {"x", "some"}) == [*first, *REQUIRED[Event.BLOCKED], *OPTIONAL[Event.BLOCKED], *last]
    assert having(1, {"some"}) == list(OPTIONAL[Event.BLOCKED])
    assert list(REQUIRED[Event.ALLOWED]) == list(REQUIRED[Event.BLOCKED])
    assert list(OPTIONAL[Event.ALLOWED]) == [name for name in OPTIONAL[Event.BLOCKED] if name != "count"]
    assert having(2, {"x"}) == [*first, *REQUIRED[Event.CLOSED], *last]
    assert having(3, {"x"}) == [*first, *REQUIRED[Event.LOST], *last]
    for event in (Event.DNS_ALLOWED, Event.DNS_BLOCKED):
        assert having(4, {"x", "some"}) == [*first, *REQUIRED[event], *OPTIONAL[event], *last]
        assert having(4, {"some"}) == list(OPTIONAL[event])
    assert _words("| field of audit_pruned |")[: len(REQUIRED[Event.PRUNED])] == list(REQUIRED[Event.PRUNED])
    assert {mark for row in rows for mark in row[1:5]} == {"x", "-", "some"}


@pytest.fixture
def directory(tmp_path: Path) -> Path:
    """Some records, as the examples assume them."""
    with AuditLog(tmp_path) as log:
        for record in (
            blocked(),
            blocked(),
            blocked(domain=None, domain_source=None),
            blocked(reason="floor", sandbox="other"),
        ):
            log.write(record if record["reason"] != "floor" else record | {"event": "egress_allowed"})
    with AuditLog(tmp_path) as log:
        for _ in range(2):
            log.write(ended() | {"domain": "api.openai.com"})
    return tmp_path


def test_python(directory: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (text,) = _of("python")
    exec(compile(text.replace(PLACE, str(directory)), "docs/audit.md", "exec"), {})  # noqa: S102 - the document's own example
    assert capsys.readouterr().out.splitlines() == [
        "2026-11-23T07:15:02.123456Z evil.example no_allow_entry",
        "2026-11-23T07:15:02.123456Z evil.example no_allow_entry",
        "2026-11-23T07:15:02.123456Z 203.0.113.9 no_allow_entry",
    ]


@pytest.mark.skipif(shutil.which("jq") is None, reason="needs jq")
@pytest.mark.parametrize("text", _of("console"))
def test_console(text: str, directory: Path) -> None:
    command, *shown = text.splitlines()
    ran = subprocess.run(
        ["bash", "-o", "pipefail", "-c", command.removeprefix("$ ").replace(PLACE, str(directory))],
        capture_output=True,
        text=True,
        check=True,
    )
    assert ran.stdout.splitlines() == shown
    assert ran.stderr == ""


@pytest.mark.skipif(shutil.which("jq") is None, reason="needs jq")
def test_the_last_example_finds_a_line_that_was_removed(directory: Path) -> None:
    path = min(directory.glob("*.jsonl"), key=lambda path: -len(path.read_text()))
    first, _, *rest = path.read_text().splitlines(keepends=True)
    path.write_text(first + "".join(rest))
    command = _of("console")[-1].splitlines()[0].removeprefix("$ ").replace(PLACE, str(directory))
    found = subprocess.run(["bash", "-c", command], capture_output=True, text=True, check=True)
    assert found.stdout.split() == [json.loads(first)["writer"]]
