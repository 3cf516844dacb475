"""The same plain Python at every commit: how fast this machine was in this pass. Nothing of ours is in it, and it must not be changed."""

from pytest_benchmark.fixture import BenchmarkFixture

DATA = bytes(range(256)) * 2


def test_yardstick(benchmark: BenchmarkFixture) -> None:
    """A walk over bytes, a table, some objects: what the path's Python is made of."""

    def walk() -> int:
        seen: dict[int, tuple[int, str]] = {}
        at = 0
        while at < len(DATA):
            size = DATA[at] % 7 + 1
            part = DATA[at : at + size]
            seen[int.from_bytes(part, "big") % 61] = (at, part.hex())
            at += size
        return len(seen)

    assert benchmark(walk) == 57
