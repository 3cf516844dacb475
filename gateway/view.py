"""What a sandboxed command sees of this machine, worked out before anything is started.

``/`` read-only; ``/run``, ``/tmp``, ``/dev`` and ``/proc`` its own; the current directory and ``--bind`` paths writable; what enforces the policy
and what records it never writable, wherever it lies, nor any symbolic link that leads there. A view only says what is to be; ``gateway.launch``
makes it.
"""

import errno
import os
import pwd
import re
import sys
from collections.abc import Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path
from typing import Final, Literal

from audit.files import KeyTrouble, key_directory, usual_places
from gateway.errors import EgressError

NOBODY: Final = 65534
OWN: Final = tuple(map(Path, ("/run", "/tmp", "/dev/shm")))  # noqa: S108 - mounted anew, not used here
KERNEL: Final = tuple(map(Path, ("/proc", "/sys", "/dev")))
"""Never handed in from outside, whatever lies below."""
INTERFACES: Final = "/sys/class/net"
_ESCAPE: Final = re.compile(r"\\([0-7]{3})")
MAX_LINKS: Final = 40
"""path_resolution(7)."""
IMPORTED: Final = "lies on the path that this program runs and imports from"


class ViewError(EgressError):
    """``--bind`` or ``--user`` asks for what cannot be; in Python ``binds`` or ``user``."""

    exit_code = 2

    def __init__(self, option: Literal["bind", "user"], said: str) -> None:
        super().__init__(f"--{option} {said}")
        self.in_python = f"{'binds' if option == 'bind' else option}: {said}"
        """The same for who has no command line."""


@dataclass(frozen=True, slots=True)
class Identity:
    """Who the command runs as."""

    uid: int
    gid: int


@dataclass(frozen=True, slots=True)
class View:
    """One command's world."""

    identity: Identity
    cwd: Path
    """Where it starts: entered inside, as its user, when all is mounted."""
    writable: tuple[Path, ...]
    """Bound writable, none inside another: a mount point in what a command can write could be replaced by a link while the next one is started."""
    pinned: tuple[Path, ...]
    """Directories between a writable path and a protected one: mount points of their own, since a directory that is none could be renamed, and the
    protected path inside it replaced."""
    protected: tuple[Path, ...]
    """Inside a writable path and read-only all the same."""
    hidden: tuple[Path, ...]
    """Where the machine's processes can be seen although ``/proc`` is the sandbox's own: ``root`` and ``fd`` of a process of the same user are
    a door to its files and its unix sockets, whatever pid namespace they are asked from. The machine's interfaces. And
    where the key lies that records are signed with, and the socket that tells metrics."""
    resolver: str
    environment: Mapping[str, str]
    notices: tuple[str, ...]
    tmp: Path | None = None
    """What ``/tmp`` is, where commands share one; else each has its own."""


def plan_view(
    *,
    cwd: Path | None,
    binds: Iterable[Path],
    protected: Iterable[Path],
    user: str | None,
    resolver: str,
    environment: Mapping[str, str],
    tmp: Path | None = None,
    unseen: Iterable[Path] = (),
) -> View:
    """What the command may have; every doubt about a path makes it read-only, with a notice. ViewError for what makes no sense.

    ``cwd`` is where who asks stands: the command starts there, and may write there. None hands in nothing but ``binds``. ``protected`` is never
    writable; ``unseen``, which exists, is not even there.
    """
    identity = identify(user, environment)
    secret = (*unseen, *(keys for keys in _keys() if os.path.isdir(keys)))
    guard = _guard((*protected, *secret, *(place for place in _usual(identity) if os.path.lexists(place))))
    binds = list(binds)
    # An earlier command may have put the link there.
    notices = [
        f"--bind {given} leads to {real(given)}: that is writable" for given in binds if _is_led(given)
    ]
    handed_in = set(_binds(binds, guard))
    start = Path("/")
    if cwd is not None:
        start, own = _start(cwd.resolve(), guard, identity, notices)
        handed_in |= {start} if own else set()
    writable = sorted(path for path in handed_in if handed_in.isdisjoint(path.parents))
    covered = guard.inside(writable)
    for path in handed_in:
        if between := next((kept for kept in covered if _inside(path, kept)), None):
            raise ViewError(
                "bind",
                f"{path}: {between} {guard.forbids(between)}, and what holds both is bound; leave that out",
            )
    return View(
        identity,
        start,
        tuple(writable),
        tuple(sorted(set(_between(writable, covered)))),
        tuple(covered),
        (*_other_procs(), *_interfaces(), *_shown(secret, writable)),
        resolver,
        _environment(environment, identity),
        tuple(notices),
        tmp,
    )


