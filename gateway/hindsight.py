"""What is decided already, judged by a policy: what the kernel did with a packet, and what another policy said of a connection. Pure."""

from collections.abc import Container

from gateway.decide import (
    BY_DEFAULT,
    CompiledPolicy,
    Decision,
    Target,
    Verdict,
    decide,
    denied_by_address,
    refuse,
    settle,
    usable,
)
from gateway.flow import Flow, IPAddress
from gateway.reasons import Reason
from gateway.sniff.result import Refused, Sniffed


def decide_packet(policy: CompiledPolicy, flow: Flow, local: Container[IPAddress], *, left: bool) -> Decision:
    """Say which words of the policy a packet met that the kernel decided; ``left``: it let it out of the
    cell.

    The kernel's rules come from the same policy. What it did is what counts: where that is not what the words
    lead to, the link could not carry it.
    """
    decision = settle(policy, flow, local) or denied_by_address(policy, flow)
    if left and decision is not None and decision.row == 1:
        return decision  # local to the host, which its half of the uplink drops
    if decision is None or (decision.verdict is Verdict.ALLOW) is not left:
        return BY_DEFAULT if left else refuse(Reason.NOT_CARRIED)
    return decision


def explains(policy: CompiledPolicy, flow: Flow, local: Container[IPAddress], *, left: bool) -> bool:
    """Whether the kernel, by the rules of ``policy``, does what it did with a packet."""
    decision = settle(policy, flow, local) or denied_by_address(policy, flow)
    return (decision is None or decision.verdict is Verdict.ALLOW) is left


def still_allowed(
    policy: CompiledPolicy,
    flow: Flow,
    seen: Sniffed | Refused | None,
    made: Decision,
    upstream: IPAddress | None,
    local: Container[IPAddress],
) -> bool:
    """Whether ``policy`` allows a connection that another allowed by ``made``, as it is carried now.

    One that would have to be bound, and was not, is no longer: nobody knows whether it leads to the name's own.
    """
    anew = decide(policy, flow, seen, local)
    if anew.verdict is not Verdict.ALLOW or (anew.target is Target.BOUND and made.target is not Target.BOUND):
        return False
    # A name may have led elsewhere than to the address that the sandbox asked for.
    dialled = made.addresses if upstream is None or made.target is not Target.BOUND else (upstream,)
    return all(_leads_to(policy, flow, seen, address, local) for address in dialled)


def _leads_to(
    policy: CompiledPolicy,
    flow: Flow,
    seen: Sniffed | Refused | None,
    address: IPAddress,
    local: Container[IPAddress],
) -> bool:
    """Whether ``policy`` lets what was seen lead to an address that is the name's own."""
    dest = flow.dest._replace(ip=address)
    made = decide(policy, flow._replace(dest=dest), seen, local)
    if made.target is Target.BOUND:
        return usable(policy, address, local, dest.port)
    return made.verdict is Verdict.ALLOW
