"""What a field of a brief line may hold, so that it can stand in a record as it is: bytes of a sender that is not trusted.

By comparisons and methods of ``bytes``: a regular expression over the whole line says the same at three times the price.
"""

from typing import Final

DIGITS: Final = b"0123456789"
MAX_DIGITS: Final = 15
"""Of a number: what a double holds."""
MAX_FLOW: Final = 64
MAX_ADDRESS: Final = 45
_TO_ZERO: Final = bytes.maketrans(DIGITS, b"0" * len(DIGITS))
"""What may stand there becomes 0, and nothing else does. To translate and to compare costs a fifth of ``translate(None, ...)``."""
_ADDRESS: Final = _TO_ZERO.translate(bytes.maketrans(b"abcdef:.", b"0" * 8))
_FLOW: Final = _TO_ZERO.translate(bytes.maketrans(b"abcdef-", b"0" * 7))
_ZEROS: Final = [b"0" * size for size in range(MAX_FLOW + 1)]
_MOMENT: Final = b"0000-00-00T00:00:00.000000Z"
_ZERO: Final = DIGITS[0]


def is_moment(field: bytes) -> bool:
    """RFC 3339, UTC, microseconds, by its digits."""
    return field.translate(_TO_ZERO) == _MOMENT


def is_address(field: bytes) -> bool:
    """Of the characters of one, 2 to 45 of them."""
    return 2 <= len(field) <= MAX_ADDRESS and field.translate(_ADDRESS) == _ZEROS[len(field)]


def is_quoted_address(field: bytes) -> bool:
    """One as JSON, or null."""
    return field == b"null" or (field[:1] == field[-1:] == b'"' and is_address(field[1:-1]))


def is_count(field: bytes) -> bool:
    """A whole number as JSON has it."""
    size = len(field)
    return field.isdigit() and size <= MAX_DIGITS and (size == 1 or field[0] != _ZERO)


def is_port(field: bytes) -> bool:
    """0 to 65535."""
    size = len(field)
    return size <= 5 and is_count(field) and (size < 5 or field <= b"65535")


def is_flow(field: bytes) -> bool:
    """Lower case hex and dashes, 1 to 64 of them."""
    return 1 <= len(field) <= MAX_FLOW and field.translate(_FLOW) == _ZEROS[len(field)]


def is_milliseconds(field: bytes) -> bool:
    """A number with one to three digits behind the point, the last of which is 0 only where it is alone, as JSON is written."""
    whole, _, fraction = field.partition(b".")
    size = len(fraction)
    return (
        is_count(whole)
        and len(whole) <= 12
        and fraction.isdigit()
        and size <= 3
        and (size == 1 or fraction[size - 1] != _ZERO)
    )
