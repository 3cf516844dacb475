"""What would become of a connection, before anyone makes it: the questions of ``egress check``, put to
``gateway.decide``.

Pure. Not everything can be told beforehand. Which address a name has, which port, which name a client shows
at an address: where the answer turns on what is not known, the forecast is ``unknown`` and its note says on
what.
"""

from collections.abc import Container, Sequence
from enum import StrEnum
from ipaddress import IPv4Address
from typing import Final, Literal, NamedTuple

from gateway.addresses import SINKHOLE
from gateway.decide import Decision, Target, Verdict, bind, compile_policy, decide, denied_by_address, settle
from gateway.flow import Endpoint, Flow, IPAddress
from gateway.sniff.result import Sniffed
from matcher import Kind
from rules.entry import AddressEntry, EntryError, read_entry
from rules.policy import DNS_PORT, NetworkPolicy

LinkKind = Literal["lo", "veth"]

_USUAL_PORT: Final = 443
_OTHER_PORT: Final = 0
"""No entry can name it, so it stands for every port that none does."""
_NOWHERE: Final = Endpoint(IPv4Address("0.0.0.0"), 0)
_ORDINARY: Final = tuple(map(IPv4Address, ("192.0.2.1", "198.51.100.1", "203.0.113.1", "8.8.4.4", "1.0.0.1")))
"""Public addresses, of which one stands for "an address that no entry speaks of"."""


class Outlook(StrEnum):
    """What the forecast says."""

    ALLOW = "allow"
    BLOCK = "block"
    UNKNOWN = "unknown"


_WORD: Final = {Outlook.ALLOW: "allowed", Outlook.BLOCK: "blocked"}


class Question(NamedTuple):
    """One thing that may be asked about."""

    what: str | IPAddress
    """A canonical name, or an address."""
    port: int | None

    def __str__(self) -> str:
        if self.port is None:
            return str(self.what)
        return (
            f"{self.what}:{self.port}" if isinstance(self.what, str) else str(Endpoint(self.what, self.port))
        )


class Forecast(NamedTuple):
    """The answer, and what decides."""

    outlook: Outlook
    row: int | None = None
    """Of the decision table; None where something beside it answers (DNS to the resolver)."""
    rule: str | None = None
    reason: str | None = None
    layer: Literal["kernel", "proxy", "dns"] | None = None
    addresses: tuple[IPAddress, ...] = ()
    """Where a name would be connected to, if it was resolved."""
    note: str = ""


def read_question(text: str) -> Question:
    """Read ``NAME-or-IP[:PORT]``, in the grammar of entries. Raises ``EntryError``."""
    entry = read_entry(text)
    port = None if entry.ports is None else entry.ports[0]
    if entry.ports is not None and len(entry.ports) > 1:
        raise EntryError(
            text, "several ports at once", f"write them one by one, as {text.rpartition(':')[0]}:{port}"
        )
    if isinstance(entry, AddressEntry):
        if entry.network.prefixlen != entry.network.max_prefixlen:
            raise EntryError(
                text, "a network, not an address", f"write one, as {entry.network.network_address}"
            )
        return Question(entry.network.network_address, port)
    if entry.kind is not Kind.EXACT:
        raise EntryError(text, "a pattern, not a name", "write one name, as api.openai.com")
    return Question(entry.name, port)


