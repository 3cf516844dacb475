"""What only root may do: a link that changes the host. And whether this root may."""

import os
from pathlib import Path
from typing import Final

from gateway.errors import PrivilegeError
from rules.link import LinkKind

STATUS: Final = Path("/proc/self/status")


def usual_link() -> LinkKind:
    """The best that this user can have."""
    return "veth" if os.geteuid() == 0 else "lo"


def check_link(link: LinkKind) -> None:
    """PrivilegeError where this user cannot have it."""
    if link != "lo" and os.geteuid() != 0:
        raise PrivilegeError(
            f"the {link} link needs root: run it as root, or take the lo link, which does not"
        )


def has_net_admin() -> bool:
    """Whether this process may configure the network namespace that it is in; proc(5), CapEff."""
    from gateway.userns import CAP_NET_ADMIN  # and ctypes, which nothing else here needs

    held = next(line for line in STATUS.read_text().splitlines() if line.startswith("CapEff:"))
    return bool(int(held.split()[1], 16) & 1 << CAP_NET_ADMIN)
