"""The trie: exact names, the longest suffix that fits, and borders between labels."""

from collections.abc import Iterable

import pytest

from matcher.trie import NameTrie


def suffixes(*entries: tuple[str, Iterable[int] | None]) -> NameTrie:
    trie = NameTrie()
    for index, (suffix, ports) in enumerate(entries):
        trie.add_suffix(suffix, index, None if ports is None else frozenset(ports))
    return trie


def test_an_empty_trie_holds_nothing() -> None:
    assert NameTrie().exact("a.com", None) is None
    assert NameTrie().suffix("a.com", None) is None


def test_exact_is_that_name_alone() -> None:
    trie = NameTrie()
    trie.add_exact("a.com", 0, None)
    assert trie.exact("a.com", 443) == 0
    assert trie.exact("b.a.com", 443) is None
    assert trie.exact("com", 443) is None
    assert trie.suffix("b.a.com", 443) is None


def test_the_first_of_several_entries_for_a_name_that_fits() -> None:
    trie = NameTrie()
    for index, ports in enumerate(({443}, {80, 443}, None, {22})):
        trie.add_exact("a.com", index, None if ports is None else frozenset(ports))
    assert [trie.exact("a.com", port) for port in (443, 80, 22, None)] == [0, 1, 2, 0]


def test_an_entry_for_every_port_hides_the_later_ones() -> None:
    trie = suffixes(("a.com", None), ("a.com", {443}))
    assert trie.suffix("x.a.com", 443) == 0


def test_ports_that_do_not_fit_leave_the_shorter_suffix() -> None:
    trie = suffixes(("com", None), ("a.com", {443}), ("b.a.com", {80}))
    assert trie.suffix("x.b.a.com", 80) == 2
    assert trie.suffix("x.b.a.com", 443) == 1
    assert trie.suffix("x.b.a.com", 22) == 0
    assert trie.suffix("x.b.a.com", None) == 2
    assert suffixes(("a.com", {443})).suffix("x.a.com", 80) is None


@pytest.mark.parametrize(
    ("name", "want"),
    [
        ("a.com", None),
        ("x.a.com", 0),
        ("y.x.a.com", 0),
        ("xa.com", None),
        ("x.a.com.evil", None),
        ("com", None),
        ("c.b.org", None),
        ("d.c.b.org", 1),
        ("e.d.c.b.org", 1),
        ("d.xc.b.org", None),
        ("a." * 120 + "a.com", 0),
        ("a." * 126 + "b", None),
    ],
)
def test_a_suffix_wants_a_label_before_it_and_ends_at_a_dot(name: str, want: int | None) -> None:
    assert suffixes(("a.com", None), ("c.b.org", None)).suffix(name, 443) == want
