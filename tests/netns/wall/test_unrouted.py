"""What routing would drop before any rule has told of it: a hop limit that ends here, a routing header, an address that looks like a neighbour's."""

from typing import Final

import pytest

from tests.lab.lab import Lab
from tests.lab.places import ATTACKER_IP6, GOOD_IP, GOOD_IP6
from tests.lab.sandboxed import egress_run
from tests.netns.puppet import PYTHON

pytestmark = pytest.mark.root

NEIGHBOUR: Final = "192.0.0.5"
NEIGHBOUR6: Final = "fd65:6772:6573:73::5"
METADATA6: Final = "fd00:ec2::254"
SCRIPT = f"""
import socket
def attempt(kind, ip, port, *options):
    with socket.socket(socket.AF_INET6 if ":" in ip else socket.AF_INET, kind) as sock:
        sock.settimeout(0.2)
        for option in options:
            sock.setsockopt(*option)
        try:
            sock.connect((ip, port))
            sock.send(b"x")
        except OSError:
            pass
def through(*hops):
    addresses = b"".join(socket.inet_pton(socket.AF_INET6, hop) for hop in hops)
    head = bytes([0, 2 * len(hops), 4, len(hops) - 1, len(hops) - 1, 0, 0, 0])
    return socket.IPPROTO_IPV6, socket.IPV6_RTHDR, head + addresses
tcp, udp = socket.SOCK_STREAM, socket.SOCK_DGRAM
no_checksum = socket.IPPROTO_UDP, 101, 1
attempt(udp, "{GOOD_IP}", 1001, (socket.IPPROTO_IP, socket.IP_TTL, 1))
attempt(tcp, "{GOOD_IP}", 1002, (socket.IPPROTO_IP, socket.IP_TTL, 1))
attempt(udp, "{GOOD_IP6}", 1003, (socket.IPPROTO_IPV6, socket.IPV6_UNICAST_HOPS, 1))
attempt(tcp, "{NEIGHBOUR}", 1004)
attempt(udp, "{NEIGHBOUR}", 1005)
attempt(tcp, "{NEIGHBOUR6}", 1006)
attempt(tcp, "{ATTACKER_IP6}", 1007, through("{ATTACKER_IP6}", "{ATTACKER_IP6}"))
attempt(tcp, "{METADATA6}", 1008, through("{METADATA6}", "{METADATA6}"))
attempt(udp, "{GOOD_IP6}", 1009, through("{GOOD_IP6}", "{GOOD_IP6}"))
attempt(udp, "{ATTACKER_IP6}", 1010, no_checksum, through("{ATTACKER_IP6}", "{GOOD_IP6}"))
"""
EXPIRES: Final = {1001, 1002, 1003}


@pytest.mark.parametrize("firewall", ["legacy", "nft"])
@pytest.mark.parametrize("link", ["veth", "lo"])
def test_it_is_on_record_and_none_of_it_leaves(lab: Lab, link: str, firewall: str) -> None:
    allow = ["allowed.test:443", GOOD_IP, GOOD_IP6]
    options = ["--link", link, "--firewall", firewall]
    outcome = egress_run(lab, [PYTHON, "-c", SCRIPT], allow=allow, options=options)
    blocked = {record["dest_port"] for record in outcome.decisions if record["event"] == "egress_blocked"}
    ports = set(range(1001, 1011)) - (
        EXPIRES if link == "lo" else set()
    )  # there it goes no hop: the proxy carries it
    assert blocked >= ports, outcome
    assert not [packet for packet in lab.capture.packets() if packet.dport in ports]
