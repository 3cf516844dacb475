"""Ways out by the network that no policy opened: other protocols, forged addresses, the gateway's own sockets, the kernel's tables."""

import errno
import os
import socket
import struct
import subprocess
from collections.abc import Callable
from functools import partial

from tests.netns.attacker.trying import attempt, main
from tests.netns.attacker.wire import (
    FAR,
    HELLO,
    HOST,
    HOST_PORT,
    PATIENCE_S,
    QUERY,
    RESOLVER,
    WAIT_S,
    any_of,
    datagram,
    stream,
)

LISTENER = ("127.86.0.1", 1)
OWN = "192.0.0.2"
MANY = 2000
IP_TRANSPARENT = 19  # linux/in.h
SO_MARK, SO_RCVBUFFORCE = 36, 33
MSG_FASTOPEN = 0x20000000


# -- UDP


@attempt
def udp_anywhere() -> object:
    ports = (1, 53, 67, 123, 161, 443, 500, 1900, 5353, 33434)
    return any_of(*(lambda p=port: datagram((FAR, p)) for port in ports))


@attempt
def udp_to_the_resolver_on_other_ports() -> object:
    return any_of(*(lambda p=port: datagram((RESOLVER, p)) for port in (1, 54, 443, 853, 5353)))


@attempt
def dns_at_other_servers() -> object:
    framed = struct.pack("!H", len(QUERY)) + QUERY
    return any_of(
        *(lambda a=address: datagram((a, 53)) for address in (FAR, HOST, "1.1.1.1", "9.9.9.9")),
        *(lambda a=address: stream((a, 53), framed) for address in (FAR, HOST, "1.1.1.1")),
    )


@attempt
def udp_from_tricky_sources() -> object:
    sources = [
        (RESOLVER, 5353),
        (FAR, 5353),
        ("127.86.0.1", 4444),
        (OWN, 1025),
        ("255.255.255.255", 1026),
        (RESOLVER, 53),
        ("0.0.0.0", 53),
    ]
    return any_of(*(lambda s=source: datagram((FAR, 53), source=s) for source in sources))


@attempt
def fragments() -> object:
    big = QUERY + b"\0" * 60_000
    return any_of(
        lambda: datagram((FAR, 53), big),
        lambda: datagram((FAR, 443), b"x" * 65_000),
        lambda: datagram((RESOLVER, 443), big),
    )


@attempt
def broadcast_and_multicast() -> object:
    addresses = ("255.255.255.255", "198.18.255.3", "224.0.0.1", "224.0.0.251", "239.255.255.250")
    return any_of(*(lambda a=address: datagram((a, 1900)) for address in addresses))


# -- IP


@attempt
def ip_options() -> object:
    route = socket.inet_aton(FAR) + socket.inet_aton(RESOLVER)
    source_routes = [
        bytes((kind, 3 + len(route), 4)) + route + b"\0" for kind in (131, 137)
    ]  # RFC 791: LSRR, SSRR
    record = bytes((7, 39, 4)) + b"\0" * 37
    found = []
    for options in (*source_routes, record, b"\x94\x04\0\0"):
        found += any_of(
            partial(datagram, (FAR, 53), options=options),
            partial(stream, (FAR, 80), options=options),
            partial(stream, (RESOLVER, 443), HELLO, options=options),
        )
    return found


@attempt
def icmp() -> object:
    return any_of(
        lambda: socket.socket(socket.AF_INET, socket.SOCK_DGRAM, socket.IPPROTO_ICMP),
        lambda: socket.socket(socket.AF_INET6, socket.SOCK_DGRAM, socket.IPPROTO_ICMPV6),
        *(lambda a=address: ping(a) for address in (FAR, RESOLVER, "8.8.4.4")),
    )


def ping(address: str) -> str:
    """What it said, if it got an answer."""
    done = subprocess.run(["ping", "-c1", "-W1", address], capture_output=True, text=True, check=False)
    return done.stdout if done.returncode == 0 else ""


