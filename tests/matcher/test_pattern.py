"""Every form of an entry, and every refusal with its mend, by hand."""

import dataclasses

import pytest
from hypothesis import given
from hypothesis import strategies as st

from matcher import Pattern, PatternError, parse_entry
from matcher.pattern import Kind, parse_ports

EXACT, WILDCARD, REGEX = Kind.EXACT, Kind.WILDCARD, Kind.REGEX


@pytest.mark.parametrize(
    ("text", "kind", "name", "ports", "shown"),
    [
        ("api.openai.com", EXACT, "api.openai.com", None, "api.openai.com"),
        ("API.OpenAI.com.", EXACT, "api.openai.com", None, "api.openai.com"),
        ("localhost", EXACT, "localhost", None, "localhost"),
        ("localhost:8080", EXACT, "localhost", (8080,), "localhost:8080"),
        ("_x.a_b.com", EXACT, "_x.a_b.com", None, "_x.a_b.com"),
        ("api.openai.com:443", EXACT, "api.openai.com", (443,), "api.openai.com:443"),
        ("api.openai.com.:443", EXACT, "api.openai.com", (443,), "api.openai.com:443"),
        ("a.com:8443,443,8443", EXACT, "a.com", (443, 8443), "a.com:443,8443"),
        ("a.com:1,65535", EXACT, "a.com", (1, 65535), "a.com:1,65535"),
        ("b\u00fccher.de", EXACT, "xn--bcher-kva.de", None, "xn--bcher-kva.de"),
        ("B\u00dccher.de.:443", EXACT, "xn--bcher-kva.de", (443,), "xn--bcher-kva.de:443"),
        ("*.openai.com", WILDCARD, "openai.com", None, "*.openai.com"),
        ("*.OpenAI.com.", WILDCARD, "openai.com", None, "*.openai.com"),
        ("*.openai.com:443,8443", WILDCARD, "openai.com", (443, 8443), "*.openai.com:443,8443"),
        ("*.internal", WILDCARD, "internal", None, "*.internal"),
        ("*.b\u00fccher.de", WILDCARD, "xn--bcher-kva.de", None, "*.xn--bcher-kva.de"),
        ("*." + "a." * 125 + "b", WILDCARD, "a." * 125 + "b", None, "*." + "a." * 125 + "b"),
        (r"~api[0-9]+\.openai\.com", REGEX, r"api[0-9]+\.openai\.com", None, r"~api[0-9]+\.openai\.com"),
        ("~a:443", REGEX, "a", (443,), "~a:443"),
        ("~a:8443,443", REGEX, "a", (443, 8443), "~a:443,8443"),
        ("~a:1:2", REGEX, "a:1", (2,), "~a:1:2"),
        ("~(?:a|b)", REGEX, "(?:a|b)", None, "~(?:a|b)"),
        ("~[[:alpha:]]+", REGEX, "[[:alpha:]]+", None, "~[[:alpha:]]+"),
        ("~A.*", REGEX, "A.*", None, "~A.*"),
    ],
)
def test_forms(text: str, kind: Kind, name: str, ports: tuple[int, ...] | None, shown: str) -> None:
    pattern = parse_entry(text)
    assert pattern == Pattern(kind, name, ports)
    assert str(pattern) == shown
    assert parse_entry(shown) == pattern


HOST = "write a hostname such as api.openai.com"
LIST = "write every port, parted by commas alone, as in api.openai.com:443,8443"
RANGE = "write 1 to 65535, no leading zero"
USUAL = "write an address in its usual form, as 192.0.2.1"
EVERYTHING = "for everything write 0.0.0.0/0 (ALL_TRAFFIC)"
ADDRESS = "write a name as api.openai.com:443, an IPv6 address as 2001:db8::1 or [2001:db8::1]:443"
RE2 = "write it in RE2 syntax, which has no look-around and no back-references"
A_LABELS = "write its labels as xn--..."
DOTS = "put one dot between two labels, and one at most behind the last"
DROP = "drop it, or write a name such as api.openai.com"
HYPHEN = "take the hyphen away"
BYTES = "a label is of letters, digits, - and _ alone"
SHORTEN = "shorten it"
BEHIND = "write one behind the ~"
U_LABELS = "take the rest out, and write U-labels as xn--..."
ADVICE = {HOST, LIST, RANGE, USUAL, EVERYTHING, ADDRESS, RE2, A_LABELS, DOTS, U_LABELS}
ADVICE |= {DROP, HYPHEN, BYTES, SHORTEN, BEHIND}
"""The mends that offer no entry of their own; what every other one offers must be an entry."""


