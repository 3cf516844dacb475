"""The keeping of one sandbox's records: out of the worker's pipe, into the files, and back to the worker what it waits for.

What the disk does not take is not taken from the pipe either, where the settings say so (``OnFull.BLOCK``): the pipe fills, the worker carries
nothing more and then accepts nothing more. What is in the pipe by then has been carried, and room on the disk is held for it.
"""

import os
import selectors
import struct
import time
from collections.abc import Callable
from pathlib import Path
from typing import Final, NamedTuple

from audit.brief import GROWTH
from audit.feed import Intake, open_answer, open_pipe
from audit.files import key_directory
from audit.keys import KeyTrouble, prepare
from audit.ledger import Ledger
from audit.log import AuditLog
from audit.settings import AuditSettings, Fsync, OnFull
from gateway.burial import bury
from gateway.caretaker import Caretaker
from gateway.errors import SetupError
from gateway.summary import Summary
from gateway.tally import Tally

LEDGER_ROOM_BYTES: Final = 512 * 1024
"""What a dead worker leaves undecided, once written."""
PIPE_ROOMS: Final = 2 * GROWTH
"""What the pipe holds grows when it is written out; and there is what was just taken out, and what was put in meanwhile."""
GATHER_S: Final = 0.01
"""How long a record waits for others before it is taken in, unless somebody waits for it. It is out of the worker's hands meanwhile."""
ENOUGH_BYTES: Final = 64 * 1024
"""That are worth a wake-up, or a quarter of a smaller pipe: a flood is taken in as fast as it comes."""
_COUNT: Final = struct.Struct("=Q")


class Audited(NamedTuple):
    """How the keeping of the records stands."""

    records: int
    """Taken and numbered."""
    lost: int
    in_pipe_bytes: int
    buffered_bytes: int
    """Taken, and not in the file yet."""
    writable: bool


