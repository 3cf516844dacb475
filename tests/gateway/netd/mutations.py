"""Requests to netd, spoilt: bytes that were changed, and well-formed requests that ask for something else."""

import json
import random
from collections.abc import Callable, Sequence
from typing import Any

from gateway.netd.requests import OpenCell, encode
from rules import NetworkPolicy
from rules.plan import build_plan

SEEDS = [
    encode(OpenCell(build_plan(policy), build_plan(policy, family=6) if policy is None else None))
    for policy in (
        None,
        NetworkPolicy(["api.openai.com"], ["0.0.0.0/0"], resolver="9.9.9.9"),
        NetworkPolicy(["203.0.113.0/24"], ["0.0.0.0/0"]),
    )
]
VETH_SEEDS = [
    encode(OpenCell(build_plan(policy, "veth")))
    for policy in (
        NetworkPolicy(["api.openai.com:443", "10.0.0.0/8", "198.51.100.7:22,443"], ["0.0.0.0/0"]),
        NetworkPolicy(["api.openai.com"], ["203.0.113.0/24", "evil.test"]),
    )
]
LEAVES: list[Any] = [
    *(None, True, False, 0, 1, -1, 4, 6, 53, 65536, 1e400, 2**70, "", "lo", "eth0", "filter", "mangle", "nat", "raw"),
    *("INPUT", "FORWARD", "OUTPUT", "PREROUTING", "POSTROUTING", "ACCEPT", "DROP", "RETURN", "REJECT", "TPROXY"),
    *("hash:net", "allow4", "allow4 dst", "0.0.0.0/1", "10.0.0.0/9", "MARK", "veth", "up0", "sbx0"),
    *("tcp", "udp", "icmp", "0x1/0xf", "8.8.8.8", "1.1.1.1", "127.0.0.1", "0.0.0.0/0", "::1", "x\0y", "\udcff", [], {}),
]  # fmt: skip
WORDS = [
    b"ACCEPT",
    b"DROP",
    b"null",
    b"8.8.8.8",
    b"filter",
    b"[",
    b"]",
    b"{",
    b"}",
    b",",
    b'"',
    b"\\u0000",
    b"\xff",
]


def mutated(rng: random.Random, seeds: Sequence[bytes] = SEEDS) -> bytes:
    """A seed with one to three things wrong."""
    raw = rng.choice(seeds)
    if rng.random() < 0.4:
        for _ in range(rng.randint(1, 3)):
            raw = rng.choice(BYTES)(raw, rng)
        return raw
    document = json.loads(raw)
    for _ in range(rng.randint(1, 3)):
        _disturb(document, rng)
    return json.dumps(document).encode()


def _flip(raw: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(raw))
    return raw[:at] + bytes([raw[at] ^ 1 << rng.randrange(8)]) + raw[at + 1 :]


def _cut(raw: bytes, rng: random.Random) -> bytes:
    start = rng.randrange(len(raw))
    return raw[:start] + raw[start + rng.randrange(1, 40) :] or b"x"


def _repeat(raw: bytes, rng: random.Random) -> bytes:
    start = rng.randrange(len(raw))
    return raw[:start] + raw[start : start + rng.randrange(1, 200)] * 2 + raw[start:]


def _insert(raw: bytes, rng: random.Random) -> bytes:
    at = rng.randrange(len(raw))
    return raw[:at] + rng.choice(WORDS) + raw[at:]


BYTES: list[Callable[[bytes, random.Random], bytes]] = [_flip, _cut, _repeat, _insert]


def _disturb(document: Any, rng: random.Random) -> None:
    """One change somewhere in the tree."""
    node = document
    while True:
        keys = list(node) if isinstance(node, dict) else list(range(len(node)))
        if not keys:
            return
        key = rng.choice(keys)
        child = node[key]
        if isinstance(child, dict | list) and child and rng.random() < 0.85:
            node = child
            continue
        break
    act = rng.randrange(4)
    if act == 0:
        del node[key]
    elif act == 1 and isinstance(node, list):
        node.insert(rng.randrange(len(node) + 1), json.loads(json.dumps(rng.choice(node))))
    elif act == 2 and isinstance(node, list):
        rng.shuffle(node)
    else:
        node[key] = rng.choice(LEAVES)
