"""What ``Sandbox.create``, ``update_network`` and ``run`` are called with: refused before anything is started, and warned of where it was written."""

import linecache
import os
import warnings
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway import ALL_TRAFFIC, AsyncSandbox, NetworkPolicy, PolicyError, Sandbox, SecurityPolicy, SetupError
from gateway import arguments as module
from gateway.arguments import ordered, variables
from gateway.errands import Create, Created, Run

ROOT = os.geteuid() == 0
OPEN = NetworkPolicy(["*.github.io"], dns="passthrough")
WARNED = ("allow_out without deny_out", "allow_out[0] '*.github.io'", "dns: passthrough")
NOT_UTF8 = os.fsdecode(b"x\xff")


class Started:
    """In place of the process behind a sandbox: it keeps what it was asked for."""

    made: list["Started"] = []  # noqa: RUF012 - emptied by each test

    def __init__(self) -> None:
        self.made.append(self)
        self.updates: list[NetworkPolicy | None] = []

    def create(self, asked: Create) -> Created:
        self.asked = asked
        return Created("lo", "/var/log/egress", "/tmp/home")

    def update(self, network: NetworkPolicy | None) -> int:
        self.updates.append(network)
        return len(self.updates)


@pytest.fixture(autouse=True)
def started(monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> Iterator[list[Started]]:
    """Whatever was."""
    monkeypatch.setattr("gateway.sandbox.Attended", Started)
    monkeypatch.setattr("gateway.async_sandbox.Attended", Started)
    monkeypatch.setenv("EGRESS_AUDIT_DIR", str(tmp_path / "records"))
    monkeypatch.setenv("EGRESS_KEY_DIR", str(tmp_path / "keys"))
    Started.made.clear()
    yield Started.made


def create(**given: Any) -> Sandbox:
    """With arguments of any type."""
    return Sandbox.create(**given)


WRONG: list[tuple[dict[str, Any], type[Exception], str]] = [
    ({"template": 5}, TypeError, "template: int is no text"),
    ({"template": "ubuntu"}, ValueError, "template 'ubuntu': there is base"),
    ({"security": NetworkPolicy()}, TypeError, r"security: write SecurityPolicy\("),
    *(
        ({"allow_internet_access": value}, TypeError, "allow_internet_access: .* write True or False")
        for value in ("no", "false", "", 0, 1, None)
    ),
    ({"name": 5}, TypeError, "name: int is no text"),
    ({"name": ""}, ValueError, "a name is 1 to 128 bytes"),
    ({"name": "a\nb"}, ValueError, "a name is 1 to 128 bytes"),
    ({"audit_dir": 5}, TypeError, "audit_dir: int is no text"),
    ({"audit_dir": b"/tmp"}, TypeError, "audit_dir: bytes is no text"),
    ({"audit_dir": ""}, ValueError, "audit_dir: an empty path"),
    ({"audit_dir": "/a\0b"}, ValueError, "audit_dir: a NUL character"),
    ({"audit_dir": NOT_UTF8}, ValueError, "audit_dir: .* UTF-8"),
    ({"metrics": 5}, TypeError, "metrics: int is no text"),
    ({"link": 5}, TypeError, "link: int is no text"),
    ({"link": "tun"}, ValueError, "link 'tun': the links are lo and veth"),
    ({"binds": "/tmp"}, TypeError, r"binds: str is no list of paths; write \['/srv/out'\]"),
    ({"binds": Path("/tmp")}, TypeError, "binds: PosixPath is no list of paths"),
    ({"binds": b"/tmp"}, TypeError, "binds: bytes is no list of paths"),
    ({"binds": 5}, TypeError, "binds: int is no list of paths"),
    ({"binds": None}, TypeError, "binds: NoneType is no list of paths"),
    ({"binds": [5]}, TypeError, "binds: int is no text"),
    ({"binds": [b"/srv"]}, TypeError, "binds: bytes is no text"),
    ({"binds": [""]}, ValueError, "binds: an empty path"),
    ({"binds": ["/a\0b"]}, ValueError, "binds: a NUL character"),
    ({"binds": ["/nope"]}, ValueError, "^binds: /nope: there is no such path; make it first"),
    ({"binds": ["/"]}, ValueError, "^binds: /: / cannot be handed in whole"),
    ({"binds": ["/var/tmp", "/proc/self"]}, ValueError, "^binds: /proc/self: .* cannot be handed in whole"),
    ({"user": 1000}, TypeError, "user: int is no text"),
    ({"user": "1000\0"}, ValueError, "user: a NUL character"),
    ({"user": "abc"}, ValueError, "^user: abc: " + ("write it in numbers" if ROOT else "only root")),
    ({"user": "0:0"}, ValueError, "^user: 0:0: " + ("root inside the sandbox" if ROOT else "only root")),
    ({"user": "1:4294967295"}, ValueError, "^user: 1:4294967295: "),
    ({"envs": ["A=1"]}, TypeError, "envs: list is no mapping; write {'NAME': 'value'}"),
    ({"envs": {"A": 1}}, TypeError, r"envs\['A'\]: int is no text"),
    ({"envs": {"A": None}}, TypeError, r"envs\['A'\]: NoneType is no text"),
    ({"envs": {5: "1"}}, TypeError, "envs: int is no text"),
    ({"envs": {"A=B": "1"}}, ValueError, "envs: 'A=B' is no name of a variable"),
    ({"envs": {"": "1"}}, ValueError, "envs: '' is no name of a variable"),
    ({"envs": {"A\0": "1"}}, ValueError, "envs: a NUL character"),
    ({"envs": {"A": "secret\0"}}, ValueError, r"envs\['A'\]: a NUL character"),
    ({"envs": {"A": NOT_UTF8}}, ValueError, r"envs\['A'\]: .* UTF-8"),
]


@pytest.mark.parametrize(("given", "kind", "said"), WRONG, ids=[str(one[0])[:60] for one in WRONG])
def test_a_bad_argument_is_refused_before_anything_is_started(
    started: list[Started], given: dict[str, Any], kind: type[Exception], said: str
) -> None:
    with pytest.raises(kind, match=said) as caught:
        create(**given)
    assert "secret" not in str(caught.value) and "--" not in str(caught.value)
    assert "\n" not in str(caught.value)
    assert started == []


@pytest.mark.parametrize(("given", "kind", "said"), WRONG, ids=[str(one[0])[:60] for one in WRONG])
async def test_by_the_async_twin_too(
    started: list[Started], given: dict[str, Any], kind: type[Exception], said: str
) -> None:
    with pytest.raises(kind, match=said):
        await AsyncSandbox.create(**given)
    assert started == []


def test_a_bad_policy_is_refused_before_anything_is_started(started: list[Started]) -> None:
    allowed = SecurityPolicy(NetworkPolicy(["a.test"], [ALL_TRAFFIC]))
    with pytest.raises(PolicyError, match="no internet access asked for"):
        Sandbox.create(security=allowed, allow_internet_access=False)
    assert started == []


def test_what_is_good_is_asked_for_as_it_is(started: list[Started], tmp_path: Path) -> None:
    out = tmp_path / "out"
    out.mkdir()
    user = "1000:1001" if ROOT else None
    binds: list[str | Path] = [out, str(out)]
    Sandbox.create(
        allow_internet_access=False,
        name="agent-1",
        audit_dir=tmp_path / "records",
        link="lo",
        binds=iter(binds),
        envs={"A": "1=2", "b c": ""},
        user=user,
        metrics=str(tmp_path / "socket"),
    )
    (one,) = started
    assert one.asked == Create(
        SecurityPolicy(NetworkPolicy(deny_out=[ALL_TRAFFIC])).to_dict(),
        "agent-1",
        str(tmp_path / "records"),
        "lo",
        (str(out), str(out)),
        user,
        str(tmp_path / "socket"),
    )
    assert not (tmp_path / "records").exists() and not (tmp_path / "keys").exists()


def test_the_records_cannot_be_handed_in(tmp_path: Path) -> None:
    records = tmp_path / "records"
    records.mkdir()
    for audit_dir in (None, tmp_path / "elsewhere"):
        with pytest.raises(ValueError, match=f"^binds: {records}: .* belongs to the gateway"):
            Sandbox.create(binds=[records], audit_dir=audit_dir)


def test_where_paths_cannot_be_looked_at_it_is_the_machine(monkeypatch: pytest.MonkeyPatch) -> None:
    def no_home() -> Path:
        raise RuntimeError("Could not determine home directory.")

    monkeypatch.setattr(module, "default_directory", no_home)
    with pytest.raises(SetupError, match="home directory"):
        Sandbox.create()


# -- commands


def test_a_commands_variables_are_over_the_sandboxs() -> None:
    assert ordered("x", None, {"A": "1", "B": "1"}, {"B": "2"}, None) == Run(
        ("/bin/sh", "-c", "x"), {"A": "1", "B": "2"}, None, None
    )
    assert variables(None) == {}


@pytest.mark.parametrize(
    ("envs", "user", "kind", "said"),
    [
        ({"A": 1}, None, TypeError, "envs"),
        ({"A=B": "1"}, None, ValueError, "envs"),
        ({}, 1000, TypeError, "^user: int"),
        ({}, "abc", ValueError, "^user: abc"),
        ({}, "0:0", ValueError, "^user: 0:0"),
    ],
)
def test_a_bad_argument_of_run_is_refused(envs: Any, user: Any, kind: type[Exception], said: str) -> None:
    with pytest.raises(kind, match=said):
        ordered("true", None, {}, envs, user)


# -- warnings


def check(caught: list[warnings.WarningMessage], call: str) -> None:
    """Each of ``WARNED``, at the line of this file where ``call`` is."""
    assert [one.category for one in caught] == [UserWarning] * len(WARNED)
    for one, begin in zip(caught, WARNED, strict=True):
        assert str(one.message).startswith(begin)
        assert call in linecache.getline(one.filename, one.lineno)


def test_what_a_policy_warns_of_is_said_where_the_sandbox_is_made() -> None:
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        Sandbox.create(security=SecurityPolicy(OPEN))
    check(caught, "        Sandbox.create(security=SecurityPolicy(OPEN))")


def test_and_where_another_is_put_in_its_place(started: list[Started]) -> None:
    sandbox = Sandbox.create()
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        sandbox.update_network(OPEN)
        sandbox.update_network(None)
    check(caught, "        sandbox.update_network(OPEN)")
    assert started[0].updates == [OPEN, None]


async def test_and_by_the_async_twin() -> None:
    with warnings.catch_warnings(record=True) as for_create:
        warnings.simplefilter("always")
        sandbox = await AsyncSandbox.create(security=SecurityPolicy(OPEN))
    check(for_create, "sandbox = await AsyncSandbox.create(")
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        await sandbox.update_network(OPEN)
    check(caught, "await sandbox.update_network(OPEN)")


def test_a_warning_that_is_made_an_error_starts_and_changes_nothing(started: list[Started]) -> None:
    with pytest.raises(UserWarning, match="allow_out without deny_out"):
        Sandbox.create(security=SecurityPolicy(OPEN))
    assert started == []
    sandbox = Sandbox.create()
    with pytest.raises(UserWarning, match="allow_out without deny_out"):
        sandbox.update_network(OPEN)
    assert started[0].updates == []


@pytest.mark.parametrize("network", [SecurityPolicy(), {}, "a.test", False])
def test_what_is_no_policy_is_refused(started: list[Started], network: Any) -> None:
    sandbox = Sandbox.create()
    with pytest.raises(TypeError, match=r"network: write NetworkPolicy\("):
        sandbox.update_network(network)
    assert started[0].updates == []
