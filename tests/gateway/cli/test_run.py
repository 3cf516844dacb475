"""``egress run`` before anything is built: what it refuses, and with which status. The rest is in ``tests/netns/test_run.py``."""

import os
from pathlib import Path

import pytest

from gateway.cli import build_parser, main
from gateway.cli.run import MAX_NAME_BYTES

ROOT = os.geteuid() == 0


def children() -> str:
    """Of this process."""
    return Path(f"/proc/self/task/{os.getpid()}/children").read_text()


@pytest.fixture
def place(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    """Where records and keys would be made."""
    monkeypatch.setenv("EGRESS_AUDIT_DIR", str(tmp_path / "place" / "records"))
    monkeypatch.setenv("EGRESS_KEY_DIR", str(tmp_path / "place" / "keys"))
    return tmp_path / "place"


@pytest.mark.parametrize(
    "argv",
    [
        ["run"],
        ["run", "--"],
        ["run", "--link", "tap", "--", "true"],
        ["run", "--bind"],
        *(["run", option, "", "--", "true"] for option in ("--audit-dir", "--bind", "--metrics", "--policy")),
    ],
)
def test_usage_is_2(argv: list[str], capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        main(argv)
    assert caught.value.code == 2
    said = capsys.readouterr().err
    assert said.startswith("egress: error: ") and said.endswith("; egress run --help says more\n")
    assert said.count("\n") == 1


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


@pytest.mark.parametrize(
    ("argv", "said"),
    [
        (["--bind", "/nope"], "egress: --bind /nope: there is no such path; make it first"),
        (["--bind", "/"], "egress: --bind /: / cannot be handed in whole; name a directory inside it"),
        (
            ["--user", "0:0"],
            "egress: --user 0:0: root inside the sandbox is refused; name another, as in 1000:1000"
            if ROOT
            else "egress: --user 0:0: only root can choose who the command runs as; leave it out",
        ),
    ],
)
def test_an_error_of_usage_makes_nothing(
    place: Path, argv: list[str], said: str, capsys: pytest.CaptureFixture[str]
) -> None:
    before = children()
    assert main(["run", "--metrics", str(place / "socket"), *argv, "--", "true"]) == 2
    assert capsys.readouterr().err.splitlines() == [said]
    assert not place.exists() and children() == before


def test_a_link_that_needs_root_is_said_before_anything_is_made(
    place: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: 1000)
    before = children()
    assert main(["run", "--link", "veth", "--", "true"]) == 77
    (said,) = capsys.readouterr().err.splitlines()
    assert said == "egress: the veth link needs root: run it as root, or take the lo link, which does not"
    assert not place.exists() and children() == before


def test_a_current_directory_that_is_gone_is_one_line(
    place: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    gone = tmp_path / "gone"
    gone.mkdir()
    monkeypatch.chdir(gone)
    gone.rmdir()
    assert main(["run", "--", "true"]) == 125
    (said,) = capsys.readouterr().err.splitlines()
    assert said == "egress: the current directory: No such file or directory; change to one that is there"
    assert not place.exists()


def test_where_no_records_can_be_kept_nobody_is_left(place: Path, capsys: pytest.CaptureFixture[str]) -> None:
    before = children()
    assert main(["run", "--audit-dir", "/dev/null", "--", "true"]) == 125
    assert "no records can be kept in /dev/null" in capsys.readouterr().err
    assert children() == before, "netd was forked by then"
