"""One connection's way: accept, sniff, decide, connect, splice, audit.

``run_session`` is the whole path, top to bottom. It awaits only what ``gateway.net`` offers, so the driver underneath can change, and it
leaves exactly one decision record whatever happens: a connection that ends without one is written as blocked by ``Attempt``.
"""

import logging
import socket
from collections.abc import Container
from typing import Final

from audit.record import EndedBy, Phase
from gateway.attempt import Attempt
from gateway.decide import (
    CompiledPolicy,
    Decision,
    Target,
    Verdict,
    refuse,
    unresolved,
)
from gateway.flow import Flow, IPAddress
from gateway.net.clock import NEVER, now, now_ns
from gateway.net.connect import connect
from gateway.net.relay import relay
from gateway.net.resolve import ResolveError, ResolveLimit, Resolver, ResolveTimeout
from gateway.net.sockets import Sock, received, reset_on_close
from gateway.net.strand import Expired, current, deadline, lately
from gateway.net.waits import arrival, receive
from gateway.reasons import Reason
from gateway.refusal import refusal
from gateway.rulings import Rulings
from gateway.sniff import (
    HANDSHAKE,
    Forbidden,
    Handshake,
    Naming,
    NeedMore,
    Refused,
    Requests,
    Sniffed,
    sniff,
    watch,
)

DECIDE_S: Final = 5.0
"""From accept to the decision: one absolute deadline, however the client drips."""
ROOM_S: Final = 10.0
"""How long an allowed connection waits for room for its record."""
CONNECT_S: Final = 10.0
MAX_FIRST_MESSAGE_BYTES: Final = 64 * 1024
MAX_READS: Final = 64
"""Of a first message, that is, the wake-ups that an undecided client is worth: it may come in so many pieces, of any size."""
READ_BYTES: Final = 16 * 1024

ALLOW: Final = Verdict.ALLOW
BOUND: Final = Target.BOUND
INTERNAL_ERROR: Final = Reason.INTERNAL_ERROR
DECIDE: Final = Phase.DECIDE
RESOLVE: Final = Phase.RESOLVE
CONNECT: Final = Phase.CONNECT
RELAY: Final = Phase.RELAY
"""By name: an attribute of an enum takes ten times as long (CPython 3.11), and a connection asks for a dozen."""

_Sniffed: Final = Sniffed  # final, because names that are not are looked up in a dictionary, compiled too

log = logging.getLogger("egress.session")


class Gate:
    """What every connection of one sandbox is decided and carried with."""

    __slots__ = ("answers", "local", "policy", "resolver", "rulings")

    def __init__(self, policy: CompiledPolicy, resolver: Resolver, local: Container[IPAddress]) -> None:
        self.policy = policy
        self.resolver = resolver
        self.answers = resolver.answers
        self.local = local
        self.rulings = Rulings(policy, local)


class House:
    """One sandbox's gate, which may be another when a policy takes the place of one."""

    __slots__ = ("gate",)

    def __init__(self, gate: Gate) -> None:
        self.gate = gate


Heard = tuple[Sniffed | Refused | None, bytes]
"""What the client said before the decision: the name it shows, and the bytes to pass on first, which are all that were taken from it."""
GONE: Final = Refused(Reason.CLIENT_CLOSED)
"""A client that was reset: no policy has anything to carry."""


