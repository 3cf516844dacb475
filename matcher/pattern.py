"""The grammar of a name entry: what an operator may write, and what each refusal tells him to write instead.

    api.openai.com          that name alone
    *.openai.com            one or more labels before the suffix; never the suffix itself
    ~PATTERN                an RE2 regular expression, any case, that must match the whole name

each with an optional ``:port(,port)*``. Text with one reading is accepted and shown canonical; text with two
readings, or none, raises ``PatternError``. Addresses and networks are no names: the
caller has sorted them out.
"""

import re
from dataclasses import dataclass
from enum import StrEnum

from matcher.errors import PatternError
from matcher.hostname import MAX_HOSTNAME, MAX_LABEL, canonical
from matcher.regexes import regex_problem
from matcher.ulabels import to_ascii

_PORTS = re.compile(r"[0-9]+(?:,[0-9]+)*")
_PORTS_OF_A_KIND = re.compile(r"[0-9,;*\s-]*")
_MAX_PORT = 65535
_LONGEST_SUFFIX = MAX_HOSTNAME - len("*.")
_ILLEGAL = re.compile(r"[^A-Za-z0-9._-]")


class Kind(StrEnum):
    """The three forms of a name entry."""

    EXACT = "exact"
    WILDCARD = "wildcard"
    REGEX = "regex"


@dataclass(frozen=True, slots=True)
class Pattern:
    """One name entry, read. ``str()`` is its canonical text, and ``parse_entry`` of that text gives it
    back."""

    kind: Kind
    name: str
    """The canonical name; of a wildcard the suffix without ``*.``; of a regex what follows ``~``."""
    ports: tuple[int, ...] | None = None
    """Ascending, each once, 1-65535; None is every port."""

    def __str__(self) -> str:
        text = _PREFIX[self.kind] + self.name
        return text if self.ports is None else f"{text}:{','.join(map(str, self.ports))}"


_PREFIX = {Kind.EXACT: "", Kind.WILDCARD: "*.", Kind.REGEX: "~"}


def parse_entry(text: str) -> Pattern:
    """Read one name entry. Raises ``PatternError``, which quotes the entry and says what to write instead."""
    name = canonical(text, single=True)
    if name is not None:  # nearly every entry, and all that a table of a million can afford
        return Pattern(Kind.EXACT, name)
    if text.startswith("~"):
        return _parse_regex(text)
    _check_outline(text)
    host, colon, digits = text.partition(":")
    ports = parse_ports(digits, text) if colon else None
    suffix = host.removeprefix("*.")
    if "*" in suffix or host.startswith("."):
        raise PatternError(text, *_dots_and_stars(host, colon + digits))
    name = _parse_name(suffix, text, (host.removesuffix(suffix), colon + digits))
    if suffix == host:
        return Pattern(Kind.EXACT, name, ports)
    if len(name) > _LONGEST_SUFFIX:
        raise PatternError(text, "a name that it holds would be longer than 253 bytes", "shorten it")
    return Pattern(Kind.WILDCARD, name, ports)


def parse_ports(digits: str, entry: str) -> tuple[int, ...]:
    """Read ``443`` or ``443,8443``, the part after an entry's colon: ascending, each once.

    Raises ``PatternError`` about ``entry`` for anything else (a range, white space, a leading zero).
    """
    if not _PORTS.fullmatch(digits):
        raise PatternError(entry, "what follows the colon is no list of ports", _PORTS_MEND)
    ports = set()
    for word in digits.split(","):
        # The length first: int() of thousands of digits is slow, and CPython's own refusal says less.
        if word.startswith("0") or len(word) > len(str(_MAX_PORT)) or int(word) > _MAX_PORT:
            raise PatternError(entry, f"{word[:10]} is no port", "write 1 to 65535, no leading zero")
        ports.add(int(word))
    return tuple(sorted(ports))


_PORTS_MEND = "write every port, parted by commas alone, as in api.openai.com:443,8443"


def _parse_regex(text: str) -> Pattern:
    """Read ``~PATTERN[:ports]``: a final ``:digits(,digits)*`` is always ports."""
    expression, ports = text[1:], None
    front, colon, tail = expression.rpartition(":")
    if colon and _PORTS.fullmatch(tail):
        expression, ports = front, parse_ports(tail, text)
    elif colon and _PORTS_OF_A_KIND.fullmatch(tail):
        # As an expression it could never match (no name has a colon): a deny entry that denies nothing.
        raise PatternError(text, "what follows the last colon is no list of ports", _PORTS_MEND)
    if not expression:
        raise PatternError(text, "the regular expression is empty", "write one behind the ~")
    if not (expression.isascii() and expression.isprintable()) or " " in expression:
        problem = "a regular expression of names is printable ASCII without spaces"
        raise PatternError(text, problem, "take the rest out, and write U-labels as xn--...")
    verdict = regex_problem(expression)
    if verdict is not None:
        mend = "write it in RE2 syntax, which has no look-around and no back-references"
        raise PatternError(text, f"RE2 refuses it: {verdict}", mend)
    return Pattern(Kind.REGEX, expression, ports)


