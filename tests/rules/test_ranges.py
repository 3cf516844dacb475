"""The tables are well formed: what is built from them is tested where it is used
(tests/gateway/test_addresses.py)."""

from ipaddress import ip_address, ip_network

import pytest

from rules.ranges import EMBEDDINGS, FLOOR, PRIVATE, is_inside


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
