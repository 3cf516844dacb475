"""What is written of a connection by itself, not once for many."""

import orjson
import pytest

from gateway.wording import milliseconds


@pytest.mark.parametrize(
    ("ns", "text"),
    [
        (0, "0.0"),
        (999, "0.0"),
        (1_000, "0.001"),
        (10_000, "0.01"),
        (1_500_000, "1.5"),
        (2_000_000, "2.0"),
        (86_400_123_456_789, "86400123.456"),
    ],
)
def test_milliseconds_are_written_as_json_writes_them(ns: int, text: str) -> None:
    assert milliseconds(ns) == text == orjson.dumps(ns // 1000 / 1000).decode()
