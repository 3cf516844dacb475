"""The policy that the shared arguments say."""

import argparse

import pytest

from gateway import ALL_TRAFFIC, NetworkPolicy, PolicyError, SecurityPolicy
from gateway.cli.arguments import UsageError, add_policy_arguments, policy_from


def _parsed(*argv: str) -> argparse.Namespace:
    parser = argparse.ArgumentParser()
    add_policy_arguments(parser)
    return parser.parse_args(argv)


@pytest.mark.parametrize(
    ("argv", "network", "notes"),
    [
        ([], None, 0),
        (["--deny-out", "10.0.0.0/8"], NetworkPolicy([], ["10.0.0.0/8"]), 0),
        (
            ["--allow-out", "a.b:443,80", "--allow-out=c.d"],
            NetworkPolicy(["a.b:80,443", "c.d"], [ALL_TRAFFIC]),
            1,
        ),
        (["--allow-out", "a.b", "--deny-out", "c.d"], NetworkPolicy(["a.b"], ["c.d"]), 0),
        (["--no-internet"], NetworkPolicy([], [ALL_TRAFFIC]), 0),
        (["--no-internet", "--deny-out", "c.d"], NetworkPolicy([], [ALL_TRAFFIC, "c.d"]), 0),
        (["--dns", "strict", "--resolver", "1.1.1.1"], NetworkPolicy(dns="strict", resolver="1.1.1.1"), 0),
    ],
)
def test_said_by_flags(
    argv: list[str], network: NetworkPolicy | None, notes: int, capsys: pytest.CaptureFixture[str]
) -> None:
    assert policy_from(_parsed(*argv), default_deny=True) == SecurityPolicy(network)
    assert len(capsys.readouterr().err.splitlines()) == notes


def test_without_a_default(capsys: pytest.CaptureFixture[str]) -> None:
    policy = policy_from(_parsed("--allow-out", "a.b"), default_deny=False)
    assert policy == SecurityPolicy(NetworkPolicy(["a.b"]))
    assert capsys.readouterr().err.startswith("egress: warning: allow_out without deny_out allows everything")


@pytest.mark.parametrize(
    "argv",
    [["--dns", "off"], ["--resolver", "x"], ["--allow-out", ""], ["--no-internet", "--allow-out", "a.b"]],
)
def test_a_bad_policy(argv: list[str]) -> None:
    with pytest.raises(PolicyError) as caught:
        policy_from(_parsed(*argv), default_deny=True)
    assert len(caught.value.errors) == 1


@pytest.mark.parametrize(
    "flag", [["--allow-out", "a.b"], ["--deny-out", "a.b"], ["--no-internet"], ["--resolver", "1.1.1.1"]]
)
def test_a_file_is_the_whole_policy(flag: list[str]) -> None:
    with pytest.raises(UsageError):
        policy_from(_parsed("--policy", "policy.yaml", *flag), default_deny=True)
