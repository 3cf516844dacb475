"""Why an ordinary user has no user namespace, told from sysctls that a test writes."""

from pathlib import Path

import pytest

from gateway.userns import obstacle


def root(tmp_path: Path, name: str, value: str) -> Path:
    """A tree like /proc/sys with one value in it."""
    path = tmp_path / name
    path.parent.mkdir(parents=True)
    path.write_text(value + "\n")
    return tmp_path


@pytest.mark.parametrize(
    ("name", "value", "mend"),
    [
        ("kernel/unprivileged_userns_clone", "0", "sysctl -w kernel.unprivileged_userns_clone=1"),
        ("user/max_user_namespaces", "0", "sysctl -w user.max_user_namespaces="),
        (
            "kernel/apparmor_restrict_unprivileged_userns",
            "1",
            "sysctl -w kernel.apparmor_restrict_unprivileged_userns=0",
        ),
    ],
)
def test_each_switch_is_named_with_its_mend(tmp_path: Path, name: str, value: str, mend: str) -> None:
    said = obstacle(root(tmp_path, name, value))
    assert said is not None
    assert mend in said and "run egress as root" in said


def test_switches_that_are_open_are_not_named(tmp_path: Path) -> None:
    said = obstacle(root(tmp_path, "kernel/unprivileged_userns_clone", "1"))
    assert said is None or "are refused here" in said