@pytest.mark.parametrize(
    ("text", "problem", "mend"),
    [
        # P4: a star is the whole first label and nothing else
        ("*", "a * alone", EVERYTHING),
        ("*.", "missing", HOST),
        ("*:443", "a * alone", EVERYTHING),
        ("*.*", "a * alone", EVERYTHING),
        ("*.*.x.com", "whole first label", "write *.x.com"),
        ("**.x.com:443", "whole first label", "write *.x.com:443"),
        ("*.*.b\u00fccher.de", "whole first label", "write *.xn--bcher-kva.de"),
        ("a*.x.com", "whole first label", r"write ~a[^.]*\.x\.com"),
        ("a-*.x.com:443", "whole first label", r"write ~a\-[^.]*\.x\.com:443"),
        ("*a.com.", "whole first label", r"write ~[^.]*a\.com"),
        ("x.*", "whole first label", r"write ~x\.[^.]*"),
        ("*.a*.com", "whole first label", r"write ~[^.]*\.a[^.]*\.com"),
        ("\u00fc*.com", "whole first label", HOST),
        (".x.com", "leading dot has two readings", "write *.x.com, or x.com, or both entries"),
        (".x.com:443", "leading dot has two readings", "write *.x.com:443, or x.com:443, or both entries"),
        (".-x", "leading dot has two readings", HOST),
        ("." + "x.*", "leading dot has two readings", HOST),
        ("*." + "a." * 125 + "bc", "longer than 253", SHORTEN),
        # P5
        ("~", "empty", BEHIND),
        ("~:443", "empty", BEHIND),
        ("~(?=a)b", "'invalid perl operator: (?='", RE2),
        ("~(?<!a)b", "'invalid perl operator: (?<!'", RE2),
        (r"~(a)\1", r"'invalid escape sequence: \1'", RE2),
        ("~(a:443", "'missing ): (a'", RE2),
        ("~a{1001}", "'invalid repetition size: {1001}'", RE2),
        ("~b\u00fccher", "printable ASCII", U_LABELS),
        ("~\u212a", "printable ASCII", U_LABELS),
        ("~a b", "printable ASCII", U_LABELS),
        ("~a\n", "printable ASCII", U_LABELS),
        ("~a:443,", "no list of ports", LIST),
        ("~a:80-90", "no list of ports", LIST),
        ("~a:", "no list of ports", LIST),
        ("~a: 443", "no list of ports", LIST),
        ("~a:0", "0 is no port", RANGE),
        ("~a:65536", "65536 is no port", RANGE),
        # P6
        ("a.com:", "no list of ports", LIST),
        ("a.com:http", "no list of ports", LIST),
        ("a.com:443,", "no list of ports", LIST),
        ("a.com:,443", "no list of ports", LIST),
        ("a.com:80-90", "no list of ports", LIST),
        ("a.com:*", "no list of ports", LIST),
        ("a.com:+80", "no list of ports", LIST),
        ("a.com:\u0664\u0664\u0663", "no list of ports", LIST),
        ("a.com:0", "0 is no port", RANGE),
        ("a.com:0443", "0443 is no port", RANGE),
        ("a.com:65536", "65536 is no port", RANGE),
        ("a.com:443,65536", "65536 is no port", RANGE),
        ("a.com:" + "9" * 10000, "9999999999 is no port", RANGE),
        ("a.com:443, 8443", "white space", "write a.com:443,8443"),
        (":443", "missing", HOST),
        # P13
        ("fa\u00df.de", "two readings", "write xn--fa-hia.de or fass.de"),
        ("*.fa\u00df.de:443", "two readings", "write *.xn--fa-hia.de:443 or *.fass.de:443"),
        ("\u212aelvin.com", "two readings", "write kelvin.com"),
        ("a\u00adb.com", "two readings", "write ab.com"),
        ("a\uff0e1", "two readings", A_LABELS),
        ("\u2603.net", "IDNA2008 does not permit", A_LABELS),
        ("\u00fc.123", "ends in a number", USUAL),
        # what is no name
        ("", "empty", DROP),
        (" ", "white space", HOST),
        (" api.openai.com", "white space", "write api.openai.com"),
        ("api.openai.com\n", "white space", "write api.openai.com"),
        ("\ufeffapi.openai.com", "control character", "write api.openai.com"),
        ("a b.com", "white space", HOST),
        ("a\0.com", "control character", HOST),
        ("\ud800.com", "control character", HOST),
        ("https://api.openai.com/v1", "a URL", "write api.openai.com"),
        ("http://u:p@a.com:8080?x", "a URL", "write a.com:8080"),
        ("https://", "a URL", HOST),
        ("me@a.com", "no user", "write a.com"),
        ("a.com/x", "no path", "write a.com"),
        ("10.0.0.0/8", "no prefix length", HOST),
        ("::1", "neither a name nor an address", ADDRESS),
        ("[::1]:53", "neither a name nor an address", ADDRESS),
        ("a.com:80:90", "neither a name nor an address", ADDRESS),
        ("1.2.3.4", "ends in a number", USUAL),
        ("127.1", "ends in a number", USUAL),
        ("0x7f.1", "ends in a number", USUAL),
        ("127.0x1", "ends in a number", USUAL),
        ("2130706433", "ends in a number", USUAL),
        ("*.0.0.1", "ends in a number", USUAL),
        ("a..com", "label is empty", DOTS),
        ("a.com..", "label is empty", DOTS),
        ("-a.com", "hyphen", HYPHEN),
        ("a-.com", "hyphen", HYPHEN),
        ("a!.com", "! cannot stand in a hostname", BYTES),
        ("a" * 64 + ".com", "more than 63 bytes", SHORTEN),
        ("a." * 127 + "b", "more than 253 bytes", SHORTEN),
    ],
)
def test_refusals(text: str, problem: str, mend: str) -> None:
    with pytest.raises(PatternError) as caught:
        parse_entry(text)
    error = caught.value
    assert error.entry == text
    assert problem in error.problem
    assert error.mend == mend
    assert str(error).splitlines() == [str(error)]
    assert len(str(error)) < 500
    if mend not in ADVICE:
        entries = (
            mend.removeprefix("write ")
            .removesuffix(", or both entries")
            .replace(", or ", " or ")
            .split(" or ")
        )
        assert [str(parse_entry(entry)) for entry in entries] == entries


