"""What real clients sent, and what ``make_corpus`` knew of it when it gave the command."""

import json
from pathlib import Path
from typing import Any

import pytest

from gateway.reasons import Reason
from gateway.sniff import NeedMore, Refused, Sniffed, sniff
from tests.gateway.sniff.arrivals import looks, one_answer
from tests.gateway.sniff.cursor_tls import read_tls
from tests.gateway.sniff.hellos import record, records, unrecord

CORPUS = Path(__file__).parent / "corpus"
INDEX: list[dict[str, Any]] = json.loads((CORPUS / "index.json").read_text())
HYBRID_SHARE = (
    b"\x11\xec\x04\xc0"  # X25519MLKEM768 and the length of its key share, draft-ietf-tls-ecdhe-mlkem
)

flights = pytest.mark.parametrize("row", INDEX, ids=lambda row: row["file"].removesuffix(".bin"))


def flight(row: dict[str, Any]) -> tuple[bytes, bytes]:
    """The hello's handshake message, and what the client sent behind it in later records."""
    parts = unrecord((CORPUS / row["file"]).read_bytes())
    assert parts is not None
    return parts


def hello_end(row: dict[str, Any]) -> int:
    """Where the hello ends on the wire."""
    return len((CORPUS / row["file"]).read_bytes()) - len(flight(row)[1])


def expected(row: dict[str, Any], consumed: int) -> Sniffed | Refused:
    if row["host"] is None:
        return Refused(Reason(row["reason"]), "tls")
    alpn = tuple(name.encode() for name in row["alpn"])
    return Sniffed("tls", row["host"], None, row["ech"], consumed, alpn)


@flights
def test_as_it_was_sent(row: dict[str, Any]) -> None:
    data = (CORPUS / row["file"]).read_bytes()
    consumed = hello_end(row)
    assert one_answer(data) == expected(row, consumed)
    assert read_tls(data) == expected(row, consumed)
    assert all(isinstance(sniff(data[:end]), NeedMore) for end in range(1, consumed))
    assert looks(data)[0] <= 5


@pytest.mark.parametrize("size", [1, 2, 16, 511])
@flights
def test_recorded_anew(row: dict[str, Any], size: int) -> None:
    handshake, later = flight(row)
    data = records(handshake, size)
    assert one_answer(data + later) == expected(row, len(data))
    assert read_tls(data + later) == expected(row, len(data))
    count, seen = looks(data)
    assert seen == expected(row, len(data))
    assert count <= 64


@flights
def test_a_byte_behind_the_hello_in_its_record_is_refused(row: dict[str, Any]) -> None:
    handshake, _ = flight(row)
    assert sniff(record(handshake + b"\0")) == Refused(Reason.BAD_TLS, "tls")


def test_the_corpus_holds_what_it_is_for() -> None:
    flown = {row["file"]: (CORPUS / row["file"]).read_bytes() for row in INDEX}
    assert set(flown) == {path.name for path in CORPUS.glob("*.bin")}
    assert sum(map(len, flown.values())) < 300 * 1024
    clients = {row["client"] for row in INDEX}
    assert clients >= {"openssl", "curl", "python", "node", "wget", "chromium"}
    browsers = [row for row in INDEX if row["client"] == "chromium"]
    assert all(row["ech"] and HYBRID_SHARE in flown[row["file"]] for row in browsers)
    assert any(flight(row)[1] for row in INDEX), "none with early data in later records"
    assert any(len(flight(row)[0]) + 5 < hello_end(row) for row in INDEX), "none that its client split"
