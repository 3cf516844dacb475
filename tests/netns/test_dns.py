"""DNS inside a sandbox: what is allowed resolves, by whatever client; what is not leaves no packet, and has a name where it is refused."""

import json
import time
from collections import Counter
from datetime import datetime

import pytest

from gateway.dns.budget import RECORDED
from gateway.net.resolve import ATTEMPTS
from gateway.sums import AGGREGATE_S, APART, REFUSALS
from tests.lab.lab import Lab
from tests.lab.network import HOST_DEVICE
from tests.lab.places import (
    ATTACKER_IP,
    DNS_IP,
    DNS_IP6,
    GOOD_IP,
    GOOD_IP6,
    HOST_IP6,
    NET_IP6,
)
from tests.lab.sandboxed import Outcome, Record, egress_run
from tests.netns.hello import client_hello, get
from tests.netns.puppet import Failure, Puppet
from tests.netns.tunnel import PROGRAM

pytestmark = pytest.mark.root

PYTHON = "/usr/bin/python3"
SINKHOLE = "192.0.0.8"
ALLOW = ["*.good.test"]
QUERIES = 10_000
DIG = ["dig", "+timeout=20", "+tries=1"]
"""Asks once: where the machine has something else to do for a while, there would be another query, and a line of its own."""


def _queries(outcome: Outcome) -> list[Record]:
    return [record for record in outcome.records if record["event"].startswith("dns_")]


def _sums(within_s: float) -> float:
    """How many there may be: of what is counted apart, and of the rest by rule."""
    return (within_s / AGGREGATE_S + 2) * (APART + 4)


def _most_lines(within_s: float) -> float:
    """Of queries for which nothing leaves: each its own as far as the budget goes, and sums."""
    (per_s, at_once), _ = RECORDED
    return at_once + per_s * within_s + _sums(within_s)


# -- nothing leaves