async def run_session(client: Sock, flow: Flow, house: House, attempt: Attempt) -> None:
    """Carry ``client``, an accepted non-blocking socket, to where the policy says, or refuse it. Closes it; raises nothing but cancellation."""
    try:
        with attempt:
            gate = house.gate
            seen, first, decision = await _judge(client, flow, gate, attempt)
            while gate is not house.gate and seen is not GONE and decision.reason is not INTERNAL_ERROR:
                gate = house.gate  # another policy came meanwhile
                decision = await _judge_anew(flow, gate, seen)
            if decision.verdict is ALLOW and not attempt.offered(decision, seen):
                decision = await _offered_late(flow, house, attempt, decision, seen)
            if decision.verdict is not ALLOW:
                if not attempt.refused(decision, seen):
                    decision = refuse(INTERNAL_ERROR)
                await _refuse(client, seen, decision)
                return
            try:
                if attempt.to_be_kept and not await attempt.is_kept():
                    reset_on_close(client)
                    return
                watching, first = _watching(seen, first, flow.dest.port, attempt)
                connected = await _connect(flow, decision, attempt, first)
                if connected is None:
                    reset_on_close(client)
                    return
                upstream, sent = connected
                try:
                    attempt.phase = RELAY
                    relaying = relay(client, upstream, attempt, first, watching, sent)
                    first = b""  # whoever holds thousands of connections does not hold what they began with
                    attempt.carried(await relaying, client)
                finally:
                    if attempt.revoked:
                        reset_on_close(upstream)
                    upstream.close()
            except Forbidden:
                attempt.ended_by = EndedBy.POLICY
                reset_on_close(client)
            finally:
                if attempt.revoked:
                    reset_on_close(client)
    finally:
        client.close()


async def _offered_late(
    flow: Flow, house: House, attempt: Attempt, decision: Decision, seen: Sniffed | Refused | None
) -> Decision:
    """What cannot be recorded is not carried: an allowed connection whose record finds no room waits until it does, if it may still pass by then.

    A decision that allows has been handed over; one that refuses has not.
    """
    gate = house.gate
    give_up = now() + ROOM_S
    while decision.verdict is ALLOW:
        if now() >= give_up or not await _room_by(give_up, attempt):
            return refuse(Reason.LIMIT)._replace(host=decision.host)
        while gate is not house.gate:
            gate = house.gate
            decision = await _judge_anew(flow, gate, seen)
        if decision.verdict is ALLOW and attempt.offered(decision, seen):
            break
    return decision


async def _room_by(moment: float, attempt: Attempt) -> bool:
    """Whether there may be room for its record by then. All who wait for that share one future: who gives up leaves it to the others."""
    try:
        with deadline(moment):
            await attempt.room()
    except TimeoutError:
        return False
    return True


async def _judge_anew(flow: Flow, gate: Gate, seen: Sniffed | Refused | None) -> Decision:
    """By another policy, with what was heard under the one before: if that is too little for it, no."""
    named: Decision | None = None
    try:
        decision = gate.rulings.decide(flow, seen)
        if decision.target is not BOUND:
            return decision
        named = decision
        with deadline(now() + DECIDE_S):
            return _bound(flow, gate, named) or await _bind(flow, gate, named)
    except Exception as error:
        if named is not None and isinstance(error, TimeoutError):
            return unresolved(named, Reason.RESOLVE_TIMEOUT)
        log.exception("flow %s: refused after an unexpected error", flow.id)
        return refuse(INTERNAL_ERROR)


async def _judge(
    client: Sock, flow: Flow, gate: Gate, attempt: Attempt
) -> tuple[Sniffed | Refused | None, bytes, Decision]:
    """Read only what the decision needs, and say what was read; whatever goes wrong on the way is a refusal."""
    strand, rulings = current(), gate.rulings
    seen: Sniffed | Refused | None = None
    first = b""
    named: Decision | None = None
    strand.expires = lately() + DECIDE_S
    try:
        decision = rulings.settle(flow)
        if decision is None:
            seen, first = await _sniff(client)
            attempt.phase = DECIDE
            decision = rulings.decide(flow, seen)
        if decision.target is BOUND:
            attempt.phase = RESOLVE
            named = decision
            decision = _bound(flow, gate, named) or await _bind(flow, gate, named)
        return seen, first, decision
    except Expired:
        assert named is not None, "what else is waited for ends in _sniff"  # noqa: S101
        return seen, first, unresolved(named, Reason.RESOLVE_TIMEOUT)
    except Exception:
        log.exception("flow %s: refused after an unexpected error", flow.id)
        return seen, first, refuse(INTERNAL_ERROR)
    finally:
        strand.expires = NEVER


