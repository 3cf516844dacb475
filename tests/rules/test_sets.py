"""Sets in the kernel: replaced whole, or not at all."""

import os
import subprocess
import sys

import pytest

from tests.lab.lab import ROOT

pytestmark = [
    pytest.mark.root,
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: a network namespace"),
]

PRELUDE = """
import subprocess
from rules.backend import FirewallError
from rules.rule import AddressSet
from rules.sets import install_sets
def held():
    said = subprocess.run(["ipset", "save"], capture_output=True, text=True, check=True).stdout
    return sorted(line for line in said.splitlines() if line.startswith("add"))
def install(*entries):
    install_sets([AddressSet("allow4", 4, "hash:net", entries)])
"""


def say(script: str) -> list[str]:
    """The lines that ``script`` prints in a new network namespace."""
    argv = ["unshare", "--net", sys.executable, "-c", PRELUDE + script]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    return done.stdout.splitlines()


def test_another_list_takes_the_place_of_the_first() -> None:
    assert say("install('10.0.0.0/8', '192.0.2.1'); install('10.0.0.0/9'); print(held())") == [
        "['add allow4 10.0.0.0/9']"
    ]


def test_a_list_that_is_refused_changes_nothing_and_stands_in_nobodys_way() -> None:
    script = """
install('10.0.0.0/8')
try:
    install('192.0.2.1', 'nonsense')
except FirewallError as error:
    print(error)
print([line for line in held() if 'allow4 ' in line])
install('192.0.2.2')
print(held())
"""
    complaint, before, after = say(script)
    assert complaint.startswith("ipset would not take the sets: ")
    assert "nonsense" in complaint
    assert before == "['add allow4 10.0.0.0/8']"
    assert after == "['add allow4 192.0.2.2']"


def test_a_set_that_rules_name_is_replaced_beneath_them() -> None:
    script = """
install('10.0.0.0/8')
rule = "INPUT -m set --match-set allow4 dst -j DROP"
subprocess.run(["iptables-legacy", "-A", *rule.split()], check=True)
install('192.0.2.0/24')
print(held(), subprocess.run(["iptables-legacy", "-S", "INPUT"], capture_output=True, text=True).stdout.count("allow4 dst"))
"""
    assert say(script) == ["['add allow4 192.0.2.0/24'] 1"]


def test_no_set_no_program(monkeypatch: pytest.MonkeyPatch) -> None:
    from rules.sets import install_sets

    monkeypatch.setenv("PATH", "/nowhere")
    install_sets([])
