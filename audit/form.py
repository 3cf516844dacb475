"""Lines of records that are alike but for a few fields: what is the same is written out once."""

from collections.abc import Collection

import orjson

from audit.record import Record


class Form:
    """One record's line, with gaps."""

    __slots__ = ("text",)

    def __init__(self, record: Record, *, texts: Collection[str], others: Collection[str]) -> None:
        """``text`` is the line, with ``%s`` for each gap.

        ``texts``: the fields to be filled in that are strings, of characters that JSON need not escape; ``others``: those that come as JSON.
        """
        self.text = f"{{{','.join(_field(*field, texts, others) for field in record.items())}}}\n"

    def line(self, *values: object) -> bytes:
        """The line with these in its gaps, in the order of the record's fields."""
        return (self.text % values).encode()


def _field(name: str, value: object, texts: Collection[str], others: Collection[str]) -> str:
    if name in texts:
        return f'"{name}":"%s"'
    return f'"{name}":%s' if name in others else f'"{name}":{orjson.dumps(value).decode()}'.replace("%", "%%")