def check_view(
    *,
    binds: Iterable[Path],
    protected: Iterable[Path],
    user: str | None,
    environment: Mapping[str, str],
    unseen: Iterable[Path] = (),
) -> None:
    """Whether ``plan_view`` would take these, asked before anything is made that it is to protect. ViewError."""
    identity = identify(user, environment)
    # The key as if it were there: who makes the records makes it.
    for _ in _binds(binds, _guard((*protected, *unseen, *_keys(), *_usual(identity)))):
        pass


def _keys() -> tuple[Path, ...]:
    """Where they are. Who has no place for them signs nothing."""
    try:
        return (key_directory(),)
    except KeyTrouble:
        return ()


def _usual(identity: Identity) -> list[Path]:
    """Where other commands' records lie, and the keys: of who starts this one, and of who runs it."""
    try:
        return usual_places(Path(pwd.getpwuid(identity.uid).pw_dir))
    except KeyError:
        return usual_places()


@dataclass(frozen=True, slots=True)
class Guard:
    """What is never writable, and why: the rest of a sentence."""

    trees: Mapping[Path, str]
    """With all that lies below."""
    directories: Mapping[Path, str]
    """With all that lies below, unless something in there is handed in by itself."""

    def forbids(self, path: Path) -> str | None:
        """Why it cannot be handed in."""
        for tree, why in self.trees.items():
            if _inside(path, tree):
                return why
        return self.directories.get(path)

    def inside(self, writable: Sequence[Path]) -> list[Path]:
        """What of it lies in there."""
        return sorted(
            path
            for path in {*self.trees, *self.directories}
            if any(_inside(path, outer) for outer in writable)
        )


def _guard(kept: Iterable[Path]) -> Guard:
    """``kept``, the installation, what is imported; and where the symbolic links lie that lead there. What is not there yet, too."""
    own = program_directory()
    every = {
        **dict.fromkeys((*import_path(), *([own] if own else [])), IMPORTED),
        **dict.fromkeys((*kept, *installation()), "belongs to the gateway itself"),
    }
    directories = {
        link.parent: f"holds a link that {why}" for path, why in every.items() for link in symlinks(path)
    }
    trees = {real(path): why for path, why in every.items() if path != own or why != IMPORTED}
    if own and not any(_inside(real(own), tree) for tree in trees):
        directories[real(own)] = IMPORTED
    return Guard(trees, directories)


def installation() -> Iterator[Path]:
    """The gateway's own code."""
    yield Path(__file__).resolve().parents[1]


def import_path() -> Iterator[Path]:
    """Where else the code lies that this process runs, or imports later: what a command could change to be obeyed next time."""
    for name in (sys.prefix, sys.base_prefix, sys.argv[0], *sys.path):
        if name and os.path.exists(name) and Path(name).absolute() != program_directory():
            yield Path(name).absolute()


def program_directory() -> Path | None:
    """Where the script lies that this process runs, or with ``python -m`` the current directory: what it works on often lies in there, too."""
    if sys.flags.safe_path and not sys.flags.isolated:
        return None  # -P: PYTHONPATH may come first
    return Path(sys.path[0]).absolute() if sys.path[:1] and sys.path[0] else None


def _is_led(path: Path) -> bool:
    """Whether a symbolic link says where it is."""
    return real(path) != Path(os.path.abspath(path))


def real(path: Path) -> Path:
    """Where it leads."""
    return Path(os.path.realpath(path))


