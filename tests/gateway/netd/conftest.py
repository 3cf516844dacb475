"""Namespaces for the host's half."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest

from gateway.netd import host
from gateway.netd.spaces import CLONE_NEWNET, _enter, _open, _unshare
from tests.gateway.netd.hosting import ip, other_space

HERE = Path(__file__).parent


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Where a test does not say how long it may take, it has two minutes: dozens of programs are run for it one after the other, and some of it waits
    for looks that are a second apart."""
    for item in items:
        if item.path.is_relative_to(HERE) and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(120))


@pytest.fixture
def on_host(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[None]:
    """This process is in a namespace of its own, with an empty directory for what is kept."""
    monkeypatch.setattr(host, "STATE", tmp_path / "egress")
    home = _open("net")
    _unshare(CLONE_NEWNET)
    try:
        ip("link set lo up")
        yield
    finally:
        _enter(home)
        os.close(home)


@pytest.fixture
def cell(on_host: None) -> Iterator[int]:
    """A namespace beside it."""
    descriptor = other_space()
    yield descriptor
    os.close(descriptor)
