"""docs/wall.md quotes the plan: every rule of its example is there, in the plan's order, and none that is not."""

import re
import shlex
from pathlib import Path

import pytest

from gateway.cli import main
from rules import ALL_TRAFFIC, NetworkPolicy, build_plan

DOCUMENT = Path(__file__).parents[2] / "docs" / "wall.md"
BLOCKS = re.findall(r"^```([\w-]+)\n(.*?)^```$", DOCUMENT.read_text(), re.M | re.S)


def lines(language: str) -> list[str]:
    """Of all blocks of one kind."""
    return [line for kind, text in BLOCKS if kind == language for line in text.splitlines()]


def shown(number: int, capsys: pytest.CaptureFixture[str]) -> list[str]:
    """What the document's command prints; policies and headers left out."""
    program, *argv = shlex.split(lines("console")[number].removeprefix("$ "))
    assert program == "egress"
    assert main(argv) == 0
    return [line for line in capsys.readouterr().out.splitlines() if line[0] not in "*:C"]


def test_every_block_is_checked_below() -> None:
    assert {kind for kind, _ in BLOCKS} == {"console", "ipset", "iptables", "default-allow", "ipv6"}
    assert DOCUMENT.read_text().count("```") == 2 * len(BLOCKS)


def test_the_example_is_the_whole_plan(capsys: pytest.CaptureFixture[str]) -> None:
    assert lines("ipset") + lines("iptables") == shown(0, capsys)


def test_default_allow_ends_so(capsys: pytest.CaptureFixture[str]) -> None:
    assert lines("default-allow") == shown(1, capsys)[-7:]


def test_what_is_quoted_of_ipv6_is_in_it() -> None:
    text = str(build_plan(NetworkPolicy(["2001:db8::/32"], [ALL_TRAFFIC]), "veth", 6)).splitlines()
    assert set(lines("ipv6")) <= set(text)


@pytest.mark.parametrize(
    "path", sorted(set(re.findall(r"`((?:tests|rules)/[\w/]+\.py)`", DOCUMENT.read_text())))
)
def test_what_it_points_to_exists(path: str) -> None:
    assert (DOCUMENT.parents[1] / path).exists()
