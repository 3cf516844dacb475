"""The host's own iptables, by its programs: which of the two kinds of tables it uses, what they hold, and adding to it without touching others'."""

import contextlib
import shutil
import subprocess
from pathlib import Path
from typing import Final

from rules import host
from rules.link import Family

LOCK_WAIT_S: Final = 10
Variant = str
"""``legacy`` or ``nft``: whose tables iptables writes."""
PROGRAMS: Final[dict[Family, str]] = {4: "iptables", 6: "ip6tables"}


class HostError(Exception):
    """The host would not take its half. The message says what and why."""


def in_use(family: Family) -> list[Variant]:
    """Those that have tables in this namespace; asking makes none."""
    names = Path(f"/proc/self/net/{PROGRAMS[family].replace('tables', '_tables')}_names")
    with contextlib.suppress(OSError):
        if names.read_text().strip():
            legacy = ["legacy"]
            return legacy + _nft_in_use(family)
    return _nft_in_use(family)


def _nft_in_use(family: Family) -> list[Variant]:
    return ["nft"] if shutil.which(f"{PROGRAMS[family]}-nft-save") and saved("nft", family) else []


def to_use(family: Family) -> Variant:
    """On a host that uses neither: what its own ``iptables`` writes."""
    said = subprocess.run([PROGRAMS[family], "--version"], capture_output=True, text=True, check=False).stdout
    return "nft" if "nf_tables" in said else "legacy"


def saved(variant: Variant, family: Family) -> dict[str, list[str]]:
    program = f"{PROGRAMS[family]}-{variant}-save"
    done = subprocess.run([program], capture_output=True, text=True, check=False)
    if done.returncode:
        raise HostError(f"{program}: {' '.join(done.stderr.split())}")
    return host.saved_rules(done.stdout)


def apply(variant: Variant, family: Family, text: str) -> None:
    if not text:
        return
    argv = [f"{PROGRAMS[family]}-{variant}-restore", "--noflush", f"--wait={LOCK_WAIT_S}"]
    if variant == "nft":  # which has no lock, and says so
        argv.pop()
    try:
        done = subprocess.run(argv, input=text, capture_output=True, text=True, check=False)
    except FileNotFoundError:
        raise HostError(f"{argv[0]} is not installed: apt-get install iptables") from None
    if done.returncode:
        raise HostError(
            f"{argv[0]} would not take the host's half of the rules: {' '.join(done.stderr.split())}"
        )
