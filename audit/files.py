"""Where records are kept, and what their files are called."""

import os
from pathlib import Path

PATTERN = "egress-*.jsonl"


def default_directory() -> Path:
    """$EGRESS_AUDIT_DIR, else /var/log/egress for root, else the state directory of the XDG base directory specification."""
    if named := os.environ.get("EGRESS_AUDIT_DIR"):
        return Path(named)
    if os.geteuid() == 0:
        return Path("/var/log/egress")
    return _state() / "audit"


def key_directory() -> Path:
    """$EGRESS_KEY_DIR, else /var/lib/egress/keys for root, else beside the audit directory's place in the user's state. Never inside it."""
    if named := os.environ.get("EGRESS_KEY_DIR"):
        return Path(named)
    return Path("/var/lib/egress/keys") if os.geteuid() == 0 else _state() / "keys"


def _state() -> Path:
    state = os.environ.get("XDG_STATE_HOME", "")
    base = (
        Path(state) if os.path.isabs(state) else Path.home() / ".local" / "state"
    )  # a relative one is to be ignored
    return base / "egress"


def file_name(start: str, writer: str, number: int = 0, again: int = 0) -> str:
    """Sorts by time; ``start`` is YYYYMMDDTHHMMSSZ, ``number`` counts the writer's segments, ``again`` the tries at a name that is taken."""
    which = f"_{number:05}" if number or again else ""  # which sorts behind the dot
    return f"egress-{start}-{writer}{which}{f'r{again}' if again else ''}.jsonl"
