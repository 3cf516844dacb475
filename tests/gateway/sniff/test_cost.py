"""What a look costs, counted and not timed: lines of Python that are run, and bytes that patterns are set upon.

The lines are capped, whatever arrives; each byte is read by a few patterns once, and by none again (``test_patterns``).
"""

import re
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from types import FrameType, ModuleType
from typing import Any

import pytest

import gateway.sniff.http
import gateway.sniff.tls
from gateway.sniff import NeedMore, Refused, Sniffed, sniff
from tests.gateway.sniff.dearest import ALL, DEAREST, MOST_HANDSHAKE
from tests.gateway.sniff.heads import GET, HOST, LONG, filled, head
from tests.gateway.sniff.hellos import records

MOST_LINES = 10000
"""256 extensions at 10 lines, 512 protocol names at 5, and 256 records, of which every second is short, at 18."""
READS_A_BYTE = 4
"""Patterns that are set upon a byte of a whole head: lines, request line, fields, what tells."""
ONCE = 512
"""Bytes that are read again, however long the head is: its beginning and its host."""

MOST_READ = 65536

SOURCES = str(Path(gateway.sniff.tls.__file__).parent)
Answer = Sniffed | NeedMore | Refused


class Counted:
    """A pattern that adds up what it is set upon."""

    def __init__(self, pattern: re.Pattern[bytes], add: Callable[[int], None]) -> None:
        self._pattern = pattern
        self._add = add

    def _reads(self, data: bytes, at: int, end: int) -> None:
        self._add(max(min(end, len(data)) - at, 0))

    def match(self, data: bytes, at: int = 0, end: int = sys.maxsize) -> re.Match[bytes] | None:
        self._reads(data, at, end)
        return self._pattern.match(data, at, end)

    def fullmatch(self, data: bytes, at: int = 0, end: int = sys.maxsize) -> re.Match[bytes] | None:
        self._reads(data, at, end)
        return self._pattern.fullmatch(data, at, end)

    def finditer(self, data: bytes, at: int, end: int) -> Iterator[re.Match[bytes]]:
        self._reads(data, at, end)
        return self._pattern.finditer(data, at, end)

    def findall(self, data: bytes, at: int, end: int) -> list[Any]:
        """Of the short records: what is none it skips in one step, so that which it found is what it read."""
        found = self._pattern.findall(data, at, end)
        self._add(sum(4 + len(one) for one in found))
        return found


class Meter:
    """Counts while it looks."""

    def __init__(self, patch: pytest.MonkeyPatch) -> None:
        self.lines = 0
        self.read = 0
        for module in (gateway.sniff.http, gateway.sniff.tls):
            self._replace(module, patch)

    def _replace(self, module: ModuleType, patch: pytest.MonkeyPatch) -> None:
        for name, value in list(vars(module).items()):
            if isinstance(value, re.Pattern):
                patch.setattr(module, name, Counted(value, self._add))

    def _add(self, size: int) -> None:
        self.read += size

    def _trace(self, frame: FrameType, event: str, argument: object) -> Any:
        if not frame.f_code.co_filename.startswith(SOURCES):
            return None
        self.lines += event == "line"
        return self._trace

    def look(self, data: bytes | bytearray, scanned: int = 0) -> Answer:
        before = sys.gettrace()
        sys.settrace(self._trace)
        try:
            return sniff(data, scanned=scanned)
        finally:
            sys.settrace(before)


@pytest.fixture
def meter(monkeypatch: pytest.MonkeyPatch) -> Meter:
    return Meter(monkeypatch)


@pytest.mark.parametrize("case", DEAREST)
def test_the_dearest_look(case: str, meter: Meter) -> None:
    data = DEAREST[case]
    meter.look(data)
    assert 0 < meter.lines <= MOST_LINES
    assert meter.read <= READS_A_BYTE * min(len(data), MOST_READ) + ONCE


def test_the_meter_counts(meter: Meter) -> None:
    """All caps at once take a good part of what is granted: it is no bound that nothing could break."""
    assert isinstance(meter.look(records(ALL, [1, 256] * 200)), Sniffed)
    assert meter.lines > MOST_LINES / 2
    meter.read = 0
    meter.look(filled(1000, GET, HOST))
    assert meter.read > 3 * 1000


@pytest.mark.parametrize("sizes", [[1], [2], [1, 65], [1, 256], [1] * 8 + [65], [255], [256]])
def test_what_lies_beyond_the_last_record_costs_nothing(sizes: list[int], meter: Meter) -> None:
    handshake = b"\1" + (MOST_HANDSHAKE - 4).to_bytes(3, "big") + bytes(3 * MOST_READ)
    counts = []
    for size in (MOST_READ, 3 * MOST_READ):
        meter.lines = meter.read = 0
        meter.look(records(handshake, sizes * 70000)[:size])
        counts.append((meter.lines, meter.read))
    assert counts[0] == counts[1]


def test_fields_beyond_the_last_cost_no_lines(meter: Meter) -> None:
    counts = []
    for fields in (501, 5000, 8000):
        meter.lines = 0
        assert meter.look(head(GET, HOST, *[b"a:"] * fields)) == LONG
        counts.append(meter.lines)
    assert counts == counts[:1] * 3


@pytest.mark.parametrize("step", [1, 2, 5])
@pytest.mark.parametrize("line", [b"X: " + b"x" * 40, b"a:", b"Transfer-Encodin:"])
def test_a_head_that_drips_is_read_as_often_as_one_that_does_not(
    line: bytes, step: int, meter: Meter
) -> None:
    """Looked at after each byte: while it is incomplete four bytes before the new one, and all when it is whole."""
    data = head(GET, HOST, *[line] * 400)
    for end in range(step, len(data) + step, step):
        meter.look(data[:end], max(end - step, 0))
    assert meter.read <= (READS_A_BYTE + 5) * len(data) + ONCE
