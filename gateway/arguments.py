"""What a sandbox and its commands are asked for with. A mistake is found here, before anything is started: the text names the argument and
the mend."""

import math
import os
import reprlib
import secrets
import warnings
from collections.abc import Iterable, Mapping, Sequence
from pathlib import Path
from typing import Final

from audit.files import default_directory
from gateway.commands import errand
from gateway.errands import Create, Run
from gateway.errors import SetupError
from gateway.view import ViewError, check_view, identify
from rules.link import LinkKind
from rules.policy import NetworkPolicy, SecurityPolicy, without_internet

TEMPLATES: Final = ("base",)
MAX_NAME_BYTES: Final = 128
MAX_TIMEOUT_S: Final = 1e9
AT_THE_CALLER: Final = 4
"""``_warn``, who calls it, the method of a sandbox, and then the program."""


def asked(
    template: str,
    security: SecurityPolicy | None,
    allow_internet_access: bool,
    name: str | None,
    audit_dir: str | os.PathLike[str] | None,
    link: LinkKind | None,
    binds: Iterable[str | os.PathLike[str]],
    user: str | None,
    metrics: str | os.PathLike[str] | None,
) -> Create:
    """What to create. ValueError, TypeError and PolicyError; SetupError where nothing can be known of paths. Warns of the policy."""
    if _text("template", template, "base") not in TEMPLATES:
        raise ValueError(
            f"template {template!r}: there is {', '.join(TEMPLATES)}, the machine's own file system, read-only"
        )
    if security is not None and not isinstance(security, SecurityPolicy):
        raise TypeError("security: write SecurityPolicy(network=NetworkPolicy(allow_out=[...]))")
    if not isinstance(allow_internet_access, bool):
        raise TypeError(
            f"allow_internet_access: {reprlib.repr(allow_internet_access)} is neither; write True or False"
        )
    if link is not None and _text("link", link, "lo") not in ("lo", "veth"):
        raise ValueError(f"link {link!r}: the links are lo and veth")
    if name is not None:
        _check_name(name)
    records = None if audit_dir is None else _path("audit_dir", audit_dir)
    socket_path = None if metrics is None else _path("metrics", metrics)
    places = tuple(_path("binds", bind) for bind in _several("binds", binds))
    if user is not None:
        _text("user", user, "1000:1000")
    _check_view(places, user, records, socket_path)
    policy = security or SecurityPolicy()
    if not allow_internet_access:
        policy = without_internet(policy)
    _warn(policy.warnings)
    return Create(
        policy.to_dict(), name or f"sbx-{secrets.token_hex(4)}", records, link, places, user, socket_path
    )


def check_network(network: NetworkPolicy | None) -> None:
    """Whether it can be put in force. TypeError. Warns of it."""
    if network is not None and not isinstance(network, NetworkPolicy):
        raise TypeError("network: write NetworkPolicy(allow_out=[...])")
    _warn(() if network is None else network.warnings)


def ordered(
    command: str | Sequence[str],
    cwd: str | os.PathLike[str] | None,
    envs: Mapping[str, str],
    more: Mapping[str, str] | None,
    user: str | None,
    timeout: float | None = None,
) -> Run:
    """What to run, with the sandbox's variables and the command's own over them. ValueError, TypeError."""
    start = None if cwd is None else _path("cwd", cwd)
    if user is not None:
        _text("user", user, "1000:1000")
        try:
            identify(user, os.environ)
        except ViewError as error:
            raise ValueError(error.in_python) from None
    return errand(command, start, {**envs, **variables(more)}, user, _seconds(timeout))


def fed(stdin: bytes | str | None) -> bytes | None:
    """What a command reads. TypeError."""
    if isinstance(stdin, str):
        return stdin.encode()
    if stdin is None:
        return None
    try:
        memoryview(stdin)
    except TypeError:
        raise TypeError(f"stdin: {type(stdin).__name__} is neither text nor bytes; write a str") from None
    return stdin


def variables(envs: Mapping[str, str] | None) -> dict[str, str]:
    """``envs``, as a command can have them. ValueError, TypeError, which show no value: it may be a secret."""
    if envs is None:
        return {}
    if not isinstance(envs, Mapping):
        raise TypeError(f"envs: {type(envs).__name__} is no mapping; write {{'NAME': 'value'}}")
    for name, value in envs.items():
        if not _text("envs", name, "NAME") or "=" in name:
            raise ValueError(f"envs: {name!r} is no name of a variable; write one without =, as 'NAME'")
        _text(f"envs[{name!r}]", value, "value")
    return dict(envs)


def _seconds(timeout: object) -> float | None:
    """Less than none are none; what nobody lives to see is no limit."""
    if timeout is None:
        return None
    if isinstance(timeout, bool) or not isinstance(timeout, int | float):
        raise TypeError(f"timeout: {type(timeout).__name__} is no number of seconds; write one, as 30")
    if timeout > MAX_TIMEOUT_S:
        return None
    if math.isnan(timeout):
        raise ValueError("timeout: nan is no number of seconds; write one, as 30")
    return max(0.0, float(timeout))


def _check_name(name: object) -> None:
    text = _text("name", name, "agent-1")
    if not (text and text.isprintable() and len(text.encode()) <= MAX_NAME_BYTES):
        raise ValueError(f"a name is 1 to {MAX_NAME_BYTES} bytes of printable text")


def _check_view(binds: Iterable[str], user: str | None, records: str | None, metrics: str | None) -> None:
    try:
        check_view(
            binds=map(Path, binds),
            protected=[default_directory() if records is None else Path(records)],
            unseen=[] if metrics is None else [Path(metrics)],
            user=user,
            environment=os.environ,
        )
    except ViewError as error:
        raise ValueError(error.in_python) from None
    except (OSError, RuntimeError) as error:  # there is no current directory, or no home
        raise SetupError(f"paths cannot be looked at: {error}") from error


def _text(argument: str, given: object, example: str) -> str:
    """What can be said to another process, and to the kernel."""
    if not isinstance(given, str):
        raise TypeError(f"{argument}: {type(given).__name__} is no text; write a str, as {example!r}")
    if "\0" in given:
        raise ValueError(f"{argument}: a NUL character cannot be in it; leave it out")
    try:
        given.encode()
    except UnicodeEncodeError:
        raise ValueError(f"{argument}: there are bytes in it that are no UTF-8; leave them out") from None
    return given


def _path(argument: str, given: object) -> str:
    text = _text(argument, os.fspath(given) if isinstance(given, os.PathLike) else given, "/srv/out")
    if not text:
        raise ValueError(f"{argument}: an empty path; name one, or leave it out")
    return text


def _several(argument: str, given: object) -> Iterable[object]:
    """Text is none of these, though its letters can be gone through."""
    if isinstance(given, str | bytes | os.PathLike) or not isinstance(given, Iterable):
        raise TypeError(f"{argument}: {type(given).__name__} is no list of paths; write ['/srv/out']")
    return given


def _warn(texts: Iterable[str]) -> None:
    for text in texts:
        warnings.warn(text, stacklevel=AT_THE_CALLER)
