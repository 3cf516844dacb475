"""One connection's way: accept, sniff, decide, connect, splice, audit.

``run_session`` is the whole path, top to bottom. It awaits only what ``gateway.net`` offers, so the driver underneath can change, and it
leaves exactly one decision record whatever happens: a connection that ends without one is written as blocked by ``Attempt``.
"""

import logging
import socket
import time
from collections.abc import Container
from typing import Final, NamedTuple

from audit.record import EndedBy, Phase
from gateway.decide import (
    CompiledPolicy,
    Decision,
    Target,
    Verdict,
    refuse,
    unresolved,
)
from gateway.flow import Flow, IPAddress
from gateway.journal import Attempt
from gateway.net.connect import connect
from gateway.net.poller import deadline, now, receive
from gateway.net.relay import Counts, Ended, relay
from gateway.net.resolve import ResolveError, Resolver, ResolveTimeout
from gateway.net.sockets import Sock, reset_on_close
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
"""From accept to the decision: one absolute deadline, however the client drips (security G)."""
CONNECT_S: Final = 10.0
MAX_FIRST_MESSAGE_BYTES: Final = 64 * 1024
MAX_READS: Final = 64
"""Of a first message, that is, the wake-ups that an undecided client is worth: it may come in so many pieces, of any size."""
READ_BYTES: Final = 16 * 1024

log = logging.getLogger("egress.session")


class Gate:
    """What every connection of one sandbox is decided and carried with."""

    __slots__ = ("local", "policy", "resolver", "rulings")

    def __init__(self, policy: CompiledPolicy, resolver: Resolver, local: Container[IPAddress]) -> None:
        self.policy = policy
        self.resolver = resolver
        self.local = local
        self.rulings = Rulings(policy, local)


class House:
    """One sandbox's gate, which may be another when a policy takes the place of one."""

    __slots__ = ("gate",)

    def __init__(self, gate: Gate) -> None:
        self.gate = gate


class Heard(NamedTuple):
    """What the client said before the decision: the name it shows, and the bytes to pass on first."""

    seen: Sniffed | Refused | None
    first: bytes


async def run_session(client: Sock, flow: Flow, house: House, attempt: Attempt) -> None:
    """Carry ``client``, an accepted non-blocking socket, to where the policy says, or refuse it. Closes it; raises nothing but cancellation."""
    try:
        with attempt:
            gate = house.gate
            heard, decision = await _judge(client, flow, gate, attempt)
            while gate is not house.gate:  # another policy came meanwhile
                gate = house.gate
                decision = await _judge_anew(flow, gate, heard)
            if not attempt.decided(decision, heard.seen):
                decision = refuse(Reason.INTERNAL_ERROR)  # what cannot be recorded is not carried
            if decision.verdict is not Verdict.ALLOW:
                await _refuse(client, heard, decision)
                return
            try:
                if attempt.to_be_kept and not await attempt.is_kept():
                    reset_on_close(client)
                    return
                upstream = await _connect(flow, decision, attempt, speaks_first=bool(heard.first))
                if upstream is None:
                    reset_on_close(client)
                    return
                try:
                    await _splice(client, upstream, heard, flow.dest.port, attempt)
                finally:
                    if attempt.revoked:
                        reset_on_close(upstream)
                    upstream.close()
            finally:
                if attempt.revoked:
                    reset_on_close(client)
    finally:
        client.close()


async def _judge_anew(flow: Flow, gate: Gate, heard: Heard) -> Decision:
    """By another policy, with what was heard under the one before: if that is too little for it, no."""
    try:
        with deadline(now() + DECIDE_S):
            decision = gate.rulings.decide(flow, heard.seen)
            return await _bind(flow, gate, decision) if decision.target is Target.BOUND else decision
    except TimeoutError:
        return unresolved(decision, Reason.RESOLVE_TIMEOUT)
    except Exception:
        log.exception("flow %s: refused after an unexpected error", flow.id)
        return refuse(Reason.INTERNAL_ERROR)


