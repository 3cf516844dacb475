"""``egress doctor``: can this host enforce?"""

import argparse
import json

from gateway.cli.streams import say

EPILOG = """\
It makes a sandbox the way `egress run` would and takes it down again; nothing is left behind.
Exit status: 0 if a sandbox can be run here by this user, 1 if not.
"""


def register(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verb."""
    parser = subparsers.add_parser(
        "doctor",
        help="say whether this host can enforce, and what to mend",
        description="Say whether this host can enforce a policy for the user who asks, and what to mend.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.set_defaults(run=run)


def run(args: argparse.Namespace) -> int:
    """Look, say, and sum up."""
    from gateway.doctor import examine

    lacking = []
    for finding in examine():
        if args.json:
            print(json.dumps(finding._asdict()), flush=True)
        else:
            print(
                f"{'ok' if finding.ok else 'FAILS' if finding.needed else 'missing':8}{finding.what}: {finding.said}",
                flush=True,
            )
        if finding.needed and not finding.ok:
            lacking.append(finding.what)
    if lacking:
        say(f"no sandbox can be run here by this user: see {', '.join(lacking)}")
    return 1 if lacking else 0
