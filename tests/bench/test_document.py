"""The documents show what the results hold."""

import json
from pathlib import Path

import pytest

from bench.document import DOCUMENTS, MARKED, filled
from bench.table import short
from tests.bench.example import result


@pytest.mark.parametrize("path", DOCUMENTS, ids=lambda path: path.name)
def test_a_document_is_as_its_results(path: Path) -> None:
    text = path.read_text()
    assert MARKED.search(text)
    assert filled(text) == text, "python -m bench.document"


def test_what_is_marked_is_replaced_and_nothing_else(tmp_path: Path) -> None:
    figures = result(1)
    (tmp_path / "proxies.json").write_text(json.dumps(figures))
    before = "a\n<!-- bench: short -->\nold\n<!-- end -->\nb\n"
    table = short(figures["figures"]).strip()
    assert filled(before, tmp_path) == f"a\n<!-- bench: short -->\n{table}\n<!-- end -->\nb\n"
    assert table.splitlines()[2].startswith("| egress | ")


def test_a_table_that_nobody_knows(tmp_path: Path) -> None:
    with pytest.raises(KeyError):
        filled("<!-- bench: what -->\n<!-- end -->", tmp_path)