class Forecaster:
    """Answers questions about one policy on one kind of link."""

    def __init__(
        self,
        policy: NetworkPolicy | None,
        link: LinkKind = "lo",
        local: Container[IPAddress] = frozenset(),
    ) -> None:
        self._source = NetworkPolicy() if policy is None else policy
        self._policy = compile_policy(policy)
        self._link = link
        self._local = local

    def needs_addresses(self, question: Question) -> bool:
        """Whether resolving the name could tell more."""
        return isinstance(question.what, str) and self._reaches_resolver(question.what)

    def ask(self, question: Question, answers: Sequence[IPAddress] | None = None) -> Forecast:
        """Say what would become of ``question``; ``answers``: the addresses of its name, where they are
        known."""
        if question.port is not None:
            return self._at_port(question.what, question.port, answers)
        forecasts = {
            port: self._at_port(question.what, port, answers) for port in self._telling_ports(question)
        }
        if len({forecast.outlook for forecast in forecasts.values()}) == 1:
            return forecasts[_USUAL_PORT]
        rest = forecasts[_OTHER_PORT].outlook
        told = Outlook.BLOCK if rest is Outlook.ALLOW else Outlook.ALLOW
        ports = [str(port) for port, one in forecasts.items() if one.outlook is told and port != _OTHER_PORT]
        which = f": {_WORD[told]} at {', '.join(ports)}" if ports else ""
        return Forecast(Outlook.UNKNOWN, note=f"it depends on the port{which}; ask with one, as in NAME:443")

    def _telling_ports(self, question: Question) -> list[int]:
        """Ports that stand for all: every one that an entry names, and one for all those that none does."""
        entries = (*self._source.allowed, *self._source.denied)
        named = {port for entry in entries for port in entry.ports or ()}
        if question.what == self._source.resolver_ip:
            named.add(DNS_PORT)
        return [*sorted(named | {_USUAL_PORT}), _OTHER_PORT]

    def _at_port(self, what: str | IPAddress, port: int, answers: Sequence[IPAddress] | None) -> Forecast:
        if not isinstance(what, str):
            return self._at_address(what, port)
        if not self._reaches_resolver(what):
            return self._unforwarded(what, port)
        if answers:
            return self._resolved(what, port, answers)
        return self._unresolved(what, port)

    def _at_address(self, ip: IPAddress, port: int) -> Forecast:
        if port == DNS_PORT and ip == self._source.resolver_ip and self._source.allows_dns():
            layer: Literal["kernel", "dns"] = "kernel" if self._source.dns == "passthrough" else "dns"
            return Forecast(
                Outlook.ALLOW, None, f"resolver {ip}", layer=layer, note=_DNS_NOTE[self._source.dns]
            )
        flow = _flow(ip, port)
        settled = settle(self._policy, flow, self._local)
        if settled is not None:
            return self._told(settled, self._layer(settled))
        denied = denied_by_address(self._policy, flow)
        if denied is None:
            return Forecast(Outlook.UNKNOWN, layer="proxy", note=f"{_NAME_DECIDES}: ask about the name")
        return self._told(
            denied, "proxy", "a client that shows an allowed name is carried to that name's own addresses"
        )

    def _reaches_resolver(self, host: str) -> bool:
        return self._source.dns == "passthrough" or self._policy.forwards(host)

    def _unforwarded(self, host: str, port: int) -> Forecast:
        """A name that DNS itself keeps back: what a client then meets."""
        if self._source.dns == "strict":
            decision = decide(
                self._policy, _flow(self._ordinary(port), port), Sniffed("tls", host), self._local
            )
            return self._told(decision, "dns", "DNS answers NXDOMAIN")
        decision = decide(self._policy, _flow(SINKHOLE, port), Sniffed("tls", host), self._local)
        return self._told(decision, "proxy", f"DNS answers {SINKHOLE}, and what connects there is refused")

    def _unresolved(self, host: str, port: int) -> Forecast:
        """A name whose addresses nobody has asked for."""
        decision = decide(self._policy, _flow(self._ordinary(port), port), Sniffed("tls", host), self._local)
        if decision.verdict is Verdict.BLOCK:
            if self._policy.allow_ips.covers_port(port):
                return Forecast(
                    Outlook.UNKNOWN, note="it depends on the address: an IP entry of allow_out may hold it"
                )
            return self._told(decision, self._layer(decision))
        if decision.row == 5 and self._policy.deny_ips.covers_port(port):
            return Forecast(
                Outlook.UNKNOWN, note="it depends on the address: an IP entry of deny_out may hold it"
            )
        bound = decision.target is Target.BOUND
        return self._told(decision, self._layer(decision), "at an address of the name's own" if bound else "")

    def _resolved(self, host: str, port: int, answers: Sequence[IPAddress]) -> Forecast:
        """A name whose addresses are known: the sandbox would dial one of them."""
        forecasts = []
        for ip in answers:
            flow = _flow(ip, port)
            decision = decide(self._policy, flow, Sniffed("tls", host), self._local)
            decision = bind(self._policy, decision, flow, answers, self._local)
            if decision.target is Target.ASKED:
                decision = decision._replace(addresses=(ip,))
            forecasts.append(self._told(decision, self._layer(decision)))
        if len({forecast.outlook for forecast in forecasts}) == 1:
            return forecasts[0]
        allowed = [
            str(ip) for ip, one in zip(answers, forecasts, strict=True) if one.outlook is Outlook.ALLOW
        ]
        note = f"it depends on which of the name's addresses is dialled: allowed at {', '.join(allowed)}"
        return Forecast(Outlook.UNKNOWN, note=note)

    def _ordinary(self, port: int) -> IPAddress:
        """An address that no entry speaks of, but for those that hold everything."""
        for ip in _ORDINARY:
            held = (self._policy.allow_ips.find(ip, port), self._policy.deny_ips.find(ip, port))
            if all(entry is None or entry.everything for entry in held):
                return ip
        return _ORDINARY[0]

    def _layer(self, decision: Decision) -> Literal["kernel", "proxy"]:
        """On lo every connection is the proxy's; elsewhere the kernel settles what needs no name, row 5
        apart."""
        settled = decision.row in (1, 2) or (decision.row == 4 and decision.host is None)
        return "kernel" if settled and self._link != "lo" else "proxy"

    def _told(self, decision: Decision, layer: Literal["kernel", "proxy", "dns"], note: str = "") -> Forecast:
        outlook = Outlook(decision.verdict.value)
        return Forecast(
            outlook, decision.row, decision.entry, str(decision.reason), layer, decision.addresses, note
        )


_DNS_NOTE: Final = {
    "guarded": "the gateway answers DNS itself: allowed names are forwarded",
    "strict": "the gateway answers DNS itself: allowed names are forwarded",
    "passthrough": "packets go to the resolver as they are",
}
_NAME_DECIDES: Final = "it depends on the name that the client shows"


def _flow(ip: IPAddress, port: int) -> Flow:
    return Flow("check", "check", _NOWHERE, Endpoint(ip, port))
