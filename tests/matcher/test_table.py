"""The table: order of exact, suffix and regex, ports, borders, and a naive reading that it must equal."""

import re

import pytest
from hypothesis import given
from hypothesis import strategies as st

from matcher import HostTable, Match, Pattern, PatternError, canonical, compile_table, parse_entry
from matcher.pattern import Kind

NAME_253 = ("a" * 61 + ".") * 3 + "a" * 55 + ".example.com"


def names(*entries: str) -> HostTable:
    return compile_table(entries)


@pytest.mark.parametrize(
    ("entry", "host", "held"),
    [
        # P3
        ("api.openai.com", "api.openai.com", True),
        ("api.openai.com", "API.openai.com", True),
        ("api.openai.com", "api.openai.com.", True),
        ("API.OPENAI.COM.", "api.openai.com", True),
        ("api.openai.com", "openai.com", False),
        ("api.openai.com", "x.api.openai.com", False),
        ("api.openai.com", "api.openai.com.evil.com", False),
        ("api.openai.com", "evilapi.openai.com", False),
        ("api.openai.com", "api-openai.com", False),
        ("api.openai.com", "apixopenai.com", False),
        # P4
        ("*.openai.com", "api.openai.com", True),
        ("*.openai.com", "API.OPENAI.COM", True),
        ("*.openai.com", "a.b.c.openai.com", True),
        ("*.openai.com", "a." * 120 + "openai.com", True),
        ("*.openai.com", "openai.com", False),
        ("*.openai.com", "evilopenai.com", False),
        ("*.openai.com", "openai.com.evil.com", False),
        ("*.openai.com", "api.openai.com.evil.com", False),
        ("*.openai.com", "api.openai.comx", False),
        ("*.openai.com", ".openai.com", False),
        ("*.openai.com", "-.openai.com", False),
        ("*.openai.com", "..openai.com", False),
        ("*.openai.com", "*.openai.com", False),
        ("*.localhost", "a.localhost", True),
        ("*.localhost", "localhost", False),
        ("*.com", "com", False),
        # P5
        (r"~api[0-9]\.openai\.com", "api1.openai.com", True),
        (r"~api[0-9]\.openai\.com", "API1.openai.com.", True),
        (r"~api[0-9]\.openai\.com", "xapi1.openai.com", False),
        (r"~api[0-9]\.openai\.com", "api1.openai.com.evil.com", False),
        (r"~.*openai.*", "evilopenai.com", True),
        (r"~.*", "a.com", True),
        # a single label equals an exact entry, and nothing else
        ("localhost", "localhost", True),
        ("localhost", "LOCALHOST.", True),
        ("localhost", "localhost.com", False),
        (r"~.*", "localhost", False),
        (r"~localhost", "localhost", False),
        # A3, A4, A7: no hostname, whatever the entry
        (r"~.*", "1.2.3.4", False),
        (r"~.*", "2130706433", False),
        (r"~.*", "0x7f.1", False),
        (r"~.*", "127.1", False),
        (r"~.*", "[::1]", False),
        (r"~.*", "a.com\n", False),
        (r"~.*", "a\0.com", False),
        (r"~.*", "", False),
        ("*.openai.com", "api.openai.com\n", False),
        ("*.openai.com", "evil.com\0.openai.com", False),
        ("*.openai.com", "evil.com/.openai.com", False),
        ("*.openai.com", "a\u00adpi.openai.com", False),
        ("*.openai.com", "\u212a.openai.com", False),
        ("kelvin.com", "\u212aelvin.com", False),
        ("stripe.com", "\u017ftripe.com", False),
        ("*.openai.com", "a" * 64 + ".openai.com", False),
        ("*.openai.com", "a." * 120 + "bc.openai.com", True),
        ("*.openai.com", "a." * 121 + "b.openai.com", False),
        ("*.openai.com", "a." * 100_000 + "openai.com", False),
    ],
)
def test_what_an_entry_holds(entry: str, host: str, held: bool) -> None:
    match = names(entry).match(host)
    assert match == (Match(str(parse_entry(entry)), 0) if held else None)


def test_exact_then_longest_suffix_then_regexes_in_order() -> None:
    table = names(r"~api\..*", "*.com", "*.openai.com", "api.openai.com", r"~.*")
    assert table.match("api.openai.com") == Match("api.openai.com", 3)
    assert table.match("x.openai.com") == Match("*.openai.com", 2)
    assert table.match("x.com") == Match("*.com", 1)
    assert table.match("api.net") == Match(r"~api\..*", 0)
    assert table.match("x.net") == Match("~.*", 4)


def test_entries_whose_ports_do_not_fit_are_passed_over() -> None:
    table = names("a.b.com:1", "*.b.com:2", "*.com:3", "~a.*:4", "~.*:5", "a.b.com:6")
    found = [table.match("a.b.com", port) for port in range(1, 8)]
    assert [match and match.index for match in found] == [0, 1, 2, 3, 4, 5, None]
    assert table.match("a.b.com") == Match("a.b.com:1", 0)
    assert table.match("x.org") == Match("~.*:5", 4)
    assert table.match("x.org", 4) is None