def _check_outline(text: str) -> None:
    """Refuse what is no name entry by its outline: a URL, an address, a mail address, white space."""
    if any(c.isspace() or not (c.isprintable() or c in _INVISIBLE) for c in text):
        trimmed = _SPACE_AT_A_MARK.sub(r"\1", text.strip(_TRIMMED))
        problem = "white space or a control character in a name"
        raise PatternError(text, problem, _NAME_MEND if trimmed == text else _instead(trimmed))
    if not text:
        raise PatternError(text, "the entry is empty", "drop it, or write a name such as api.openai.com")
    if "://" in text:
        authority = re.split(r"[/?#]", text.partition("://")[2])[0]
        raise PatternError(text, "a URL is no name", _instead(authority.rpartition("@")[2]))
    if "@" in text:
        raise PatternError(text, "a name has no user in it", _instead(text.rpartition("@")[2]))
    if text.startswith("[") or text.count(":") > 1:
        raise PatternError(text, "neither a name nor an address", _ADDRESS_MEND)
    if "/" in text:
        raise PatternError(text, "a name has no path and no prefix length", _instead(text.partition("/")[0]))


_TRIMMED = " \t\r\n\ufeff"
_SPACE_AT_A_MARK = re.compile(r"\s*([,:])\s*")
_INVISIBLE = "\u00ad\u200c\u200d"
"""Not printable, but IDNA has an opinion on them (soft hyphen, joiners), and its message says more."""

_NAME_MEND = "write a hostname such as api.openai.com"
_ADDRESS_MEND = "write a name as api.openai.com:443, an IPv6 address as 2001:db8::1 or [2001:db8::1]:443"


def _dots_and_stars(host: str, ports: str) -> tuple[str, str]:
    """Say what is wrong with a host that begins with a dot, or has a star that is not its whole first
    label."""
    if not host.strip("*."):
        return "a * alone is no suffix", "for everything write 0.0.0.0/0 (ALL_TRAFFIC)"
    bare = re.sub(r"\A(?:\**\.)+", "", host)
    if host.startswith("."):
        name = _entry_or_none(bare + ports)
        problem = "a leading dot has two readings: with the name itself, and without"
        return problem, _NAME_MEND if name is None else f"write *.{name}, or {name}, or both entries"
    problem = "a * is the whole first label and nothing else"
    if "*" not in bare:
        return problem, _instead(f"*.{bare}{ports}")
    expression = "[^.]*".join(re.escape(part) for part in host.removesuffix(".").split("*"))
    return problem, _instead(f"~{expression}{ports}")


def _parse_name(host: str, entry: str, around: tuple[str, str]) -> str:
    """Read a hostname of one label or more, U-labels included.

    ``entry`` is what an error quotes; ``around`` is what stands in it before and after the name.
    """
    if not host.isascii():
        reading = to_ascii(host.removesuffix("."))
        if reading.name is None:
            before, after = around
            choices = [_entry_or_none(f"{before}{name}{after}") for name in reading.others]
            offered = " or ".join(filter(None, choices))
            mend = f"write {offered}" if offered else "write its labels as xn--..."
            raise PatternError(entry, f"the name {reading.problem}", mend)
        host = reading.name
    name = canonical(host, single=True)
    if name is None:
        raise PatternError(entry, *_fault(host.removesuffix(".")))
    return name


def _fault(host: str) -> tuple[str, str]:
    """Say why ``host`` (ASCII, its trailing dot dropped) is no hostname, and what to do about it."""
    labels = host.split(".")
    illegal = _ILLEGAL.search(host)
    if not host:
        return "the name is missing", _NAME_MEND
    if illegal is not None:
        return f"{illegal.group()} cannot stand in a hostname", "a label is of letters, digits, - and _ alone"
    if "" in labels:
        return "a label is empty", "put one dot between two labels, and one at most behind the last"
    if len(host) > MAX_HOSTNAME:
        return f"the name has more than {MAX_HOSTNAME} bytes", "shorten it"
    if max(map(len, labels)) > MAX_LABEL:
        return f"a label has more than {MAX_LABEL} bytes", "shorten it"
    if any(label.startswith("-") or label.endswith("-") for label in labels):
        return "a label begins or ends with a hyphen", "take the hyphen away"
    # What is left of the grammar: the last label is all digits, or begins with 0x.
    problem = "it ends in a number, so some programs read it as an address"
    return problem, "write an address in its usual form, as 192.0.2.1"


def _instead(candidate: str) -> str:
    """Offer ``candidate`` if it is an entry, else a plain name.

    It must be shorter than what was refused, or be a regex: reading it may lead here again.
    """
    text = _entry_or_none(candidate)
    return _NAME_MEND if text is None else f"write {text}"


def _entry_or_none(text: str) -> str | None:
    try:
        return str(parse_entry(text))
    except PatternError:
        return None
