"""The one error of this package: an operator's entry that has no reading, or two."""

_SHOWN = 100
"""Characters of an entry that a message quotes; the error itself carries all of it."""


class PatternError(ValueError):
    """An entry that is refused. The message is one line: the entry, what is wrong with it, how to mend it."""

    def __init__(self, entry: str, problem: str, mend: str) -> None:
        super().__init__(entry, problem, mend)
        self.entry = entry
        self.problem = problem
        self.mend = mend

    def __str__(self) -> str:
        return f"{quoted(self.entry)}: {self.problem}; {self.mend}"


def quoted(text: str) -> str:
    """``text`` in quotes, on one line: as it is where it is plain (a regex keeps its backslashes), else
    escaped."""
    if len(text) > _SHOWN:
        text = text[:_SHOWN] + "..."
    return f"'{text}'" if text.isprintable() and "'" not in text else repr(text)
