"""What netd reads: whatever is sent, either it is a plan that ``build_plan`` makes or it is refused."""

import random

import msgspec
import pytest

from gateway.netd.requests import CellOpened, Failed, OpenCell, decode_answer, decode_request, encode
from rules import NetworkPolicy
from rules.plan import LO, Plan, build_plan, faults
from tests.gateway.netd.mutations import mutated

MUTATIONS = 100_000


def judge(raw: bytes) -> Plan | None:
    """The plan that would be installed."""
    try:
        request = decode_request(raw)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None
    if request.plan6 is not None:
        assert faults(request.plan6) or makes(request.plan6), request.plan6
    return None if faults(request.plan) else request.plan


def makes(plan: Plan) -> bool:
    """Whether some policy leads to ``plan``."""
    if plan.resolver is None:
        return plan == build_plan(NetworkPolicy([], ["0.0.0.0/0"]), family=plan.family)
    return plan == build_plan(
        NetworkPolicy(["a.test"], ["0.0.0.0/0"], resolver=plan.resolver), family=plan.family
    )


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_of_mutated_requests_only_what_build_plan_makes_passes() -> None:
    rng = random.Random(20)
    passed = refused = 0
    for _ in range(MUTATIONS):
        plan = judge(mutated(rng))
        if plan is None:
            refused += 1
            continue
        passed += 1
        assert plan.link == LO
        assert makes(plan), plan
    assert passed + refused == MUTATIONS
    assert refused > 0.8 * MUTATIONS
    assert passed > 0, "mutations that mean nothing (a space, a field at its default) still pass"


@pytest.mark.parametrize(
    "raw",
    [
        b" ",
        b"null",
        b"{}",
        b"[" * 100_000,
        b'{"type":"OpenCell"}',
        b'{"type":"CellOpened","descriptors":[]}',
        b'{"type":"OpenCell","plan":null}',
        b"\xff\xfe",
        encode(OpenCell(build_plan(None)))[:-1],
        encode(OpenCell(build_plan(None))) + b"x",
        encode(OpenCell(build_plan(None))).replace(b'"plan"', b'"more":1,"plan"'),
    ],
)
def test_nonsense_is_no_request(raw: bytes) -> None:
    with pytest.raises((msgspec.MsgspecError, ValueError, RecursionError)):
        decode_request(raw)


def test_what_is_sent_is_what_arrives() -> None:
    for policy in (None, NetworkPolicy(["a.test"], ["0.0.0.0/0"]), NetworkPolicy([], ["0.0.0.0/0"])):
        request = OpenCell(build_plan(policy))
        assert decode_request(encode(request)) == request
    for answer in (CellOpened(("netns", "listener")), Failed("no", privilege=True)):
        assert decode_answer(encode(answer)) == answer
