"""A second of what ``make fuzz`` does for a minute."""

import pytest

from gateway.dns import guard as module
from tests.gateway.dns.flood import flood, steady


def test_a_flood_of_mutated_packets() -> None:
    assert flood(1.0, seed=6, clock=steady()) > 500


def test_the_flood_notices_growth(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = []
    real = module.read_question

    def keeping(wire: bytes) -> module.Question:
        question = real(wire)
        kept.append([question])
        return question

    monkeypatch.setattr(module, "read_question", keeping)
    with pytest.raises(AssertionError, match="objects more"):
        flood(1.0, clock=steady())
