"""No proxy: the host routes. What the others' added latency is added to."""

from bench.adapter import Adapter
from bench.place import Place


class Direct(Adapter):
    name = "direct"
    note = "no proxy, the host routes"
    redirect = "none"
    filters = False

    def argv(self, place: Place) -> list[str]:
        return ["cat"]

    def version(self) -> str:
        return "the kernel"
