"""U-labels: one reading is taken, two are refused and shown."""

import pytest
from hypothesis import given
from hypothesis import strategies as st

from matcher.ulabels import to_ascii


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("b\u00fccher.de", "xn--bcher-kva.de"),
        ("B\u00dcCHER.de", "xn--bcher-kva.de"),
        ("bu\u0308cher.de", "xn--bcher-kva.de"),
        ("www.b\u00fccher.example", "www.xn--bcher-kva.example"),
        ("_x.b\u00fccher.example", "_x.xn--bcher-kva.example"),
        ("\u043f\u0440\u0438\u043c\u0435\u0440.\u0440\u0444", "xn--e1afmkfd.xn--p1ai"),
        ("\u65e5\u672c\u8a9e.jp", "xn--wgv71a119e.jp"),
        ("plain.ascii", "plain.ascii"),
    ],
)
def test_one_reading(text: str, want: str) -> None:
    assert to_ascii(text) == (want, "", ())


@pytest.mark.parametrize(
    ("text", "others"),
    [
        ("fa\u00df.de", ("xn--fa-hia.de", "fass.de")),
        ("FA\u1e9e.de", ("xn--fa-hia.de", "fass.de")),
        ("\u03bf\u03b4\u03bf\u03c2.gr", ("xn--pxavbm.gr", "xn--pxavbq.gr")),
        ("\u039f\u0394\u039f\u03a3.gr", ("xn--pxavbm.gr", "xn--pxavbq.gr")),
        ("a\u200db.com", ("ab.com",)),
        ("a\u200cb.com", ("ab.com",)),
        ("\u212aelvin.com", ("kelvin.com",)),
        ("\u017ftripe.com", ("stripe.com",)),
        ("a\u00adb.com", ("ab.com",)),
        ("\uff41\uff50\uff49.com", ("api.com",)),
        ("api\u3002openai.com", ("api.openai.com",)),
    ],
)
def test_two_readings(text: str, others: tuple[str, ...]) -> None:
    reading = to_ascii(text)
    assert reading.name is None
    assert "two readings" in reading.problem
    assert reading.others == others


@pytest.mark.parametrize(
    "text",
    [
        "\u2603.net",  # a symbol: IDNA2008 has no symbols
        "b_\u00fc.de",
        "-\u00fc.de",
        "ab--\u00fc.de",
        "\u00e9" * 64 + ".com",
        "1\u05d0.com",  # RFC 5893: a right-to-left label must not begin with a digit
        "\u0301a.com",  # begins with a combining mark
        "\ud800.com",
    ],
)
def test_no_reading(text: str) -> None:
    reading = to_ascii(text)
    assert (reading.name, reading.others) == (None, ())
    assert "IDNA2008" in reading.problem


def test_length_is_looked_at_first() -> None:
    assert to_ascii("\u00fc" * 254) == (None, "is longer than any hostname", ())


@given(st.text(max_size=30))
def test_total_and_ascii(text: str) -> None:
    reading = to_ascii(text)
    assert all(name.isascii() for name in reading.others)
    if reading.name is None:
        assert reading.problem
    else:
        assert reading.name.isascii()
        assert to_ascii(reading.name).name == reading.name
