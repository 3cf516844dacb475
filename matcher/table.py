"""A list of name entries, compiled once and asked for every connection and every DNS query."""

from collections.abc import Iterable
from typing import NamedTuple

from matcher.hostname import MAX_HOSTNAME, canonical, is_canonical
from matcher.pattern import Kind, Pattern, parse_entry
from matcher.regexes import RegexList
from matcher.trie import NameTrie, Ports


class Match(NamedTuple):
    """The entry that holds a name."""

    entry: str
    """Its canonical text, as a policy is shown."""
    # The published name; it hides tuple.index(), which nobody asks of a Match.
    index: int  # type: ignore[assignment]
    """Its place in the list that was compiled."""


class HostTable:
    """Immutable. ``len()`` is the number of entries, so an empty table is false."""

    __slots__ = ("_any_port", "_entries", "_ports", "_regex_list", "_regexes", "_trie")

    def __init__(self, patterns: Iterable[Pattern]) -> None:
        self._trie = NameTrie()
        self._entries: list[str] = []
        self._regexes: list[tuple[int, Ports]] = []
        self._any_port = False
        named_ports: set[int] = set()
        expressions: list[str] = []
        for index, pattern in enumerate(patterns):
            self._entries.append(str(pattern))
            ports = None if pattern.ports is None else frozenset(pattern.ports)
            if ports is None:
                self._any_port = True
            else:
                named_ports |= ports
            if pattern.kind is Kind.EXACT:
                self._trie.add_exact(pattern.name, index, ports)
            elif pattern.kind is Kind.WILDCARD:
                self._trie.add_suffix(pattern.name, index, ports)
            else:
                expressions.append(pattern.name)
                self._regexes.append((index, ports))
        self._ports = frozenset(named_ports)
        self._regex_list = RegexList(expressions)

    def __len__(self) -> int:
        return len(self._entries)

    def match(self, host: str, port: int | None = None) -> Match | None:
        """Find the entry that holds ``host``: exact, then the longest suffix, then regexes in their order.

        An entry whose ports do not fit is passed over; ``port=None`` does not ask for ports. Among
        entries for the same name the first in the list wins. Total: what is no hostname matches nothing,
        and another spelling of a hostname matches as its canonical one. A single label is held against
        exact entries alone.
        """
        index = self._trie.exact(host, port)
        if index is None:
            # Nobody has yet vouched for the spelling, and suffixes and regexes rely on it.
            if len(host) > MAX_HOSTNAME or is_canonical(host) is None:
                return self._match_respelled(host, port)
            index = self._trie.suffix(host, port)
            if index is None and self._regexes:
                index = self._first_regex(host, port)
            if index is None:
                return None
        return Match(self._entries[index], index)

    def _match_respelled(self, host: str, port: int | None) -> Match | None:
        name = canonical(host, single=True)
        # A single label comes back as it went in, and has been held against the exact entries already.
        return None if name is None or name == host else self.match(name, port)

    def covers_port(self, port: int) -> bool:
        """Whether any entry could allow or deny a name at this port."""
        return self._any_port or port in self._ports

    def _first_regex(self, name: str, port: int | None) -> int | None:
        for position in self._regex_list.matches(name):
            index, ports = self._regexes[position]
            if port is None or ports is None or port in ports:
                return index
        return None


def compile_table(entries: Iterable[str | Pattern]) -> HostTable:
    """Read and compile name entries in their order. Raises ``PatternError`` for the first that has no one
    reading."""
    if isinstance(entries, str):
        raise TypeError(f"entries: a list of names, not one text; write [{entries!r}]")
    return HostTable(entry if isinstance(entry, Pattern) else parse_entry(entry) for entry in entries)
