"""The host's half: there while a sandbox needs it, and gone without a trace, whoever was killed."""

import re
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator

import pytest

from tests.lab.lab import Lab
from tests.lab.places import GOOD_IP, GOOD_IP6, HOST_IP, HOST_IP6
from tests.netns.wall.standing import Standing, host_state, json_of

pytestmark = [pytest.mark.root, pytest.mark.timeout(180)]

UPLINKED = [f"{GOOD_IP}", f"{GOOD_IP6}", "allowed.test"]


def await_state(lab: Lab, meant: dict[str, str]) -> dict[str, str]:
    """The host's state, once it is as ``meant``, or as it then is: a namespace goes a moment after its last process."""
    give_up = time.monotonic() + 60
    while (found := host_state(lab)) != meant and time.monotonic() < give_up:
        time.sleep(0.1)
    return {key: value for key, value in found.items() if value != meant[key]}


def uplinks(lab: Lab) -> list[str]:
    """Names of those that stand."""
    return [link["ifname"] for link in json_of(lab, "ip -j link") if link["ifname"].startswith("egress-")]


@pytest.fixture
def before(lab: Lab) -> Iterator[dict[str, str]]:
    """The state to come back to; afterwards it is there again."""
    state = host_state(lab)
    yield state
    assert await_state(lab, state) == {}


def is_cut(lab: Lab) -> bool:
    """Whether one of them lets nothing pass."""
    states = {link["ifname"]: link["operstate"] for link in json_of(lab, "ip -j link")}
    return any(states[name] != "UP" for name in uplinks(lab))


def forwards(lab: Lab) -> list[str]:
    """The switches."""
    names = "/proc/sys/net/ipv4/ip_forward /proc/sys/net/ipv6/conf/all/forwarding"
    return lab.run(["sh", "-c", f"cat {names}"]).stdout.split()


def test_without_anything_to_forward_the_host_is_not_touched(lab: Lab, before: dict[str, str]) -> None:
    with Standing(lab, allow=["allowed.test"]):
        assert host_state(lab) == before


def test_it_comes_with_the_first_and_goes_with_the_last(lab: Lab, before: dict[str, str]) -> None:
    assert forwards(lab) == ["0", "0"]
    with Standing(lab, allow=UPLINKED):
        one = host_state(lab)
        with Standing(lab, allow=UPLINKED):
            assert len(uplinks(lab)) == 2
            rules = [key for key in one if "tables" in key]
            assert {key: host_state(lab)[key] for key in rules} == {key: one[key] for key in rules}
        assert len(uplinks(lab)) == 1
        assert forwards(lab) == ["1", "1"]
        assert "EGRESS-GUARD" in one["iptables-legacy-save"] + one["iptables-nft-save"]
    assert uplinks(lab) == []
    assert forwards(lab) == ["0", "0"]


@pytest.mark.parametrize("role", ["netd", "worker", "gateway", "command"])
def test_whoever_is_killed_the_next_start_leaves_nothing(lab: Lab, role: str, before: dict[str, str]) -> None:
    with Standing(lab, allow=UPLINKED) as sandbox:
        killed = sandbox.command if role == "command" else sandbox.pid_of(role)
        sandbox.kill(role)
        if role == "worker":
            while sandbox.pid_of("worker") == killed:  # until another has its place
                time.sleep(0.01)
    assert lab.run(["true"]).returncode == 0
    with Standing(lab, allow=UPLINKED):
        pass


def test_everybody_is_killed(lab: Lab, before: dict[str, str]) -> None:
    with Standing(lab, allow=UPLINKED) as sandbox:
        pids = [sandbox.pid_of(role) for role in ("netd", "worker", "gateway")]
        for role in ("netd", "worker", "gateway"):
            sandbox.kill(role)
        assert pids
    assert "EGRESS-FORWARD" in str(host_state(lab)), "nobody was left to take it away"
    with Standing(lab, allow=UPLINKED):
        pass


