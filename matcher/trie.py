"""Exact names and suffixes, found at flat cost: a suffix trie whose every node is a key of one dict.

Against nested dicts over reversed labels, a million entries take a third of the memory (161 MiB, not 479). A
lookup is one probe a suffix, and only suffixes of as many labels as some entry has are probed, so a hostile
name of 127 labels costs what the deepest entry costs, no more. Keys are strings, whose hash is keyed
(SipHash, PEP 456): nobody outside can aim at collisions.
"""

Ports = frozenset[int] | None
"""The ports of an entry; None is every port."""

_Slot = int | list[tuple[int, Ports]]
"""What stands under a key: the one entry without ports (nearly always), or several in order."""


class NameTrie:
    """Names and suffixes -> position of the first entry that fits."""

    __slots__ = ("_depth", "_exact", "_suffixes")

    def __init__(self) -> None:
        self._exact: dict[str, _Slot] = {}
        self._suffixes: dict[str, _Slot] = {}
        self._depth = 0
        """Labels of the longest suffix."""

    def add_exact(self, name: str, index: int, ports: Ports) -> None:
        """Enter a canonical name. Entries come in the order of the list."""
        _add(self._exact, name, index, ports)

    def add_suffix(self, suffix: str, index: int, ports: Ports) -> None:
        """Enter a canonical suffix, without ``*.``; it will hold names of one label more, or of several."""
        _add(self._suffixes, suffix, index, ports)
        self._depth = max(self._depth, suffix.count(".") + 1)

    def exact(self, name: str, port: int | None) -> int | None:
        """Position of the first entry for exactly this name that fits the port (None: any does)."""
        slot = self._exact.get(name)
        return _first_fit(slot, port) if isinstance(slot, list) else slot

    def suffix(self, name: str, port: int | None) -> int | None:
        """Position of the entry with the longest suffix that holds ``name`` and fits the port."""
        suffixes = self._suffixes
        if not suffixes:
            return None
        # Cut off what stands before the longest suffix worth a probe: one label at least.
        start = len(name.rsplit(".", self._depth)[0]) + 1
        while start:
            slot = suffixes.get(name[start:])
            if slot is not None:
                index = _first_fit(slot, port) if isinstance(slot, list) else slot
                if index is not None:
                    return index
            start = name.find(".", start) + 1
        return None


def _add(slots: dict[str, _Slot], key: str, index: int, ports: Ports) -> None:
    before = slots.get(key)
    if before is None:
        slots[key] = index if ports is None else [(index, ports)]
    elif isinstance(before, list):  # behind an entry for every port, a later one is never reached
        before.append((index, ports))


def _first_fit(slot: list[tuple[int, Ports]], port: int | None) -> int | None:
    for index, ports in slot:
        if port is None or ports is None or port in ports:
            return index
    return None
