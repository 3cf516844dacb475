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
    state = os.environ.get("XDG_STATE_HOME", "")
    base = (
        Path(state) if os.path.isabs(state) else Path.home() / ".local" / "state"
    )  # a relative one is to be ignored
    return base / "egress" / "audit"


def file_name(start: str, writer: str) -> str:
    """Sorts by time; ``start`` is YYYYMMDDTHHMMSSZ."""
    return f"egress-{start}-{writer}.jsonl"