def symlinks(path: Path) -> Iterator[Path]:
    """Every symbolic link that leads to what ``path`` names: who could replace one could lead it elsewhere."""
    here, rest = Path("/"), list(path.absolute().parts[1:])
    for _ in range(MAX_LINKS):
        while rest:
            here = here.parent if rest[0] == ".." else here / rest[0]
            del rest[0]
            if os.path.islink(here):  # which does not mind what may not be looked at
                break
        else:
            return
        yield here
        target = here.readlink()
        here = Path("/") if target.is_absolute() else here.parent
        rest = [part for part in target.parts if part != "/"] + rest


def identify(user: str | None, environment: Mapping[str, str]) -> Identity:
    """As root: ``--user UID:GID``, else whoever called sudo, else nobody; never root. Anybody else stays who they are."""
    if os.geteuid() != 0:
        if user is not None:
            raise ViewError("user", f"{user}: only root can choose who the command runs as; leave it out")
        return Identity(os.geteuid(), os.getegid())
    if user is not None:
        uid, colon, gid = user.partition(":")
        if not (uid.isdecimal() and uid.isascii()) or (colon and not (gid.isdecimal() and gid.isascii())):
            raise ViewError("user", f"{user}: write it in numbers, UID:GID, as in 1000:1000")
        identity = Identity(int(uid), int(gid) if colon else int(uid))
    else:
        identity = Identity(_number(environment, "SUDO_UID"), _number(environment, "SUDO_GID"))
        if identity.uid == 0:
            identity = Identity(NOBODY, NOBODY)  # root's own sudo
    shown = f"{identity.uid}:{identity.gid}"
    if identity.uid == 0 or identity.gid == 0:
        raise ViewError("user", f"{shown}: root inside the sandbox is refused; name another, as in 1000:1000")
    if max(identity.uid, identity.gid) > 0xFFFFFFFE:
        raise ViewError("user", f"{shown}: ids end at {0xFFFFFFFE}")
    return identity


def _number(environment: Mapping[str, str], name: str) -> int:
    text = environment.get(name) or str(NOBODY)
    if not (text.isdecimal() and text.isascii()):
        raise ViewError("user", f"is not given, and {name}={text!r} is no uid: name one, as in 1000:1000")
    return int(text)


def _binds(binds: Iterable[Path], guard: Guard) -> Iterator[Path]:
    for given in binds:
        try:
            path = real(given)  # resolve() raises at a link that leads to itself
            path.stat()
        except OSError as error:
            if error.errno in (errno.ENOENT, errno.ENOTDIR, errno.ELOOP):
                raise ViewError("bind", f"{given}: there is no such path; make it first") from None
            raise ViewError("bind", f"{given}: {error.strerror}; name one that can be looked at") from None
        if path == Path("/") or path in OWN or any(_inside(path, top) for top in KERNEL):
            raise ViewError("bind", f"{given}: {path} cannot be handed in whole; name a directory inside it")
        if why := guard.forbids(path):
            raise ViewError("bind", f"{given}: {path} {why} and stays read-only; name another")
        yield path


def _start(cwd: Path, guard: Guard, identity: Identity, notices: list[str]) -> tuple[Path, bool]:
    """Where the command starts, and whether that place is made writable. Below ``/run`` are the sockets of the machine's services."""
    if any(_inside(cwd, top) for top in (*KERNEL, Path("/run"))) or cwd in OWN:
        notices.append(f"{cwd} is the sandbox's own: the command starts in an empty one")
        return cwd if cwd in OWN else Path("/"), False
    if not reachable(cwd, identity):
        notices.append(f"uid {identity.uid} may not enter {cwd}: the command starts in /; see --user")
        return Path("/"), False
    if cwd == Path("/"):
        notices.append("the current directory is /: nothing is writable but /tmp; see --bind")
        return cwd, False
    if why := guard.forbids(cwd):
        mend = "see --bind"
        if why == IMPORTED and cwd in guard.directories:
            mend = "that is python -m's doing: run egress, or python -P -m gateway, or see --bind"
        notices.append(f"{cwd} {why}: read-only for the command; {mend}")
        return (Path("/") if any(_inside(cwd, own) for own in OWN) else cwd), False
    return cwd, True


