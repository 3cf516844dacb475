"""What the kernel holds after a plan was installed, read back by another program."""

import os
import re
import subprocess
import sys

import pytest

from rules import NetworkPolicy
from rules.plan import Family, Plan, build_plan
from tests.lab.lab import ROOT

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: a network namespace"),
]

INSTALL = """
import sys
from rules import NetworkPolicy
from rules.iptables import Iptables
from rules.plan import build_plan
for allow, resolver, family in {policies!r}:
    policy = None if allow is None else NetworkPolicy(allow, ["0.0.0.0/0"], resolver=resolver)
    Iptables().install(build_plan(policy, family=family))
"""
Spelt = tuple[list[str] | None, str, Family]
FULL: Spelt = (None, "8.8.8.8", 4)
NAMES: Spelt = (["api.openai.com"], "9.9.9.9", 4)
ADDRESSES: Spelt = (["203.0.113.7"], "8.8.8.8", 4)
NAMES6: Spelt = (["api.openai.com"], "2001:4860:4860::8888", 6)


def plan_of(policy: Spelt) -> Plan:
    """As ``INSTALL`` builds it."""
    allow, resolver, family = policy
    spelt = None if allow is None else NetworkPolicy(allow, ["0.0.0.0/0"], resolver=resolver)
    return build_plan(spelt, family=family)


def in_namespace(*policies: Spelt) -> str:
    """Install them one after the other in one new namespace; what iptables-save then says."""
    save = "iptables-legacy-save" if policies[0][2] == 4 else "ip6tables-legacy-save"
    script = f'set -e; "$1" -c "$2"; {save} -t mangle; {save} -t filter'
    argv = ["unshare", "--net", "sh", "-c", script, "sh", sys.executable]
    done = subprocess.run(
        [*argv, INSTALL.format(policies=list(policies))], cwd=ROOT, capture_output=True, text=True, check=True
    )
    return done.stdout


def normal(text: str) -> dict[str, list[dict[str, str]]]:
    """Chains by table and name, with their policy first; a rule as its options, whatever their order."""
    found: dict[str, list[dict[str, str]]] = {}
    table = ""
    for line in text.splitlines():
        if line.startswith("*"):
            table = line[1:]
        elif line.startswith(":"):
            name, policy, _ = line[1:].split()
            found[f"{table} {name}"] = [{"policy": policy}]
        elif line.startswith("-A"):
            _, name, *words = line.split()
            pairs = dict(zip(words[::2], words[1::2], strict=True))
            pairs.pop("-m", None)
            pairs = {key: re.sub(r"/(32|128)$", "", value) for key, value in pairs.items()}
            found[f"{table} {name}"].append(pairs)
    return found


def held(policy: Spelt) -> dict[str, list[dict[str, str]]]:
    """What the plan says the kernel holds, with the mangle chains that it leaves alone."""
    untouched = {
        f"mangle {name}": [{"policy": "ACCEPT"}] for name in ("INPUT", "FORWARD", "OUTPUT", "POSTROUTING")
    }
    return untouched | normal(str(plan_of(policy)))


@pytest.mark.parametrize(
    "policy", [FULL, NAMES, ADDRESSES, NAMES6], ids=["full egress", "names", "addresses", "IPv6"]
)
def test_the_kernel_holds_the_plan_and_nothing_else(policy: Spelt) -> None:
    assert normal(in_namespace(policy)) == held(policy)


def test_a_second_plan_replaces_the_first_whole() -> None:
    assert normal(in_namespace(NAMES, ADDRESSES)) == held(ADDRESSES)


def test_text_and_kernel_say_the_same_in_full() -> None:
    script = "set -e; iptables-legacy-restore; iptables-legacy-save -t mangle; iptables-legacy-save -t filter"
    done = subprocess.run(
        ["unshare", "--net", "sh", "-c", script],
        input=str(plan_of(NAMES)),
        capture_output=True,
        text=True,
        check=True,
    )

    def bare(text: str) -> str:
        return re.sub(r"\[\d+:\d+\]|^#.*\n", "", text, flags=re.MULTILINE)

    assert bare(done.stdout) == bare(in_namespace(NAMES))
