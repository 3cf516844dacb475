"""The arguments that say which policy: the same for every verb that takes one."""

import argparse
from pathlib import Path

from gateway.cli.streams import say
from gateway.errors import EgressError
from rules import ALL_TRAFFIC, NetworkPolicy, SecurityPolicy, without_internet
from rules.policy import DEFAULT_RESOLVER, DNS_MODES


class UsageError(EgressError):
    """Arguments that do not go together."""

    exit_code = 2


def add_policy_arguments(parser: argparse.ArgumentParser) -> None:
    """Add ``--policy`` and the arguments that spell one out; ``policy_from`` reads them."""
    group = parser.add_argument_group("policy")
    group.add_argument("--policy", metavar="FILE", type=path, help="a policy file, YAML or JSON")
    group.add_argument(
        "--allow-out",
        metavar="E",
        action="append",
        help="allow a name, *.name, ~regex, IP or CIDR, ports behind a colon (repeatable)",
    )
    group.add_argument(
        "--deny-out",
        metavar="E",
        action="append",
        help="deny a name, IP or CIDR, written as for --allow-out (repeatable)",
    )
    group.add_argument("--no-internet", action="store_true", help="deny everything")
    group.add_argument(
        "--dns", metavar="MODE", help=f"what DNS answers for other names: {', '.join(DNS_MODES)}"
    )
    group.add_argument(
        "--resolver", metavar="IP", help=f"the DNS server to ask (default: {DEFAULT_RESOLVER})"
    )


def path(text: str) -> Path:
    """One that is named: an empty word is a variable that was not set, and not the current directory."""
    if not text:
        raise argparse.ArgumentTypeError("an empty path: name one, or leave it out")
    return Path(text)


def policy_from(args: argparse.Namespace, *, default_deny: bool) -> SecurityPolicy:
    """Return the policy that the arguments say; what is worth knowing of it goes to stderr, a line each.

    ``default_deny``: allow entries and no deny entry mean "deny the rest", as for ``run``. Raises
    ``PolicyError`` and ``UsageError``.
    """
    policy, notes = read_policy(args, default_deny=default_deny)
    for note in notes:
        say(note)
    return policy


def read_policy(args: argparse.Namespace, *, default_deny: bool) -> tuple[SecurityPolicy, list[str]]:
    """As ``policy_from``, with the notes beside the policy."""
    notes = []
    if args.policy is not None:
        beside = [flag for flag, value in _spelt_out(args).items() if value]
        if beside:
            mend = "put it into the file, or drop --policy"
            raise UsageError(f"--policy and {beside[0]} both say what the policy is: {mend}")
        from rules.document import load_policy  # and yaml, which most runs need not wait for

        policy = load_policy(args.policy)
    else:
        deny_out = list(args.deny_out or ())
        if default_deny and args.allow_out and not deny_out:
            deny_out = [ALL_TRAFFIC]
            notes.append(f"--allow-out without --deny-out: everything else is denied ({ALL_TRAFFIC})")
        policy = _from_flags(args, deny_out)
    notes += [f"warning: {warning}" for warning in policy.warnings]
    return policy, notes


def _spelt_out(args: argparse.Namespace) -> dict[str, object]:
    return {
        "--allow-out": args.allow_out,
        "--deny-out": args.deny_out,
        "--no-internet": args.no_internet,
        "--dns": args.dns,
        "--resolver": args.resolver,
    }


def _from_flags(args: argparse.Namespace, deny_out: list[str]) -> SecurityPolicy:
    if not any(_spelt_out(args).values()):
        return SecurityPolicy()
    modes = {name: value for name in ("dns", "resolver") if (value := getattr(args, name)) is not None}
    if not args.no_internet:
        return SecurityPolicy(NetworkPolicy(args.allow_out, deny_out, **modes))
    # The deny entry that stands for "the rest" is what --no-internet says anyway.
    given = list(args.deny_out or ())
    return without_internet(SecurityPolicy(NetworkPolicy(args.allow_out, given, **modes)))
