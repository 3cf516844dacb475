"""The host's half is looked after: what a reload of the host's firewall takes away comes back, and nothing passes where it cannot."""

import itertools
import os
import subprocess
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway.netd import host, variants, watch
from gateway.netd.generation import generation
from gateway.netd.server import Netd
from gateway.netd.variants import HostError
from gateway.netd.watch import Watch
from rules.link import Family
from tests.gateway.netd.hosting import EMPTY, FAMILIES, OWNER, awaited, ip, is_router, raised, rules, uplinked

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: a network namespace"),
]


def in_use() -> list[str]:
    """By what program the host's firewall would be loaded anew."""
    return [
        f"{program}-{variant}-restore"
        for family, program in variants.PROGRAMS.items()
        for variant in variants.in_use(family)
    ]


def reload(programs: list[str]) -> None:
    """Somebody's own rules for all that there were, put back by one look: the first of these changes is told of at once."""
    with host.locked():
        for program in programs:
            subprocess.run([program], input=EMPTY, text=True, check=True)


@pytest.mark.parametrize("variant", ["legacy", "nft"])
@pytest.mark.parametrize("family", FAMILIES)
def test_a_generation_tells_of_every_change(on_host: None, family: Family, variant: str) -> None:
    program = f"{variants.PROGRAMS[family]}-{variant}"
    seen = [generation(family)]
    for words in ("-A FORWARD -j ACCEPT", "-t raw -N OWN", "-D FORWARD -j ACCEPT", "-t raw -X OWN"):
        subprocess.run([program, *words.split()], check=True)
        seen.append(generation(family))
        subprocess.run([f"{program}-save"], check=True, stdout=subprocess.DEVNULL)
        assert generation(family) == seen[-1], "reading is no change"
    assert all(one != other for one, other in itertools.pairwise(seen))


def test_one_process_of_all_puts_them_back(cell: int, monkeypatch: pytest.MonkeyPatch) -> None:
    """And nobody lists a table that nobody has changed."""
    monkeypatch.setattr(watch, "MOST_SHARE", float("inf"))
    raised(cell)
    programs = in_use()
    one, other = Watch(), Watch()
    before = [rules(family) for family in FAMILIES]
    assert one.look(FAMILIES) == []
    with monkeypatch.context() as patched:
        patched.setattr(variants, "saved", None)
        for again in (one, other, other):
            assert again.look(FAMILIES) == []
    reload(programs)
    assert is_router() == list(FAMILIES)
    assert one.look(FAMILIES) == list(FAMILIES)
    assert is_router() == [] and [rules(family) for family in FAMILIES] == before
    assert other.look(FAMILIES) == []
    host.lower_uplinks(OWNER)
    assert is_router() == []


@pytest.fixture
def stuck(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Path:
    """While this file is there, the host's rules cannot be read."""
    path, real = tmp_path / "stuck", variants.saved

    def saved(*words: Any) -> Any:
        if path.exists():
            raise HostError("no room")
        return real(*words)

    monkeypatch.setattr(variants, "saved", saved)
    return path


@pytest.fixture
def said(stuck: Path, on_host: None, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[Path]:
    """What netd says, which has a cell with an uplink. After a look that took long it rests no longer than after any."""
    monkeypatch.setattr(watch, "MOST_SHARE", float("inf"))
    path, before = tmp_path / "said", os.dup(2)
    with path.open("w") as file:
        os.dup2(file.fileno(), 2)
    netd = Netd()
    os.dup2(before, 2)
    os.close(before)
    descriptors = netd.open_cell(*uplinked())
    yield path
    netd.close()
    for descriptor in descriptors.values():
        os.close(descriptor)


def test_what_a_reload_took_away_comes_back_or_nothing_passes(said: Path, stuck: Path) -> None:
    before, programs = [rules(family) for family in FAMILIES], in_use()
    (name,) = [line.split()[1] for line in ip("-o link").splitlines() if "egress-" in line.split()[1]]
    name = name.partition("@")[0]
    routes = ip(f"route show dev {name}"), ip(f"-6 route show dev {name}")
    assert routes[0] and routes[1]
    reload(programs)
    awaited(lambda: is_router() == [])
    awaited(lambda: [rules(family) for family in FAMILIES] == before)
    stuck.touch()
    reload(programs)
    awaited(lambda: "state DOWN" in ip(f"-o link show {name}"))
    stuck.unlink()
    awaited(lambda: "state UP" in ip(f"-o link show {name}"))
    assert [rules(family) for family in FAMILIES] == before and is_router() == []
    awaited(lambda: (ip(f"route show dev {name}"), ip(f"-6 route show dev {name}")) == routes)
    awaited(lambda: "open again" in said.read_text())
    assert said.read_text().count("\n") == 3
