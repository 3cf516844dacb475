"""One entry: what is read, how it is shown, and what every refusal tells to write instead."""

from ipaddress import ip_address

import pytest

from rules.entry import AddressEntry, EntryError, read_entry


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("1.2.3.4", "1.2.3.4"),
        ("1.2.3.4/32", "1.2.3.4"),
        ("1.2.3.4:53", "1.2.3.4:53"),
        ("10.0.0.0/8", "10.0.0.0/8"),
        ("10.0.0.0/8:443", "10.0.0.0/8:443"),
        ("0.0.0.0/0", "0.0.0.0/0"),
        ("0.0.0.0/0:443,80,443", "0.0.0.0/0:80,443"),
        ("::/0", "::/0"),
        ("::1", "::1"),
        ("2001:DB8:0:0::1", "2001:db8::1"),
        ("2001:db8::1/128", "2001:db8::1"),
        ("2001:db8::/32", "2001:db8::/32"),
        ("[2001:db8::1]", "2001:db8::1"),
        ("[2001:db8::1]:53", "[2001:db8::1]:53"),
        ("[2001:db8::/32]:8443,443", "[2001:db8::/32]:443,8443"),
        ("64:ff9b::1.2.3.4", "64:ff9b::102:304"),
        ("API.openai.com.", "api.openai.com"),
        ("*.OpenAI.com:443", "*.openai.com:443"),
        (r"~(api|www)\.openai\.com:443", r"~(api|www)\.openai\.com:443"),
        ("localhost", "localhost"),
        ("b\N{LATIN SMALL LETTER U WITH DIAERESIS}cher.example", "xn--bcher-kva.example"),
    ],
)
def test_read_and_shown(text: str, shown: str) -> None:
    entry = read_entry(text)
    assert str(entry) == shown
    assert read_entry(shown) == entry


@pytest.mark.parametrize(
    ("text", "mend"),
    [
        ("10.0.0.1/8", "write 10.0.0.0/8 for the network, 10.0.0.1 for the one address"),
        ("10.0.0.1/8:443", "write 10.0.0.0/8:443 for the network, 10.0.0.1:443 for the one address"),
        ("2001:db8::1/32", "write 2001:db8::/32 for the network, 2001:db8::1 for the one address"),
        (
            "[2001:db8::1/32]:53",
            "write [2001:db8::/32]:53 for the network, [2001:db8::1]:53 for the one address",
        ),
        ("::ffff:1.2.3.4", "write 1.2.3.4"),
        ("[::ffff:1.2.3.4]:53", "write 1.2.3.4:53"),
        ("::ffff:0:0/96", "write 0.0.0.0/1 and 128.0.0.0/1"),
        ("fe80::1%eth0", "drop the % and what follows it"),
        ("1.2.3", "write four numbers from 0 to 255, no leading zero"),
        ("1.2.3.04", "write four numbers from 0 to 255, no leading zero"),
        ("1.2.3.256", "write four numbers from 0 to 255, no leading zero"),
        ("1.2.3.4.", "write four numbers from 0 to 255, no leading zero"),
        ("1.2.3.4/33", "write a number from 0 to 32, no leading zero"),
        ("1.2.3.4/", "write a number from 0 to 32, no leading zero"),
        ("1.2.3.4/08", "write a number from 0 to 32, no leading zero"),
        ("1.2.3.0/255.255.255.0", "write a number from 0 to 32, no leading zero"),
        ("2001:db8::/129", "write a number from 0 to 128, no leading zero"),
        ("2001:db8::g", "write 2001:db8::1, or with ports [2001:db8::1]:443"),
        ("a:b:c", "write 2001:db8::1, or with ports [2001:db8::1]:443"),
        ("[1.2.3.4]:80", "write 1.2.3.4:80"),
        ("[api.openai.com]:443", "write 2001:db8::1, or with ports [2001:db8::1]:443"),
        ("[2001:db8::1", "write [2001:db8::1]:443"),
        ("[2001:db8::1]443", "write [2001:db8::1]:443"),
        ("[2001:db8::1]:", "write every port, parted by commas alone, as in api.openai.com:443,8443"),
        ("1.2.3.4:0", "write 1 to 65535, no leading zero"),
        ("1.2.3.4:65536", "write 1 to 65535, no leading zero"),
        ("1.2.3.4:80-90", "write every port, parted by commas alone, as in api.openai.com:443,8443"),
        ("https://1.2.3.4:8443/x", "write 1.2.3.4:8443"),
        ("http://[2001:db8::1]/", "write 2001:db8::1"),
        ("https://api.openai.com/v1", "write api.openai.com"),
        ("*", "for everything write 0.0.0.0/0 (ALL_TRAFFIC)"),
        ("*:443", "for everything write 0.0.0.0/0 (ALL_TRAFFIC)"),
        ("ALL_TRAFFIC", "for everything write 0.0.0.0/0"),
        ("any:443", "for everything write 0.0.0.0/0"),
        ("all", "for everything write 0.0.0.0/0"),
        ("a.com,b.com", "write each as an entry of its own"),
        ("", "drop it, or write a name such as api.openai.com"),
        (" 1.2.3.4", "write 1.2.3.4"),
        ("1.2.3.4\n", "write 1.2.3.4"),
    ],
)
def test_refused_with_its_mend(text: str, mend: str) -> None:
    with pytest.raises(EntryError) as caught:
        read_entry(text)
    assert caught.value.entry == text
    assert caught.value.mend == mend
    assert len(str(caught.value).splitlines()) == 1


@pytest.mark.parametrize(
    "text", ["~(", "*.*.x.com", "a*.x.com", "a b.com", "-a.com", "a..b", "0x7f.1", "2130706433", "~"]
)
def test_what_no_name_may_be(text: str) -> None:
    with pytest.raises(EntryError):
        read_entry(text)


@pytest.mark.parametrize(
    ("text", "ip", "port", "held"),
    [
        ("0.0.0.0/0", "2001:db8::1", 1, True),
        ("0.0.0.0/0:443", "2001:db8::1", 443, True),
        ("0.0.0.0/0:443", "2001:db8::1", 80, False),
        ("::/0", "1.2.3.4", 1, False),
        ("::/0", "2001:db8::1", 1, True),
        ("0.0.0.0/1", "2001:db8::1", 1, False),
        ("10.0.0.0/8", "10.255.0.1", 1, True),
        ("10.0.0.0/8", "11.0.0.0", 1, False),
    ],
)
def test_what_an_address_entry_holds(text: str, ip: str, port: int, held: bool) -> None:
    entry = read_entry(text)
    assert isinstance(entry, AddressEntry)
    assert entry.holds(ip_address(ip), port) is held