@pytest.mark.timeout(180)
@pytest.mark.usefixtures("quiet_lab")
@pytest.mark.parametrize("mode", ["guarded", "strict"])
def test_ten_thousand_queries_of_a_tunnel_leave_no_packet(lab: Lab, mode: str) -> None:
    elsewhere = f"{ATTACKER_IP},1.1.1.1,{DNS_IP6},2001:db8::53"
    began = time.monotonic()
    outcome = egress_run(
        lab,
        [PYTHON, "-c", PROGRAM, DNS_IP, elsewhere, str(QUERIES)],
        allow=ALLOW,
        options=["--dns", mode],
        timeout=150,
    )
    took = time.monotonic() - began
    assert outcome.status == 0, outcome.stderr
    told = Counter(json.loads(outcome.stdout))
    to_resolver = QUERIES * 87 // 100
    lines = _queries(outcome)
    print(told, len(lines), "lines")
    assert told["answers"] == to_resolver, "each gets an answer, at once"
    assert told["sinkhole"] == told["records"], "and none but the sinkhole's address"
    assert (told["sinkhole"] > 500) is (mode == "guarded")
    refused = (
        told["OSError"] + told["PermissionError"]
    )  # EHOSTUNREACH and EACCES: administratively prohibited
    assert refused == QUERIES * 12 // 100, "elsewhere, UDP is refused at once"
    assert lab.far.entries("dns") == []
    assert lab.far.entries("udp") == []
    assert lab.capture.beyond() == []
    assert lab.capture.lost() == 0
    assert {record["event"] for record in lines} == {"dns_blocked"}
    assert sum(record.get("count", 1) for record in lines) == to_resolver, "none goes uncounted"
    assert len(lines) <= _most_lines(took), "but a flood does not fill the disk"
    assert {record["layer"] for record in lines} == {"dns"}
    decided: Counter[str] = Counter()
    for record in outcome.decisions:
        assert record["event"] == "egress_blocked"
        decided[record["layer"]] += record.get("count", 1)
    assert decided == {"proxy": QUERIES // 100, "kernel": refused}, "an attempt elsewhere is one as any other"
    moments = [
        datetime.fromisoformat(record["timestamp"])
        for record in outcome.decisions
        if record["layer"] == "kernel"
    ]
    lasted = (max(moments) - min(moments)).total_seconds()
    per_s, at_once = REFUSALS
    assert len(outcome.decisions) <= QUERIES // 100 + at_once + per_s * lasted + _sums(lasted)


@pytest.mark.usefixtures("quiet_lab")
def test_a_refused_name_is_on_record_under_its_name(lab: Lab, starter: int | None) -> None:
    outcome = egress_run(lab, ["curl", "-sS", "https://evil.test/"], allow=ALLOW, uid=starter)
    assert "alert access denied" in outcome.stderr, outcome
    (record,) = outcome.decisions
    assert (record["event"], record["domain"], record["dest_ip"]) == ("egress_blocked", "evil.test", SINKHOLE)
    assert (record["rule"], record["reason"]) == ("deny_out[0] 0.0.0.0/0", "no_allow_entry")
    for query in _queries(outcome):
        assert (query["event"], query["domain"]) == ("dns_blocked", "evil.test")
        assert (query["rule"], query["reason"]) == ("deny_out[0] 0.0.0.0/0", "no_allow_entry")
    assert {query["qtype"] for query in _queries(outcome)} == {"A", "AAAA"}
    assert lab.capture.beyond() == []


@pytest.mark.timeout(120)
def test_an_allowed_wildcard_is_no_tunnel_of_any_width(lab: Lab) -> None:
    """Its own server can be told something by the names asked for: beyond the budget, nothing."""
    script = r"""
import socket, struct, os, collections
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM); sock.settimeout(30); sock.connect(("8.8.8.8", 53))
told = collections.Counter()
for number in range(5000):
    label = os.urandom(20).hex().encode()
    sock.send(struct.pack("!6H", number, 0x100, 1, 0, 0, 0) + bytes((len(label),)) + label + b"\4good\4test\0\0\1\0\1")
    told[sock.recv(600)[3] & 15] += 1
print(told[3], told[2])
"""
    began = time.monotonic()
    outcome = egress_run(lab, [PYTHON, "-c", script], allow=ALLOW, timeout=100)
    took = time.monotonic() - began
    assert outcome.status == 0, outcome.stderr
    answered, failed = map(int, outcome.stdout.split())
    arrived = len(lab.far.entries("dns", again=False))
    times = Counter(entry["name"] for entry in lab.far.entries("dns"))
    given_up = sum(count == ATTEMPTS for count in times.values())  # unless the last one was answered
    print(f"{answered} answered, {failed} failed, {arrived} arrived, in {took:.1f} s")
    assert answered + failed == 5000
    assert arrived - given_up <= answered <= arrived <= 2000 + 20 * took
    lines = _queries(outcome)
    assert sum(record["event"] == "dns_allowed" for record in lines) == arrived, "each has its line"
    limited = [record for record in lines if record["event"] == "dns_blocked"]
    assert {(record["rule"], record["reason"]) for record in limited} == {("limit", "limit")}
    assert sum(record.get("count", 1) for record in limited) == 5000 - arrived
    assert len(limited) <= _most_lines(took)


# -- what is allowed resolves


NODE = """
const dns = require("dns").promises;
(async () => {
  const all = await dns.lookup("api.good.test", {all: true});
  const by = [await dns.resolve4("api.good.test"), await dns.resolve6("api.good.test")];
  console.log(all.map((one) => one.address).concat(...by).join(" "));
})();
"""
LOOKUP = "import socket; print(*{found[4][0] for found in socket.getaddrinfo('api.good.test', 443)})"
CLIENTS = {
    "dig": [*DIG, "+short", "api.good.test", "A", "api.good.test", "AAAA"],
    "dig-no-edns": [*DIG, "+short", "+noedns", "api.good.test", "A", "api.good.test", "AAAA"],
    "dig-tcp": [*DIG, "+short", "+tcp", "api.good.test", "A", "api.good.test", "AAAA"],
    "dig-options": [
        *DIG,
        "+short",
        "+dnssec",
        "+nsid",
        "+subnet=10.0.0.0/8",
        "Api.Good.TEST",
        "A",
        "api.good.test",
        "AAAA",
    ],
    "getent": ["getent", "ahosts", "api.good.test"],
    "python": [PYTHON, "-c", LOOKUP],
    "node": ["node", "-e", NODE],
}


@pytest.mark.parametrize("client", CLIENTS)
def test_an_allowed_name_resolves_in_both_families(lab: Lab, client: str) -> None:
    outcome = egress_run(lab, CLIENTS[client], allow=ALLOW)
    assert outcome.status == 0, outcome
    assert {GOOD_IP, GOOD_IP6} <= set(outcome.stdout.split()), outcome
    lines = _queries(outcome)
    assert {(line["event"], line["rule"], line["reason"]) for line in lines} == {
        ("dns_allowed", "allow_out[0] *.good.test", "allowed_name")
    }
    assert {line["qtype"] for line in lines} == {"A", "AAAA"}
    assert {line["proto"] for line in lines} == {"tcp" if client == "dig-tcp" else "udp"}
    asked = [(entry["name"], entry["type"]) for entry in lab.far.entries("dns", again=False)]
    assert sorted(asked) == [("api.good.test", "A"), ("api.good.test", "AAAA")], "once each, and nothing else"


RARE = {
    "CAA": '0 issue "ca.test"',
    "LOC": "52 22 23.000 N 4 53 32.000 E -2.00m 0.00m 10000m 10m",
    "SSHFP": "1 1 " + "AB" * 20,
    "TLSA": "3 1 1 " + "AB" * 32,
    "URI": '10 1 "https://good.test/"',
    "TXT": '"two words" "more"',
    "MX": "10 mail.good.test.",
    "NAPTR": '100 10 "u" "E2U+sip" "!^.*$!sip:x@good.test!" .',
}


def test_every_type_of_an_allowed_name_is_answered(lab: Lab) -> None:
    """The worker cannot open a file by then, and dnspython keeps a module for each type."""
    for kind, data in RARE.items():
        lab.zone.put(f"{kind.lower()}.good.test", {kind: [data]})
    command = [*DIG, "+short", *(word for kind in RARE for word in (f"{kind.lower()}.good.test", kind))]
    outcome = egress_run(lab, command, allow=ALLOW)
    assert outcome.status == 0, outcome
    assert len(outcome.stdout.splitlines()) == len(RARE), outcome
    assert {query["qtype"] for query in _queries(outcome)} == set(RARE)


@pytest.mark.parametrize("family", ["-4", "-6"])
def test_curl_reaches_an_allowed_name_in_either_family(lab: Lab, family: str) -> None:
    outcome = egress_run(lab, ["curl", "-sS", family, "https://api.good.test/"], allow=ALLOW)
    assert outcome.status == 0, outcome
    assert json.loads(outcome.stdout)["address"] == (GOOD_IP if family == "-4" else GOOD_IP6)
    kinds = Counter(entry["type"] for entry in lab.far.entries("dns", again=False))
    assert max(kinds.values()) == 1, (
        "what the client was told is what the gateway dials: nothing is asked twice"
    )


@pytest.mark.parametrize("client", ["dig", "python"])
def test_a_long_answer_comes_over_tcp(lab: Lab, client: str) -> None:
    addresses = [f"198.18.7.{last}" for last in range(1, 101)]
    lab.zone.put("many.good.test", {"A": addresses})
    script = "import socket; print(*{found[4][0] for found in socket.getaddrinfo('many.good.test', 443, socket.AF_INET)})"
    command = [*DIG, "+short", "+noedns", "many.good.test"] if client == "dig" else [PYTHON, "-c", script]
    outcome = egress_run(lab, command, allow=ALLOW)
    assert set(addresses) <= set(outcome.stdout.split()), outcome
    protos = [line["proto"] for line in _queries(outcome)]
    assert set(protos) == {"udp", "tcp"}  # glibc asks anew when its buffer was too small
    assert [entry["transport"] for entry in lab.far.entries("dns", again=False)] == ["udp", "tcp"]


def test_a_resolver_over_ipv6(lab: Lab) -> None:
    outcome = egress_run(
        lab, ["getent", "ahosts", "api.good.test"], allow=ALLOW, options=["--resolver", DNS_IP6]
    )
    assert {GOOD_IP, GOOD_IP6} <= set(outcome.stdout.split()), outcome
    assert {line["dest_ip"] for line in _queries(outcome)} == {DNS_IP6}


def test_what_is_not_there_is_said_so_and_asked_once(lab: Lab) -> None:
    outcome = egress_run(lab, [*DIG, "nothing.good.test"], allow=ALLOW)
    assert "status: NXDOMAIN" in outcome.stdout
    assert len(lab.far.entries("dns", again=False)) == 1


# -- modes, families, ports


@pytest.mark.usefixtures("quiet_lab")
def test_strict_says_why(lab: Lab) -> None:
    outcome = egress_run(lab, [*DIG, "evil.test"], allow=ALLOW, options=["--dns", "strict"])
    assert "status: NXDOMAIN" in outcome.stdout
    assert "EDE: 15 (Blocked)" in outcome.stdout
    assert [line["domain"] for line in _queries(outcome)] == ["evil.test"]
    assert lab.capture.beyond() == []


@pytest.mark.parametrize("options", [["--dns", "passthrough"], []], ids=["passthrough", "default-allow"])
def test_where_every_name_may_be_asked_for_it_is_and_is_on_record(lab: Lab, options: list[str]) -> None:
    outcome = egress_run(lab, [*DIG, "+short", "evil.test"], allow=ALLOW if options else [], options=options)
    assert outcome.stdout.split() == [ATTACKER_IP]
    (line,) = _queries(outcome)
    assert (line["event"], line["domain"], line["rule"]) == ("dns_allowed", "evil.test", "default")


def test_without_ipv6_there_are_no_addresses_of_it(lab: Lab) -> None:
    script = 'for f in all default; do echo "$1" > /proc/sys/net/ipv6/conf/$f/disable_ipv6; done'
    lab.run(["sh", "-c", script, "sh", "1"])
    try:
        outcome = egress_run(
            lab, [*DIG, "+short", "api.good.test", "AAAA", "api.good.test", "A"], allow=ALLOW
        )
    finally:
        lab.run(["sh", "-c", script, "sh", "0"])
        lab.run(["ip", "-6", "addr", "add", f"{HOST_IP6}/64", "dev", HOST_DEVICE, "nodad"])
        lab.run(["ip", "-6", "route", "add", "default", "via", NET_IP6])
    assert outcome.stdout.split() == [GOOD_IP], outcome
    assert [entry["type"] for entry in lab.far.entries("dns", again=False)] == ["A"]


UDP_853 = """
import errno, socket
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.settimeout(30)
sock.connect(("8.8.8.8", 853))
try:
    sock.send(b"x" * 1200)
    sock.recv(100)
except OSError as error:
    print(errno.errorcode[error.errno])
"""


@pytest.mark.usefixtures("quiet_lab")
def test_encrypted_dns_to_the_resolver_is_refused_at_once(lab: Lab) -> None:
    with Puppet(lab, allow=ALLOW) as puppet:
        puppet.connect(DNS_IP, 853, 9)  # which says nothing, until its deadline
        for number, host in enumerate(("dns.google", None)):
            puppet.connect(DNS_IP, 853, number)
            puppet.send(client_hello(host), number)
            assert puppet.receive_all(number)[:1] == b"\x15", "a TLS alert"
    said = [record for record in puppet.decisions() if record["app"] == "tls"]
    assert [(record["domain"], record["reason"]) for record in said] == [
        ("dns.google", "no_allow_entry"),
        (None, "no_name"),
    ]
    outcome = egress_run(lab, [PYTHON, "-c", UDP_853], allow=ALLOW)
    assert outcome.stdout.split() == ["EHOSTUNREACH"]
    assert lab.capture.beyond() == []


# -- the sinkhole


@pytest.mark.usefixtures("quiet_lab")
def test_what_comes_to_the_sinkhole_is_refused_under_the_name_it_shows(lab: Lab) -> None:
    shown = [
        (443, client_hello("evil.test"), ("evil.test", "no_allow_entry")),
        (80, get("evil.test"), ("evil.test", "no_allow_entry")),
        (8443, client_hello("evil.test"), ("evil.test", "no_allow_entry")),
        (22, b"SSH-2.0-OpenSSH_9.2\r\n", (None, "sinkhole")),
        (443, client_hello(None), (None, "no_name")),
    ]
    with Puppet(lab, allow=["*.good.test:443", "*.good.test:80"]) as puppet:
        for number, (port, first, _) in enumerate(shown):
            puppet.connect(SINKHOLE, port, number)
            puppet.send(first, number)
            try:
                puppet.receive_all(number)
            except Failure as failure:
                assert failure.args == ("ConnectionResetError",)
            puppet.await_decisions(number + 1)
    found = [(record["domain"], record["reason"]) for record in puppet.decisions()]
    assert found == [expected for _, _, expected in shown]
    assert {record["event"] for record in puppet.decisions()} == {"egress_blocked"}
    assert lab.capture.beyond() == []


def test_an_allowed_name_that_dials_the_sinkhole_is_bound(lab: Lab) -> None:
    with Puppet(lab, allow=ALLOW) as puppet:
        puppet.connect(SINKHOLE, 80)
        puppet.send(get("api.good.test"))
        assert b"200 OK" in puppet.receive_all()
        (record,) = puppet.await_decisions(1)
    assert (record["upstream_ip"], record["dest_mismatch"]) == (GOOD_IP, True)
