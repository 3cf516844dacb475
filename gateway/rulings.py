"""Decisions that were made a moment ago. ``gateway.decide`` is pure: the same question has the same answer while all that it looks at is the same.

That is the question, the policy, of which each has rulings of its own, and which addresses are the host's. The last may change: so a ruling is
forgotten after ``KEPT_S``, and one over an answer of the resolver's is good for that answer only.
"""

from collections.abc import Container
from typing import Final

from gateway.decide import CompiledPolicy, Decision, bind, decide, settle
from gateway.flow import Endpoint, Flow, IPAddress
from gateway.net.strand import lately
from gateway.sniff.result import Refused, Sniffed

KEPT_S: Final = 0.5
"""With ``net.local.FRESH_S``, in all a second that an address may have become the host's own."""
MOST: Final = 1024
"""Of each kind."""


class Rulings:
    """What ``settle``, ``decide`` and ``bind`` say under one policy."""

    __slots__ = ("_bound", "_last", "_local", "_named", "_policy", "_settled", "_until")

    def __init__(self, policy: CompiledPolicy, local: Container[IPAddress]) -> None:
        self._policy = policy
        self._local = local
        self._settled: dict[int, tuple[Endpoint, str, Decision | None]] = {}
        """By the number of the endpoint that was dialled, which lives as long as it is here: connections to one place have it in common
        (``net.sockets.destination``), and its own hash is worked out in Python."""
        self._named: dict[tuple[int, str, str, int | None, bool], tuple[Endpoint, Decision]] = {}
        self._last: dict[int, tuple[Sniffed, Endpoint, str, Decision]] = {}
        """What was said of it last, by the number of what was seen, which hellos that are alike have in common (``sniff.tls``)."""
        self._bound: dict[int, tuple[Decision, Endpoint, tuple[IPAddress, ...], Decision]] = {}
        """By the number of the decision that was bound."""
        self._until = 0.0

    def settle(self, flow: Flow) -> Decision | None:
        """As ``decide.settle``."""
        self._forget_the_old()
        dest, proto = flow.dest, flow.proto
        kept = self._settled.get(id(dest))
        if kept is not None and kept[0] is dest and kept[1] == proto:
            return kept[2]
        made = settle(self._policy, flow, self._local)
        self._settled[id(dest)] = dest, proto, made
        return made

    def decide(self, flow: Flow, seen: Sniffed | Refused | None) -> Decision:
        """As ``decide.decide``."""
        self._forget_the_old()
        dest, proto = flow.dest, flow.proto
        last = self._last.get(id(seen))
        if last is not None and last[0] is seen and last[1] is dest and last[2] == proto:
            return last[3]
        if not isinstance(seen, Sniffed):
            return decide(self._policy, flow, seen, self._local)
        question = id(dest), proto, seen.host, seen.port, seen.ech
        kept = self._named.get(question)
        if kept is not None and kept[0] is dest:
            made = kept[1]
        else:
            made = decide(self._policy, flow, seen, self._local)
            self._named[question] = dest, made
        self._last[id(seen)] = seen, dest, proto, made
        return made

    def bind(self, decision: Decision, flow: Flow, answers: tuple[IPAddress, ...]) -> Decision:
        """As ``decide.bind``, of what ``decide`` has just said."""
        kept = self._bound.get(id(decision))
        if kept is not None and kept[0] is decision and kept[1] is flow.dest and kept[2] == answers:
            return kept[3]
        made = bind(self._policy, decision, flow, answers, self._local)
        self._bound[id(decision)] = decision, flow.dest, answers, made
        return made

    def _forget_the_old(self) -> None:
        moment = lately()
        if (
            moment >= self._until
            or len(self._settled) > MOST
            or len(self._named) > MOST
            or len(self._last) > MOST
        ):
            self._settled.clear()
            self._named.clear()
            self._last.clear()
            self._bound.clear()
            self._until = moment + KEPT_S