async def _sniff(client: Sock) -> Heard:
    """The first message, as far as it takes to read a name or to know that there is none to trust.

    All that was read is given back, however it ends: another policy may need no name, and carry it.
    """
    data = b""
    scanned, worth = 0, 1
    for _ in range(MAX_READS):
        try:
            while (chunk := received(client, READ_BYTES)) is None:
                await arrival(client, worth - len(data))
        except OSError:
            return GONE, b""
        except Expired:
            return Refused(Reason.NO_HELLO), data
        if not chunk:
            return Refused(Reason.CLIENT_CLOSED), data
        data = data + chunk if data else chunk
        if len(data) < worth:
            continue
        seen = sniff(data, scanned=scanned)
        if isinstance(seen, _Sniffed) or not isinstance(seen, NeedMore):
            return seen, data
        scanned = len(data)
        worth = scanned + seen.at_least
        if scanned >= MAX_FIRST_MESSAGE_BYTES:
            return Refused(Reason.TOO_LONG), data
    return Refused(Reason.TOO_MANY_READS, "tls" if data[0] == HANDSHAKE else "http"), data


def _bound(flow: Flow, gate: Gate, decision: Decision) -> Decision | None:
    """The name is a claim until its own addresses are known: None where they are not, at the moment."""
    assert decision.host is not None, "a bound target has a name"  # noqa: S101 - what decide() promises
    answers = gate.answers.addresses(decision.host)
    return gate.rulings.bind(decision, flow, answers) if answers else None


async def _bind(flow: Flow, gate: Gate, decision: Decision) -> Decision:
    """As ``_bound``, once they are known, or known to be none."""
    assert decision.host is not None, "as above"  # noqa: S101
    try:
        answers = await gate.resolver.resolve(decision.host)
    except ResolveTimeout:
        return unresolved(decision, Reason.RESOLVE_TIMEOUT)
    except ResolveLimit:
        return unresolved(decision, Reason.LIMIT)
    except ResolveError:
        return unresolved(decision, Reason.RESOLVE_FAILED)
    return gate.rulings.bind(decision, flow, answers)


async def _refuse(client: Sock, seen: Sniffed | Refused | None, decision: Decision) -> None:
    """Say no in the client's own protocol where it has one; a reset otherwise."""
    said = refusal(seen, decision)
    if not said:
        reset_on_close(client)
        return
    try:
        client.send(said)
        client.shutdown(socket.SHUT_WR)
        # Closing over unread bytes would send a reset that overtakes the answer: read on, a little, until the client has it.
        with deadline(now() + 1.0):
            spare = bytearray()
            while len(spare) < MAX_FIRST_MESSAGE_BYTES and await receive(client, spare, READ_BYTES):
                pass
    except (OSError, TimeoutError):
        return


async def _connect(flow: Flow, decision: Decision, attempt: Attempt, first: bytes) -> tuple[Sock, int] | None:
    """The upstream, and how much of ``first`` it has been sent; None where there is none to be had."""
    attempt.phase = CONNECT
    strand = current()
    begun_ns = now_ns()
    addresses = decision.addresses if decision.target is BOUND else (flow.dest.ip,)
    strand.expires = lately() + CONNECT_S
    try:
        upstream, attempt.upstream_ip, sent = await connect(addresses, flow.dest.port, first)
    except Expired:
        attempt.ended_by = EndedBy.TIMEOUT
        return None
    except OSError as error:
        attempt.ended_by = EndedBy.TIMEOUT if isinstance(error, TimeoutError) else EndedBy.UPSTREAM
        return None
    finally:
        strand.expires = NEVER
    attempt.connected(now_ns() - begun_ns)
    return upstream, sent


def _watching(
    seen: Sniffed | Refused | None, first: bytes, port: int, attempt: Attempt
) -> tuple[Handshake | Requests | Naming, bytes]:
    """Who looks at the rest of the connection, and what of its first bytes may pass. Forbidden where they name something else themselves."""
    if isinstance(seen, _Sniffed):
        return watch(seen, first, port)
    naming = attempt.naming = Naming()
    return naming, naming.up(first) if first else first
