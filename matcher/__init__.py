"""Names against entries: pure, flat in cost, importing nothing of ours."""

from matcher.hostname import canonical

__all__ = ["canonical"]
