"""Directories that are made: nobody else's, whatever the umask; and keys that others could have put there are not believed."""

import os
import stat
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest

from audit.directories import make
from audit.files import KeyTrouble
from audit.keys import prepare, public_keys
from audit.manifest import noted_head
from tests.audit.directory import Directory

NOBODY = 65534


def _mode(path: Path) -> int:
    return stat.S_IMODE(path.stat().st_mode)


@pytest.fixture(params=[0, 0o022, 0o077])
def umask(request: pytest.FixtureRequest) -> Iterator[int]:
    before = os.umask(request.param)
    yield request.param
    os.umask(before)


def test_parents_are_no_more_than_readable(tmp_path: Path, umask: int) -> None:
    place = tmp_path / "a" / "b" / "c"
    make(place)
    assert [_mode(path) for path in (place, place.parent, place.parent.parent)] == [
        0o700,
        0o755 & ~umask,
        0o755 & ~umask,
    ]
    make(place)


def test_one_that_exists_is_left_as_it_is(tmp_path: Path) -> None:
    tmp_path.chmod(0o775)
    (tmp_path / "link").symlink_to(tmp_path)
    make(tmp_path / "link")
    assert _mode(tmp_path) == 0o775
    (tmp_path / "file").touch()
    for path in (tmp_path / "file", tmp_path / "file" / "below"):
        with pytest.raises(OSError, match="file"):
            make(path)


@pytest.mark.usefixtures("umask")
def test_what_is_kept_is_the_owners_alone_to_write(tmp_path: Path) -> None:
    made = Directory(tmp_path / "var" / "log" / "egress", tmp_path / "var" / "lib" / "egress" / "keys")
    prepare(made.keys, made.records)
    made.write(3)
    assert made.found() == []
    for path in tmp_path.rglob("*"):
        assert not _mode(path) & 0o022, path
        if path.is_file() and path.suffix != ".pub":
            assert _mode(path) == 0o600, path


# -- keys that others could have put there


def _open_directory(keys: Path) -> str:
    keys.chmod(0o770)
    return f"others can write to the key directory {keys}: chmod go-w {keys}"


def _open_key(keys: Path) -> str:
    (key,) = keys.glob("*.pub")
    key.chmod(0o666)
    return f"others can write to the key {key}: chmod go-w {key}"


def _anothers_directory(keys: Path) -> str:
    os.chown(keys, NOBODY, NOBODY)
    return f"the key directory {keys} belongs to uid {NOBODY}, who can change what is in it"


def _anothers_key(keys: Path) -> str:
    (key,) = keys.glob("*.pub")
    os.chown(key, NOBODY, NOBODY)
    return f"the key {key} belongs to uid {NOBODY}, who can change what is in it"


_root = [pytest.mark.root, pytest.mark.skipif(os.geteuid() != 0, reason="needs root: chown")]


@pytest.mark.parametrize(
    "spoil",
    [
        _open_directory,
        _open_key,
        pytest.param(_anothers_directory, marks=_root),
        pytest.param(_anothers_key, marks=_root),
    ],
)
def test_keys_that_others_can_change_are_not_believed(tmp_path: Path, spoil: Callable[[Path], str]) -> None:
    made = Directory.below(tmp_path)
    made.write(1)
    said = spoil(made.keys)
    for ask in (lambda: prepare(made.keys, made.records), lambda: public_keys(made.keys)):
        with pytest.raises(KeyTrouble) as trouble:
            ask()
        assert str(trouble.value) == said
    if "directory" in said:
        with pytest.raises(KeyTrouble):
            noted_head(made.keys, made.records)


def test_where_there_are_none_there_is_no_trouble(tmp_path: Path) -> None:
    assert public_keys(tmp_path / "none") == {}
    assert noted_head(tmp_path / "none", tmp_path) is None