def test_others_rules_are_left_alone(lab: Lab, before: dict[str, str]) -> None:
    """Docker's FORWARD drops what is not its own, and ufw's; both are passed by, and neither is changed."""
    theirs = (
        "iptables-nft -N DOCKER-USER; iptables-nft -A FORWARD -j DOCKER-USER; iptables-nft -P FORWARD DROP"
    )
    lab.run(["sh", "-ec", theirs])
    try:
        with_theirs = host_state(lab)
        with Standing(lab, allow=UPLINKED) as sandbox:
            rules = lab.run(["iptables-nft", "-S", "FORWARD"]).stdout.splitlines()
            assert rules[1:] == ["-A FORWARD -j EGRESS-FORWARD", "-A FORWARD -j DOCKER-USER"]
            sandbox.in_sandbox(f"curl -sS -m 30 http://{GOOD_IP}/")
        assert await_state(lab, with_theirs) == {}
    finally:
        lab.run(
            [
                "sh",
                "-c",
                "iptables-nft -P FORWARD ACCEPT; iptables-nft -F FORWARD; iptables-nft -X DOCKER-USER",
            ]
        )


def test_who_came_meanwhile_and_forwards_goes_on_forwarding(lab: Lab, before: dict[str, str]) -> None:
    try:
        with Standing(lab, allow=UPLINKED):
            lab.run(["iptables-legacy", "-w", "-I", "FORWARD", "-i", "docker0", "-j", "ACCEPT"])
        assert forwards(lab) == ["1", "0"]
    finally:
        lab.run(
            [
                "sh",
                "-c",
                "iptables-legacy -w -D FORWARD -i docker0 -j ACCEPT; echo 0 > /proc/sys/net/ipv4/ip_forward",
            ]
        )


PASSED_OVER = f"""
import os, socket
os.sched_setaffinity(0, {{min(os.sched_getaffinity(0))}})
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.sendto(b'x', ('198.51.100.7', 9))
sock.connect(('{HOST_IP}', 9))
sock.settimeout(30)
sock.send(b'x')
try:
    sock.recv(1)
except ConnectionRefusedError:
    pass
"""
"""On one processor a host takes one packet after the other: once it has refused the second it has done with the first."""


def test_what_was_not_forwarded_before_is_not_now(lab: Lab, before: dict[str, str]) -> None:
    """A host that only forwards for sandboxes is no router for its neighbours."""
    script = f'ip route add 198.51.100.0/24 via {HOST_IP}; /usr/bin/python3 -c "{PASSED_OVER}"; ip route del 198.51.100.0/24'
    with Standing(lab, allow=UPLINKED):
        lab.capture.clear()
        done = lab.run(["sh", "-ec", script], namespace="net")
        assert (done.returncode, done.stderr) == (0, "")
        seen = [packet for packet in lab.capture.packets() if packet.dst == "198.51.100.7"]
        assert len(seen) == 1, "it came, and was sent on"


NEIGHBOUR = """
import socket, time
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
print("ready", flush=True)
for port in range(1, 60000):
    sock.sendto(b"x", ("198.51.100.7", port))
    time.sleep(0.001)
"""


def sent_by_the_neighbour(lab: Lab) -> Counter[int]:
    """How often each of its packets has been seen."""
    return Counter(packet.dport for packet in lab.capture.packets(to="198.51.100.7"))


def sends_on(lab: Lab, more: int = 100) -> None:
    """Return when it has sent so many more."""
    begun, give_up = len(sent_by_the_neighbour(lab)), time.monotonic() + 30
    while len(sent_by_the_neighbour(lab)) < begun + more:
        assert time.monotonic() < give_up, "the neighbour sends nothing"
        time.sleep(0.05)


def test_nor_in_the_milliseconds_of_the_last_uplinks_end(lab: Lab, before: dict[str, str]) -> None:
    """A thousand packets a second, each to another port: one that is sent on is seen twice."""
    route = ["198.51.100.0/24", "via", HOST_IP]
    assert lab.run(["ip", "route", "add", *route], namespace="net").returncode == 0
    try:
        lab.capture.clear()
        with lab.popen(["/usr/bin/python3", "-c", NEIGHBOUR], namespace="net") as neighbour:
            assert neighbour.stdout is not None and neighbour.stdout.readline() == "ready\n"
            sends_on(lab)
            with Standing(lab, allow=UPLINKED):
                assert forwards(lab) == ["1", "1"]
                sends_on(lab)
            sends_on(lab)
            neighbour.kill()
        assert set(sent_by_the_neighbour(lab).values()) == {1}
    finally:
        lab.run(["ip", "route", "del", *route], namespace="net")


