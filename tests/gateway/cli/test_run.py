"""``egress run`` before anything is built: what it refuses, and with which status. The rest is in ``tests/netns/test_run.py``."""

import pytest

from gateway.cli import build_parser, main
from gateway.cli.run import MAX_NAME_BYTES


@pytest.mark.parametrize(
    "argv", [["run"], ["run", "--"], ["run", "--link", "tap", "--", "true"], ["run", "--bind"]]
)
def test_usage_is_2(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(argv)
    assert caught.value.code == 2
    assert "usage: egress run" in capsys.readouterr().err


@pytest.mark.parametrize(
    ("argv", "status", "said"),
    [
        (["--policy", "/no/such.yaml"], 78, "/no/such.yaml"),
        (["--allow-out", "a b"], 78, "a b"),
        (["--deny-out", "10.0.0.0/33"], 78, "10.0.0.0/33"),
        (["--resolver", "169.254.169.254"], 78, "floor"),
        (["--dns", "open"], 78, "dns"),
        (["--policy", "x.yaml", "--no-internet"], 2, "--no-internet"),
    ],
)
def test_a_bad_policy_is_said_before_anything_starts(
    argv: list[str], status: int, said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    assert main(["run", *argv, "--", "true"]) == status
    printed = capsys.readouterr()
    assert printed.out == ""
    assert said in printed.err
    assert all(line.startswith("egress: ") for line in printed.err.splitlines())


@pytest.mark.parametrize(
    "name", ["", "a\nb", "a\0b", "\udcff", "x" * (MAX_NAME_BYTES + 1), "\u00fc" * MAX_NAME_BYTES]
)
def test_a_name_that_fits_no_record_is_refused(name: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        build_parser().parse_args(["run", "--name", name, "--", "true"])
    assert caught.value.code == 2
    assert "a name is 1 to" in capsys.readouterr().err


@pytest.mark.parametrize(
    "name", ["a", "agent 7", "\u00fc" * (MAX_NAME_BYTES // 2), "x" * MAX_NAME_BYTES, "-"]
)
def test_other_names_are_taken(name: str) -> None:
    assert build_parser().parse_args(["run", f"--name={name}", "--", "true"]).name == name


def test_what_follows_the_dashes_is_the_commands_own() -> None:
    args = build_parser().parse_args(["run", "--allow-out", "a.test", "--", "curl", "--name", "x", "--", "y"])
    assert args.command == ["--", "curl", "--name", "x", "--", "y"]
    assert args.name is None


def test_an_interrupt_is_130_without_a_traceback(monkeypatch: pytest.MonkeyPatch) -> None:
    def interrupted(*_: object, **__: object) -> int:
        raise KeyboardInterrupt

    monkeypatch.setattr("gateway.cli.run.policy_from", interrupted)
    assert main(["run", "--", "true"]) == 130
