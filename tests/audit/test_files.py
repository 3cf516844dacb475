"""Where records go when nobody says where."""

import os
from pathlib import Path

import pytest

from audit.files import PATTERN, default_directory, file_name


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


def test_a_files_name_sorts_by_time_and_is_found() -> None:
    names = [
        file_name(start, writer)
        for start, writer in (("20261123T071502Z", "ffff-0"), ("20261124T000000Z", "00aa-0"))
    ]
    assert names == sorted(names)
    assert all(Path(name).match(PATTERN) for name in names)
    assert names[0] == "egress-20261123T071502Z-ffff-0.jsonl"