def test_somebody_elses_device_of_such_a_name_keeps_nothing_open(lab: Lab, before: dict[str, str]) -> None:
    lab.run(["ip", "link", "add", "egress-lan", "type", "veth", "peer", "name", "theirs"])
    try:
        with_theirs = host_state(lab)
        with Standing(lab, allow=UPLINKED):
            assert forwards(lab) == ["1", "1"]
        assert await_state(lab, with_theirs) == {}
    finally:
        lab.run(["ip", "link", "del", "egress-lan"])


def test_who_asks_says_that_something_may_be_left(lab: Lab, before: dict[str, str]) -> None:
    with Standing(lab, allow=UPLINKED) as sandbox:
        sandbox.kill("netd")
        assert (
            "netd ended by signal 9; devices, rules and settings of the uplink may be left" in sandbox.end()
        )
    with Standing(lab, allow=UPLINKED) as sandbox:
        assert "netd ended" not in sandbox.end()


SERVICE = """
import select, socket, sys
socks = []
for family, kind in ((f, k) for f in (socket.AF_INET, socket.AF_INET6) for k in (socket.SOCK_DGRAM, socket.SOCK_STREAM)):
    sock = socket.socket(family, kind)
    if family == socket.AF_INET6:
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_V6ONLY, 1)
    sock.bind(("", 9911))
    if kind == socket.SOCK_STREAM:
        sock.listen()
    socks.append(sock)
print("ready", flush=True)
while True:
    for sock in select.select(socks, [], [])[0]:
        peer = sock.accept()[1] if sock.type == socket.SOCK_STREAM else sock.recvfrom(99)[1]
        print(sock.type.name, peer[0], flush=True)
"""
DIALS = """
import socket, sys
for address in sys.argv[1:]:
    family = socket.AF_INET6 if ":" in address else socket.AF_INET
    for kind in (socket.SOCK_DGRAM, socket.SOCK_STREAM):
        with socket.socket(family, kind) as sock:
            sock.settimeout(0.3)
            sock.setsockopt(socket.SOL_SOCKET, socket.SO_BROADCAST, 1)
            try:
                sock.connect((address, 9911))
                sock.send(b"x")
            except OSError:
                pass
"""


def visitors(lab: Lab, service: "subprocess.Popen[str]") -> list[str]:
    """Who has come to it: each of its sockets takes one after the other, and the last to come is the host itself."""
    assert service.stdout is not None
    lab.run(["/usr/bin/python3", lab.work / "dials.py", "127.0.0.1", "::1"])
    host = [f"{kind} {place}\n" for place in ("127.0.0.1", "::1") for kind in ("SOCK_DGRAM", "SOCK_STREAM")]
    said: list[str] = []
    while not set(host) <= set(said):
        said.append(service.stdout.readline())
        assert said[-1], "it ended by itself"
    service.kill()
    return [line for line in said + service.stdout.readlines() if line not in host]


@pytest.mark.parametrize(
    "allow",
    [["198.18.0.0/15", "2001:db8::/32", "169.253.0.0/16"], [], [HOST_IP, HOST_IP6]],
    ids=["range", "all", "itself"],
)
def test_the_host_is_out_of_reach_whatever_is_allowed(
    lab: Lab, before: dict[str, str], allow: list[str]
) -> None:
    """Its addresses, the broadcast and anycast addresses of its links, and both ends of the uplink."""
    deny = ["0.0.0.0/0", "::/0"] if allow else []
    path = lab.work / "dials.py"
    path.write_text(DIALS)
    with (
        lab.popen([sys.executable, "-c", SERVICE]) as service,
        Standing(lab, allow=allow, deny=deny) as sandbox,
    ):
        assert service.stdout is not None and service.stdout.readline() == "ready\n"
        uplink = [
            word.partition("/")[0]
            for word in sandbox.in_cell("ip -o addr show dev up0").split()
            if "/" in word
        ]
        places = [HOST_IP, HOST_IP6, "198.18.255.3", "2001:db8:ffff::", "127.0.0.1", "::1", *uplink]
        places += ["169.254.64.0", "fd65:6772:6573:7570:0:1::", "224.0.0.1", "255.255.255.255"]
        sandbox.in_sandbox(f"/usr/bin/python3 {path} {' '.join(places)}")
        assert visitors(lab, service) == []


RELOAD = "".join(
    f"*{table}\n:{chain} ACCEPT\nCOMMIT\n"
    for table, chain in (("filter", "FORWARD"), ("raw", "PREROUTING"), ("nat", "POSTROUTING"))
)


