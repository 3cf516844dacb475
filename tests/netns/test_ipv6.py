"""The same over IPv6 as over IPv4; and none of it where the gateway's host has none."""

import pytest

from tests.lab.attempts import (
    BY_EXACT,
    BY_WILDCARD,
    NOT_LISTED,
    RESET,
    TLS_REFUSED,
    UNREADABLE,
    Attempt,
    carry_out,
)
from tests.lab.lab import Lab
from tests.lab.network import HOST_DEVICE
from tests.lab.places import (
    ATTACKER_IP6,
    BLOCKED_IP6,
    DNS_IP6,
    GOOD_IP,
    GOOD_IP6,
    HOST_IP6,
    NET_IP6,
    WILD_IP6,
    Port,
)
from tests.lab.sandboxed import egress_run
from tests.netns.puppet import Failure, Puppet

pytestmark = pytest.mark.root

FLOOR = {"event": "egress_blocked", "rule": "floor", "reason": "floor", "domain": None}
ATTEMPTS = (
    Attempt(
        "allowed host",
        ("-6", "https://allowed.test/"),
        f"200 from {GOOD_IP6}",
        {**BY_EXACT, "dest_ip": GOOD_IP6, "upstream_ip": GOOD_IP6, "app": "tls"},
        arrives=GOOD_IP6,
        resolves="allowed.test",
    ),
    Attempt(
        "wildcard host",
        ("-6", "http://api.wild.test/"),
        f"200 from {WILD_IP6}",
        {**BY_WILDCARD, "domain": "api.wild.test", "dest_ip": WILD_IP6, "upstream_ip": WILD_IP6},
        arrives=WILD_IP6,
        resolves="api.wild.test",
    ),
    Attempt(
        "blocked host",
        ("--connect-to", f"blocked.test:443:[{BLOCKED_IP6}]:443", "https://blocked.test/"),
        TLS_REFUSED,
        {**NOT_LISTED, "domain": "blocked.test", "dest_ip": BLOCKED_IP6},
    ),
    Attempt(
        "wildcard's apex",
        ("--connect-to", f"wild.test:443:[{WILD_IP6}]:443", "https://wild.test/"),
        TLS_REFUSED,
        {**NOT_LISTED, "domain": "wild.test", "dest_ip": WILD_IP6},
    ),
    Attempt(
        "raw IP",
        ("--insecure", f"https://[{ATTACKER_IP6}]/"),
        TLS_REFUSED,
        {**UNREADABLE, "reason": "no_name", "dest_ip": ATTACKER_IP6},
    ),
    Attempt(
        "raw IP, plain HTTP",
        (f"http://[{ATTACKER_IP6}]/",),
        "403 bad_name",
        {**UNREADABLE, "reason": "bad_name", "dest_ip": ATTACKER_IP6},
    ),
    *(
        Attempt(f"metadata as {address}", (f"http://[{address}]/latest/meta-data/",), RESET, FLOOR)
        for address in (
            "fd00:ec2::254",
            "fd20:ce::254",
            "64:ff9b::a9fe:a9fe",
            "64:ff9b:1::a9fe:a9fe",
            "2002:a9fe:a9fe::1",
            "::ffff:169.254.169.254",
            "::a9fe:a9fe",
            HOST_IP6,
        )
    ),
    Attempt(
        "allowed SNI to the attacker",
        ("--connect-to", f"allowed.test:443:[{ATTACKER_IP6}]:443", "https://allowed.test/"),
        f"200 from {GOOD_IP}",
        {**BY_EXACT, "dest_ip": ATTACKER_IP6, "upstream_ip": GOOD_IP, "dest_mismatch": True},
        arrives=GOOD_IP,
        resolves="allowed.test",
    ),
    Attempt(
        "forged Host to the attacker",
        ("--connect-to", f"allowed.test:80:[{ATTACKER_IP6}]:80", "http://allowed.test/"),
        f"200 from {GOOD_IP}",
        {**BY_EXACT, "dest_ip": ATTACKER_IP6, "upstream_ip": GOOD_IP, "dest_mismatch": True},
        arrives=GOOD_IP,
        resolves="allowed.test",
    ),
)


