"""``egress rules show``: the kernel plan as text, without any privilege."""

import argparse

from gateway.cli.arguments import add_policy_arguments, policy_from
from rules import build_plan

EPILOG = """\
examples:
  egress rules show --allow-out api.openai.com --deny-out 0.0.0.0/0
  egress rules show --policy policy.yaml --link lo | sudo ip netns exec SCRATCH iptables-legacy-restore --test
"""


def register(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verb."""
    parser = subparsers.add_parser(
        "rules", help="show the kernel plan of a policy", description="The kernel's side of a policy."
    )
    verbs = parser.add_subparsers(dest="rules_verb", metavar="VERB", required=True)
    show = verbs.add_parser(
        "show",
        help="print the plan in the words of iptables-save",
        description="Print what the kernel is told for a policy, in the words of iptables-save. Needs no privilege and changes nothing.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_policy_arguments(show)
    show.add_argument("--link", choices=("lo",), default="lo", help="how the sandbox is joined (default: lo)")
    show.add_argument("-6", dest="ipv6", action="store_true", help="the plan for IPv6 (default: IPv4)")
    show.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Print it."""
    policy = policy_from(args, default_deny=False)
    print(build_plan(policy.network, args.link, 6 if args.ipv6 else 4), end="")
    return 0