async def _judge(client: Sock, flow: Flow, gate: Gate, attempt: Attempt) -> tuple[Heard, Decision]:
    """Read only what the decision needs; whatever goes wrong on the way is a refusal."""
    heard = Heard(None, b"")
    named: Decision | None = None
    try:
        with deadline(now() + DECIDE_S):
            decision = gate.rulings.settle(flow)
            if decision is None:
                heard = await _sniff(client)
                attempt.phase = Phase.DECIDE
                decision = gate.rulings.decide(flow, heard.seen)
            if decision.target is Target.BOUND:
                attempt.phase = Phase.RESOLVE
                named = decision
                decision = await _bind(flow, gate, named)
            return heard, decision
    except TimeoutError:
        if named is not None:
            return heard, unresolved(named, Reason.RESOLVE_TIMEOUT)
        return heard, gate.rulings.decide(flow, Refused(Reason.NO_HELLO))
    except Exception:
        log.exception("flow %s: refused after an unexpected error", flow.id)
        return heard, refuse(Reason.INTERNAL_ERROR)


async def _sniff(client: Sock) -> Heard:
    """The first message, as far as it takes to read a name or to know that there is none to trust."""
    buffer = bytearray()
    scanned, worth = 0, 1
    for _ in range(MAX_READS):
        try:
            got = await receive(client, buffer, READ_BYTES, worth - len(buffer))
        except OSError:
            got = 0
        if not got:
            return Heard(Refused(Reason.CLIENT_CLOSED), b"")
        if len(buffer) < worth:
            continue
        seen = sniff(buffer, scanned=scanned)
        if not isinstance(seen, NeedMore):
            return Heard(seen, bytes(buffer))
        scanned = len(buffer)
        worth = scanned + seen.at_least
        if scanned >= MAX_FIRST_MESSAGE_BYTES:
            return Heard(Refused(Reason.TOO_LONG), bytes(buffer))
    return Heard(Refused(Reason.TOO_MANY_READS, "tls" if buffer[0] == HANDSHAKE else "http"), bytes(buffer))


async def _bind(flow: Flow, gate: Gate, decision: Decision) -> Decision:
    """The name is a claim until its own addresses are known."""
    assert decision.host is not None, "a bound target has a name"  # noqa: S101 - what decide() promises
    try:
        answers = await gate.resolver.resolve(decision.host)
    except ResolveTimeout:
        return unresolved(decision, Reason.RESOLVE_TIMEOUT)
    except ResolveError:
        return unresolved(decision, Reason.RESOLVE_FAILED)
    return gate.rulings.bind(decision, flow, answers)


async def _refuse(client: Sock, heard: Heard, decision: Decision) -> None:
    """Say no in the client's own protocol where it has one; a reset otherwise."""
    said = refusal(heard.seen, decision)
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


async def _connect(flow: Flow, decision: Decision, attempt: Attempt, *, speaks_first: bool) -> Sock | None:
    attempt.phase = Phase.CONNECT
    begun_ns = time.monotonic_ns()
    addresses = decision.addresses if decision.target is Target.BOUND else (flow.dest.ip,)
    try:
        with deadline(now() + CONNECT_S):
            upstream, attempt.upstream_ip = await connect(
                addresses, flow.dest.port, speaks_first=speaks_first
            )
    except TimeoutError:
        attempt.ended_by = EndedBy.TIMEOUT
        return None
    except OSError:
        attempt.ended_by = EndedBy.UPSTREAM
        return None
    attempt.connected(time.monotonic_ns() - begun_ns)
    return upstream


async def _splice(client: Sock, upstream: Sock, heard: Heard, port: int, attempt: Attempt) -> None:
    """Pass on what was read, then everything, both ways, until both sides have ended, or the client names something else."""
    attempt.phase = Phase.RELAY
    counts = attempt.counts = Counts()
    watching: Handshake | Requests | Naming = Naming()
    first = heard.first
    if isinstance(heard.seen, Sniffed):
        try:
            watching, first = watch(heard.seen, first, port)
        except Forbidden:
            attempt.ended_by = EndedBy.POLICY
            reset_on_close(client)
            return
    try:
        relayed = await relay(client, upstream, counts, first, watching)
    finally:
        if isinstance(watching, Naming):
            attempt.domain = watching.host
    match relayed.why:
        case Ended.FORBIDDEN:
            attempt.ended_by = EndedBy.POLICY
        case Ended.IDLE:
            attempt.ended_by = EndedBy.TIMEOUT
        case _:
            attempt.ended_by = EndedBy.CLIENT if relayed.first is client else EndedBy.UPSTREAM
