"""Internationalised names of an operator's text: turned into A-labels if, and only if, they have one reading.

Programs read a U-label in two ways: RFC 5891 takes it as it stands, UTS #46 maps it first (case, width,
invisible characters). Upper case apart, a label is accepted where both give the same A-label, and refused
where they part or where only the mapping makes sense of it (KELVIN SIGN, soft hyphen, full-width
letters). The four characters on which RFC 5891 and its predecessor RFC 3490 part (UTS #46 section 6,
"deviations") have two readings in the field.
"""

import unicodedata
from typing import NamedTuple

import idna

_DEVIATIONS = {
    0x00DF: "ss",  # LATIN SMALL LETTER SHARP S
    0x03C2: "\u03c3",  # GREEK SMALL LETTER FINAL SIGMA: read as SIGMA
    0x200C: "",  # ZERO WIDTH NON-JOINER
    0x200D: "",  # ZERO WIDTH JOINER
}
"""RFC 3490's reading of what RFC 5891 lets stand, in the form that ``str.translate`` takes."""

_LONGEST = 253
"""Characters of a name worth a look: an A-label is longer than its U-label."""


class Reading(NamedTuple):
    """What became of a name: ``name`` where it has one reading, else ``problem`` and how others would
    read it."""

    name: str | None
    problem: str = ""
    others: tuple[str, ...] = ()


def to_ascii(text: str) -> Reading:
    """Turn every U-label of ``text`` into its A-label. ASCII labels pass as they are, legal or not."""
    if len(text) > _LONGEST:
        return Reading(None, "is longer than any hostname")
    labels = text.split(".")
    lowered = [label if label.isascii() else unicodedata.normalize("NFC", label.lower()) for label in labels]
    older = [label.translate(_DEVIATIONS) for label in lowered]
    if older != lowered:
        return Reading(None, "has two readings: IDNA2003 and IDNA2008 part on it", _readings(lowered, older))
    mapped = [_mapped(label) for label in labels]
    hidden = any(low.isascii() and not label.isascii() for low, label in zip(lowered, labels, strict=True))
    if hidden or lowered != mapped:
        return Reading(None, "has two readings: as it stands, and as UTS #46 maps it", _readings(mapped))
    found = _readings(lowered)
    return Reading(found[0]) if found else Reading(None, "has a label that IDNA2008 does not permit")


def _readings(*names: list[str]) -> tuple[str, ...]:
    """The A-label form of those names that have one."""
    found = []
    for labels in names:
        try:
            found.append(
                ".".join(label if label.isascii() else idna.alabel(label).decode() for label in labels)
            )
        except idna.IDNAError:
            continue
    return tuple(found)


def _mapped(label: str) -> str:
    """``label`` as UTS #46 maps it before the lookup; as it is where the mapping refuses it."""
    if label.isascii():
        return label
    try:
        return idna.uts46_remap(label, std3_rules=False)
    except idna.IDNAError:
        return label
