"""No sender says what time it is: what cannot have been then is dated by who takes it in."""

import time

import pytest

from audit.dates import SLACK_S, Dates
from audit.reader import SLACK_S as READERS_SLACK_S
from audit.record import moment

NOW_NS = 1_795_417_200_123_456_000
"""2026-11-23T07:00:00."""
NOW = moment(NOW_NS)


class Clock:
    def __init__(self, monkeypatch: pytest.MonkeyPatch) -> None:
        self.now_ns = NOW_NS
        monkeypatch.setattr(time, "time_ns", lambda: self.now_ns)
        monkeypatch.setattr(time, "time", lambda: self.now_ns / 1e9)

    def ago(self, seconds: float) -> bytes:
        return moment(self.now_ns - int(seconds * 10**9))

    def advance(self, seconds: float) -> None:
        self.now_ns += int(seconds * 10**9)


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Clock:
    return Clock(monkeypatch)


@pytest.mark.parametrize("ago", [0, 1, -1, SLACK_S - 1, 1 - SLACK_S])
def test_what_can_have_been_then_stands(clock: Clock, ago: float) -> None:
    dates = Dates()
    assert [dates.dated(clock.ago(ago)) for _ in range(3)] == [clock.ago(ago)] * 3


@pytest.mark.parametrize(
    "said",
    [
        b"0000-00-00T00:00:00.000000Z",
        b"9999-99-99T99:99:99.999999Z",
        b"2026-11-31T07:00:00.000000Z",
        b"2026-11-23T06:60:00.000000Z",
        b"2026-11-23T06:59:60.000000Z",
        b"2026-11-22T07:00:00.123456Z",
        b"2026-11-23T04:00:00.123456Z",
        b"2026-11-23T07:05:00.123456Z",
    ],
)
def test_what_cannot_is_dated_as_it_is_taken_in(clock: Clock, said: bytes) -> None:
    dates = Dates()
    assert [dates.dated(one) for one in (said, NOW, said)] == [NOW] * 3
    clock.advance(10)
    dates.look()
    assert dates.dated(said) == clock.ago(0)


def test_no_date_is_remembered_for_longer_than_it_is_true(clock: Clock) -> None:
    dates = Dates()
    assert dates.dated(NOW) == NOW
    clock.advance(SLACK_S + 1)
    dates.look()
    assert dates.dated(NOW) == clock.ago(0)


def test_what_waited_for_the_disk_keeps_its_date(clock: Clock) -> None:
    dates = Dates()
    dates.pause()
    too_old = clock.ago(SLACK_S + 1)
    clock.advance(7200)
    for _ in range(2):  # what was in the pipe, and what had found no room in it
        dates.look()
        assert dates.dated(NOW) == NOW
        assert dates.dated(too_old) == clock.ago(0)
        clock.advance(1)
    clock.advance(SLACK_S)
    dates.look()
    assert dates.dated(NOW) == clock.ago(0)


def test_readers_allow_for_more() -> None:
    assert READERS_SLACK_S > SLACK_S
