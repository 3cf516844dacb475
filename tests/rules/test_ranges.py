"""The tables are well formed: what is built from them is tested where it is used
(tests/gateway/test_addresses.py)."""

from ipaddress import ip_address, ip_network

import pytest

from rules.ranges import EMBEDDINGS, FLOOR, PRIVATE, is_inside

METADATA = (
    *("169.254.169.254", "169.254.170.2", "169.254.170.23", "169.254.0.23"),  # most clouds; ECS, EKS; Tencent
    *("100.100.100.200", "168.63.129.16", "192.0.0.192"),  # Alibaba, Azure, Oracle Classic
    *(
        "fd00:ec2::254",
        "fd00:ec2::253",
        "fd00:ec2::123",
        "fd00:ec2::23",
    ),  # AWS: metadata, DNS, time, Pod Identity
    *("fd20:ce::254", "fd00:42::42", "fd00:a9fe:a9fe::1"),  # Google, Scaleway, Akamai
    *("fd00:c1::a9fe:a9fe", "fd00:100::100:200", "fe80::a9fe:a9fe"),  # Oracle, Alibaba, OpenStack
)
"""Where clouds tell a machine who it is, as their manuals say."""


def test_every_range_is_a_network_and_stands_once() -> None:
    networks = [ip_network(text) for text, _ in (*FLOOR, *PRIVATE)]
    assert len(set(networks)) == len(networks)
    assert all(ip_network(embedding.network).prefixlen + embedding.shift <= 96 for embedding in EMBEDDINGS)


@pytest.mark.parametrize(
    ("text", "floor", "private"),
    [
        ("127.0.0.1", True, False),
        ("10.0.0.1", False, True),
        ("fe80::1", True, False),
        ("8.8.8.8", False, False),
    ],
)
def test_is_inside(text: str, floor: bool, private: bool) -> None:
    assert is_inside(ip_address(text), FLOOR) is floor
    assert is_inside(ip_address(text), PRIVATE) is private


@pytest.mark.parametrize("text", METADATA)
def test_metadata_is_in_the_floor(text: str) -> None:
    assert is_inside(ip_address(text), FLOOR)


@pytest.mark.parametrize(
    "text",
    ("fd00:ec1:ffff::", "fd00:ec3::", "fd00:42::41", "fd00:a9fe:a9fe::2", "fd00:c1::a9fe:a9fd", "fd00:100::100:201", "fd20:ce::253"),
)  # fmt: skip
def test_what_is_beside_it_is_not(text: str) -> None:
    assert not is_inside(ip_address(text), FLOOR)
