"""Put the results' tables into the documents: ``python -m bench.document``, after ``python -m bench``.

A document says where by ``<!-- bench: NAME -->`` and ``<!-- end -->``; what stands between them is replaced.
"""

import json
import re
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any, Final

from bench import table
from bench.machine import RESULTS, ROOT

DOCUMENTS: Final = (ROOT / "README.md", ROOT / "docs" / "performance.md")
TABLES: Final[Mapping[str, tuple[str, Callable[[Mapping[str, Any]], str]]]] = {
    "short": ("proxies", table.short),
    "proxies": ("proxies", table.proxies),
    "scaling": ("scaling", table.scaling),
    "where": ("where", table.where),
    "where_before": ("where-before", table.where),
}
"""By name: of which file of results, and how."""
MARKED: Final = re.compile(r"(<!-- bench: (\w+) -->\n).*?(<!-- end -->)", re.DOTALL)


def filled(text: str, results: Path = RESULTS) -> str:
    """A document with the tables as the results are now. KeyError where there is no such table."""

    def fill(found: re.Match[str]) -> str:
        file, show = TABLES[found[2]]
        figures = json.loads((results / f"{file}.json").read_text())["figures"]
        return found[1] + show(figures).strip() + "\n" + found[3]

    return MARKED.sub(fill, text)


def main() -> None:
    """Write them."""
    for path in DOCUMENTS:
        path.write_text(filled(path.read_text()))
        print(path)


if __name__ == "__main__":
    main()
