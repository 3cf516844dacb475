"""What a process that dies leaves behind, and what one that was taken over may make of it."""

import os
import signal

import pytest
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, precondition, rule

from audit.ledger import FRONT_BYTES, MAX_OWED, SLOT_BYTES, Ledger, Leftover


def test_a_fresh_one_holds_nothing() -> None:
    assert Ledger(4).leftovers() == []


def test_an_attempt_is_held_until_it_is_closed() -> None:
    ledger = Ledger(4)
    slot = ledger.open(b"one")
    assert slot is not None
    assert ledger.leftovers() == [Leftover(False, b"one")]
    ledger.sending(slot)
    assert ledger.leftovers() == [Leftover(True, b"one")]
    ledger.offering(slot)
    assert ledger.leftovers() == [Leftover(True, b"one", offering=True)]
    ledger.unsent(slot)
    assert ledger.leftovers() == [Leftover(False, b"one")]
    ledger.close(slot)
    assert ledger.leftovers() == []


def test_a_full_one_says_so_and_takes_again_what_was_freed() -> None:
    ledger = Ledger(2)
    slots = [ledger.open(b"a"), ledger.open(b"b")]
    assert None not in slots
    assert ledger.open(b"c") is None
    assert sorted(left.payload for left in ledger.leftovers()) == [b"a", b"b"]
    ledger.close(slots[0])  # type: ignore[arg-type]  # not None, as said above
    assert ledger.open(b"c") == slots[0]
    assert ledger.open(b"d") is None


def test_a_slot_shows_nothing_of_who_had_it_before() -> None:
    ledger = Ledger(1)
    slot = ledger.open(b"a long payload")
    assert slot is not None
    ledger.close(slot)
    ledger.open(b"x")
    assert ledger.leftovers() == [Leftover(False, b"x")]


@pytest.mark.parametrize("size", [0, 1, SLOT_BYTES - 2, SLOT_BYTES - 1, 1000])
def test_a_payload_is_kept_as_far_as_there_is_room_and_touches_no_neighbour(size: int) -> None:
    ledger = Ledger(3)
    slots = [ledger.open(payload) for payload in (b"before", b"small", b"after")]
    ledger.close(slots[1] or 0)
    assert ledger.open(b"\xff" * size) == slots[1]
    assert [left.payload for left in ledger.leftovers()] == [
        b"before",
        b"\xff" * min(size, SLOT_BYTES - 2),
        b"after",
    ]
    for slot in slots:
        assert slot is not None
        ledger.close(slot)
    assert ledger.leftovers() == []


def test_reset_frees_everything() -> None:
    ledger = Ledger(2)
    ledger.open(b"a")
    ledger.open(b"b")
    ledger.reset()
    assert ledger.leftovers() == []
    assert ledger.open(b"c") is not None
    assert ledger.open(b"d") is not None
    assert ledger.open(b"e") is None


def test_what_a_killed_process_left_is_seen_by_the_one_that_forked_it() -> None:
    ledger = Ledger(8)
    ready, told = os.pipe()
    pid = os.fork()
    if pid == 0:
        slots = [ledger.open(payload) for payload in (b"decided", b"half", b"undecided")]
        ledger.close(slots[0] or 0)
        ledger.sending(slots[1] or 0)
        os.write(told, b"x")
        signal.pause()
        os._exit(0)
    os.close(told)
    assert os.read(ready, 1) == b"x"
    os.close(ready)
    os.kill(pid, signal.SIGKILL)
    os.waitpid(pid, 0)
    assert sorted(ledger.leftovers()) == [Leftover(False, b"undecided"), Leftover(True, b"half")]
    ledger.reset()
    assert ledger.leftovers() == []


def test_what_a_killed_process_owed_is_known_to_the_one_that_forked_it() -> None:
    ledger = Ledger(2)
    pid = os.fork()
    if pid == 0:
        ledger.owe(7)
        ledger.owe(5)
        ledger.accepting(True)
        os.kill(os.getpid(), signal.SIGKILL)
    os.waitpid(pid, 0)
    assert ledger.missing() == 6, "five that were owed, and perhaps one that was just accepted"
    ledger.reset()
    assert ledger.missing() == 0


@pytest.mark.parametrize("noted", [True, False])
def test_a_connection_that_was_accepted_counts_until_it_is_noted_or_there_was_none(noted: bool) -> None:
    ledger = Ledger(2)
    ledger.accepting(True)
    assert ledger.missing() == 1
    if noted:
        ledger.open(b"one")
    else:
        ledger.accepting(False)
    assert ledger.missing() == 0


@given(st.binary(min_size=FRONT_BYTES + 4 * SLOT_BYTES, max_size=FRONT_BYTES + 4 * SLOT_BYTES))
def test_no_scribble_raises(scribble: bytes) -> None:
    ledger = Ledger(4)
    ledger._memory[:] = scribble
    for left in ledger.leftovers():
        assert len(left.payload) <= SLOT_BYTES - 2
    assert 0 <= ledger.missing() <= MAX_OWED + 1
    ledger.reset()
    assert ledger.missing() == 0
    assert ledger.leftovers() == []


class LedgerAgainstAPlainOne(RuleBasedStateMachine):
    """Any order of steps leaves what a dict would hold."""

    def __init__(self) -> None:
        super().__init__()
        self.ledger = Ledger(5)
        self.plain: dict[int, Leftover] = {}

    @rule(payload=st.binary(max_size=40))
    def open(self, payload: bytes) -> None:
        slot = self.ledger.open(payload)
        assert (slot is None) == (len(self.plain) == 5)
        if slot is not None:
            assert slot not in self.plain
            self.plain[slot] = Leftover(False, payload)

    @precondition(lambda self: self.plain)
    @rule(data=st.data())
    def sending(self, data: st.DataObject) -> None:
        slot = data.draw(st.sampled_from(sorted(self.plain)))
        self.ledger.sending(slot)
        self.plain[slot] = Leftover(True, self.plain[slot].payload)

    @precondition(lambda self: self.plain)
    @rule(data=st.data())
    def close(self, data: st.DataObject) -> None:
        slot = data.draw(st.sampled_from(sorted(self.plain)))
        self.ledger.close(slot)
        del self.plain[slot]

    @rule()
    def reset(self) -> None:
        self.ledger.reset()
        self.plain.clear()

    @invariant()
    def same(self) -> None:
        assert sorted(self.ledger.leftovers()) == sorted(self.plain.values())


TestLedgerAgainstAPlainOne = LedgerAgainstAPlainOne.TestCase
