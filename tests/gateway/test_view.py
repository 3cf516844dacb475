"""What a command is to see: paths and users, before anything is started."""

import os
import shutil
import socket
import sys
import tempfile
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from gateway import view as views
from gateway.view import (
    Identity,
    View,
    ViewError,
    check_view,
    identify,
    import_path,
    installation,
    plan_view,
    program_directory,
    reachable,
    symlinks,
)

ME = Identity(os.geteuid() or 65534, os.getegid() or 65534)


@pytest.fixture
def home(monkeypatch: pytest.MonkeyPatch) -> Iterator[Path]:
    """A directory that anybody may enter, not below one that the sandbox has its own of, and the installation elsewhere."""
    place = Path(tempfile.mkdtemp(dir="/var/tmp", prefix="egress-view."))
    place.chmod(0o755)
    monkeypatch.setattr(views, "installation", lambda: iter((place / "gateway",)))
    (place / "gateway").mkdir()
    yield place
    shutil.rmtree(place)


def seen(cwd: Path | None, *binds: Path, audit: Path = Path("/var/log/egress"), **more: Any) -> View:
    """The plan for a command that starts in ``cwd``."""
    settings: dict[str, Any] = {
        "user": f"{ME.uid}:{ME.gid}",
        "resolver": "8.8.8.8",
        "environment": {},
        **more,
    }
    return plan_view(cwd=cwd, binds=binds, protected=[audit], **settings)


def made(path: Path) -> Path:
    """A directory."""
    path.mkdir(parents=True)
    return path


# -- the current directory


def test_the_current_directory_is_writable(home: Path) -> None:
    work = made(home / "work")
    view = seen(work)
    assert (view.cwd, view.writable, view.pinned, view.protected) == (work, (work,), (), ())
    assert view.notices == ()


@pytest.mark.parametrize("cwd", ["/run", "/tmp", "/dev/shm"])
def test_in_a_place_the_sandbox_has_its_own_of_it_starts_there(cwd: str) -> None:
    view = seen(Path(cwd))
    assert (view.cwd, view.writable) == (Path(cwd), ())
    assert "the sandbox's own" in view.notices[0]


@pytest.mark.parametrize("cwd", ["/proc", "/proc/self", "/sys", "/sys/fs", "/dev", "/dev/pts", "/run/lock"])
def test_what_the_kernel_or_a_service_shows_is_not_handed_in(cwd: str) -> None:
    view = seen(Path(cwd))
    assert (view.cwd, view.writable) == (Path("/"), ())
    assert len(view.notices) == 1


def test_a_directory_below_tmp_is_handed_in(tmp_path: Path) -> None:
    for path in (tmp_path, *tmp_path.parents[:-2]):
        path.chmod(0o755)
    assert seen(tmp_path).writable == (tmp_path,)


def test_the_root_is_never_writable() -> None:
    view = seen(Path("/"))
    assert (view.cwd, view.writable) == (Path("/"), ())
    assert "--bind" in view.notices[0]


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: to be somebody else")
def test_a_directory_that_the_user_may_not_enter_is_left_out(home: Path) -> None:
    secret = made(home / "secret")
    secret.chmod(0o700)
    inner = made(secret / "inner")
    for cwd in (secret, inner):
        view = seen(cwd)
        assert (view.cwd, view.writable) == (Path("/"), ())
        assert "may not enter" in view.notices[0]
    os.chown(secret, ME.uid, ME.gid)
    assert seen(secret).writable == (secret,)


def test_inside_the_installation_nothing_is_writable(home: Path) -> None:
    for cwd in (home / "gateway", made(home / "gateway" / "deep")):
        view = seen(cwd)
        assert (view.cwd, view.writable) == (cwd, ())
        assert "read-only" in view.notices[0]


def test_inside_the_audit_directory_nothing_is_writable(home: Path) -> None:
    audit = made(home / "audit")
    assert seen(audit, audit=audit).writable == ()


# -- what is kept from it inside a writable path


def test_what_lies_inside_the_current_directory_is_pinned_and_protected(home: Path) -> None:
    audit = made(home / "logs" / "deep" / "audit")
    view = seen(home, audit=audit)
    assert view.writable == (home,)
    assert view.protected == (home / "gateway", audit)
    assert view.pinned == (home / "logs", home / "logs" / "deep")


def test_what_lies_inside_a_bind_is_pinned_and_protected(home: Path) -> None:
    audit, work = made(home / "a" / "audit"), made(home / "work")
    view = seen(work, home / "a", audit=audit)
    assert (view.writable, view.protected, view.pinned) == ((home / "a", work), (audit,), ())