def reachable(path: Path, identity: Identity) -> bool:
    """Whether that user can enter ``path``."""
    return path in _enterable([path], identity)


def _enterable(paths: Sequence[Path], identity: Identity) -> set[Path]:
    """Those that the user can enter: asked of the kernel, by a process that becomes the user."""
    read_end, write_end = os.pipe()
    pid = os.fork()
    if pid == 0:
        try:
            if os.geteuid() == 0:
                os.setgroups([])
                os.setresgid(identity.gid, identity.gid, identity.gid)
                os.setresuid(identity.uid, identity.uid, identity.uid)
            os.write(write_end, bytes(map(_enters, paths)))
        finally:
            os._exit(0)
    os.close(write_end)
    with os.fdopen(read_end, "rb") as answers:
        said = answers.read()
    os.waitpid(pid, 0)
    return {path for path, entered in zip(paths, said, strict=False) if entered}


def _enters(path: Path) -> bool:
    try:
        os.chdir(path)
    except OSError:
        return False
    return True


def _other_procs() -> Iterator[Path]:
    """Where a proc is mounted that is not the one at ``/proc``, of a chroot for example; proc(5), mountinfo."""
    for line in Path("/proc/self/mountinfo").read_text(errors="surrogateescape").splitlines():
        fields, _, kind = line.partition(" - ")
        if kind.split(" ", 1)[0] != "proc":
            continue
        _, _, device, _, escaped, *_ = fields.split(" ")
        path = Path(_ESCAPE.sub(lambda found: chr(int(found[1], 8)), escaped))
        if any(_inside(path, own) for own in (*OWN, *KERNEL)):
            continue
        try:
            seen = os.stat(path).st_dev
        except OSError:
            continue
        if device == f"{os.major(seen)}:{os.minor(seen)}":  # else another mount lies over it
            yield path


def _interfaces() -> Iterator[Path]:
    """Where ``/sys``, which is the machine's, shows its interfaces and what they carry."""
    if not os.path.isdir(INTERFACES):
        return
    links = [os.readlink(entry.path) for entry in os.scandir(INTERFACES) if entry.is_symlink()]
    places = {os.path.normpath(f"{INTERFACES}/{link}/..") for link in links}
    yield from (Path(place) for place in sorted((INTERFACES, *places)) if os.path.isdir(place))


def _shown(paths: Iterable[Path], writable: list[Path]) -> Iterator[Path]:
    """Those that would be seen: what is in the machine's ``/run`` or ``/tmp`` is not, unless it lies in what is handed in of them."""
    for path in map(Path, map(os.path.realpath, paths)):
        if not any(_inside(path, own) for own in OWN) or any(_inside(path, outer) for outer in writable):
            yield path


def _between(writable: list[Path], covered: list[Path]) -> Iterator[Path]:
    for path in covered:
        for parent in path.parents:
            if any(parent != outer and _inside(parent, outer) for outer in writable):
                yield parent


def _inside(path: Path, outer: Path) -> bool:
    return path == outer or outer in path.parents


def _environment(environment: Mapping[str, str], identity: Identity) -> Mapping[str, str]:
    """The caller's, with the names of whom the command runs as; root's home is no home for anybody else."""
    if identity.uid == os.geteuid():
        return environment
    try:
        entry = pwd.getpwuid(identity.uid)
        name, home = entry.pw_name, Path(entry.pw_dir)
    except KeyError:
        name, home = str(identity.uid), Path("/nonexistent")
    if not reachable(home, identity):
        home = Path("/tmp")  # noqa: S108 - the sandbox's own
    return {**environment, "HOME": str(home), "USER": name, "LOGNAME": name, **_path(environment, identity)}


def _path(environment: Mapping[str, str], identity: Identity) -> Mapping[str, str]:
    """PATH without root's own places: for these, a program that is not there would be "permission denied" (126, not 127)."""
    if "PATH" not in environment:
        return {}
    words = environment["PATH"].split(":")
    places = [Path(word) for word in words if os.path.isabs(word) and os.path.isdir(word)]
    closed = set(places) - _enterable(places, identity)
    return {"PATH": ":".join(word for word in words if Path(word) not in closed)}