def test_a_reload_of_the_hosts_firewall_opens_nothing_for_long(lab: Lab, before: dict[str, str]) -> None:
    """What a file that an administrator saved once puts in its place has none of ours; each kind of tables, both families."""
    path = lab.work / "dials.py"
    path.write_text(DIALS)
    (lab.work / "reload").write_text(RELOAD)
    with (
        lab.popen([sys.executable, "-c", SERVICE]) as service,
        Standing(lab, allow=["198.18.0.0/15", "2001:db8::/32"], deny=["0.0.0.0/0", "::/0"]) as sandbox,
    ):
        assert service.stdout is not None and service.stdout.readline() == "ready\n"
        standing = [line for line in saved(lab) if "EGRESS-" in line]
        assert standing
        for tool in ("iptables-legacy", "iptables-nft", "ip6tables-legacy", "ip6tables-nft"):
            if any(line.startswith(f"{tool} ") for line in standing):
                assert lab.run(["sh", "-c", f"{tool}-restore -w <{lab.work / 'reload'}"]).returncode == 0
        # After a look that took long, ten times as long passes until the next; one that finds all in order opens what was cut meanwhile.
        give_up = time.monotonic() + 120
        while [line for line in saved(lab) if "EGRESS-" in line] != standing or is_cut(lab):
            assert time.monotonic() < give_up
            time.sleep(0.1)
        sandbox.in_sandbox(f"/usr/bin/python3 {path} {HOST_IP} {HOST_IP6}")
        assert visitors(lab, service) == []
        sandbox.in_sandbox(f"curl -sS -m 30 http://{GOOD_IP}/")
        # The first change is told of at once, and found before there is another.
        told = re.findall(r"somebody has changed this host's rules of (.*?):", sandbox.end())
        assert {family for families in told for family in families.split(" and ")} == {"IPv4", "IPv6"}


def saved(lab: Lab) -> list[str]:
    """The host's rules, by the program that says them."""
    tools = "iptables-legacy iptables-nft ip6tables-legacy ip6tables-nft"
    script = (
        f'for tool in {tools}; do $tool-save 2>/dev/null | sed "s/^/$tool /; s/ .[0-9]*:[0-9]*.$//"; done'
    )
    return lab.run(["sh", "-c", script]).stdout.splitlines()


def test_the_host_is_not_reached_by_its_own_service_addresses(lab: Lab, before: dict[str, str]) -> None:
    """As kube-proxy makes them: nobody's until the host's DNAT makes them its own."""
    services = {"iptables": ("203.0.113.77", HOST_IP), "ip6tables": ("2001:db8:77::77", f"[{HOST_IP6}]")}
    rules = [
        f"{program}-legacy -t nat -%s PREROUTING -d {service} -p {protocol} -j DNAT --to-destination {own}:9911"
        for program, (service, own) in services.items()
        for protocol in ("tcp", "udp")
    ]
    path = lab.work / "dials.py"
    path.write_text(DIALS)
    lab.run(["sh", "-ec", "; ".join(rule % "A" for rule in rules)])
    try:
        with (
            lab.popen([sys.executable, "-c", SERVICE]) as service,
            Standing(
                lab, allow=["203.0.113.0/24", "2001:db8:77::/48"], deny=["0.0.0.0/0", "::/0"]
            ) as sandbox,
        ):
            assert service.stdout is not None and service.stdout.readline() == "ready\n"
            sandbox.in_sandbox(f"/usr/bin/python3 {path} {' '.join(place for place, _ in services.values())}")
            assert visitors(lab, service) == []
    finally:
        lab.run(["sh", "-ec", "; ".join(rule % "D" for rule in rules)])


REFUSED = """
import socket, sys
try:
    socket.create_connection((sys.argv[1], 1), 1)
except OSError:
    print("refused")
"""


def test_two_cells_do_not_reach_each_other(lab: Lab, before: dict[str, str]) -> None:
    with Standing(lab) as one, Standing(lab) as other:
        (address,) = {
            word.partition("/")[0]
            for word in other.in_cell("ip -4 -o addr show dev up0").split()
            if word.startswith("169.254.")
        }
        assert one.in_sandbox(f"/usr/bin/python3 -c '{REFUSED}' {address}") == "refused\n"