def test_a_pattern_is_a_value() -> None:
    pattern = parse_entry("a.com:443")
    assert hash(pattern) == hash(parse_entry("A.com.:443"))
    assert not hasattr(pattern, "__dict__")
    with pytest.raises(dataclasses.FrozenInstanceError):
        pattern.name = "b.com"  # type: ignore[misc]


def test_ports_are_read_for_address_entries_too() -> None:
    assert parse_ports("8443,443", "[::1]:8443,443") == (443, 8443)
    with pytest.raises(PatternError, match=r"^'\[::1\]:x': what follows the colon"):
        parse_ports("x", "[::1]:x")


labels = st.from_regex(r"[a-z0-9_]([a-z0-9_-]{0,8}[a-z0-9_])?", fullmatch=True)
texts = st.one_of(
    st.text(max_size=40),
    st.text(alphabet="*.~:,0189ax-/@[] \n\u00fc\u00df", max_size=16),
    st.lists(labels, min_size=1, max_size=5).map(".".join),
)


@given(texts)
def test_parse_of_show_is_the_same_and_no_other_error_comes_out(text: str) -> None:
    try:
        pattern = parse_entry(text)
    except PatternError as error:
        assert error.entry == text
        assert error.problem and error.mend
        assert str(error).isprintable()
        return
    shown = str(pattern)
    assert shown.isascii()
    assert parse_entry(shown) == pattern
    assert str(parse_entry(shown)) == shown
