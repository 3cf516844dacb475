"""What real clients sent without TLS, and what ``make_http_corpus`` knew of it when it gave the command."""

import json
from pathlib import Path
from typing import Any

import pytest

from gateway.reasons import Reason
from gateway.sniff import Refused, Sniffed
from tests.gateway.sniff.arrivals import looks, one_answer
from tests.gateway.sniff.cursor_http import read_http

CORPUS = Path(__file__).parent / "http_corpus"
INDEX: list[dict[str, Any]] = json.loads((CORPUS / "index.json").read_text())


@pytest.mark.parametrize("row", INDEX, ids=lambda row: row["file"].removesuffix(".bin"))
def test_as_it_was_sent(row: dict[str, Any]) -> None:
    data = (CORPUS / row["file"]).read_bytes()
    seen = one_answer(data)
    assert read_http(data) == seen
    if row["host"] is None:
        assert isinstance(seen, Refused)
        assert seen.reason == Reason(row["reason"])
    else:
        head = data.partition(b"\r\n\r\n")[0]
        assert seen == Sniffed("http", row["host"], row["port"], False, len(head) + 4)
        assert looks(data)[1] == seen


def test_every_file_is_in_the_index() -> None:
    assert {path.name for path in CORPUS.glob("*.bin")} == {row["file"] for row in INDEX}
    assert len(INDEX) > 20
