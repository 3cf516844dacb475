"""The segments that a manifest speaks of, as their writers left it. What is forged in it is for ``audit.verify`` to find."""

from audit import manifest
from audit.manifest import SEALED, Entry, Kind


class Listing:
    """``entries``: what is known of each file; ``pruned``: those that were removed; ``based``: some that were are forgotten."""

    def __init__(self) -> None:
        self.entries: dict[str, Entry] = {}
        self.pruned: set[str] = set()
        self.based = False
        self._by_place: dict[tuple[str, int], str] = {}

    @classmethod
    def of(cls, text: bytes) -> "Listing":
        """Read it; what is no entry is passed over."""
        listing = cls()
        for line in text.split(b"\n"):
            if (entry := manifest.entry_of(line)) is not None:
                listing.take(entry)
        return listing

    def take(self, entry: Entry) -> None:
        """One entry more."""
        if entry["kind"] == Kind.BASE:
            self.entries, self._by_place, self.based = {}, {}, True
            for inner in entry["entries"]:
                self.take(inner)
        elif entry["kind"] == Kind.PRUNED:
            self.pruned |= set(entry["files"])
        else:
            name = entry["file"]
            known = self.entries.get(name)
            # What was sealed once stays: a writer may tell late that it had begun a file.
            if known is None or (known["kind"] == Kind.OPENED and entry["kind"] in SEALED):
                self.entries[name] = entry
                self._by_place[entry["writer"], entry["segment"]] = name

    def open(self) -> list[str]:
        """Those that were opened and not closed, in their order."""
        return [
            name
            for name, entry in self.entries.items()
            if entry["kind"] == Kind.OPENED and name not in self.pruned
        ]

    def before(self, name: str) -> Entry | None:
        """The same writer's segment before."""
        mine = self.entries[name]
        found = self._by_place.get((mine["writer"], mine["segment"] - 1))
        return None if found is None else self.entries[found]
