"""Regular expressions over hostnames, by RE2: linear in the name, whatever the pattern.

All patterns of a table stand in one ``RE2::Set``, so a name is read once, not once a pattern. The set's
automaton is built lazily, as names arrive, and each name costs at most its length times the size of the
program.

A set has one trap: when its automaton cannot have the memory it needs, it answers "nothing matches"
instead of failing (re2/set.cc). For a deny entry that would be an open door. So every set holds one more
pattern that matches everything: an answer without it is no answer, and the patterns are asked one by one
(there RE2 falls back to an NFA by itself).
"""

import functools
from collections.abc import Callable, Sequence

import re2

from matcher.errors import quoted

VERDICTS = 4096
"""Names whose verdict is remembered, a table: at most about 1.5 MiB, the least recently used goes first."""

SET_MEMORY = (8 << 20, 64 << 20)
"""Bytes that RE2 may use for the program and the automaton of a set: RE2's own default, then a second try."""

_EVERYTHING = b"(?s).*"


def regex_problem(pattern: str) -> str | None:
    """What RE2 says against ``pattern`` (ASCII), or None if it takes it."""
    try:
        re2.compile(pattern.encode("ascii"), _options())
    except re2.error as error:
        return quoted(str(error.args[0], "latin-1"))
    return None


class RegexList:
    """Patterns in order; ``matches`` tells which of them match the whole of a name."""

    __slots__ = ("matches",)

    def __init__(self, patterns: Sequence[str]) -> None:
        encoded = [pattern.encode("ascii") for pattern in patterns]
        self.matches: Callable[[str], Sequence[int]] = functools.lru_cache(maxsize=VERDICTS)(
            _searcher(encoded)
        )
        """Canonical name -> positions of the patterns that match it, ascending."""


def _options(max_mem: int = SET_MEMORY[0]) -> re2.Options:
    """ASCII bytes, any case, and silence on stderr: RE2 would log what we report ourselves."""
    options = re2.Options()
    options.encoding = re2.Options.Encoding.LATIN1
    options.case_sensitive = False
    options.never_capture = True
    options.log_errors = False
    options.max_mem = max_mem
    return options


def _searcher(patterns: Sequence[bytes]) -> Callable[[str], tuple[int, ...]]:
    """Return the search behind the cache: by the set where one can be had, else pattern by pattern."""
    everything = len(patterns)
    one_by_one = _one_by_one(patterns)
    for max_mem in SET_MEMORY:
        try:
            together = _compile_set([*patterns, _EVERYTHING], max_mem)
        except re2.error:
            continue

        def search(name: str, together: re2.Set = together) -> tuple[int, ...]:
            found = together.Match(name.encode("ascii")) or ()
            if everything not in found:
                return one_by_one(name)
            return tuple(sorted(found)[:-1])  # the set has no order; the last is _EVERYTHING

        return search
    return one_by_one


def _compile_set(patterns: Sequence[bytes], max_mem: int) -> re2.Set:
    together = re2.Set.FullMatchSet(_options(max_mem))
    for pattern in patterns:
        together.Add(pattern)
    together.Compile()
    return together


def _one_by_one(patterns: Sequence[bytes]) -> Callable[[str], tuple[int, ...]]:
    @functools.cache
    def compiled() -> list[re2._Regexp]:
        return [re2.compile(pattern, _options()) for pattern in patterns]

    def search(name: str) -> tuple[int, ...]:
        raw = name.encode("ascii")
        return tuple(at for at, regex in enumerate(compiled()) if regex.fullmatch(raw))

    return search