@pytest.mark.parametrize("attempt", ATTEMPTS, ids=lambda attempt: attempt.title.replace(" ", "-"))
def test_seen_recorded_and_arrived_as_it_must(lab: Lab, starter: int | None, attempt: Attempt) -> None:
    _, wrong = carry_out(lab, attempt, uid=starter)
    assert wrong == []


def test_metadata_at_a_link_local_address(lab: Lab, starter: int | None) -> None:
    """On ``lo`` the gateway refuses it; a device's neighbour discovery finds nobody, and no packet comes of it."""
    url = "http://[fe80::a9fe:a9fe%25lo]/latest/meta-data/"
    outcome = egress_run(
        lab, ["curl", "-sS", "-m", "5", url], options=["--link", "lo"], deny=["::/0"], uid=starter
    )
    assert outcome.status != 0
    assert [FLOOR.items() <= record.items() for record in outcome.decisions] == [True]


def test_a_name_with_ipv6_addresses_only(lab: Lab) -> None:
    outcome = egress_run(lab, ["curl", "-sS", "https://only6.test/"], allow=["only6.test"])
    assert (outcome.status, GOOD_IP6 in outcome.stdout) == (0, True), outcome


def test_a_resolver_reached_over_ipv6(lab: Lab, starter: int | None) -> None:
    command = ["sh", "-c", "cat /etc/resolv.conf; curl -sS https://allowed.test/"]
    outcome = egress_run(lab, command, allow=["allowed.test"], options=["--resolver", DNS_IP6], uid=starter)
    assert f"nameserver {DNS_IP6}" in outcome.stdout
    assert (outcome.status, GOOD_IP in outcome.stdout) == (0, True), outcome
    assert {entry["dst"] for entry in lab.far.entries("dns")} == {DNS_IP6}


def test_an_ip_entry(lab: Lab) -> None:
    with Puppet(lab, allow=[f"[{GOOD_IP6}]:{int(Port.ECHO)}"]) as puppet:
        puppet.connect(GOOD_IP6, Port.ECHO)
        puppet.send(b"hello")
        puppet.do("shut", id=1)
        assert puppet.receive_all() == b"hello"
        with pytest.raises(Failure):
            puppet.connect(GOOD_IP6, Port.BANNER, 2)
            puppet.do("receive", id=2)
            raise Failure("an end is as good as a reset")
        puppet.await_decisions(2)
    assert {(record["dest_port"], record["event"]) for record in puppet.decisions()} >= {
        (7, "egress_allowed")
    }
    assert not lab.far.entries("connect", dport=Port.BANNER)


UNREACHABLE = """
import errno, socket, sys
for family, address in ((socket.AF_INET6, "2001:db8::10"), (socket.AF_INET6, "::1")):
    try:
        socket.create_connection((address, 443), 2)
        print("connected")
    except OSError as error:
        print(errno.errorcode.get(error.errno, error))
"""


def test_a_sandbox_has_none_where_its_host_has_none(lab: Lab) -> None:
    """Refused at once, so that clients fall back; nothing waits, nothing leaves."""
    script = 'for f in all default; do echo "$1" > /proc/sys/net/ipv6/conf/$f/disable_ipv6; done'
    lab.run(["sh", "-c", script, "sh", "1"])
    try:
        outcome = egress_run(lab, ["/usr/bin/python3", "-c", UNREACHABLE], allow=["allowed.test"])
        fallback = egress_run(lab, ["curl", "-sS", "https://allowed.test/"], allow=["allowed.test"])
    finally:
        lab.run(["sh", "-c", script, "sh", "0"])
        lab.run(["ip", "-6", "addr", "add", f"{HOST_IP6}/64", "dev", HOST_DEVICE, "nodad"])
        lab.run(["ip", "-6", "route", "add", "default", "via", NET_IP6])
    assert set(outcome.stdout.split()) <= {"ENETUNREACH", "EADDRNOTAVAIL"}, outcome
    assert fallback.status == 0 and GOOD_IP in fallback.stdout, fallback
    assert not outcome.decisions
