"""The one spelling of a hostname: every name, the wire's or an operator's, passes here before it is compared.

Grammar (docs/policy.md): labels of 1-63 ``[A-Za-z0-9_-]``, each beginning and ending with ``[A-Za-z0-9_]``;
253 bytes at most without the trailing dot. The last label is neither all digits nor begins with ``0x``: such
a text is an IPv4 address to some readers (WHATWG URL "ends in a number", inet_aton(3)), so no name.

The wire's grammar wants two labels. A policy may name a single label (``localhost``), and then the wire must
be able to equal it: ``single=True`` reads that wider grammar. What it adds can only ever match an exact entry
of the same text, because ``HostTable.match`` holds single labels against nothing else.
"""

import re

MAX_HOSTNAME = 253
"""Bytes of the longest hostname, trailing dot not counted (RFC 1035 section 2.3.4, in text form)."""

MAX_LABEL = 63
"""Bytes of the longest label (RFC 1035 section 2.3.4)."""

# No label is read more than twice, so a match takes linear time: its bytes are possessive, and a dot ends it. The group is
# not possessive: before Python 3.11.5 one that fails halfway loses its place (gh-106052), and Debian 12 has 3.11.2.
_LABEL = rf"[A-Za-z0-9_][A-Za-z0-9_-]{{0,{MAX_LABEL - 1}}}+(?<!-)"
_LAST = rf"(?!0[xX]|[0-9]+\Z){_LABEL}"
_two_or_more = re.compile(rf"(?:{_LABEL}\.)+{_LAST}").fullmatch
_one_or_more = re.compile(rf"(?:{_LABEL}\.)*{_LAST}").fullmatch

is_canonical = re.compile(rf"(?:{_LABEL}\.)+{_LAST}".replace("A-Z", "")).fullmatch
"""Whether ``canonical(name) == name``, for text of 253 characters at most, at half the cost."""


def canonical(raw: bytes | str, *, single: bool = False) -> str | None:
    """Return the one spelling of a host (ASCII lower case, no trailing dot), or None if it is no hostname.

    Total: no bytes and no text raise. Idempotent. An IP literal in any spelling gives None, as does whatever
    is not ASCII: U-labels never stand on the wire. ``single=True`` accepts names of one label as well.
    """
    # latin-1 cannot fail, and what it makes of bytes above 0x7f no pattern above accepts.
    name = raw if isinstance(raw, str) else str(raw, "latin-1")
    if name[-1:] == ".":
        name = name[:-1]
    if len(name) > MAX_HOSTNAME or (_one_or_more if single else _two_or_more)(name) is None:
        return None
    return name.lower()
