"""What the kernel holds after a plan was installed, by either backend, read back by other programs."""

import os
import subprocess
import sys
from dataclasses import replace
from glob import glob
from pathlib import Path

import pytest

from rules import ALL_TRAFFIC, NetworkPolicy
from rules.backend import Backend, FirewallError
from rules.choose import choose
from rules.iptables import Iptables
from rules.plan import Chain, Family, LinkKind, build_plan
from rules.restore import Restore
from rules.sets import install_sets
from tests.lab.lab import ROOT
from tests.rules.scratch import Spelt, installed, loaded, meant, unmatched

pytestmark = [
    pytest.mark.root,
    pytest.mark.timeout(60),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: a network namespace"),
]

BACKENDS: tuple[Backend, ...] = ("legacy", "nft")
NAMES = NetworkPolicy(["api.openai.com", "*.anthropic.com:443"], [ALL_TRAFFIC], resolver="9.9.9.9")
NAMES6 = NetworkPolicy(["api.openai.com:80,443"], [ALL_TRAFFIC], resolver="2001:4860:4860::8888")
ADDRESSES = NetworkPolicy(
    ["203.0.113.0/24", "203.0.113.7", "198.51.100.0/24:22,443", "2001:db8::/32", "[2001:db8::7]:53"],
    [ALL_TRAFFIC],
)
DENIED = NetworkPolicy(
    ["203.0.113.7", "api.openai.com:443"], ["203.0.113.0/24", "2001:db8::/32", "evil.example"]
)
EVERYTHING = NetworkPolicy([ALL_TRAFFIC], [ALL_TRAFFIC])
POLICIES = {
    "full egress": None,
    "names": NAMES,
    "names, resolver of IPv6": NAMES6,
    "addresses": ADDRESSES,
    "denied": DENIED,
    "everything": EVERYTHING,
}


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("link", ["veth", "lo"])
@pytest.mark.parametrize("name", POLICIES)
def test_the_kernel_holds_the_plan_and_nothing_else(
    name: str, link: LinkKind, family: Family, backend: Backend
) -> None:
    spelt = Spelt(POLICIES[name], link, family)
    assert installed(spelt, backend=backend) == meant(spelt.plan)


@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("link", ["veth", "lo"])
@pytest.mark.parametrize("name", ["names", "addresses", "denied"])
def test_legacy_rules_are_bit_for_bit_those_of_iptables(name: str, link: LinkKind, family: Family) -> None:
    """python-iptables once wrote an interface's mask that matched others too, and every listing looked right."""
    assert unmatched(Spelt(POLICIES[name], link, family)) == []


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("family", [4, 6])
@pytest.mark.parametrize("name", ["addresses", "denied"])
def test_the_text_loads_and_is_the_same(name: str, family: Family, backend: Backend) -> None:
    """What ``egress rules show`` prints, by the programs that its help names."""
    argv = [sys.executable, "-m", "gateway", "rules", "show", "--link", "veth"]
    argv += [*(["-6"] if family == 6 else []), "--resolver", "8.8.8.8"]
    policy = POLICIES[name]
    assert policy is not None
    for flag, entries in (("--allow-out", policy.allow_out), ("--deny-out", policy.deny_out)):
        argv += [word for entry in entries for word in (flag, entry)]
    shown = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=True).stdout
    assert loaded(shown, family, backend) == installed(Spelt(policy, "veth", family), backend=backend)


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("family", [4, 6])
def test_twice_is_once(family: Family, backend: Backend) -> None:
    spelt = Spelt(DENIED, "veth", family)
    assert installed(spelt, spelt, backend=backend) == meant(spelt.plan)


@pytest.mark.parametrize("backend", BACKENDS)
def test_a_second_plan_replaces_the_first_whole(backend: Backend) -> None:
    assert installed(Spelt(NAMES, "lo"), Spelt(None, "lo"), backend=backend) == meant(Spelt(None, "lo").plan)
    both = installed(Spelt(ADDRESSES), Spelt(EVERYTHING), backend=backend)
    assert both == meant(Spelt(EVERYTHING).plan)