def test_a_bind_inside_another_is_not_bound_again(home: Path) -> None:
    inner = made(home / "a" / "b")
    assert seen(inner, inner, home / "a", home).writable == (home,)
    assert seen(home, inner).writable == (home,)


def test_who_stands_nowhere_hands_in_nothing_but_binds(home: Path) -> None:
    view = seen(None, home)
    assert (view.cwd, view.writable, view.notices) == (Path("/"), (home,), ())


def test_a_current_directory_inside_a_bind_is_not_bound_again(home: Path) -> None:
    inner = made(home / "a" / "b")
    assert seen(inner, home / "a").writable == (home / "a",)


# -- what is not even there


def socket_at(path: Path) -> Path:
    """A unix socket."""
    with socket.socket(socket.AF_UNIX) as sock:
        sock.bind(str(path))
    return path


def test_what_is_to_be_unseen_is_hidden_and_cannot_be_moved_away(home: Path) -> None:
    path = socket_at(made(home / "a" / "b") / "m.sock")
    link = made(home / "c") / "link"
    link.symlink_to(home / "a" / "b")
    view = seen(home, unseen=[link / "m.sock"])
    assert path in view.hidden and path in view.protected
    assert view.pinned == (home / "a", home / "a" / "b")
    assert link.parent in view.protected, "who replaced the link could lead the next one elsewhere"
    with pytest.raises(ViewError, match="belongs to the gateway itself"):
        seen(home, path, unseen=[path])


def test_what_the_sandbox_has_its_own_of_need_not_be_hidden() -> None:
    """And no mount point is made for it; but where that part of it is handed in it is seen."""
    with tempfile.TemporaryDirectory(dir="/tmp") as place:
        path = socket_at(Path(place) / "m.sock")
        Path(place).chmod(0o777)
        assert path not in seen(Path("/"), unseen=[path]).hidden
        assert path in seen(Path("/"), Path(place), unseen=[path]).hidden
        assert path in seen(Path(place), unseen=[path]).hidden


# -- --bind


@pytest.mark.parametrize("path", ["/", "/run", "/tmp", "/dev/shm", "/proc", "/proc/sys", "/sys", "/dev"])
def test_these_cannot_be_handed_in_whole(home: Path, path: str) -> None:
    with pytest.raises(ViewError, match="name a directory inside it"):
        seen(home, Path(path))


def test_a_bind_that_does_not_exist_is_refused(home: Path) -> None:
    with pytest.raises(ViewError, match="there is no such path"):
        seen(home, home / "missing")


def test_a_bind_inside_what_is_protected_is_refused(home: Path) -> None:
    audit = made(home / "audit")
    inner = made(audit / "inner")
    for path in (audit, inner, home / "gateway"):
        with pytest.raises(ViewError, match="belongs to the gateway"):
            seen(home, path, audit=audit)


def test_a_bind_by_a_symbolic_link_is_what_it_leads_to(home: Path) -> None:
    there = made(home / "there")
    (home / "link").symlink_to(there)
    (home / "loop").symlink_to("loop")
    (home / "sneaky").symlink_to(home / "gateway")
    view = seen(made(home / "work"), home / "link", there)
    assert view.writable == (there, home / "work")
    assert view.notices == (f"--bind {home / 'link'} leads to {there}: that is writable",)
    with pytest.raises(ViewError, match="belongs to the gateway"):
        seen(home, home / "sneaky")
    with pytest.raises(ViewError, match="there is no such path"):
        seen(home, home / "loop")


