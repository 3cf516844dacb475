"""Reading records back, merged over files in time order."""

import heapq
import os
from collections.abc import Iterator
from pathlib import Path

import orjson

from audit.files import PATTERN
from audit.record import Record


def read(
    directory: str | os.PathLike[str],
    *,
    sandbox: str | None = None,
    event: str | None = None,
    domain: str | None = None,
) -> Iterator[Record]:
    """Every whole record in ``directory`` that has the given values, oldest first. A torn line (a crash's last) is passed over."""
    wanted = {
        name: value
        for name, value in (("sandbox", sandbox), ("event", event), ("domain", domain))
        if value is not None
    }
    files = [_records(path) for path in sorted(Path(directory).glob(PATTERN))]
    for record in heapq.merge(*files, key=lambda record: str(record.get("timestamp", ""))):
        if all(record.get(name) == value for name, value in wanted.items()):
            yield record


def _records(path: Path) -> Iterator[Record]:
    with open(path, "rb") as file:
        for line in file:
            try:
                record = orjson.loads(line)
            except orjson.JSONDecodeError:
                continue
            if isinstance(record, dict):
                yield record
