"""The table of ``make demo``, a test a row: started by root, and by an ordinary user; behind legacy tables, and behind nf_tables."""

import pytest

from tests.lab.attempts import ATTEMPTS, Attempt, carry_out
from tests.lab.lab import Lab

pytestmark = pytest.mark.root


@pytest.mark.parametrize("backend", ["legacy", "nft"])
@pytest.mark.parametrize("attempt", ATTEMPTS, ids=lambda attempt: attempt.title.replace(" ", "-"))
def test_seen_recorded_and_arrived_as_it_must(
    lab: Lab, starter: int | None, attempt: Attempt, backend: str
) -> None:
    _, wrong = carry_out(lab, attempt, uid=starter, options=["--firewall", backend])
    assert wrong == []