@pytest.mark.parametrize("backend", BACKENDS)
def test_what_the_kernel_will_not_take_is_an_error(backend: Backend) -> None:
    script = f"""
from dataclasses import replace
from rules.backend import FirewallError
from rules.choose import choose
from rules.plan import build_plan
plan = build_plan(None, "veth")
spoilt = replace(plan, sets=plan.sets[:-1])
try:
    choose([spoilt], {backend!r}).install(spoilt)
except FirewallError as error:
    print(error)
"""
    argv = ["unshare", "--net", sys.executable, "-c", script]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=True)
    assert "would not take" in done.stdout
    assert "mangle" in done.stdout or "deny4-port" in done.stdout


@pytest.mark.parametrize("backend", BACKENDS)
@pytest.mark.parametrize("family", [4, 6])
def test_an_extension_that_is_not_there_is_an_error_that_names_it(
    family: Family, backend: Backend, tmp_path: Path
) -> None:
    """Its half in the programs, as a package may leave it out; where the kernel's is missing, the kernel says so."""
    for file in glob("/usr/lib/*/xtables/*.so") + glob("/usr/lib*/xtables/*.so"):
        if not file.endswith("libxt_connlimit.so"):
            (tmp_path / Path(file).name).symlink_to(file)
    script = f"""
from rules.backend import FirewallError
from rules.choose import choose
from rules.plan import build_plan
plan = build_plan(None, "veth", {family})
try:
    choose([plan], {backend!r}).install(plan)
except FirewallError as error:
    print(error)
"""
    argv = ["unshare", "--net", sys.executable, "-c", script]
    environment = {**os.environ, "XTABLES_LIBDIR": str(tmp_path)}
    done = subprocess.run(argv, cwd=ROOT, env=environment, capture_output=True, text=True, check=False)
    assert "connlimit" in done.stdout, done.stderr


# -- which one


def test_legacy_where_the_kernel_has_its_tables() -> None:
    """Asked in a namespace of its own: the machine's own would get tables by it."""
    script = """
from rules.choose import choose
from rules.plan import build_plan
print([type(choose([build_plan(None, "veth"), build_plan(None, "veth", 6)], forced)).__name__ for forced in (None, "legacy", "nft")])
"""
    argv = ["unshare", "--net", sys.executable, "-c", script]
    done = subprocess.run(argv, cwd=ROOT, capture_output=True, text=True, check=True)
    assert done.stdout == "['Iptables', 'Iptables', 'Restore']\n"


STRANGE = replace(build_plan(None), chains=(Chain("broute", "INPUT", ()),))  # type: ignore[arg-type]
"""A plan with a table that this kernel has not, as others have not got mangle."""


def test_the_other_where_it_has_not() -> None:
    assert isinstance(choose([STRANGE]), Restore)
    assert isinstance(choose([STRANGE], "legacy"), Iptables)


def test_neither_is_an_error_with_its_mend(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("PATH", "/nowhere")
    with pytest.raises(
        FirewallError, match=r"no legacy IPv4 table broute .*, and iptables-nft-restore is not"
    ):
        choose([STRANGE])
    with pytest.raises(
        FirewallError, match="iptables-nft-restore is not installed: apt-get install iptables"
    ):
        Restore().install(build_plan(None))
    with pytest.raises(FirewallError, match="ipset is not installed: apt-get install ipset"):
        install_sets(build_plan(None, "veth").sets)


# -- long lists


def test_ten_thousand_networks() -> None:
    """The rules are those of one network."""
    many = NetworkPolicy([f"10.{i // 256}.{i % 256}.0/25" for i in range(10_000)], [ALL_TRAFFIC])
    held = installed(Spelt(many), backend="legacy")
    assert len(held.sets["allow4"]) == 1 + 10_000
    assert held.rules == installed(Spelt(NetworkPolicy(["10.0.0.1"], [ALL_TRAFFIC])), backend="legacy").rules


def test_the_library_is_found_without_a_compiler() -> None:
    """ctypes would ask one for whatever the linker's cache does not have: a tenth of a second of a start, and a compiler run as root."""
    hook = "import sys; sys.addaudithook(lambda event, args: event == 'subprocess.Popen' and print(args[0]))"
    done = subprocess.run(
        [sys.executable, "-c", f"{hook}; import rules.iptables"], capture_output=True, text=True, check=True
    )
    assert {Path(line).name for line in done.stdout.splitlines()} <= {"ldconfig"}
