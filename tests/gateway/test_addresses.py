"""Both neighbours of every edge of the floor and the private table, in every spelling. Nothing here is
computed from the tables under test: the edges stand as they were copied from the design."""

from collections.abc import Callable
from ipaddress import IPv4Address, IPv6Address

import pytest
from hypothesis import given
from hypothesis import strategies as st

from gateway.addresses import AddressKind, classify, embedded, explain, unmapped

F, P, O = AddressKind.FLOOR, AddressKind.PRIVATE, AddressKind.PUBLIC  # noqa: E741 - O for open

V4_EDGES = [
    # first, last, kind; what lies just below, what lies just above
    ("0.0.0.0", "0.255.255.255", F, None, ("1.0.0.0", O)),
    ("10.0.0.0", "10.255.255.255", P, ("9.255.255.255", O), ("11.0.0.0", O)),
    ("100.64.0.0", "100.100.100.199", P, ("100.63.255.255", O), ("100.100.100.200", F)),
    ("100.100.100.200", "100.100.100.200", F, ("100.100.100.199", P), ("100.100.100.201", P)),
    ("100.100.100.201", "100.127.255.255", P, ("100.100.100.200", F), ("100.128.0.0", O)),
    ("127.0.0.0", "127.255.255.255", F, ("126.255.255.255", O), ("128.0.0.0", O)),
    ("168.63.129.16", "168.63.129.16", F, ("168.63.129.15", O), ("168.63.129.17", O)),
    ("169.254.0.0", "169.254.255.255", F, ("169.253.255.255", O), ("169.255.0.0", O)),
    ("172.16.0.0", "172.31.255.255", P, ("172.15.255.255", O), ("172.32.0.0", O)),
    ("192.0.0.0", "192.0.0.191", P, ("191.255.255.255", O), ("192.0.0.192", F)),
    ("192.0.0.192", "192.0.0.192", F, ("192.0.0.191", P), ("192.0.0.193", P)),
    ("192.0.0.193", "192.0.0.255", P, ("192.0.0.192", F), ("192.0.1.0", O)),
    ("192.168.0.0", "192.168.255.255", P, ("192.167.255.255", O), ("192.169.0.0", O)),
    ("224.0.0.0", "239.255.255.255", F, ("223.255.255.255", O), ("240.0.0.0", F)),
    ("240.0.0.0", "255.255.255.255", F, ("239.255.255.255", F), None),
]

V4_CASES = sorted(
    {
        case
        for first, last, kind, below, above in V4_EDGES
        for case in ((first, kind), (last, kind), below, above)
        if case is not None
    }
    | {
        ("198.18.0.0", O),
        ("198.19.255.255", O),
        ("192.0.2.1", O),
        ("198.51.100.1", O),
        ("203.0.113.1", O),
        ("8.8.8.8", O),
        ("169.254.169.254", F),
        ("255.255.255.254", F),
    }
)

V6_CASES = [
    ("::", F),
    ("::1", F),
    ("::2", F),  # v4-compatible 0.0.0.2
    ("::1:0:0:0", O),  # above the v4-compatible range
    ("::fffe:ffff:ffff", O),  # below the v4-mapped range
    ("::1:0:0:0:0", O),
    ("fbff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", O),
    ("fc00::", P),
    ("fd00:ec1:ffff:ffff:ffff:ffff:ffff:ffff", P),
    ("fd00:ec2::", F),
    ("fd00:ec2:ffff:ffff:ffff:ffff:ffff:ffff", F),
    ("fd00:ec3::", P),
    ("fd20:ce::253", P),
    ("fd20:ce::254", F),
    ("fd20:ce::255", P),
    ("fdff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", P),
    ("fe00::", O),
    ("fe7f:ffff:ffff:ffff:ffff:ffff:ffff:ffff", O),
    ("fe80::", F),
    ("febf:ffff:ffff:ffff:ffff:ffff:ffff:ffff", F),
    ("fec0::", P),
    ("feff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", P),
    ("ff00::", F),
    ("ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", F),
    ("2001:db8::1", O),
    ("2606:4700:4700::1111", O),
    ("64:ff9a:ffff:ffff:ffff:ffff:a9fe:a9fe", O),  # just below NAT64
    ("64:ff9b::1:a9fe:a9fe", O),  # just above its /96
    ("64:ff9b:0:ffff:ffff:ffff:a9fe:a9fe", O),  # just below the local-use /48
    ("64:ff9b:2::a9fe:a9fe", O),  # just above it
    ("2001:ffff:ffff:ffff:ffff:ffff:ffff:ffff", O),
    ("2003:a9fe:a9fe::", O),
    ("2001:1::5601:5601", O),  # beside Teredo
    ("fe80::1%eth0", F),
    ("2001:db8::1%eth0", O),
]


def _teredo(server: int, client: int) -> IPv6Address:
    return IPv6Address(0x20010000 << 96 | server << 64 | (client ^ 0xFFFFFFFF))


PUBLIC_V4 = int(IPv4Address("8.8.8.8"))

SPELLINGS: dict[str, Callable[[int], IPv6Address]] = {
    "mapped": lambda v4: IPv6Address(0xFFFF << 32 | v4),
    "compatible": IPv6Address,
    "nat64": lambda v4: IPv6Address(0x0064FF9B << 96 | v4),
    "nat64 local, first": lambda v4: IPv6Address(0x0064FF9B0001 << 80 | v4),
    "nat64 local, other": lambda v4: IPv6Address(0x0064FF9B0001ABCD << 64 | v4),
    "nat64 local, last /96 of RFC 6052": lambda v4: IPv6Address(0x0064FF9B0001FFFF << 64 | v4),
    "6to4": lambda v4: IPv6Address(0x2002 << 112 | v4 << 80),
    "6to4, a host": lambda v4: IPv6Address(0x2002 << 112 | v4 << 80 | 0x1234),
    "teredo server": lambda v4: _teredo(v4, PUBLIC_V4),
    "teredo client": lambda v4: _teredo(PUBLIC_V4, v4),
}