@attempt
def raw_sockets() -> object:
    protocols = (0, 1, 2, 6, 17, 41, 47, 50, 58, 132, 255)
    families = (socket.AF_INET, socket.AF_INET6)
    return any_of(
        *(
            lambda f=family, p=protocol: socket.socket(f, socket.SOCK_RAW, p)
            for family in families
            for protocol in protocols
        )
    )


@attempt
def other_transports() -> object:
    """SCTP, DCCP, UDP-Lite; MPTCP is TCP with an option."""
    tries: list[Callable[[], object]] = []
    for kind, protocol in ((1, 132), (5, 132), (6, 33), (2, 136)):
        for address in (FAR, RESOLVER):

            def one(kind: int = kind, protocol: int = protocol, address: str = address) -> object:
                with socket.socket(socket.AF_INET, kind, protocol) as sock:
                    sock.settimeout(WAIT_S)
                    sock.connect((address, 53))
                    sock.send(QUERY)
                    return sock.recv(100)

            tries.append(one)
    return any_of(
        *tries, lambda: stream((FAR, 80), protocol=262), lambda: stream((FAR, 7), b"x", protocol=262)
    )


# -- TCP


@attempt
def tcp_anywhere() -> object:
    ports = (1, 7, 22, 53, 80, 443, 7001, 8080, 8443, 65535)
    return any_of(
        *(lambda p=port: stream((FAR, p), wait_s=PATIENCE_S if p == 80 else WAIT_S) for port in ports),
        lambda: stream((FAR, 0)),
    )


@attempt
def forged_sources() -> object:
    """Every address is local here, so a workload may bind any: that must lead nowhere."""
    sources = (
        "8.8.8.8",
        FAR,
        HOST,
        "127.0.0.1",
        "127.86.0.1",
        "169.254.169.254",
        "255.255.255.255",
        "224.0.0.1",
    )
    return any_of(
        *(lambda s=source: stream((FAR, 80), source=(s, 0)) for source in sources),
        *(lambda s=source: stream((HOST, HOST_PORT), source=(s, 0)) for source in sources),
    )


@attempt
def data_in_the_first_segment() -> object:
    with socket.socket() as sock:
        sock.sendto(b"GET / HTTP/1.0\r\n\r\n", MSG_FASTOPEN, (FAR, 80))
        sock.settimeout(WAIT_S)
        return not sock.recv(100).startswith(b"HTTP/1.1 403")


@attempt
def many_connections() -> object:
    """A listener that is full must not let one through."""
    socks = []
    for _ in range(MANY):
        sock = socket.socket()
        sock.setblocking(False)
        result = sock.connect_ex((FAR, 22))
        if result not in (0, errno.EINPROGRESS):
            sock.close()
            continue
        socks.append(sock)
    found = []
    for sock in socks:
        sock.settimeout(WAIT_S)
        try:
            found.append(sock.recv(10))
        except OSError:
            continue
        finally:
            sock.close()
    return [data for data in found if data]


@attempt
def services_of_the_machine() -> object:
    addresses = (
        "127.0.0.1",
        "127.0.0.2",
        "0.0.0.0",
        "localhost",
        HOST,
        OWN,
        "255.255.255.255",
        "::1",
        "::ffff:127.0.0.1",
        f"::ffff:{HOST}",
    )
    return any_of(
        *(lambda a=address: stream((a, HOST_PORT)) for address in addresses),
        *(lambda a=address: datagram((a, HOST_PORT)) for address in ("127.0.0.1", HOST, OWN)),
    )


# -- the gateway's own sockets


@attempt
def the_listener_itself() -> object:
    sources = (None, ("127.86.0.1", 0), (FAR, 0))
    return any_of(
        *(lambda s=source: stream(LISTENER, HELLO, source=s) for source in sources),
        lambda: datagram(LISTENER),
    )


@attempt
def its_ports() -> object:
    def take(kind: int, address: tuple[str, int]) -> object:
        with socket.socket(socket.AF_INET, kind) as sock:
            for option in (socket.SO_REUSEADDR, socket.SO_REUSEPORT):
                sock.setsockopt(socket.SOL_SOCKET, option, 1)
            sock.bind(address)
            return address

    places = [LISTENER, ("0.0.0.0", 1), (FAR, 1), (RESOLVER, 53), ("0.0.0.0", 53), (FAR, 1023)]
    return any_of(*(lambda k=kind, p=place: take(k, p) for kind in (1, 2) for place in places))


