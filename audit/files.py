"""Where records are kept, and what their files are called."""

import contextlib
import os
import re
import time
from pathlib import Path

PATTERN = "egress-*.jsonl"
ROOT_RECORDS = Path("/var/log/egress")
ROOT_STATE = Path("/var/lib/egress")

_is_ours = re.compile(r"egress-\d{8}T\d{6}Z-[0-9a-f]+-\d+(_\d{5,}(r\d+)?)?\.jsonl", re.ASCII).fullmatch
_again = re.compile(r"(_00000)?r\d+(?=\.jsonl$)", re.ASCII).sub


class KeyTrouble(Exception):
    """There is no key to be had; the text says why, and how to mend it."""


class Homeless(KeyTrouble, OSError):
    """There is no state directory to be had. A trouble with keys, without which records are kept all the same, and an error as to where those are."""


def default_directory() -> Path:
    """$EGRESS_AUDIT_DIR, else /var/log/egress for root, else the state directory of the XDG base directory specification. Homeless."""
    if named := os.environ.get("EGRESS_AUDIT_DIR"):
        return Path(named)
    if os.geteuid() == 0:
        return ROOT_RECORDS
    return _state() / "audit"


def key_directory() -> Path:
    """$EGRESS_KEY_DIR, else /var/lib/egress/keys for root, else beside the audit directory's place in the user's state. Never inside it.
    Homeless."""
    if named := os.environ.get("EGRESS_KEY_DIR"):
        return Path(named)
    return ROOT_STATE / "keys" if os.geteuid() == 0 else _state() / "keys"


def usual_places(home: Path | None = None) -> list[Path]:
    """Where records and keys of this user, and of the one whose ``home`` it is, are kept unless a command is told another place: with what the
    environment says, and without it."""
    places = [ROOT_RECORDS, ROOT_STATE] if os.geteuid() == 0 else []
    for place in (default_directory, key_directory, _state):
        with contextlib.suppress(Homeless):
            places.append(place())
    return places if home is None else [*places, _state_below(home)]


def _state() -> Path:
    state = os.environ.get("XDG_STATE_HOME", "")
    return (
        Path(state) / "egress" if os.path.isabs(state) else _state_below(_home())
    )  # a relative one is to be ignored


def _state_below(home: Path) -> Path:
    return home / ".local" / "state" / "egress"


def _home() -> Path:
    try:
        return Path.home()
    except RuntimeError as error:  # neither HOME nor an entry in passwd(5)
        raise Homeless(
            "this user has no home directory for records and keys: name another place with XDG_STATE_HOME, or with "
            "EGRESS_AUDIT_DIR and EGRESS_KEY_DIR"
        ) from error


def file_name(start: str, writer: str, number: int = 0, again: int = 0) -> str:
    """Sorts by time; ``start`` is YYYYMMDDTHHMMSSZ, ``number`` counts the writer's segments, ``again`` the tries at a name that is taken."""
    which = f"_{number:05}" if number or again else ""  # which sorts behind the dot
    return f"egress-{start}-{writer}{which}{f'r{again}' if again else ''}.jsonl"


def stamp(ns: int) -> str:
    """What ``file_name`` takes for ``start``."""
    return time.strftime("%Y%m%dT%H%M%SZ", time.gmtime(max(0, ns) // 1_000_000_000))


def stamp_of(timestamp: bytes) -> str:
    """The same of a record's timestamp: 2026-11-23T07:15:02.123456Z as 20261123T071502Z."""
    return timestamp[:19].decode("ascii", "replace").replace("-", "").replace(":", "") + "Z"


def first_name(name: str) -> str:
    """Without ``again``: what the same segment was called before its file was gone and was put back."""
    return _again("", name)


def is_ours(name: str) -> bool:
    """Whether ``file_name`` may have made it: what else is called so is somebody's own."""
    return _is_ours(name) is not None