@pytest.mark.parametrize(("text", "kind"), V4_CASES)
def test_ipv4(text: str, kind: AddressKind) -> None:
    assert classify(text) is kind
    assert classify(IPv4Address(text)) is kind


@pytest.mark.parametrize("spelling", SPELLINGS)
@pytest.mark.parametrize(("text", "kind"), V4_CASES)
def test_ipv4_in_ipv6(text: str, kind: AddressKind, spelling: str) -> None:
    ip = SPELLINGS[spelling](int(IPv4Address(text)))
    assert classify(ip) is kind
    assert classify(str(ip)) is kind


@pytest.mark.parametrize(("text", "kind"), V6_CASES)
def test_ipv6(text: str, kind: AddressKind) -> None:
    assert classify(text) is kind
    assert classify(IPv6Address(text)) is kind


@pytest.mark.parametrize(
    "text",
    [
        "64:ff9b:1:a9fe:a9:fe00::",  # RFC 6052 section 2.2, a /48
        "64:ff9b:1:aa:fe:a9fe::",  # a /56: it ends in 32 zero bits
        "64:ff9b:1:abcd:a9:fea9:fe00:0",  # a /64
    ],
)
def test_metadata_behind_a_shorter_nat64_prefix(text: str) -> None:
    assert classify(text) is F


def test_the_worse_of_two_teredo_addresses_counts() -> None:
    private, loopback = int(IPv4Address("10.1.2.3")), int(IPv4Address("127.0.0.1"))
    assert classify(_teredo(private, loopback)) is F
    assert classify(_teredo(loopback, private)) is F
    assert classify(_teredo(private, PUBLIC_V4)) is P


@pytest.mark.parametrize(
    "text",
    [
        "",
        "x",
        "1.2.3",
        "01.2.3.4",
        "1.2.3.4 ",
        "0x7f.0.0.1",
        "2130706433",
        "1.2.3.4/32",
        "[::1]",
        "::g",
        "\0",
        "1.2.3.4\0",
    ],
)
def test_what_is_no_address_is_in_the_floor(text: str) -> None:
    assert classify(text) is F
    assert explain(text) == "unreadable"


LOCAL_V4, LOCAL_V6 = IPv4Address("203.0.113.7"), IPv6Address("2001:db8::7")


@pytest.mark.parametrize("spelling", SPELLINGS)
def test_an_address_of_the_host_in_every_spelling(spelling: str) -> None:
    local = frozenset({LOCAL_V4})
    assert classify(SPELLINGS[spelling](int(LOCAL_V4)), local) is F
    assert classify(SPELLINGS[spelling](int(LOCAL_V4) + 1), local) is O
    assert classify(SPELLINGS[spelling](int(LOCAL_V4))) is O


def test_an_address_of_the_host() -> None:
    local: frozenset[IPv4Address | IPv6Address] = frozenset({LOCAL_V4, LOCAL_V6})
    assert classify(LOCAL_V4, local) is classify("2001:db8::7", local) is F
    assert classify("2001:db8::7%eth0", local) is F
    assert classify("2001:db8::8", local) is O
    assert explain(LOCAL_V4, local) == "local"


@pytest.mark.parametrize(
    ("text", "word"),
    [
        ("169.254.169.254", "link-local"),
        ("100.100.100.200", "metadata"),
        ("127.0.0.53", "loopback"),
        ("255.255.255.255", "broadcast"),
        ("239.255.255.250", "multicast"),
        ("241.0.0.1", "reserved"),
        ("::ffff:127.0.0.1", "loopback"),
        ("fd00:ec2::254", "metadata"),
        ("100.64.0.1", "shared"),
        ("192.0.0.8", "protocol"),
        ("fc00::1", "unique local"),
        ("fec0::1", "site-local"),
        ("9.9.9.9", "public"),
    ],
)
def test_the_finer_word(text: str, word: str) -> None:
    assert explain(text) == word


def test_unmapped() -> None:
    assert unmapped(IPv6Address("::ffff:1.2.3.4")) == IPv4Address("1.2.3.4")
    assert unmapped(IPv6Address("::1.2.3.4")) == IPv6Address("::1.2.3.4")
    assert unmapped(IPv6Address("fe80::1%eth0")) == IPv6Address("fe80::1")
    assert unmapped(IPv4Address("1.2.3.4")) == IPv4Address("1.2.3.4")


def test_embedded() -> None:
    assert embedded(IPv6Address("64:ff9b::8.8.8.8")) == (IPv4Address("8.8.8.8"),)
    assert embedded(IPv6Address("2001:db8::1")) == ()


@given(
    st.ip_addresses() | st.text() | st.ip_addresses().map(str), st.frozensets(st.ip_addresses(), max_size=3)
)
def test_it_is_total(
    ip: IPv4Address | IPv6Address | str, local: frozenset[IPv4Address | IPv6Address]
) -> None:
    assert classify(ip, local) in AddressKind
    assert explain(ip, local)


@given(st.ip_addresses(v=4), st.sampled_from(sorted(SPELLINGS)))
def test_no_spelling_is_better_than_the_address(ip: IPv4Address, spelling: str) -> None:
    rank = [O, P, F]
    assert rank.index(classify(SPELLINGS[spelling](int(ip)))) >= rank.index(classify(ip))
