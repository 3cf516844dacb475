"""Where records go when nobody says where, and what their files are called."""

import os
from pathlib import Path

import pytest

from audit.files import (
    PATTERN,
    default_directory,
    file_name,
    first_name,
    is_ours,
    key_directory,
    stamp,
    stamp_of,
    usual_places,
)
from audit.keys import KeyTrouble


@pytest.fixture(autouse=True)
def _bare(monkeypatch: pytest.MonkeyPatch) -> None:
    for name in ("EGRESS_AUDIT_DIR", "XDG_STATE_HOME"):
        monkeypatch.delenv(name, raising=False)
    monkeypatch.setenv("HOME", "/home/user")


def _as(monkeypatch: pytest.MonkeyPatch, uid: int) -> None:
    monkeypatch.setattr(os, "geteuid", lambda: uid)


@pytest.mark.parametrize("uid", [0, 1000])
def test_what_the_environment_names_comes_first(monkeypatch: pytest.MonkeyPatch, uid: int) -> None:
    _as(monkeypatch, uid)
    monkeypatch.setenv("EGRESS_AUDIT_DIR", "/srv/records")
    monkeypatch.setenv("XDG_STATE_HOME", "/state")
    assert default_directory() == Path("/srv/records")


def test_root_keeps_them_where_logs_are(monkeypatch: pytest.MonkeyPatch) -> None:
    _as(monkeypatch, 0)
    monkeypatch.setenv("XDG_STATE_HOME", "/state")
    assert default_directory() == Path("/var/log/egress")


@pytest.mark.parametrize(
    ("state", "directory"),
    [
        ("/state", "/state/egress/audit"),
        ("", "/home/user/.local/state/egress/audit"),
        ("relative", "/home/user/.local/state/egress/audit"),
    ],
)
def test_others_keep_them_in_their_state(monkeypatch: pytest.MonkeyPatch, state: str, directory: str) -> None:
    _as(monkeypatch, 1000)
    monkeypatch.setenv("XDG_STATE_HOME", state)
    assert default_directory() == Path(directory)


@pytest.fixture
def homeless(monkeypatch: pytest.MonkeyPatch) -> None:
    """A user of whom the machine knows only a number."""

    def unknown(_uid: int) -> None:
        raise KeyError

    _as(monkeypatch, 1000)
    monkeypatch.delenv("HOME")
    monkeypatch.delenv("EGRESS_KEY_DIR", raising=False)
    monkeypatch.setattr("pwd.getpwuid", unknown)


@pytest.mark.usefixtures("homeless")
def test_who_has_no_home_is_told_what_to_name() -> None:
    with pytest.raises(
        OSError, match=r"no home directory.* XDG_STATE_HOME.* EGRESS_AUDIT_DIR and EGRESS_KEY_DIR"
    ):
        default_directory()
    with pytest.raises(KeyTrouble, match="EGRESS_KEY_DIR"):
        key_directory()


@pytest.mark.usefixtures("homeless")
def test_and_is_not_asked_where_it_is_named(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_STATE_HOME", "/state")
    assert (default_directory(), key_directory()) == (Path("/state/egress/audit"), Path("/state/egress/keys"))


def test_a_files_name_sorts_by_time_and_is_found() -> None:
    names = [
        file_name(start, writer)
        for start, writer in (("20261123T071502Z", "ffff-0"), ("20261124T000000Z", "00aa-0"))
    ]
    assert names == sorted(names)
    assert all(Path(name).match(PATTERN) for name in names)
    assert names[0] == "egress-20261123T071502Z-ffff-0.jsonl"


@pytest.mark.parametrize(("number", "again"), [(0, 0), (1, 0), (99_999, 0), (100_000, 0), (0, 1), (7, 99)])
def test_what_is_called_as_we_call_it_is_ours(number: int, again: int) -> None:
    start = stamp(1_795_418_102_000_000_000)
    assert start == stamp_of(b"2026-11-23T07:15:02.123456Z") == "20261123T071502Z"
    name = file_name(start, "00aaffff-0", number, again)
    assert is_ours(name)
    assert first_name(name) == file_name(start, "00aaffff-0", number)


@pytest.mark.parametrize(
    "name",
    [
        "egress-notes-of-mine.jsonl",
        "egress-20261123T071502Z-ffff-0.jsonl.gz",
        "egress-20261123T071502Z-ffff-0.jsonl\n",
        "egress-20261123T071502Z-ffff-0-copy.jsonl",
        "egress-20261123T071502Z-mine-0.jsonl",
        "egress-2026-11-23.jsonl",
        "egress-\u0662\u0660261123T071502Z-ffff-0.jsonl",
    ],
)
def test_what_is_called_otherwise_is_not(name: str) -> None:
    assert not is_ours(name)


def test_the_usual_places_are_those_without_the_environment_too(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("EGRESS_AUDIT_DIR", "/srv/records")
    _as(monkeypatch, 1000)
    own = [
        Path("/srv/records"),
        Path("/home/user/.local/state/egress/keys"),
        Path("/home/user/.local/state/egress"),
    ]
    assert usual_places() == own
    assert usual_places(Path("/home/other")) == [*own, Path("/home/other/.local/state/egress")]
    _as(monkeypatch, 0)
    assert {Path("/var/log/egress"), Path("/var/lib/egress"), *own[::2]} <= set(usual_places())
