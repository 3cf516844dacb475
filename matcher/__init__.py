"""Names against entries: pure, flat in cost, importing nothing of ours."""

from matcher.errors import PatternError
from matcher.hostname import MAX_HOSTNAME, canonical
from matcher.pattern import Kind, Pattern, parse_entry
from matcher.table import HostTable, Match, compile_table

__all__ = [
    "MAX_HOSTNAME",
    "HostTable",
    "Kind",
    "Match",
    "Pattern",
    "PatternError",
    "canonical",
    "compile_table",
    "parse_entry",
]
