"""``egress check``: which row and which entry would decide, asked of the code that enforces."""

import argparse
import asyncio
import json
from typing import Any

from gateway.cli.arguments import UsageError, add_policy_arguments, policy_from
from gateway.flow import Endpoint, IPAddress
from gateway.forecast import Forecast, Forecaster, Outlook, Question, read_question
from gateway.privilege import usual_link
from rules.entry import EntryError

EXIT_ALLOWED = 0
EXIT_BLOCKED = 1
EXIT_UNKNOWN = 3

EPILOG = """\
examples:
  egress check --allow-out '*.openai.com:443' api.openai.com:443 evil.example:443
  egress check --policy policy.yaml --json 10.0.0.5:5432

Exit status: 0 all allowed, 1 at least one blocked, 3 none blocked but at least one undetermined.
Without a port the answer must hold for every port; without --resolve, for every address that a name may have.
As for run, allow entries and no deny entry mean "deny the rest".
"""

_WORD = {Outlook.ALLOW: "allowed", Outlook.BLOCK: "blocked", Outlook.UNKNOWN: "unknown"}


def register(subparsers: "argparse._SubParsersAction[argparse.ArgumentParser]") -> None:
    """Add the verb."""
    parser = subparsers.add_parser(
        "check",
        help="say what would become of a destination, and which entry decides",
        description="Say what would become of a TCP connection, by the code that enforces the policy.",
        epilog=EPILOG,
        formatter_class=argparse.RawDescriptionHelpFormatter,
    )
    add_policy_arguments(parser)
    parser.add_argument("targets", metavar="NAME-or-IP[:PORT]", nargs="+", help="what to ask about")
    parser.add_argument("--resolve", action="store_true", help="ask the resolver for the addresses of names")
    parser.add_argument(
        "--link",
        choices=("lo", "veth"),
        default=usual_link(),
        help="how the sandbox is joined (default: as for run, veth for root, else lo)",
    )
    parser.add_argument("--json", action="store_true", help="one JSON object a line")
    parser.set_defaults(run=run, parser=parser)


def run(args: argparse.Namespace) -> int:
    """Answer for each target; the worst answer is the exit status."""
    from gateway.net.local import LocalAddresses  # a netlink socket: nothing that --help should open

    policy = policy_from(args, default_deny=True)
    questions = [_question(text) for text in args.targets]
    resolver = Endpoint(policy.resolver_ip, 53)
    local = LocalAddresses()
    try:
        forecaster = Forecaster(policy.network, args.link, local)
        answered = [
            _answer(forecaster, question, resolver if args.resolve else None) for question in questions
        ]
    finally:
        local.close()
    for question, forecast in zip(questions, answered, strict=True):
        print(json.dumps(_as_json(question, forecast)) if args.json else _as_text(question, forecast))
    outlooks = {forecast.outlook for forecast in answered}
    if Outlook.BLOCK in outlooks:
        return EXIT_BLOCKED
    return EXIT_UNKNOWN if Outlook.UNKNOWN in outlooks else EXIT_ALLOWED


def _question(text: str) -> Question:
    try:
        return read_question(text)
    except EntryError as error:
        raise UsageError(str(error)) from error


def _answer(forecaster: Forecaster, question: Question, resolver: Endpoint | None) -> Forecast:
    if resolver is None or not isinstance(question.what, str) or not forecaster.needs_addresses(question):
        return forecaster.ask(question)
    from gateway.net.resolve import ResolveError, ResolveTimeout

    try:
        answers = asyncio.run(_resolve(resolver, question.what))
    except ResolveTimeout as error:
        return Forecast(Outlook.UNKNOWN, note=f"the name could not be resolved: {error}")
    except ResolveError as error:
        return Forecast(Outlook.BLOCK, reason="resolve_failed", layer="proxy", note=str(error))
    return forecaster.ask(question, answers)


async def _resolve(resolver: Endpoint, name: str) -> tuple[IPAddress, ...]:
    from gateway.net.resolve import Resolver

    return await Resolver(resolver).addresses(name)


def _as_text(question: Question, forecast: Forecast) -> str:
    words = [f"{_WORD[forecast.outlook]:8} {question}"]
    if forecast.rule is not None:
        words.append(f"by {forecast.rule}")
    where = [f"row {forecast.row}"] if forecast.row is not None else []
    where += [word for word in (forecast.layer, forecast.reason) if word is not None]
    if forecast.outlook is not Outlook.UNKNOWN and where:
        words.append(f"({', '.join(where)})")
    if forecast.addresses:
        words.append(f"-> {', '.join(map(str, forecast.addresses))}")
    if forecast.note:
        words.append(f"; {forecast.note}")
    return " ".join(words).replace(" ; ", "; ")


def _as_json(question: Question, forecast: Forecast) -> dict[str, Any]:
    name = isinstance(question.what, str)
    return {
        "target": str(question),
        "verdict": str(forecast.outlook),
        "row": forecast.row,
        "rule": forecast.rule,
        "reason": forecast.reason,
        "layer": forecast.layer,
        "domain": question.what if name else None,
        "dest_ip": None if name else str(question.what),
        "dest_port": question.port,
        "addresses": [str(ip) for ip in forecast.addresses],
        "note": forecast.note or None,
    }
