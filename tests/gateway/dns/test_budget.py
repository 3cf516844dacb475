"""Token buckets: what is admitted in a time never exceeds what the rate and the burst allow."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.dns.budget import ASKED, RECORDED, Budget


class Clock:
    def __init__(self) -> None:
        self.now = 50.0

    def __call__(self) -> float:
        return self.now


def test_a_burst_and_then_a_rate() -> None:
    clock = Clock()
    budget = Budget((2, 10), (1000, 1000), clock)
    assert [budget.admits(1) for _ in range(12)] == [True] * 10 + [False] * 2
    clock.now += 0.4
    assert not budget.admits(1)
    clock.now += 0.1
    assert [budget.admits(1), budget.admits(1)] == [True, False]
    clock.now += 1e9
    assert sum(budget.admits(1) for _ in range(100)) == 10


def test_names_have_a_budget_of_their_own_and_a_refusal_costs_nothing() -> None:
    clock = Clock()
    budget = Budget((10, 10), (1, 100), clock)
    assert [budget.admits(60), budget.admits(60), budget.admits(40), budget.admits(1)] == [
        True,
        False,
        True,
        False,
    ]
    assert [budget.admits(0) for _ in range(9)] == [True] * 8 + [False]


def test_a_clock_that_goes_back_gives_nothing() -> None:
    clock = Clock()
    budget = Budget((1, 1), (100, 100), clock)
    assert budget.admits(1)
    clock.now -= 30
    assert not budget.admits(1)


@pytest.mark.parametrize("limits", [ASKED, RECORDED])
def test_the_longest_name_fits(limits: tuple[tuple[float, float], tuple[float, float]]) -> None:
    assert Budget(*limits).admits(254)


@given(st.lists(st.tuples(st.floats(0, 2), st.integers(0, 30)), max_size=80))
def test_never_more_than_rate_and_burst(steps: list[tuple[float, int]]) -> None:
    clock = Clock()
    budget = Budget((3, 5), (20, 60), clock)
    queries = octets = 0
    for wait, size in steps:
        clock.now += wait
        if budget.admits(size):
            queries, octets = queries + 1, octets + size
        passed = clock.now - 50.0
        assert queries <= 5 + 3 * passed + 1e-6
        assert octets <= 60 + 20 * passed + 1e-6
