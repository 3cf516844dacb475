"""``egress policy``: is a policy sound, and how does the gateway read it."""

import argparse
import json

from gateway.cli.arguments import UsageError, add_policy_arguments, path, policy_from, read_policy
from gateway.cli.streams import say
from rules import PolicyError
from rules.document import dump_policy
from rules.schema import policy_schema

EXIT_BAD_POLICY = 78


def register(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verb and its own verbs."""
    parser = subparsers.add_parser(
        "policy",
        help="validate or show a policy",
        description="Check a policy, or show how the gateway reads it.",
    )
    verbs = parser.add_subparsers(dest="policy_verb", metavar="VERB", required=True)
    for name, run, text in (
        ("validate", validate, "name everything that is wrong with a policy; exit 0 if nothing is, else 78"),
        ("show", show, "print a policy as the gateway reads it, in canonical form"),
    ):
        one = verbs.add_parser(name, help=text, description=f"{text[0].upper()}{text[1:]}.")
        one.add_argument("file", metavar="FILE", type=path, nargs="?", help="a policy file, YAML or JSON")
        add_policy_arguments(one)
        one.add_argument("--json", action="store_true", help="answer in JSON")
        one.set_defaults(run=run, parser=one)
    schema = verbs.add_parser("schema", help="print the JSON Schema of policy files")
    schema.set_defaults(run=print_schema, parser=schema)


def validate(args: argparse.Namespace) -> int:
    """Report every fault, each with its mend, and every warning."""
    _take_file(args)
    try:
        _, notes = read_policy(args, default_deny=True)
    except PolicyError as error:
        if not args.json:
            raise
        print(json.dumps({"valid": False, "errors": error.errors, "notes": []}, indent=2))
        return EXIT_BAD_POLICY
    if args.json:
        print(json.dumps({"valid": True, "errors": [], "notes": notes}, indent=2))
        return 0
    for note in notes:
        say(note)
    print("the policy is sound")
    return 0


def show(args: argparse.Namespace) -> int:
    """Print the policy that would be in force; a policy file again, whichever form is asked for."""
    _take_file(args)
    policy = policy_from(args, default_deny=True)
    text = json.dumps(policy.to_dict(), indent=2) + "\n" if args.json else dump_policy(policy)
    print(text, end="")
    return 0


def print_schema(_: argparse.Namespace) -> int:
    """Print what ``rules/policy.schema.json`` holds."""
    print(json.dumps(policy_schema(), indent=2))
    return 0


def _take_file(args: argparse.Namespace) -> None:
    if args.file is not None and args.policy is not None:
        raise UsageError("FILE and --policy both name a file: drop one")
    args.policy = args.policy or args.file
