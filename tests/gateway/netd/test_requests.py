"""What netd reads: whatever is sent, either it is a plan that ``build_plan`` makes or it is refused."""

import random
from dataclasses import replace
from ipaddress import ip_address
from itertools import product

import msgspec
import pytest

from gateway.netd.requests import (
    CellOpened,
    CloseCell,
    Failed,
    OpenCell,
    decode_answer,
    decode_request,
    encode,
)
from rules import NetworkPolicy
from rules.plan import LINKS, LO, Plan, build_plan, faults
from tests.gateway.netd.mutations import VETH_SEEDS, mutated
from tests.rules.walking import Fate, Kernel, Packet

MUTATIONS = 40_000


def judge(raw: bytes) -> Plan | None:
    """The plan that would be installed."""
    try:
        request = decode_request(raw)
    except (msgspec.MsgspecError, ValueError, RecursionError):
        return None
    if isinstance(request, CloseCell):
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


FLOOR = ("169.254.169.254", "127.0.0.1", "192.0.0.1", "168.63.129.16")
WALL = [
    Packet(ip_address(text), *kind) for text, kind in product(FLOOR, (("tcp", 80), ("udp", 53), ("icmp", 0)))
]
FORGED = Packet(ip_address("198.51.100.7"), "udp", 443, source=ip_address("198.51.100.8"))


SEEDED = {plan.sets for plan in map(judge, VETH_SEEDS) if plan is not None}


@pytest.mark.slow
@pytest.mark.timeout(120)
def test_of_mutated_plans_for_a_device_what_passes_is_still_a_wall() -> None:
    """Their sets are the asker's to choose: whatever they hold, nobody reaches the floor or speaks from another address."""
    rng = random.Random(21)
    passed = others = 0
    for _ in range(MUTATIONS // 10):
        plan = judge(mutated(rng, VETH_SEEDS))
        if plan is None:
            continue
        passed += 1
        others += plan.sets not in SEEDED
        kernel = Kernel(plan)
        assert {kernel.walk(replace(packet)) for packet in WALL} <= {Fate.REFUSED, Fate.DROPPED}
        assert kernel.walk(replace(FORGED)) is Fate.DROPPED
    assert passed < 0.2 * MUTATIONS // 10
    assert others > 0, "other lists pass"


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
    policies = (
        None,
        NetworkPolicy(["a.test", "10.0.0.0/8:1"], ["0.0.0.0/0"]),
        NetworkPolicy([], ["0.0.0.0/0"]),
    )
    for policy, link in product(policies, LINKS.values()):
        request = OpenCell(build_plan(policy, link), build_plan(policy, link, 6), "nft")
        assert decode_request(encode(request)) == request
    for answer in (CellOpened(("netns", "listener")), Failed("no", privilege=True)):
        assert decode_answer(encode(answer)) == answer
