"""One spelling of a hostname: the grammar by hand, a slow reading of it, and the tricks A3, A4 and A7."""

import string

import pytest
from hypothesis import given
from hypothesis import strategies as st

from matcher.hostname import MAX_HOSTNAME, canonical, is_canonical

LABEL_63 = "a" * 63
NAME_253 = ".".join(["a" * 63, "b" * 63, "c" * 63, "d" * 61])
NAME_127_LABELS = ".".join("a" * 127)


def naive(raw: bytes | str, *, single: bool = False) -> str | None:
    """The grammar read slowly, one rule a line."""
    text = raw if isinstance(raw, str) else raw.decode("latin-1")
    if text.endswith("."):
        text = text[:-1]
    labels = text.split(".")
    inner = set(string.ascii_letters + string.digits + "_-")
    for label in labels:
        if not 1 <= len(label) <= 63 or not set(label) <= inner:
            return None
        if label[0] == "-" or label[-1] == "-":
            return None
    last = labels[-1].lower()
    if len(text) > 253 or set(last) <= set(string.digits) or last.startswith("0x"):
        return None
    return text.lower() if len(labels) > 1 or single else None


near_names = st.text(alphabet="aZ09.-_x", max_size=20)
"""Text made of what the grammar is about, so that half of it is legal."""

odd_names = st.lists(st.text(alphabet="aB1-_", min_size=1, max_size=66), max_size=8).map(".".join)


@pytest.mark.parametrize(
    ("raw", "want"),
    [
        (b"api.openai.com", "api.openai.com"),
        (b"API.OpenAI.COM", "api.openai.com"),
        (b"api.openai.com.", "api.openai.com"),
        ("api.openai.com", "api.openai.com"),
        ("Api.OpenAI.Com.", "api.openai.com"),
        (b"_dmarc.example.com", "_dmarc.example.com"),
        (b"a_.b_", "a_.b_"),
        (b"a--b.xn--bcher-kva.de", "a--b.xn--bcher-kva.de"),
        (b"1.2.3.4.in-addr.arpa", "1.2.3.4.in-addr.arpa"),
        (b"127.0.0.1.nip.io", "127.0.0.1.nip.io"),
        (b"0x7f.example.com", "0x7f.example.com"),
        (b"a.1x", "a.1x"),
        (b"a.x0", "a.x0"),
        (b"a.00x", "a.00x"),
        (LABEL_63 + ".com", LABEL_63 + ".com"),
        ("x." + LABEL_63, "x." + LABEL_63),
        (NAME_253, NAME_253),
        (NAME_253 + ".", NAME_253),
        (NAME_127_LABELS, NAME_127_LABELS),
    ],
)
def test_names(raw: bytes | str, want: str) -> None:
    assert canonical(raw) == want
    assert canonical(raw, single=True) == want


@pytest.mark.parametrize(
    "raw",
    [
        b"",
        b".",
        b"..",
        b".com",
        b".api.openai.com",
        b"api..openai.com",
        b"api.openai.com..",
        b"-api.openai.com",
        b"api-.openai.com",
        b"api.-openai.com",
        b"api.openai.com-",
        b"api.openai.-com",
        b"api.openai.com-.",
        "a" * 64 + ".com",
        "x." + "a" * 64,
        NAME_253 + "d",
        NAME_253 + "d.",
        NAME_127_LABELS + ".a",
        b"a." * 70000,
        # A3: an address in every spelling
        b"1.2.3.4",
        b"1.2.3.4.",
        b"2130706433",
        b"2130706433.",
        b"0x7f000001",
        b"0X7F000001",
        b"0x7f.1",
        b"127.0x1",
        b"127.0X1",
        b"127.1",
        b"0177.0.0.01",
        b"a.0x",
        b"a.0xyz",
        b"a.123",
        b"[::1]",
        b"::1",
        b"[::ffff:1.2.3.4]",
        b"fe80::1%eth0",
        # A4: other bytes
        b"allowed.com\0",
        b"127.0.0.1\0.allowed.com",
        b"\0",
        b"a\0b.com",
        b"evil.com\x00.openai.com",
        b"api.openai.com\n",
        b"api.openai.com\r",
        b"api.openai.com.\n",
        b"\napi.openai.com",
        b" api.openai.com",
        b"api.openai.com ",
        b"api.openai.com\t",
        b"api.openai.com:443",
        b"user@api.openai.com",
        b"api.openai.com/x",
        b"a,b.com",
        b"a%2eb.com",
        b"a\\.b.com",
        b"*.openai.com",
        # A7: what Unicode makes of it
        "b\u00fccher.de",
        "\u212aelvin.com",
        "\u017ftripe.com",
        "a\u00adb.com",
        "api\u3002openai.com",
        "\uff41pi.openai.com",
        "api.openai.com\u2028",
        "a\u0661.com",
        "\ud800.com",
        "b\u00fccher.de".encode(),
        b"b\xfccher.de",
        b"a\xad.com",
        b"\xff\xff.com",
    ],
)
def test_no_names(raw: bytes | str) -> None:
    assert canonical(raw) is None
    assert canonical(raw, single=True) is None


@pytest.mark.parametrize("raw", [b"localhost", "LOCALHOST.", b"a", b"_", b"x0x", LABEL_63, b"a1", b"1a"])
def test_single_label_is_no_name_of_the_wire_unless_asked_for(raw: bytes | str) -> None:
    assert canonical(raw) is None
    assert canonical(raw, single=True) == naive(raw, single=True) is not None


def test_every_byte_in_every_place() -> None:
    for code in range(256):
        for template in (b"%ba.com", b"a%ba.com", b"a%b.com", b"a.%bcom", b"a.com%b", b"a.c%bm"):
            raw = template % bytes([code])
            assert canonical(raw) == naive(raw), raw


def test_the_length_counts_without_the_trailing_dot() -> None:
    assert len(NAME_253) == MAX_HOSTNAME
    assert canonical(NAME_253 + ".") == NAME_253
    assert canonical(NAME_253 + "e") is None


@given(st.binary(max_size=300) | st.text(max_size=300) | near_names | near_names.map(str.encode) | odd_names)
def test_total_and_idempotent_and_as_the_naive_reading(raw: bytes | str) -> None:
    for single in (False, True):
        name = canonical(raw, single=single)
        assert name == naive(raw, single=single)
        if name is not None:
            assert canonical(name, single=single) == name
            assert canonical(name.encode(), single=single) == name
            assert canonical(name.upper() + ".", single=single) == name


@given(near_names | odd_names | st.text(max_size=20))
def test_is_canonical_says_whether_canonical_would_change_it(name: str) -> None:
    if len(name) <= MAX_HOSTNAME:
        assert (is_canonical(name) is not None) == (canonical(name) == name)
