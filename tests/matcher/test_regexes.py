"""Regexes: RE2 semantics, order, the bounded cache, and the set's silent failure caught."""

from collections.abc import Sequence
from types import SimpleNamespace

import pytest
import re2
from hypothesis import given
from hypothesis import strategies as st

from matcher import regexes
from matcher.regexes import SET_MEMORY, VERDICTS, RegexList, regex_problem


@pytest.mark.parametrize(
    ("pattern", "name", "want"),
    [
        ("openai", "openai.com", False),
        ("com", "openai.com", False),
        ("openai.com", "openai.com", True),
        ("openai.com", "openaixcom", True),
        (r"openai\.com", "openaixcom", False),
        (r"openai\.com", "evil-openai.com", False),
        (r"openai\.com", "openai.com.evil.com", False),
        (r"openai\.com$", "openai.com", True),
        (r"a\.b|c\.d", "a.b", True),
        (r"a\.b|c\.d", "c.d", True),
        (r"a\.b|c\.d", "xc.d", False),
        (r"a\.b|c\.d", "a.bx", False),
        (r"(?m)^a\.b$", "a.b", True),
        (r"API\.OpenAI\.com", "api.openai.com", True),
        (r"[A-Z]+\.com", "abc.com", True),
        (r"(?-i)API\.com", "api.com", False),
        (r"\w+\.com", "a_1.com", True),
        (r"", "a.com", False),
        (r".*", "a.com", True),
    ],
)
def test_a_match_is_of_the_whole_name_in_any_case(pattern: str, name: str, want: bool) -> None:
    assert RegexList([pattern]).matches(name) == ((0,) if want else ())


def test_all_that_match_come_in_order() -> None:
    patterns = [r".*\.org", r"a\..*", r".*", r"b\..*", r"a\.com"]
    assert RegexList(patterns).matches("a.com") == (1, 2, 4)


def test_no_pattern_matches_nothing() -> None:
    assert RegexList([]).matches("a.com") == ()


@pytest.mark.parametrize(
    "pattern", ["(?=a)", "(?!a)", "(?<=a)", r"(a)\1", "(", "a{1001}", r"\x{212a}", "a**"]
)
def test_what_re2_refuses_is_quoted(pattern: str) -> None:
    problem = regex_problem(pattern)
    assert problem is not None
    assert problem.startswith("'") and problem.endswith("'")


def test_what_re2_takes_is_no_problem() -> None:
    assert regex_problem(r"(?:[a-z0-9-]+\.?)+\.example\.com") is None


def test_the_cache_counts_and_is_bounded() -> None:
    table = RegexList([r"a[0-9]+\.com"])
    counts = table.matches.cache_info  # type: ignore[attr-defined]  # functools.lru_cache
    assert table.matches("a1.com") == table.matches("a1.com") == (0,)
    assert counts() == (1, 1, VERDICTS, 1)
    for number in range(2 * VERDICTS):
        table.matches(f"b{number}.com")
    assert counts() == (1, 1 + 2 * VERDICTS, VERDICTS, VERDICTS)
    assert table.matches("a1.com") == (0,)


def test_two_tables_share_no_verdict() -> None:
    assert RegexList(["a.com"]).matches("a.com") == (0,)
    assert RegexList(["b.com"]).matches("a.com") == ()


def test_a_set_that_has_no_memory_for_its_automaton_is_not_believed(monkeypatch: pytest.MonkeyPatch) -> None:
    # RE2::Set::Match gives False, without an error, when its automaton is out of memory.
    def out_of_memory(patterns: Sequence[bytes], max_mem: int) -> SimpleNamespace:
        return SimpleNamespace(Match=lambda name: None)

    monkeypatch.setattr(regexes, "_compile_set", out_of_memory)
    assert RegexList([r".*\.org", r"a\..*", r".*"]).matches("a.com") == (1, 2)


def test_a_set_too_large_gets_more_memory_and_is_then_given_up(monkeypatch: pytest.MonkeyPatch) -> None:
    tried = []

    def too_large(patterns: Sequence[bytes], max_mem: int) -> None:
        tried.append(max_mem)
        raise re2.error("failed to compile Set")

    monkeypatch.setattr(regexes, "_compile_set", too_large)
    table = RegexList([r"A.*", r"b.*", r".*\.com"])
    assert table.matches("a.com") == (0, 2)
    assert tried == list(SET_MEMORY)


def test_a_set_of_its_own_accord_too_large_for_the_first_try() -> None:
    patterns = [rf"(?:[a-z]+\.){{1,300}}x{number}" for number in range(200)]
    with pytest.raises(re2.error):
        regexes._compile_set([pattern.encode() for pattern in patterns], SET_MEMORY[0])
    assert RegexList(patterns).matches("a.b.x7") == (7,)


expressions = st.recursive(
    st.sampled_from(["a", "b", r"\.", ".", "[ab]", "[^a]", "", "^", "$", r"\b", "B"]),
    lambda inner: st.one_of(
        st.tuples(inner, inner).map("".join),
        st.tuples(inner, inner).map(lambda pair: f"(?:{pair[0]}|{pair[1]})"),
        inner.map(lambda one: f"(?:{one})*"),
        inner.map(lambda one: f"(?:{one})?"),
    ),
    max_leaves=6,
)


@given(
    st.lists(expressions, max_size=6), st.lists(st.text(alphabet="ab.", max_size=6), min_size=1, max_size=6)
)
def test_the_set_agrees_with_every_pattern_asked_alone(patterns: list[str], names: list[str]) -> None:
    table = RegexList(patterns)
    options = regexes._options()
    for name in names:
        alone = [re2.compile(pattern.encode(), options).fullmatch(name.encode()) for pattern in patterns]
        assert table.matches(name) == tuple(at for at, match in enumerate(alone) if match)
