"""``egress rules show``: the kernel plan as text, without any privilege."""

import argparse

from gateway.cli.arguments import add_policy_arguments, policy_from
from gateway.privilege import usual_link
from rules import build_plan
from rules.plan import LINKS

EPILOG = """\
examples:
  egress rules show --allow-out api.openai.com
  egress rules show --link veth -6 --policy policy.yaml

Sets come first, one line each that begins with create or add: for ipset restore. What follows is for iptables-restore:
  egress rules show ... >plan
  grep -E '^(create|add) ' plan | ipset restore
  grep -vE '^(create|add) ' plan | iptables-legacy-restore

As for run, allow entries and no deny entry mean "deny the rest".
"""


def register(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verb."""
    parser = subparsers.add_parser(
        "rules", help="show the kernel plan of a policy", description="The kernel's side of a policy."
    )
    verbs = parser.add_subparsers(dest="rules_verb", metavar="VERB", required=True)
    show = verbs.add_parser(
        "show",
        help="print the plan in the words of ipset and iptables-save",
        description="Print what the kernel is told for a policy, as ipset save and iptables-save would. Needs no privilege and changes nothing.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_policy_arguments(show)
    show.add_argument(
        "--link",
        choices=tuple(LINKS),
        default=usual_link(),
        help="how the sandbox is joined (default: as for run, veth for root, else lo)",
    )
    show.add_argument("-6", dest="ipv6", action="store_true", help="the plan for IPv6 (default: IPv4)")
    show.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print it."""
    policy = policy_from(args, default_deny=True)
    print(build_plan(policy.network, args.link, 6 if args.ipv6 else 4), end="")
    return 0
