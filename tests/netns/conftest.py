"""Tests in real namespaces. One lab serves all of them, as new for each."""

import os
import time
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.lab import Lab
from tests.lab.places import Port
from tests.lab.sandboxed import egress_for, user_namespaces_for

UNPRIVILEGED = 65534
HERE = Path(__file__).parent
QUIET_S = 10.0
"""After which nothing more is waited for: what an end that was killed has left with the other may stay for ever, and says nothing."""


def pytest_collection_modifyitems(items: list[pytest.Item]) -> None:
    """Skip what needs root where there is none. Where a test does not say how long it may take, it has a minute: a dozen processes take part in it,
    and the machine may be several times slower than the one it was written on."""
    for item in items:
        if item.path.is_relative_to(HERE) and not item.get_closest_marker("timeout"):
            item.add_marker(pytest.mark.timeout(60))
    if os.geteuid() == 0:
        return
    for item in items:
        if item.get_closest_marker("root"):
            item.add_marker(pytest.mark.skip(reason="needs root: network namespaces"))


@pytest.fixture(scope="session")
def lab_of_session() -> Iterator[Lab]:
    """The lab, built once."""
    with Lab() as lab:
        yield lab
        assert lab.errors() == ""


@pytest.fixture
def lab(lab_of_session: Lab) -> Lab:
    """The lab with its own zone, and nothing logged or captured yet."""
    lab_of_session.reset()
    return lab_of_session


@pytest.fixture
def quiet_lab(lab: Lab) -> Lab:
    """The lab, once nothing of the tests before is on its way, for tests in which no packet may be: the far side, and the kernel, end a connection
    some time after its client has gone."""
    give_up = time.monotonic() + QUIET_S
    while any(_under_way(lab, namespace) for namespace in ("host", "net")) and time.monotonic() < give_up:
        time.sleep(0.02)
    lab.reset()
    return lab


def _under_way(lab: Lab, namespace: str) -> str:
    """Connections that something is still to be said of, and datagrams that nobody has read. The far side never ends those of two ports."""
    port = "sport" if namespace == "net" else "dport"
    others = f"( {port} != :{Port.SILENT:d} and {port} != :{Port.NEVER_READS:d} )"
    script = 'ss -Htan state connected exclude time-wait "$1"; ss -Huan | grep -v "^[A-Z-]* *0 "'
    return lab.run(["sh", "-c", script, "sh", others], namespace=namespace).stdout


@pytest.fixture(params=[None, UNPRIVILEGED], ids=["root", "rootless"])
def starter(request: pytest.FixtureRequest) -> int | None:
    """Who starts ``egress run``: root (None), or an ordinary user's uid."""
    uid: int | None = request.param
    if uid is not None and not user_namespaces_for(uid):
        pytest.skip("this machine gives ordinary users no user namespace (a chroot never does)")
    try:
        egress_for(uid)
    except LookupError as error:
        pytest.skip(str(error))
    return uid
