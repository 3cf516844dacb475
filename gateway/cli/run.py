"""``egress run``: one sandbox, one command."""

import argparse
import os
import secrets
from collections.abc import Iterator
from pathlib import Path
from typing import TYPE_CHECKING, get_args

from audit.files import default_directory
from audit.settings import AuditSettings, Fsync, OnFull
from gateway.cli.arguments import add_policy_arguments, path, policy_from
from gateway.cli.streams import say
from gateway.errors import SetupError
from gateway.privilege import check_link, usual_link
from rules import SecurityPolicy
from rules.backend import Backend
from rules.entry import AddressEntry

if TYPE_CHECKING:
    from gateway.supervisor import Supervisor

MAX_NAME_BYTES = 128
MAX_DAYS = 3650
EPILOG = """\
examples:
  egress run --allow-out api.openai.com -- python agent.py
  egress run --allow-out '*.anthropic.com' --allow-out api.github.com:443 -- bash
  egress run --policy policy.yaml --bind ./out -- make test

The command sees the whole machine read-only; the current directory and what --bind names are writable. It has your environment, secrets in it too:
env -i PATH="$PATH" egress run ... hands over none.
Exit status: the command's own; 126 and 127 as a shell; 128+N for signal N; before it starts:
2 usage, 78 bad policy, 77 missing privilege, 125 anything else.
"""


def register(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verb."""
    parser = subparsers.add_parser(
        "run",
        help="run one command in a sandbox that reaches only what the policy allows",
        description="Run one command in a sandbox that reaches only what the policy allows; every attempt is recorded.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_policy_arguments(parser)
    parser.add_argument(
        "--link",
        choices=("lo", "veth"),
        default=usual_link(),
        help="how the sandbox is joined: its own loopback, which any user can, or a device, behind which the kernel "
        "decides addresses and carries every protocol (default: veth for root, else lo)",
    )
    parser.add_argument(
        "--firewall",
        choices=get_args(Backend),
        help="what keeps the rules: legacy tables or nf_tables (default: legacy where the kernel has them)",
    )
    parser.add_argument(
        "--bind",
        action="append",
        default=[],
        metavar="PATH",
        type=path,
        help="make PATH writable for the command (repeatable)",
    )
    parser.add_argument(
        "--user", metavar="UID:GID", help="as root: who the command runs as (default: SUDO_UID, else 65534)"
    )
    parser.add_argument(
        "--name", metavar="N", type=_name, help="the sandbox's name in the records (default: made up)"
    )
    parser.add_argument(
        "--audit-dir",
        metavar="DIR",
        type=path,
        help="where records go (default: $EGRESS_AUDIT_DIR, else /var/log/egress for root, ~/.local/state/egress/audit for others)",
    )
    parser.add_argument(
        "--audit-fsync",
        choices=tuple(Fsync),
        type=Fsync,
        default=AuditSettings().fsync,
        help="when records are on the disk itself: always = before an allowed connection is carried (default: interval, within a second)",
    )
    parser.add_argument(
        "--audit-on-full",
        choices=tuple(OnFull),
        type=OnFull,
        default=AuditSettings().on_full,
        help="while no record can be written: block = carry nothing new (default); drop = carry it, and count what is lost",
    )
    parser.add_argument(
        "--audit-keep-days",
        metavar="N",
        type=_days,
        default=AuditSettings().keep_days,
        help="remove records after so many days (default: %(default)s)",
    )
    parser.add_argument(
        "--metrics",
        metavar="PATH",
        type=path,
        help="make a unix socket there that tells Prometheus' metrics over HTTP, to its owner only (docs/metrics.md)",
    )
    parser.add_argument(
        "command", nargs=argparse.REMAINDER, metavar="-- CMD...", help="the command and its arguments"
    )
    parser.set_defaults(run=run, parser=parser)


def run(args: argparse.Namespace) -> int:
    """Check everything that can be wrong first, then build, run, and take down."""
    command = args.command[1:] if args.command[:1] == ["--"] else args.command
    if not command:
        args.parser.error(
            "no command: write it after --, as in: egress run --allow-out api.openai.com -- curl ..."
        )
    policy = policy_from(args, default_deny=True)
    check_link(args.link)
    return _carry(args, policy, command, _here())


def _carry(args: argparse.Namespace, policy: SecurityPolicy, command: list[str], cwd: Path) -> int:
    # Only here: what these import is not needed to say what is wrong with a policy.
    from gateway.view import check_view, plan_view

    audit_dir = (args.audit_dir or default_directory()).absolute()
    metrics = args.metrics and args.metrics.absolute()
    unseen = [metrics] if metrics else []
    check_view(binds=args.bind, protected=[audit_dir], unseen=unseen, user=args.user, environment=os.environ)
    with _supervised(args, policy, audit_dir, metrics) as supervisor:
        from gateway.launch import launch
        from gateway.terminal import Terminal

        view = plan_view(
            cwd=cwd,
            binds=args.bind,
            protected=[audit_dir],
            unseen=unseen,
            user=args.user,
            resolver=str(policy.resolver_ip),
            environment=os.environ,
        )
        notices = [
            *(supervisor.log.warnings if supervisor.log else ()),
            *view.notices,
            *(_refused_by_lo(policy) if args.link == "lo" else ()),
        ]
        for notice in notices:
            say(notice)
        supervisor.open()
        with Terminal() as terminal:
            status = supervisor.wait(launch(view, command, supervisor.namespaces), terminal)
    for line in supervisor.summary.lines(str(supervisor.log.path) if supervisor.log else None):
        say(line)
    return status


def _supervised(
    args: argparse.Namespace, policy: SecurityPolicy, audit_dir: Path, metrics: Path | None
) -> "Supervisor":
    """Begins the records: whatever can be wrong with the arguments is known by now."""
    from gateway.netd.server import Netd

    netd = Netd()  # it imports while this process does
    try:
        from gateway.supervisor import Supervisor

        name = args.name or f"run-{secrets.token_hex(3)}"
        settings = AuditSettings(
            fsync=args.audit_fsync, on_full=args.audit_on_full, keep_days=args.audit_keep_days
        )
        return Supervisor(
            policy,
            name,
            audit_dir,
            netd,
            args.firewall,
            args.link,
            settings=settings,
            metrics=metrics,
            say=say,
        )
    except BaseException:
        netd.close()
        raise


def _here() -> Path:
    """The current directory. SetupError where it has been removed."""
    try:
        return Path.cwd()
    except OSError as error:
        raise SetupError(f"the current directory: {error.strerror}; change to one that is there") from error


def _name(text: str) -> str:
    """A name that fits into every record."""
    if not text or not text.isprintable() or len(text.encode()) > MAX_NAME_BYTES:
        raise argparse.ArgumentTypeError(f"a name is 1 to {MAX_NAME_BYTES} bytes of printable text")
    return text


def _days(text: str) -> int:
    """A number of days."""
    if not (text.isdecimal() and text.isascii() and 1 <= int(text) <= MAX_DAYS):
        raise argparse.ArgumentTypeError(f"a number of days, 1 to {MAX_DAYS}")
    return int(text)


def _refused_by_lo(policy: SecurityPolicy) -> Iterator[str]:
    """What the policy would allow and the lo link does not carry."""
    network = policy.network
    if (
        network is None
        or any(isinstance(entry, AddressEntry) for entry in network.allowed)
        or not network.denied
    ):
        yield "the lo link carries TCP and DNS: other packets are refused, whatever the policy allows"
