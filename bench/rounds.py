"""The comparison: every proxy once a round, started anew, one after the other; and round after round."""

import contextlib
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import asdict, dataclass, replace
from statistics import median as median_of
from typing import Any, Final

from bench.adapter import Adapter
from bench.figures import Sample, medians, with_added
from bench.place import Lab
from bench.probe import Probe, Trouble

Say = Callable[[str], None]
SLICES: Final = 3
"""Of a round's short connections."""


@dataclass(frozen=True, slots=True)
class Settings:
    """How long and how much. ``seconds`` is about what each of three loads takes."""

    rounds: int = 5
    seconds: float = 2.5
    at_once: int = 50
    held: int = 2000
    direct_rate: int = 1000
    """Connections a second where there is no proxy whose half load it could be."""


QUICK = Settings(rounds=3, seconds=0.8, held=500)


def with_rounds(settings: Settings, count: int) -> Settings:
    """The same, so many times."""
    return replace(settings, rounds=count)


@dataclass(slots=True)
class Peer:
    """One proxy and what was found: a sample a round, empty where there was trouble."""

    adapter: Adapter
    rounds: list[Sample]
    troubles: list[str]


def compare_proxies(lab: Lab, adapters: Sequence[Adapter], settings: Settings, say: Say) -> dict[str, Any]:
    """All figures of all of them, as a result file has them."""
    peers = [Peer(adapter, [], []) for adapter in adapters]
    started, steps = time.monotonic(), settings.rounds * len(peers)
    for number in range(settings.rounds):
        # A B C, then C B A: what drifts evenly is even for all.
        order = list(enumerate(peers) if number % 2 == 0 else reversed(list(enumerate(peers))))
        for place, (_, peer) in enumerate(order):
            sample: Sample = {}
            try:
                measure(lab, peer, settings, sample)
            except (
                Trouble,
                RuntimeError,
            ) as trouble:  # a proxy that does not start takes no other's figures away
                peer.troubles.append(f"round {number + 1}: {trouble}")
            peer.rounds.append(sample)
            done = number * len(peers) + place + 1
            left = (time.monotonic() - started) / done * (steps - done)
            say(f"round {number + 1}/{settings.rounds} {_shown(peer)}  [{left:.0f} s to go]")
    with_added({peer.adapter.name: peer.rounds for peer in peers})
    return {
        "settings": asdict(settings),
        "peers": {peer.adapter.name: _result(peer) for peer in peers},
    }


def measure(lab: Lab, peer: Peer, settings: Settings, sample: Sample) -> None:
    """One proxy, freshly started, into ``sample`` as it is found. Trouble, and what was found until then stays."""
    adapter = peer.adapter
    with lab.place(adapter.redirect) as place, adapter.start(place) as running:
        probe = Probe(lab, running)
        probe.await_ready(filters=adapter.filters)
        if not adapter.filters:  # no proxy: all that is asked of it is how long it takes
            _paced(probe, settings, sample, settings.direct_rate)
            return
        with _kept(peer):
            sample["idle_mib"] = round(running.pss_kib() / 1024, 1)
            _paced(probe, settings, sample, _short(probe, settings, sample) / 2)
        with _kept(peer):
            _bulk(probe, settings, sample)
        with _kept(peer):
            before = running.rss_kib()
            with probe.hold(settings.held) as said:
                if said["errors"]:
                    raise Trouble(f"hold: {said['errors']} of {settings.held} were refused")
                sample["held_kib"] = round((running.rss_kib() - before) / settings.held, 2)


def _short(probe: Probe, settings: Settings, sample: Sample) -> float:
    tried = probe.short(300, settings.at_once)
    count = max(300, int(300 / tried.said["seconds"] * settings.seconds / SLICES))
    # What others do on the machine for a second falls upon one slice: the middle one stands for the round.
    costs = sorted((probe.short(count, settings.at_once) for _ in range(SLICES)), key=lambda cost: cost.cpu_s)
    cost = costs[SLICES // 2]
    sample["cpu_us"] = round(cost.cpu_s / count * 1e6, 1)
    rate: float = round(count / median_of(cost.said["seconds"] for cost in costs), 1)
    sample["connections_s"] = rate
    sample["proxy_share"], sample["load_share"] = round(cost.share, 2), round(cost.load_share, 2)
    return rate


def _paced(probe: Probe, settings: Settings, sample: Sample, rate: float) -> None:
    said = probe.paced(rate, max(100, int(rate * settings.seconds))).said
    sample["paced_s"] = round(rate, 1)
    sample["p50_us"], sample["p99_us"] = said["p50_us"], said["p99_us"]
    sample["late_p99_us"] = said["late_p99_us"]


def _bulk(probe: Probe, settings: Settings, sample: Sample) -> None:
    tried = probe.bulk(100_000_000)
    size = int(1e8 / tried.said["seconds"] * settings.seconds / 2) + 100_000_000
    cost = probe.bulk(size)
    sample["cpu_s_gb"] = round(cost.cpu_s / size * 1e9, 4)
    sample["gb_s"] = round(size / 1e9 / cost.said["seconds"], 3)


@contextlib.contextmanager
def _kept(peer: Peer) -> Iterator[None]:
    """Trouble with one figure is no reason to give up the others; a proxy that is gone will say so again."""
    try:
        yield
    except Trouble as trouble:
        peer.troubles.append(str(trouble))


def _result(peer: Peer) -> dict[str, Any]:
    return {
        "version": peer.adapter.version(),
        "note": peer.adapter.note,
        "medians": medians(peer.rounds),
        "rounds": peer.rounds,
        "troubles": peer.troubles,
    }


def _shown(peer: Peer) -> str:
    sample = peer.rounds[-1]
    words = [
        f"{sample[key]:{form}} {unit}"
        for key, form, unit in (
            ("cpu_us", ".0f", "us"),
            ("connections_s", ",.0f", "/s"),
            ("p50_us", ",.0f", "us p50"),
            ("p99_us", ",.0f", "us p99"),
            ("cpu_s_gb", ".2f", "s/GB"),
            ("held_kib", ".1f", "KiB held"),
        )
        if key in sample
    ]
    return f"{peer.adapter.name}: {', '.join(words) or 'nothing'}" + (
        f" ({peer.troubles[-1]})" if peer.troubles else ""
    )
