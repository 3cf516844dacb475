"""Which name the sandbox was last told an address for: what the kernel decides by the address alone is on record with it."""

from collections import OrderedDict
from typing import Final

from gateway.flow import IPAddress

REMEMBERED: Final = 4096


class Told:
    """The addresses of the answers that were handed on, the latest of them."""

    def __init__(self) -> None:
        self._names: OrderedDict[IPAddress, str] = OrderedDict()
        self._last: tuple[str, tuple[IPAddress, ...]] = ("", ())

    def note(self, name: str, addresses: tuple[IPAddress, ...]) -> None:
        """``addresses`` were told for ``name``."""
        before, same = self._last
        if same is addresses and before == name:
            return  # a client that asks the same again and again
        self._last = (name, addresses)
        names = self._names
        for address in addresses:
            names[address] = name
            names.move_to_end(address)
        while len(names) > REMEMBERED:
            names.popitem(last=False)

    def name_of(self, address: IPAddress) -> str | None:
        """None where nothing was told, or too long ago."""
        return self._names.get(address)
