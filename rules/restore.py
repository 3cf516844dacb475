"""The backend for hosts without legacy tables: the same rules by ``iptables-nft-restore``, kept by nf_tables and matched by the same extensions."""

import shutil
import subprocess
from typing import Final

from rules.backend import FirewallError
from rules.plan import Family, Plan
from rules.sets import install_sets

PROGRAMS: Final[dict[Family, str]] = {4: "iptables-nft-restore", 6: "ip6tables-nft-restore"}


class Restore:
    """A ``Firewall`` over the nf_tables of the calling process's network namespace."""

    def install(self, plan: Plan) -> None:
        """Sets before the rules that name them, then the tables in the order of the plan's text: each is one transaction."""
        install_sets(plan.sets)
        program = PROGRAMS[plan.family]
        try:
            done = subprocess.run(
                [program], input=plan.tables_text(), capture_output=True, text=True, check=False
            )
        except FileNotFoundError:
            raise FirewallError(f"{program} is not installed: apt-get install iptables") from None
        if done.returncode:
            raise FirewallError(f"{program} would not take the rules: {' '.join(done.stderr.split())}")


def missing_program() -> str | None:
    """The program that this backend needs and the host does not have."""
    return next((name for name in PROGRAMS.values() if shutil.which(name) is None), None)