def test_the_first_of_two_equal_entries_wins() -> None:
    assert names("a.com", "A.com.").match("a.com") == Match("a.com", 0)
    assert names("a.com:443", "a.com").match("a.com", 80) == Match("a.com", 1)


def test_a_match_shows_the_canonical_entry() -> None:
    table = names("API.OpenAI.com.:8443,443", "*.B\u00fccher.de")
    assert table.match("api.openai.com", 443) == Match("api.openai.com:443,8443", 0)
    assert table.match("www.xn--bcher-kva.de") == Match("*.xn--bcher-kva.de", 1)


def test_entry_and_index_are_attributes() -> None:
    match = names("b.com", "a.com").match("a.com")
    assert match is not None
    assert match.entry == "a.com"
    assert match.index == 1


def test_covers_port() -> None:
    assert not names().covers_port(443)
    assert names("a.com:443", "~a:80").covers_port(80)
    assert not names("a.com:443", "~a:80").covers_port(81)
    assert names("a.com:443", "*.a.com").covers_port(81)


def test_length_and_emptiness() -> None:
    assert not names()
    assert len(names()) == 0
    assert names("a.com")
    assert len(names("a.com", "a.com", "~a")) == 3
    assert names().match("a.com") is None


def test_patterns_and_text_may_be_mixed() -> None:
    table = compile_table([parse_entry("a.com:443"), "*.b.com"])
    assert table.match("a.com", 443) == Match("a.com:443", 0)
    assert table.match("x.b.com", 443) == Match("*.b.com", 1)


def test_the_first_bad_entry_is_raised() -> None:
    with pytest.raises(PatternError) as caught:
        names("a.com", "a*.com", "b*.com")
    assert caught.value.entry == "a*.com"


def test_one_text_is_no_list() -> None:
    with pytest.raises(TypeError, match="not one text"):
        compile_table("api.openai.com")


@pytest.mark.parametrize("host", [NAME_253, NAME_253[:-1] + "n", ("a-" * 31 + "a.") * 3 + "a" * 61])
def test_a_regex_that_would_backtrack_answers_as_it_should(host: str) -> None:
    # The wall-clock side (under 1 ms) is measured in bench/micro/test_match.py: no test hangs on a clock.
    assert len(host) == 253
    table = names(r"~(?:[a-z0-9-]+\.?)+\.example\.com")
    assert (table.match(host) is not None) == host.endswith(".example.com")


def naive(patterns: list[Pattern], host: str, port: int | None) -> int | None:
    """The rule as it is written: every entry held against the name, then the best of those that hold it."""
    name = canonical(host, single=True)
    if name is None:
        return None
    held = []
    for index, pattern in enumerate(patterns):
        if port is not None and pattern.ports is not None and port not in pattern.ports:
            continue
        if pattern.kind is Kind.EXACT and name == pattern.name:
            held.append((0, 0, index))
        elif pattern.kind is Kind.WILDCARD and name.endswith("." + pattern.name):
            held.append((1, -len(pattern.name), index))
        elif pattern.kind is Kind.REGEX and "." in name and re.fullmatch(pattern.name, name, re.I | re.A):
            held.append((2, 0, index))
    return min(held)[2] if held else None


hosts = st.lists(st.sampled_from(["a", "b", "ab", "ba", "a-b"]), min_size=1, max_size=5).map(".".join)
spelt = st.one_of(
    hosts, hosts.map(str.upper), hosts.map("{}.".format), st.text(alphabet="ab.-A0 ", max_size=8)
)
ports = st.sampled_from(["", "", ":1", ":2", ":1,2", ":3"])
bodies = st.one_of(
    hosts,
    hosts.map("*.{}".format),
    hosts.map(lambda host: "~" + re.escape(host)),
    hosts.map(lambda host: "~.*" + re.escape(host)),
    st.sampled_from([r"~[ab.]+", r"~a.*|.*\.b", r"~(?:a\.)+b"]),
)
tables = st.lists(st.tuples(bodies, ports).map("".join), max_size=12)


@given(tables, st.lists(st.tuples(spelt, st.sampled_from([None, 1, 2, 3, 4])), min_size=1, max_size=8))
def test_match_equals_the_naive_reading(entries: list[str], questions: list[tuple[str, int | None]]) -> None:
    patterns = [parse_entry(entry) for entry in entries]
    table = compile_table(entries)
    for host, port in questions:
        want = naive(patterns, host, port)
        assert table.match(host, port) == (None if want is None else Match(str(patterns[want]), want))


@given(tables, st.integers(1, 5))
def test_covers_port_is_whether_any_entry_fits(entries: list[str], port: int) -> None:
    spoken_of = [parse_entry(entry).ports for entry in entries]
    assert compile_table(entries).covers_port(port) == any(
        named is None or port in named for named in spoken_of
    )


@given(st.text(max_size=300))
def test_match_is_total(host: str) -> None:
    match = names("~.*", "*.com", "a").match(host, 443)
    assert (match is not None) == (canonical(host) is not None or canonical(host, single=True) == "a")
