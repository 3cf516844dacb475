"""``egress doctor``: can this host enforce?"""

import argparse
import json
import signal
from contextlib import closing
from typing import Final, NoReturn

from gateway.cli.streams import say

ENDING: Final = (signal.SIGINT, signal.SIGTERM, signal.SIGHUP)
EPILOG = """\
It makes a sandbox the way `egress run` would, as root with a way out of it, sends packets in it, and takes it down again. No packet leaves this
machine, and nothing is left behind but what any sandbox leaves: empty tables, where iptables had none. What a killed gateway left is named, or
swept as by the next run.
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

    for number in ENDING:
        if signal.getsignal(number) is not signal.SIG_IGN:
            signal.signal(number, _end)
    lacking = []
    with closing(examine()) as findings:
        for finding in findings:
            if args.json:
                print(json.dumps(finding._asdict()), flush=True)
            else:
                word = "ok" if finding.ok else "FAILS" if finding.needed else "missing"
                print(f"{word:8}{finding.what}: {finding.said}", flush=True)
            if finding.needed and not finding.ok:
                lacking.append(finding.what)
    if lacking:
        say(f"no sandbox can be run here by this user: see {', '.join(lacking)}")
    return 1 if lacking else 0


def _end(number: int, _: object) -> NoReturn:
    """What was made is taken down on the way out."""
    raise SystemExit(128 + number)
