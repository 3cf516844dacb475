"""docs/threat-model.md: each row names tests that exist, and each trick of the design has its row, as has what was found since (F11, F12, G7)."""

import re
from pathlib import Path

import pytest

ROOT = Path(__file__).parents[2]
TEXT = (ROOT / "docs" / "threat-model.md").read_text()
ROWS = re.findall(r"^\| ([A-G]\d+) \|.*\| (.*) \|$", TEXT, re.MULTILINE)
TRICKS = [
    f"{part}{number}"
    for part, most in zip("ABCDFG", (7, 8, 7, 4, 12, 7), strict=True)
    for number in range(1, most + 1)
]


def test_every_trick_has_its_row() -> None:
    assert [name for name, _ in ROWS] == TRICKS


@pytest.mark.parametrize(("name", "tests"), ROWS, ids=[name for name, _ in ROWS])
def test_what_holds_it_exists(name: str, tests: str) -> None:
    named = re.findall(r"`(test_\w+\.py)::(test_\w+)`", tests)
    assert named and tests.count("`") == 2 * len(named)
    for file, test in named:
        found = [
            path for path in (ROOT / "tests").rglob(file) if re.search(rf"def {test}\(", path.read_text())
        ]
        assert len(found) == 1, f"{name}: {file}::{test}"