def test_a_relative_bind_is_below_the_current_directory(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    out = made(home / "work" / "out")
    monkeypatch.chdir(home / "work")
    assert seen(made(home / "elsewhere"), Path("out"), Path("../work/out")).writable[-1] == out


def test_a_file_can_be_handed_in(home: Path) -> None:
    (home / "file").touch()
    assert seen(made(home / "work"), home / "file").writable == (home / "file", home / "work")


# -- asked before anything is made


def checked(*binds: Path, audit: Path, user: str | None = None, unseen: tuple[Path, ...] = ()) -> None:
    """By what would be planned."""
    check_view(binds=binds, protected=[audit], user=user, environment={}, unseen=unseen)


@pytest.mark.skipif(os.geteuid() == 0, reason="root can look at everything")
def test_a_bind_that_cannot_be_looked_at_is_refused(home: Path) -> None:
    inner = made(home / "closed" / "inner")
    inner.parent.chmod(0)
    try:
        with pytest.raises(ViewError, match="Permission denied; name one"):
            checked(inner, audit=home / "audit")
    finally:
        inner.parent.chmod(0o700)


def test_what_the_plan_would_refuse_is_refused_before(home: Path) -> None:
    audit = home / "audit"
    checked(home, audit=audit)
    for wrong in (home / "missing", Path("/"), Path("/proc/self"), home / "gateway"):
        with pytest.raises(ViewError, match=r"^--bind "):
            checked(home, wrong, audit=audit)
    with pytest.raises(ViewError, match=r"^--user "):
        checked(audit=audit, user="0:0")
    with pytest.raises(ViewError, match="belongs to the gateway"):
        checked(made(audit), audit=audit)


@pytest.mark.parametrize("what", ["audit", "keys"])
def test_what_will_be_made_is_protected_before_it_is_there(
    home: Path, what: str, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("EGRESS_KEY_DIR", str(home / "link" / "keys"))
    made(home / "real")
    (home / "link").symlink_to("real")
    audit = home / "link" / "audit"
    with pytest.raises(ViewError, match="belongs to the gateway"):
        checked(home, audit=audit)  # who could write here could lead the link elsewhere
    checked(made(home / "work"), audit=audit)
    made(home / "link" / what)
    with pytest.raises(ViewError, match="belongs to the gateway"):
        checked(home / "real" / what, audit=audit)


def test_a_plan_from_before_the_records_are_there_protects_them(home: Path) -> None:
    audit = home / "audit"
    before = seen(home, audit=audit)
    made(audit)
    assert seen(home, audit=audit) == before and audit in before.protected


# -- symbolic links that lead to what is protected


def test_a_link_that_leads_to_the_installation_cannot_be_replaced(
    home: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    made(home / "real" / "lib")
    project = made(home / "project")
    (project / ".venv").symlink_to(home / "real")
    monkeypatch.setattr(views, "installation", lambda: iter((project / ".venv" / "lib",)))
    assert seen(project).writable == (), "whoever may write here can put another link into its place"
    view = seen(home)
    assert project in view.protected
    with pytest.raises(ViewError, match="belongs to the gateway"):
        seen(made(home / "work"), project)
    inner = made(project / "src")
    assert seen(inner).writable == (inner,), "no link lies here"


def test_a_link_that_leads_to_the_audit_directory_cannot_be_replaced(home: Path) -> None:
    made(home / "real")
    project = made(home / "project")
    (project / "audit").symlink_to("../real")
    assert seen(project, audit=project / "audit").writable == ()


def test_every_link_on_the_way_is_found(home: Path) -> None:
    made(home / "c" / "d")
    (home / "b").symlink_to("c")
    (home / "a").symlink_to(home / "b")
    (home / "c" / "up").symlink_to("../a/d")
    found = list(symlinks(home / "a" / "up" / "." / "x"))
    assert found == [home / "a", home / "b", home / "c" / "up", home / "a", home / "b"]
    assert list(symlinks(home / "c" / "d")) == []
    (home / "loop").symlink_to("loop")
    assert len(list(symlinks(home / "loop"))) <= 40


def test_what_this_process_runs_and_imports_is_guarded() -> None:
    assert Path(views.__file__).parents[1] in set(installation())
    found = set(import_path())
    assert {Path(sys.prefix), Path(sys.base_prefix)} <= found
    own = program_directory()
    assert {Path(name) for name in sys.path if name and Path(name).exists()} - {own} <= found
    assert all(path.is_absolute() and path.exists() for path in found)


def test_what_a_program_works_on_may_lie_beside_it(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its directory comes first on the path: with ``python -m`` that is the current one."""
    program, out = made(home / "program"), made(home / "program" / "out")
    monkeypatch.setattr(sys, "path", [str(program), *sys.path])
    assert seen(None, out).writable == (out,)
    assert seen(None, home).protected == (home / "gateway", program)
    with pytest.raises(ViewError, match=f"^--bind {program}: .* imports from and stays read-only"):
        seen(None, program)
    with pytest.raises(ViewError, match="what holds both is bound; leave that out"):
        seen(None, home, out)
    view = seen(program)
    assert (view.cwd, view.writable) == (program, ())
    assert "run egress, or python -P -m gateway" in view.notices[0]
    monkeypatch.setattr(views, "installation", lambda: iter((program,)))
    with pytest.raises(ViewError, match="belongs to the gateway itself"):
        seen(None, out)


# -- records of other commands


def test_the_usual_places_of_records_are_never_writable(home: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    named, state = made(home / "named"), made(home / "state" / "egress")
    monkeypatch.setenv("EGRESS_AUDIT_DIR", str(named))
    monkeypatch.setattr("audit.files.ROOT_STATE", state)
    monkeypatch.setenv("XDG_STATE_HOME", str(state.parent))
    monkeypatch.setenv("EGRESS_KEY_DIR", str(home / "missing"))
    assert {named, state} <= set(seen(home, audit=Path("/srv/elsewhere")).protected)
    for place in (named, state):
        with pytest.raises(ViewError, match="belongs to the gateway"):
            checked(place, audit=Path("/srv/elsewhere"))
    shutil.rmtree(named)
    assert named not in seen(home, audit=Path("/srv/elsewhere")).protected, "there is nothing to bind"


# -- who


def test_the_text_is_for_the_command_line_and_for_python() -> None:
    with pytest.raises(ViewError) as caught:
        identify("0:0", {})
    assert str(caught.value).startswith("--user 0:0: ")
    assert caught.value.in_python == "user: " + str(caught.value).removeprefix("--user ")


@pytest.mark.parametrize(
    ("user", "environment", "uid", "gid"),
    [
        ("1000:1001", {}, 1000, 1001),
        ("1000", {}, 1000, 1000),
        ("1000:1001", {"SUDO_UID": "7", "SUDO_GID": "7"}, 1000, 1001),
        ("4294967294", {}, 4294967294, 4294967294),
        (None, {"SUDO_UID": "1000", "SUDO_GID": "1001"}, 1000, 1001),
        (None, {"SUDO_UID": "0", "SUDO_GID": "0"}, 65534, 65534),
        (None, {"SUDO_UID": ""}, 65534, 65534),
        (None, {}, 65534, 65534),
    ],
)
def test_who_the_command_runs_as(user: str | None, environment: dict[str, str], uid: int, gid: int) -> None:
    assert identify(user, environment) == Identity(uid, gid)


@pytest.mark.parametrize("user", ["0", "0:0", "1000:0", "0:1000", "00"])
def test_root_is_refused(user: str) -> None:
    with pytest.raises(ViewError, match="root inside the sandbox is refused"):
        identify(user, {})


@pytest.mark.parametrize(
    "user",
    "|:|alice|1000:|:1000|1000:users|-1|1000:-1|1e3| 1000|1000:1000:1000|\u0661|4294967295|1000:4294967295|1_000".split(
        "|"
    ),
)
def test_what_is_no_user_is_refused(user: str) -> None:
    with pytest.raises(ViewError) as caught:
        identify(user, {})
    assert caught.value.exit_code == 2


@pytest.mark.parametrize("text", ["alice", "-5", "1_000", "\u0661", " 7", "4294967295"])
@pytest.mark.parametrize("name", ["SUDO_UID", "SUDO_GID"])
def test_what_sudo_cannot_have_said_is_refused(name: str, text: str) -> None:
    with pytest.raises(ViewError):
        identify(None, {"SUDO_UID": "1000", "SUDO_GID": "1000", name: text})


def test_roots_group_by_sudo_is_refused() -> None:
    with pytest.raises(ViewError, match="root inside"):
        identify(None, {"SUDO_UID": "1000", "SUDO_GID": "0"})


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: to be somebody else")
def test_the_environment_names_who_the_command_runs_as(home: Path) -> None:
    given = {"HOME": "/root", "USER": "root", "LOGNAME": "root", "KEPT": "x"}
    nobody = seen(home, user=None, environment=given).environment
    assert nobody == {"HOME": "/tmp", "USER": "nobody", "LOGNAME": "nobody", "KEPT": "x"}
    nameless = seen(home, user="54321:54321", environment=given).environment
    assert nameless == {"HOME": "/tmp", "USER": "54321", "LOGNAME": "54321", "KEPT": "x"}


@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: to be somebody else")
def test_whether_a_path_can_be_entered_is_asked_of_the_kernel(home: Path) -> None:
    closed = made(home / "closed")
    closed.chmod(0o750)
    assert not reachable(closed, Identity(4321, 4321))
    assert not reachable(home / "missing", ME)
    assert reachable(home, Identity(4321, 4321))
    os.chown(closed, 0, 4321)
    assert reachable(closed, Identity(4320, 4321))
    assert not reachable(closed, Identity(4320, 4320)), "no group of root's is kept"
