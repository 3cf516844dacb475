"""Which wildcards hold names of anyone."""

import pytest

from matcher import canonical
from rules.multitenant import SUFFIXES, tenants_under


@pytest.mark.parametrize(
    ("suffix", "shared"),
    [
        ("s3.amazonaws.com", "s3.amazonaws.com"),
        ("s3.eu-west-1.amazonaws.com", "s3.*.amazonaws.com"),
        ("amazonaws.com", "s3.amazonaws.com"),
        ("windows.net", "blob.core.windows.net"),
        ("github.io", "github.io"),
        ("io", "github.io"),
        ("my-bucket.s3.amazonaws.com", None),
        ("my-app.github.io", None),
        ("github.com", None),
        ("openai.com", None),
        ("notgithub.io", None),
    ],
)
def test_tenants_under(suffix: str, shared: str | None) -> None:
    found = tenants_under(suffix)
    assert (found[0] if found else None) == shared


def test_the_table_is_canonical() -> None:
    for suffix, service in SUFFIXES.items():
        assert canonical(suffix.replace("*", "x")) == suffix.replace("*", "x")
        assert service