@attempt
def options_that_need_root() -> object:
    def take(level: int, option: int, value: int | bytes) -> object:
        with socket.socket() as sock:
            sock.setsockopt(level, option, value)
        return level, option

    return any_of(
        lambda: take(socket.SOL_IP, IP_TRANSPARENT, 1),
        lambda: take(socket.IPPROTO_IPV6, 75, 1),  # IPV6_TRANSPARENT
        *(lambda v=value: take(socket.SOL_SOCKET, SO_MARK, v) for value in (1, 4, 15)),
        lambda: take(socket.SOL_SOCKET, SO_RCVBUFFORCE, 1 << 20),
        lambda: take(socket.SOL_SOCKET, socket.SO_BINDTODEVICE, b"wan"),
        lambda: take(socket.SOL_SOCKET, socket.SO_PRIORITY, 7),
        lambda: take(socket.SOL_TCP, 31, b"bpf"),  # TCP_ULP
    )


# -- the kernel's tables


@attempt
def routes_and_links() -> object:
    commands = (
        "link set lo down", "link add d0 type dummy", "link add v0 type veth peer name v1 netns 1", "link add t0 type gre remote 8.8.8.8",
        "tuntap add dev t0 mode tap", "addr add 10.0.0.1/8 dev lo", "addr del 192.0.0.2/32 dev lo", "route flush table local",
        "route add default dev lo", "rule add pref 1 lookup 100", "netns add x", "-6 addr add ::2/128 dev lo", "neigh add 10.0.0.2 dev lo",
    )  # fmt: skip
    return any_of(*(lambda c=command: said("ip", *c.split()) for command in commands))


@attempt
def firewall_tables() -> object:
    commands = (
        "iptables-legacy -F", "iptables-legacy -P INPUT ACCEPT", "iptables-legacy -t mangle -F", "iptables-legacy-save", "nft add table ip x",
        "nft flush ruleset", "ipset create x hash:ip", "conntrack -F", "sysctl -w net.ipv4.ip_forward=1", "tc qdisc add dev lo root pfifo",
        "ss -K", "ethtool -K lo tso off",
    )  # fmt: skip
    return [
        line
        for line in any_of(*(lambda c=command: said(*c.split()) for command in commands))
        if "ss -K" not in line or "ESTAB" in line
    ]


def said(*argv: str) -> str:
    """The command and what it said, if it ended well and did not complain."""
    paths = f"{os.environ.get('PATH', '')}:/usr/sbin:/sbin"
    done = subprocess.run(argv, capture_output=True, text=True, check=False, timeout=20, env={"PATH": paths})
    return f"{' '.join(argv)}: {done.stdout}" if done.returncode == 0 and not done.stderr else ""


@attempt
def netlink_by_hand() -> object:
    """RTM_NEWLINK, RTM_NEWADDR, RTM_NEWROUTE, RTM_NEWRULE, each empty but well formed: EPERM comes before any of it is read."""
    found = []
    for kind in (16, 20, 24, 32):
        with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, 0) as sock:
            body = struct.pack("BBHiII", 2, 0, 0, 1, 0, 0)
            sock.send(struct.pack("IHHII", 16 + len(body), kind, 0x605, 1, 0) + body)
            answer = sock.recv(4096)
            error = struct.unpack_from("i", answer, 16)[0]
            if error != -errno.EPERM:
                found.append((kind, error))
    return found


@attempt
def other_netlink_protocols() -> object:
    """Groups that tell of the machine outside: uevents, audit, connector; packets: netfilter's log."""
    found = []
    for protocol, group in ((15, 1), (15, 2), (9, 1), (11, 1), (5, 1), (12, 1)):
        try:
            with socket.socket(socket.AF_NETLINK, socket.SOCK_RAW, protocol) as sock:
                sock.settimeout(0.1)
                sock.bind((0, group))
                found += [(protocol, group, sock.recv(4096))]
        except OSError:
            continue
    return found


if __name__ == "__main__":
    main(at_once=16)  # most only wait for what must not come
