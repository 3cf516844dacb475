"""No day ends within a test that does not say so."""

from collections.abc import Iterator

import pytest

from audit.log import AuditLog
from tests.audit.day import today


@pytest.fixture(autouse=True, scope="module")
def _one_day() -> Iterator[None]:
    """For writers that are given no clock."""
    defaults = AuditLog.__init__.__kwdefaults__
    assert defaults is not None
    with pytest.MonkeyPatch.context() as patched:
        patched.setitem(defaults, "clock", today())
        yield
