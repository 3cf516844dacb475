"""PatternError: one line, quoting the entry and the mend, whatever the entry holds."""

import pickle

import pytest

from matcher import PatternError
from matcher.errors import quoted


def test_message_has_entry_problem_and_mend() -> None:
    error = PatternError("a*.x", "a * is out of place", "write *.x")
    assert isinstance(error, ValueError)
    assert str(error) == "'a*.x': a * is out of place; write *.x"
    assert (error.entry, error.problem, error.mend) == ("a*.x", "a * is out of place", "write *.x")


def test_it_survives_a_pickle() -> None:
    error = pickle.loads(pickle.dumps(PatternError("a b", "white space", "write ab")))  # noqa: S301
    assert str(error) == "'a b': white space; write ab"


@pytest.mark.parametrize(
    ("text", "want"),
    [
        ("~a\\.b", "'~a\\.b'"),
        ("a'b", '"a\'b"'),
        ("a\nb", "'a\\nb'"),
        ("a\u2028b", "'a\\u2028b'"),
        ("\ud800", "'\\ud800'"),
        ("", "''"),
        ("x" * 100, "'" + "x" * 100 + "'"),
        ("x" * 101, "'" + "x" * 100 + "...'"),
    ],
)
def test_quoted_is_one_line_and_readable(text: str, want: str) -> None:
    assert quoted(text) == want
