"""The driver's clock, which a test may set forward: time is up when the test says so, however slow or fast the machine is."""

from types import ModuleType

import pytest

from gateway.net import clock, poller, strand


class Leaps:
    """In place of ``now``, in the driver and in whatever else asks for the time."""

    def __init__(self, monkeypatch: pytest.MonkeyPatch, *modules: ModuleType) -> None:
        self._real = clock.now
        self._ahead_s = 0.0
        for module in (poller, strand, *modules):
            monkeypatch.setattr(module, "now", self)
        monkeypatch.setattr(poller, "REST_S", 0.0)  # a loop's timer knows nothing of leaps

    def __call__(self) -> float:
        return self._real() + self._ahead_s

    def on(self, seconds: float) -> None:
        """So many seconds go by; who has a deadline hears of it at the next tick."""
        self._ahead_s += seconds
