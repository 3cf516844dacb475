"""Plans in the kernel: installed in a network namespace made for it, read back by the programs that every operator has, and put into one form."""

import json
import re
import subprocess
import sys
from dataclasses import dataclass, field
from ipaddress import ip_address, ip_network

from rules import NetworkPolicy
from rules.backend import Backend
from rules.plan import Family, LinkKind, Plan, build_plan
from tests.lab.lab import ROOT

INSTALL = """
import json, sys
from rules import NetworkPolicy
from rules.choose import choose
from rules.plan import build_plan
for policy, link, family, backend in json.load(sys.stdin):
    plan = build_plan(None if policy is None else NetworkPolicy.from_dict(policy), link, family)
    choose([plan], backend).install(plan)
"""
READ = """
echo ---
if [ "$3" = legacy ]; then for table in $(cat /proc/net/$2_names); do $1-legacy-save -t $table; done; else $1-nft-save; fi
echo ---
ipset save
"""

Rules = dict[str, list[str]]


@dataclass(frozen=True, slots=True)
class Spelt:
    """A plan by what it is built from."""

    policy: NetworkPolicy | None
    link: LinkKind = "veth"
    family: Family = 4

    @property
    def plan(self) -> Plan:
        """It."""
        return build_plan(self.policy, self.link, self.family)


@dataclass(frozen=True, slots=True)
class Held:
    """What a namespace's kernel holds."""

    rules: Rules = field(default_factory=dict)
    """By table and chain; the policy first. Chains that nothing was said of are left out."""
    sets: Rules = field(default_factory=dict)
    """By name; how it is made first, then the entries, ascending."""


def installed(*spelt: Spelt, backend: Backend) -> Held:
    """Have ``backend`` install them one after the other."""
    wanted = [
        (None if one.policy is None else one.policy.to_dict(), one.link, one.family, backend) for one in spelt
    ]
    return _held('"$4" -c "$5"', spelt[0].family, backend, json.dumps(wanted), sys.executable, INSTALL)


def loaded(text: str, family: Family, backend: Backend) -> Held:
    """Have the programs load a plan's text, as ``egress rules show --help`` says."""
    script = f"""
    plan=$(cat)
    echo "$plan" | grep -E '^(create|add) ' | ipset restore
    echo "$plan" | grep -vE '^(create|add) ' | {"ip" if family == 4 else "ip6"}tables-{backend}-restore
    """
    return _held(script, family, backend, text)


def unmatched(spelt: Spelt) -> list[str]:
    """Of a plan that the legacy backend installed, the rules that iptables would write in other bits than the kernel holds: ``-C`` compares all, and
    ``-S`` shows too little."""
    given = json.dumps([(spelt.policy and spelt.policy.to_dict(), spelt.link, spelt.family, "legacy")])
    program = "iptables-legacy" if spelt.family == 4 else "ip6tables-legacy"
    rules = [
        f"-t {chain.table} -C {chain.name} {rule}" for chain in spelt.plan.chains for rule in chain.rules
    ]
    script = f'"$1" -c "$2"; shift 2; for rule; do {program} $rule || echo "$rule"; done'
    argv = ["unshare", "--net", "sh", "-ec", script, "sh", sys.executable, INSTALL, *rules]
    done = subprocess.run(argv, input=given, cwd=ROOT, capture_output=True, text=True, check=True)
    return done.stdout.splitlines()


def meant(plan: Plan) -> Held:
    """What the kernel is to hold of ``plan``."""
    rules, sets = plan.tables_text(), plan.sets_text()
    return Held(_rules(rules), _sets(sets))


def _held(script: str, family: Family, backend: Backend, given: str, *arguments: str) -> Held:
    words = ("iptables", "ip_tables") if family == 4 else ("ip6tables", "ip6_tables")
    argv = ["unshare", "--net", "sh", "-c", f"set -e\n{script}{READ}", "sh", *words, backend, *arguments]
    done = subprocess.run(argv, input=given, cwd=ROOT, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stderr) == (0, "")
    _, rules, sets = done.stdout.split("---\n")
    return Held(_rules(rules), _sets(sets))


def _rules(text: str) -> Rules:
    found: Rules = {}
    table = ""
    for line in text.splitlines():
        if line.startswith("*"):
            table = line[1:]
        elif line.startswith(":"):
            name, policy, _ = line[1:].split()
            found[f"{table} {name}"] = [policy]
        elif line.startswith("-A"):
            _, name, rule = line.split(" ", 2)
            found[f"{table} {name}"].append(_rule(rule))
    return {name: held for name, held in found.items() if held != ["ACCEPT"]}


def _rule(text: str) -> str:
    """Options in one order, addresses in one spelling."""
    options = re.findall(r"(?:! )?--?[a-z][^ ]*(?: (?!--?[a-z]|! )[^ ]+)*", text)
    assert " ".join(options) == text, text
    return " ".join(sorted(_option(option) for option in options if not option.startswith("-m ")))


def _option(option: str) -> str:
    if not re.match(r"(! )?(-s|-d|--on-ip) ", option):
        return option.replace("-p icmpv6", "-p ipv6-icmp")
    flag, _, value = option.rpartition(" ")
    address, _, mask = value.partition("/")
    if mask and not mask.isdigit():
        mask = str(ip_address(mask))
    elif not mask:
        mask = str(ip_address(address).max_prefixlen)
    return f"{flag} {ip_address(address)}/{mask}"


def _sets(text: str) -> Rules:
    found: Rules = {}
    for line in text.splitlines():
        verb, name, rest = line.split(" ", 2)
        if verb == "create":
            found[name] = [re.sub(r" (hashsize|bucketsize|initval) \S+", "", rest)]
        else:
            assert verb == "add", line
            found[name].append(_entry(rest))
    return {name: [held[0], *sorted(held[1:])] for name, held in found.items()}


def _entry(text: str) -> str:
    """ipset writes some IPv6 addresses with an IPv4 address at their end."""
    network, comma, port = text.partition(",")
    return f"{ip_network(network)}{comma}{port}"
