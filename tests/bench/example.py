"""Results as the bench writes them, made up."""

import random
from typing import Any

from bench.figures import Sample

COSTS = {"egress": 300.0, "haproxy": 100.0, "naive": 200.0}


def peer(rounds: list[Sample], **more: Any) -> dict[str, Any]:
    """One proxy's part of a result."""
    return {"version": "1.0", "note": "n", "rounds": rounds, "troubles": [], **more}


def result(
    seed: int, *, slower: float = 1.0, machine: float = 1.0, noise: float = 0.03, rounds: int = 5
) -> dict[str, Any]:
    """A run in which egress is ``slower`` than it was, on a machine whose speed moves by a half from round to round."""
    rng = random.Random(seed)
    peers: dict[str, list[Sample]] = {name: [] for name in COSTS}
    for _ in range(rounds):
        speed = machine * rng.uniform(0.8, 1.2)
        for name, cost in COSTS.items():
            factor = speed * (slower if name == "egress" else 1.0)
            peers[name].append(
                {
                    "cpu_us": cost * factor * rng.uniform(1 - noise, 1 + noise),
                    "connections_s": 1e6 / cost / factor * rng.uniform(1 - noise, 1 + noise),
                    "held_kib": 4.0 * rng.uniform(0.99, 1.01),
                }
            )
    figures = {
        "settings": {"rounds": rounds, "direct_rate": 1000},
        "peers": {name: peer(found) for name, found in peers.items()},
        "left_out": {},
    }
    return {"machine": {"commit": "abc", "at": "now"}, "figures": figures}
