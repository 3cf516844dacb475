"""``egress rules show`` prints the plan that netd installs, and needs nothing for it."""

import os

import pytest

from gateway.cli import main
from rules import ALL_TRAFFIC, NetworkPolicy, build_plan
from rules.plan import Family, LinkKind

USUAL: LinkKind = "veth" if os.geteuid() == 0 else "lo"


@pytest.mark.parametrize(
    ("flags", "link", "family"),
    [
        ([], USUAL, 4),
        (["-6"], USUAL, 6),
        (["--link", "lo"], "lo", 4),
        (["--link", "veth", "-6"], "veth", 6),
        (["--link", "iface"], "iface", 4),
    ],
)
def test_it_prints_the_plan(
    flags: list[str], link: LinkKind, family: Family, capsys: pytest.CaptureFixture[str]
) -> None:
    argv = ["rules", "show", "--allow-out", "api.openai.com", "--deny-out", ALL_TRAFFIC, *flags]
    assert main(argv) == 0
    policy = NetworkPolicy(["api.openai.com"], [ALL_TRAFFIC])
    assert capsys.readouterr().out == str(build_plan(policy, link, family))


def test_allow_entries_alone_deny_the_rest_as_for_run(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rules", "show", "--link", "veth", "--allow-out", "203.0.113.0/24"]) == 0
    said = capsys.readouterr()
    assert said.out == str(build_plan(NetworkPolicy(["203.0.113.0/24"], [ALL_TRAFFIC]), "veth"))
    assert "everything else is denied" in said.err


def test_a_bad_policy(capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["rules", "show", "--allow-out", "10.0.0.1/8"]) == 78
    assert "10.0.0.0/8" in capsys.readouterr().err


def test_an_unknown_link(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as ended:
        main(["rules", "show", "--link", "tun"])
    assert ended.value.code == 2
    assert "invalid choice" in capsys.readouterr().err
