"""Files of records that somebody else wrote: every verb shows what is in them, fails at none, and lets nothing through to a
terminal."""

import json
import os
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from audit.record import lost
from gateway.cli import main
from tests.audit.example import AT_NS, asked, blocked, ended

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


def test_sums_say_what_was_passed_over(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    (tmp_path / "egress-20261123T071502Z-0-0.jsonl").write_text('{"torn')
    assert main(["audit", "stats", "--audit-dir", str(tmp_path)]) == 0
    assert "1 lines were no records" in capsys.readouterr().err