class Keeper:
    """``feed`` and ``kept`` go to the worker; ``kept`` is None where it need not wait. Both keep their numbers, but each worker has pipes of its own.
    ``log=None``: audit is off, and records are only counted."""

    def __init__(
        self,
        log: AuditLog | None,
        sandbox: str,
        summary: Summary,
        selector: selectors.BaseSelector,
        say: Callable[[str], object],
    ) -> None:
        self.ledger = Ledger()
        self.tally = Tally()
        self._log = log
        self._sandbox = sandbox
        self._summary = summary
        self._selector = selector
        self._say = say
        self._said: set[str] = set()
        self._rescued = 0
        self._in_trouble = False
        self._caretaker = None if log is None else Caretaker(log, selector, self._say_once)
        self._read_end, self.feed = open_pipe()
        self._intake: Intake | None = self._begin()
        self._pipe_bytes = self._intake.pipe_bytes
        self._listening = self._used = False
        self.kept: int | None = None
        self._told: int | None = None
        if self._acknowledges():
            self.kept, self._told = open_answer()
        self._listen()

    def _begin(self) -> Intake:
        """With a sender of whom nothing is known yet."""
        intake = Intake(self._read_end, self._log, self._summary.count, sandbox=self._sandbox)
        self._enough = min(ENOUGH_BYTES, intake.pipe_bytes // 4)
        self._acknowledged = 0
        return intake

    def _acknowledges(self) -> bool:
        """Where what is in the pipe may not find room, or must be on the disk itself: a worker waits until it is."""
        if self._log is None:
            return False
        settings = self._log.settings
        room = PIPE_ROOMS * self._pipe_bytes + LEDGER_ROOM_BYTES
        held = settings.on_full is OnFull.DROP or self._log.promise(room)
        return not held or settings.fsync is Fsync.ALWAYS

    @property
    def ready(self) -> bool:
        """Whether a worker may be started: what it hands over can be kept."""
        return self._log is None or self._log.ready

    def keep(self) -> None:
        """Take in what the worker has sent, if it can be kept, and write it."""
        gathers = self.kept is None and self._waiting() < self._enough
        if gathers:
            # Where there is one there are more soon: together they cost a tenth of the wake-ups. Where giving way took so long that some were left,
            # they wait once more: nobody waits for them, and when there are enough of them neither is done.
            time.sleep(GATHER_S)
        if self._intake is not None and self.ready:
            self._intake.drain(self._give_way if gathers else None)
        self._settle()

    def _give_way(self) -> None:
        """A worker on the same processor has connections that wait; these records do not, until there are many of them."""
        if self._waiting() < self._enough:
            os.sched_yield()

    def due_in(self) -> float | None:
        """Seconds until ``tick`` has something to do."""
        if self._log is None or self._caretaker is None:
            return None
        return max(0.0, min(self._log.due_in(), self._caretaker.due_in()))

    def tick(self) -> None:
        """What is due by time."""
        if self._log is None or self._caretaker is None:
            return
        self._log.tick()
        self._settle(flush=False)
        self._caretaker.tick()

    def bury(self, generation: int = 1) -> None:
        """After a worker's death: take in all that it sent, whatever the disk says, for there is room held; and write what it left undecided."""
        if self._intake is not None:
            self._intake.finish()
        self.tally.bury()
        bury(self.ledger, self._log, self._sandbox, self._summary, generation, self.tally)
        self._used = True
        self._settle()

    def renew(self) -> None:
        """Other pipes, for a worker after the first: whatever the dead one made of its own, of their size, their flags or what is in them, ends here.
        OSError where there are no descriptors for them; then all is as it was."""
        if not self._used or self._intake is None:
            return
        answer = None if self.kept is None else open_answer()
        try:
            read_end, feed = open_pipe(self._pipe_bytes)
        except OSError:
            for end in answer or ():
                os.close(end)
            raise
        self._used = False
        if self._listening:
            self._selector.unregister(self._read_end)  # while it is still this pipe's
            self._listening = False
        _put(read_end, self._read_end)
        _put(feed, self.feed)
        self._intake = self._begin()
        if answer is not None and self.kept is not None and self._told is not None:
            _put(answer[0], self.kept)
            _put(answer[1], self._told)
        self._listen()

    def _settle(self, *, flush: bool = True) -> None:
        log = self._log
        if log is None:
            return
        if flush:
            log.flush()
        if self._intake is not None and self.ready:
            self._acknowledge(self._intake.lines)
        self._listen()
        self._say_how_it_stands(log)
        if self._caretaker is not None:
            self._caretaker.look()

    def _acknowledge(self, lines: int) -> None:
        if self._told is not None and lines > self._acknowledged:
            try:
                os.write(self._told, _COUNT.pack(lines - self._acknowledged))
            except BlockingIOError:
                return  # one that does not read, or filled it itself: it is told the next time
        self._acknowledged = lines

    def _listen(self) -> None:
        """Hear of new records only while they can be kept."""
        wanted = self._intake is not None and self.ready
        if wanted and not self._listening:
            self._selector.register(self._read_end, selectors.EVENT_READ, self.keep)
        elif self._listening and not wanted:
            self._selector.unregister(self._read_end)
            if self._intake is not None:
                self._intake.pause()
        self._listening = wanted

    def _say_how_it_stands(self, log: AuditLog) -> None:
        if log.rescued != self._rescued:
            self._rescued = log.rescued
            self._say(f"the file of records was gone from its place: what was written is in {log.path}")
        if log.unlisted is not None:
            self._say_once(f"{log.directory}: the manifest cannot be written: {log.unlisted.strerror}")
        if (log.trouble is not None) == self._in_trouble:
            return
        self._in_trouble = log.trouble is not None
        if log.trouble is None:
            self._say(f"records are written to {log.directory} again")
        else:
            then = (
                "new connections wait until they can be"
                if log.settings.on_full is OnFull.BLOCK
                else "connections go on, and what is lost is counted"
            )
            self._say(f"records cannot be written to {log.directory}: {log.trouble.strerror}: {then}")

    def _say_once(self, text: str) -> None:
        if text not in self._said:
            self._said.add(text)
            self._say(text)

    def audited(self) -> Audited:
        """For whoever looks from outside."""
        log = self._log
        waiting = self._waiting()
        if log is None:
            return Audited(0, self._summary.lost, waiting, 0, True)
        return Audited(log.seq, self._summary.lost + log.lost, waiting, log.buffered, log.trouble is None)

    def _waiting(self) -> int:
        """Bytes in the pipe."""
        return 0 if self._intake is None else self._intake.waiting()

    # -- signing, removing, and the end

    def start_upkeep(self) -> None:
        """Begin with the upkeep, which looks after what writers before this one left."""
        if self._caretaker is not None:
            self._caretaker.start()

    def prepare_to_close(self) -> None:
        """What signs the last segment gets ready while the worker drains."""
        if self._caretaker is not None:
            self._caretaker.prepare_to_close()

    def close(self) -> None:
        """Take in and write what is left, sign it, close everything. Safe to call twice."""
        if self._intake is None:
            return
        self._intake.finish()
        if self._log is not None and self._caretaker is not None:
            self._caretaker.finish()
            self._log.finish()
            self._caretaker.sign_the_last()
            self._log.close()
        if self._listening:
            self._selector.unregister(self._read_end)
            self._listening = False
        self._intake.close()
        self._intake = None
        os.close(self.feed)
        for end in (self.kept, self._told):
            if end is not None:
                os.close(end)


def _put(descriptor: int, number: int) -> None:
    """Have it under ``number``, instead of what is there: that is what others know it by."""
    os.dup2(descriptor, number, inheritable=False)
    os.close(descriptor)


def open_log(
    directory: Path, settings: AuditSettings | None, sandbox: str, say: Callable[[str], object]
) -> AuditLog:
    keys: Path | None = None
    try:
        prepare(key_directory(), directory)
        keys = key_directory()
    except KeyTrouble as trouble:
        say(f"records are not signed: {trouble}")
    try:
        return AuditLog(directory, settings=settings, sandbox=sandbox, keys=keys)
    except OSError as error:
        raise SetupError(
            f"no records can be kept in {directory}: {error.strerror}; name another with --audit-dir"
        ) from error
