"""The same over IPv6: what one family does not guard would be a door."""

import socket
import struct
from collections.abc import Callable

from tests.netns.attacker.trying import attempt, main
from tests.netns.attacker.wire import (
    FAR,
    FAR6,
    HELLO,
    HOST,
    HOST6,
    HOST_PORT,
    PATIENCE_S,
    QUERY,
    RESOLVER6,
    WAIT_S,
    any_of,
    datagram,
    stream,
)

LISTENER = ("100::56", 1)
OWN = "fd65:6772:6573:73::2"
IPV6_RTHDR, IPV6_HOPOPTS, IPV6_DSTOPTS = 57, 54, 59  # linux/in6.h


@attempt
def tcp_anywhere() -> object:
    ports = (1, 7, 22, 53, 80, 443, 7001, 8080, 65535)
    return any_of(
        *(lambda p=port: stream((FAR6, p), wait_s=PATIENCE_S if p == 80 else WAIT_S) for port in ports),
        lambda: stream((FAR6, 443), HELLO),
    )


@attempt
def udp_anywhere() -> object:
    ports = (1, 53, 123, 443, 546, 547, 5353, 33434)
    return any_of(
        *(lambda p=port: datagram((FAR6, p)) for port in ports),
        *(lambda p=port: datagram((RESOLVER6, p)) for port in (1, 54, 443, 853)),
    )


@attempt
def dns_at_other_servers() -> object:
    framed = struct.pack("!H", len(QUERY)) + QUERY
    return any_of(
        *(lambda a=address: datagram((a, 53)) for address in (FAR6, HOST6, "2606:4700:4700::1111")),
        *(lambda a=address: stream((a, 53), framed) for address in (FAR6, HOST6)),
    )


@attempt
def icmp_and_raw() -> object:
    protocols = (0, 6, 17, 43, 44, 58, 59, 60, 132, 255)
    return any_of(
        lambda: socket.socket(socket.AF_INET6, socket.SOCK_DGRAM, socket.IPPROTO_ICMPV6),
        *(lambda p=protocol: socket.socket(socket.AF_INET6, socket.SOCK_RAW, p) for protocol in protocols),
    )


@attempt
def multicast_and_link_local() -> object:
    addresses = ("ff02::1", "ff02::2", "ff02::fb", "ff05::2", "ff0e::1", "fe80::1")
    return any_of(*(lambda a=address: link_local(a) for address in addresses))


def link_local(address: str) -> bytes:
    """By the only device there is."""
    with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
        sock.settimeout(WAIT_S)
        sock.setsockopt(socket.IPPROTO_IPV6, socket.IPV6_MULTICAST_LOOP, 0)
        sock.sendto(QUERY, (address, 5353, 0, 1))
        return sock.recv(100)


@attempt
def extension_headers() -> object:
    """Routing headers of types 0, 2 and 4 by way of the resolver, hop-by-hop and destination options."""
    far = socket.inet_pton(socket.AF_INET6, FAR6)
    headers = [
        *((IPV6_RTHDR, bytes((0, 2, kind, 1)) + b"\0" * 4 + far) for kind in (0, 2, 4)),
        (IPV6_HOPOPTS, b"\0\0\1\4\0\0\0\0"),
        (IPV6_DSTOPTS, b"\0\0\1\4\0\0\0\0"),
    ]
    tries: list[Callable[[], object]] = []
    for option, header in headers:

        def one(option: int = option, header: bytes = header) -> object:
            with socket.socket(socket.AF_INET6, socket.SOCK_DGRAM) as sock:
                sock.settimeout(WAIT_S)
                sock.setsockopt(socket.IPPROTO_IPV6, option, header)
                sock.sendto(QUERY, (RESOLVER6, 53))
                sock.sendto(QUERY, (FAR6, 53))
                return sock.recv(100)

        tries.append(one)
    return any_of(*tries)


@attempt
def fragments() -> object:
    big = QUERY + b"\0" * 60_000
    return any_of(lambda: datagram((FAR6, 53), big), lambda: datagram((FAR6, 443), b"x" * 65_000))


@attempt
def forged_sources() -> object:
    sources = (FAR6, RESOLVER6, HOST6, "::1", "100::56", "fe80::1%lo", "ff02::1", "2001:db8::10")
    return any_of(
        *(lambda s=source: stream((FAR6, 80), source=(s, 0)) for source in sources),
        *(lambda s=source: stream((HOST6, HOST_PORT), source=(s, 0)) for source in sources),
        *(lambda s=source: datagram((FAR6, 53), source=(s, 5353)) for source in sources),
    )


@attempt
def ipv4_in_ipv6() -> object:
    addresses = [f"{prefix}{FAR}" for prefix in ("::ffff:", "::", "64:ff9b::", "64:ff9b:1::")]
    addresses += ["2002:cb00:7142::1", "2001:0:cb00:7142::1"]  # 6to4, Teredo
    hosts = [f"{prefix}{HOST}" for prefix in ("::ffff:", "::", "64:ff9b::")] + [
        "::ffff:127.0.0.1",
        "::ffff:169.254.169.254",
    ]
    return any_of(
        *(lambda a=address: stream((a, 80)) for address in (*addresses, *hosts)),
        *(lambda a=address: stream((a, HOST_PORT)) for address in hosts),
        *(lambda a=address: datagram((a, 53)) for address in addresses),
    )


@attempt
def services_of_the_machine() -> object:
    addresses = ("::1", "::", HOST6, OWN, "fe80::1%lo", "ip6-localhost")
    return any_of(
        *(lambda a=address: stream((a, HOST_PORT)) for address in addresses),
        *(lambda a=address: datagram((a, HOST_PORT)) for address in ("::1", HOST6, OWN)),
    )


@attempt
def metadata() -> object:
    return any_of(*(lambda a=address: stream((a, 80)) for address in ("fd00:ec2::254", "fd20:ce::254")))


@attempt
def the_listener_itself() -> object:
    sources = (None, ("100::56", 0), (FAR6, 0))
    return any_of(*(lambda s=source: stream(LISTENER, HELLO, source=s) for source in sources))


@attempt
def its_ports() -> object:
    def take(kind: int, address: tuple[str, int]) -> object:
        with socket.socket(socket.AF_INET6, kind) as sock:
            for option in (socket.SO_REUSEADDR, socket.SO_REUSEPORT):
                sock.setsockopt(socket.SOL_SOCKET, option, 1)
            sock.bind(address)
            return address

    places = [LISTENER, ("::", 1), ("::ffff:127.86.0.1", 1), (RESOLVER6, 53), ("::", 53)]
    return any_of(*(lambda k=kind, p=place: take(k, p) for kind in (1, 2) for place in places))


@attempt
def options_that_need_root() -> object:
    def take(option: int) -> object:
        with socket.socket(socket.AF_INET6) as sock:
            sock.setsockopt(socket.IPPROTO_IPV6, option, 1)
        return option

    return any_of(lambda: take(75))  # IPV6_TRANSPARENT


if __name__ == "__main__":
    main(at_once=16)  # most only wait for what must not come
