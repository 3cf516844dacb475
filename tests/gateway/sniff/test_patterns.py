"""The patterns that read bytes of the wire: what Python 3.11.2 (Debian 12) misreads is not in them, nor what reads a run of bytes twice."""

import importlib
import re
from collections.abc import Iterator
from types import ModuleType
from typing import Any

import pytest

import gateway.sniff.answers
import gateway.sniff.disguise
import gateway.sniff.http
import gateway.sniff.requests
import gateway.sniff.tls
import gateway.sniff.trailers
import matcher.hostname

SNIFFERS = [
    gateway.sniff.answers,
    gateway.sniff.disguise,
    gateway.sniff.http,
    gateway.sniff.requests,
    gateway.sniff.tls,
    gateway.sniff.trailers,
]
MODULES = [*SNIFFERS, matcher.hostname]

SINGLE = (["IN"], ["LITERAL"], ["NOT_LITERAL"], ["ANY"])

_parser: Any = importlib.import_module("re._parser")


def patterns(module: ModuleType) -> Iterator[tuple[str, re.Pattern[Any]]]:
    for name, value in vars(module).items():
        owner = getattr(value, "__self__", value)  # a pattern, or its method
        if isinstance(owner, re.Pattern):
            yield name, owner


def possessive_groups(parsed: Any) -> Iterator[str]:
    """Possessive repetitions of more than one byte or class, and atomic groups, at any depth."""
    for op, argument in parsed:
        word = str(op)
        if word == "ATOMIC_GROUP":
            yield word
        if word == "POSSESSIVE_REPEAT" and [str(inner) for inner, _ in argument[2]] not in SINGLE:
            yield word
        for part in argument if isinstance(argument, tuple | list) else [argument]:
            for inner in part if isinstance(part, list) else [part]:
                if isinstance(inner, _parser.SubPattern):
                    yield from possessive_groups(inner)


@pytest.mark.parametrize("module", MODULES, ids=lambda module: module.__name__)
def test_no_group_is_possessive(module: ModuleType) -> None:
    """Before Python 3.11.5 such a group, failing halfway, may stay where it failed (gh-106052): no head was whole, ``localhost`` no name."""
    found = {
        name: list(possessive_groups(_parser.parse(pattern.pattern, pattern.flags)))
        for name, pattern in patterns(module)
    }
    assert not any(found.values()), found
    assert found


def greedy_runs(parsed: Any) -> Iterator[str]:
    """Repetitions without end of one byte or class that would give bytes back and read them anew, at any depth."""
    for op, argument in parsed:
        if str(op) in ("MAX_REPEAT", "MIN_REPEAT"):
            _, most, item = argument
            if most is _parser.MAXREPEAT and [str(inner) for inner, _ in item] in SINGLE:
                yield str(op)
        for part in argument if isinstance(argument, tuple | list) else [argument]:
            for inner in part if isinstance(part, list) else [part]:
                if isinstance(inner, _parser.SubPattern):
                    yield from greedy_runs(inner)


@pytest.mark.parametrize("module", SNIFFERS, ids=lambda module: module.__name__)
def test_every_run_is_possessive(module: ModuleType) -> None:
    """So that a pattern that fails has read each byte once. A hostname is 254 bytes at most before a pattern is set upon it."""
    found = {
        name: list(greedy_runs(_parser.parse(pattern.pattern, pattern.flags)))
        for name, pattern in patterns(module)
    }
    assert not any(found.values()), found


@pytest.mark.parametrize("pattern", ["a*", "(?:x[ab]+)?", "x(?:a|b*?c)", ".*"])
def test_a_run_that_is_not_would_be_found(pattern: str) -> None:
    assert list(greedy_runs(_parser.parse(pattern)))


@pytest.mark.parametrize("pattern", ["a*+", "(?:x[ab]++)*", "a{1,5}", "(?:ab)*"])
def test_a_run_that_ends_is_none(pattern: str) -> None:
    assert not list(greedy_runs(_parser.parse(pattern)))


@pytest.mark.parametrize(
    "pattern", ["(?:ab)*+", "x(?:a|b(?!c))++", "(?>ab)", "(a(?:b?)?+)", "[ab](?:c(?:de)*+f)?"]
)
def test_one_that_is_would_be_found(pattern: str) -> None:
    assert list(possessive_groups(_parser.parse(pattern)))


@pytest.mark.parametrize("pattern", ["[ab]*+", "a{1,3}+", ".*+", "(?:a[b]++)*", "(?:ab)?", "a|b*+"])
def test_runs_of_one_byte_may_be(pattern: str) -> None:
    assert not list(possessive_groups(_parser.parse(pattern)))
