"""Words that the tests of the decision share."""

from ipaddress import IPv4Address, ip_address
from typing import Final

from gateway.decide import Decision, Target, Verdict
from gateway.flow import Endpoint, Flow, IPAddress
from gateway.reasons import Reason
from gateway.sniff.result import Refused, Sniffed

NAME: Final = "api.openai.com"
OTHER: Final = "evil.example"
UNREADABLE: Final = Refused(Reason.BAD_TLS, "tls")


def flow_to(ip: IPAddress | str, port: int = 443, proto: str = "tcp") -> Flow:
    source = Endpoint(IPv4Address("10.0.0.2"), 41234)
    return Flow("5f2c-18f3", "agent-1", source, Endpoint(ip_address(ip), port), proto)


def tls(host: str, *, ech: bool = False) -> Sniffed:
    return Sniffed("tls", host, ech=ech)


def said(code: str, shown: str, name: str | None) -> Decision:
    """The decision that a code of the table stands for; ``name``: what the sniffer saw."""
    return {
        "1": Decision(Verdict.BLOCK, 1, "floor", Reason.FLOOR),
        "2": Decision(Verdict.ALLOW, 2, shown, Reason.ALLOWED_ADDRESS, Target.ASKED),
        "3A": Decision(Verdict.ALLOW, 3, shown, Reason.ALLOWED_NAME, Target.ASKED, name),
        "3B": Decision(Verdict.ALLOW, 3, shown, Reason.ALLOWED_NAME, Target.BOUND, name),
        "4i": Decision(Verdict.BLOCK, 4, shown, Reason.DENIED_ADDRESS),
        "4n": Decision(Verdict.BLOCK, 4, shown, Reason.DENIED_NAME, host=name),
        "4*": Decision(Verdict.BLOCK, 4, "deny_out[0] 0.0.0.0/0", Reason.NO_ALLOW_ENTRY),
        "4?": Decision(Verdict.BLOCK, 4, "unreadable", Reason.BAD_TLS),
        "5": Decision(Verdict.ALLOW, 5, "default", Reason.DEFAULT_ALLOW, Target.ASKED),
    }[code]
