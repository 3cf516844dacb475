"""The table of networks, against a reading of the list from end to end."""

from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network

import pytest
from hypothesis import given
from hypothesis import strategies as st

from rules.entry import AddressEntry, read_entry
from rules.table import AddressTable


def _table(entries: list[str]) -> AddressTable:
    return AddressTable((text, _read(text)) for text in entries)


def _read(text: str) -> AddressEntry:
    entry = read_entry(text)
    assert isinstance(entry, AddressEntry)
    return entry


def _naive(entries: list[str], ip: IPv4Address | IPv6Address, port: int) -> str | None:
    """The narrowest entry that holds ``ip`` at ``port``, the earliest of those."""
    best, narrowest = None, -1
    for text in entries:
        entry = _read(text)
        if not entry.holds(ip, port):
            continue
        length = entry.network.prefixlen
        if length > narrowest:
            best, narrowest = text, length
    return best


@pytest.mark.parametrize(
    ("entries", "ip", "port", "found"),
    [
        ([], "1.2.3.4", 1, None),
        (["0.0.0.0/0"], "0.0.0.0", 1, "0.0.0.0/0"),
        (["0.0.0.0/0"], "255.255.255.255", 1, "0.0.0.0/0"),
        (["0.0.0.0/0"], "::", 1, "0.0.0.0/0"),
        (["0.0.0.0/0"], "ffff:ffff:ffff:ffff:ffff:ffff:ffff:ffff", 1, "0.0.0.0/0"),
        (["::/0"], "1.2.3.4", 1, None),
        (["10.0.0.0/8"], "9.255.255.255", 1, None),
        (["10.0.0.0/8"], "10.0.0.0", 1, "10.0.0.0/8"),
        (["10.0.0.0/8"], "10.255.255.255", 1, "10.0.0.0/8"),
        (["10.0.0.0/8"], "11.0.0.0", 1, None),
        (["10.0.0.0/8", "10.0.0.0/16", "10.0.255.255"], "10.0.255.255", 1, "10.0.255.255"),
        (["10.0.0.0/8", "10.0.0.0/16", "10.0.255.255"], "10.1.0.0", 1, "10.0.0.0/8"),
        (["10.255.0.0/16", "10.0.0.0/8", "10.255.255.255"], "11.0.0.0", 1, None),
        (["10.0.0.0/8:443", "10.0.0.0/8"], "10.0.0.1", 443, "10.0.0.0/8:443"),
        (["10.0.0.0/8", "10.0.0.0/8:443"], "10.0.0.1", 443, "10.0.0.0/8"),
        (["10.0.0.0/8:443", "10.0.0.0/8:80,443"], "10.0.0.1", 80, "10.0.0.0/8:80,443"),
        (["10.0.0.1:443", "10.0.0.0/8"], "10.0.0.1", 80, "10.0.0.0/8"),
        (["::1"], "0.0.0.1", 1, None),
    ],
)
def test_find(entries: list[str], ip: str, port: int, found: str | None) -> None:
    held = _table(entries).find(ip_address(ip), port)
    assert (held.rule if held else None) == found


def test_covers_port() -> None:
    assert not _table([]).covers_port(443)
    assert _table(["10.0.0.0/8:443"]).covers_port(443)
    assert not _table(["10.0.0.0/8:443"]).covers_port(80)
    assert _table(["10.0.0.0/8:443", "::1"]).covers_port(80)


def test_ten_thousand_ports_of_one_address() -> None:
    table = _table([f"10.0.0.1:{port}" for port in range(1, 10_001)])
    held = table.find(ip_address("10.0.0.1"), 9_999)
    assert held is not None
    assert held.rule == "10.0.0.1:9999"


# A small corner of each family, so that networks nest, touch and repeat.
_PORTS = st.sampled_from(["", "", ":443", ":80", ":80,443"])


def _entry(low: int, length: int, ports: str) -> str:
    if length > 32:
        text = str(ip_network((0x20010DB8 << 96 | low, 64 + length), strict=False))
        return f"[{text}]{ports}" if ports else text
    return f"{ip_network((0xCB007100 | low, length), strict=False)}{ports}"


_ENTRIES = st.lists(st.builds(_entry, st.integers(0, 255), st.integers(22, 64), _PORTS), max_size=12)
_SHOWN = _ENTRIES.map(lambda entries: [str(_read(text)) for text in [*entries]])
_IPS = st.builds(lambda low: IPv4Address(0xCB007000 | low), st.integers(0, 1023)) | st.builds(
    lambda low: IPv6Address(0x20010DB8 << 96 | low), st.integers(0, 300)
)


@given(_SHOWN, st.booleans(), _IPS, st.sampled_from([80, 443, 22]))
def test_it_equals_a_reading_of_the_list(
    entries: list[str], everything: bool, ip: IPv4Address | IPv6Address, port: int
) -> None:
    listed = [*entries, "0.0.0.0/0"] if everything else entries
    held = _table(listed).find(ip, port)
    assert (held.rule if held else None) == _naive(listed, ip, port)


@pytest.mark.parametrize(
    ("ip", "held"),
    [
        ("10.0.0.1", True),
        ("10.0.0.2", False),
        ("192.168.7.7", True),
        ("fd00::1", True),
        ("fd00::2", False),
        ("::", False),
    ],
)
def test_holds_at_whatever_port(ip: str, held: bool) -> None:
    entries = ["10.0.0.1:443", "192.168.0.0/16", "[fd00::1]:53"]
    assert _table(entries).holds(ip_address(ip)) is held
