"""The decision: what a policy means for one attempt. Pure and total; every door asks here.

First hit wins, and ``row`` says which one it was (docs/policy.md):

1. the destination is in the floor: block, nothing can allow it;
2. an IP entry of ``allow_out`` holds it: allow, at the address that was asked;
3. a name entry of ``allow_out`` holds the name seen: allow, at an address of the name's own (``bind``), or at the address asked if nothing
   would have denied it anyway;
4. an entry of ``deny_out`` holds the address or the name, or no name can be trusted where one would decide: block;
5. otherwise: allow.

An attempt is decided in steps, each with what is known by then: ``settle`` by address and port, ``decide``
with what the sniffer saw, ``bind`` with what the resolver answered. A later step never takes back what an
earlier one settled.
"""

from collections.abc import Callable, Container, Iterable, Sequence
from enum import StrEnum
from typing import Final, NamedTuple

from gateway.addresses import SINKHOLE, AddressKind, classify, unmapped
from gateway.flow import Flow, IPAddress
from gateway.reasons import Reason
from gateway.sniff.result import Refused, Sniffed
from matcher import HostTable, Pattern, canonical
from rules.entry import AddressEntry, Entry
from rules.link import Family
from rules.policy import QUIC_PORTS, ListName, NetworkPolicy
from rules.table import AddressTable, Held
from rules.terms import denies_all, holds_all

MAX_ADDRESSES: Final = 3
"""How many addresses of a name are tried, within one deadline."""


class Verdict(StrEnum):
    """Whether an attempt may leave."""

    ALLOW = "allow"
    BLOCK = "block"


class Target(StrEnum):
    """Where an allowed attempt is carried to."""

    NONE = "none"
    ASKED = "asked"
    """The address that the sandbox dialled."""
    BOUND = "bound"
    """An address that the name has by our own resolution, and none else: ``bind``."""


class Decision(NamedTuple):
    """What becomes of one attempt, and which words of the policy say so."""

    verdict: Verdict
    row: int
    """Of the table above; 0 where the gateway's own state decided."""
    entry: str
    """``rule`` of the record: an entry by list, index and text, or floor, default, limit, unreadable."""
    reason: Reason
    target: Target = Target.NONE
    host: str | None = None
    """The name that was seen, canonical."""
    addresses: tuple[IPAddress, ...] = ()
    """Where to connect to, in order, once a BOUND target is bound."""
    dest_mismatch: bool = False
    """The address dialled is not among those that the name may be reached at."""


class NameList:
    """Name entries of one list, and where in the policy's list each of them stands."""

    __slots__ = ("first", "rules", "table")

    def __init__(self, entries: Iterable[tuple[str, Pattern]]) -> None:
        """``entries``: the rule that a record shows, and the entry, in the order of the list."""
        pairs = tuple(entries)
        self.rules = tuple(rule for rule, _ in pairs)
        self.table = HostTable(pattern for _, pattern in pairs)
        self.first = self.rules[0] if self.rules else None

    def find(self, host: str, port: int | None) -> str | None:
        """Return the rule that holds ``host`` at ``port``; without one, at any."""
        match = self.table.match(host, port)
        return None if match is None else self.rules[match.index]


class CompiledPolicy:
    """A ``NetworkPolicy`` made ready for the path. Immutable."""

    __slots__ = (
        "allow_everything",
        "allow_ips",
        "allow_names",
        "deny_everything",
        "deny_ips",
        "deny_names",
        "ech_refused",
    )

    def __init__(self, policy: NetworkPolicy | None) -> None:
        source = NetworkPolicy() if policy is None else policy
        self.allow_ips, self.allow_names = _tables("allow_out", source)
        self.deny_ips, self.deny_names = _tables("deny_out", source)
        self.ech_refused = source.ech == "refuse"
        self.allow_everything = _everything("allow_out", source.allowed, holds_all, either=True)
        """The rule that holds every address of a family, at some port at least: names must be known to be used. Where entries do so together, the
        first of them."""
        self.deny_everything = _everything("deny_out", source.denied, denies_all, either=False)
        """The rule that holds every address of both families; or the first of several."""

    @property
    def forwards_all(self) -> bool:
        """Whether DNS forwards every name: under default allow, and where ``allow_out`` holds every
        address."""
        return self.allow_everything is not None or self.deny_everything is None

    def forwards(self, host: str) -> bool:
        """Whether DNS forwards a query for ``host``."""
        return decide_query(self, host).verdict is Verdict.ALLOW


def _everything(
    name: ListName,
    entries: Sequence[Entry],
    all_of: Callable[[Sequence[Entry], Family], bool],
    *,
    either: bool,
) -> str | None:
    found = [all_of(entries, 4), all_of(entries, 6)]
    if not (any(found) if either else all(found)):
        return None
    rules = [
        (f"{name}[{index}] {entry}", entry)
        for index, entry in enumerate(entries)
        if isinstance(entry, AddressEntry)
    ]
    both = (rule for rule, entry in rules if len(entry.networks()) == 2)
    return next(both, rules[0][0])


def compile_policy(policy: NetworkPolicy | None) -> CompiledPolicy:
    """Make ``policy`` ready for the path; ``None`` is full egress, for which the floor holds all the same."""
    return CompiledPolicy(policy)


def _tables(name: ListName, policy: NetworkPolicy) -> tuple[AddressTable, NameList]:
    entries = policy.allowed if name == "allow_out" else policy.denied
    named = [(f"{name}[{index}] {entry}", entry) for index, entry in enumerate(entries)]
    return (
        AddressTable(
            ((rule, entry) for rule, entry in named if isinstance(entry, AddressEntry)),
            spelt=name == "deny_out",
        ),
        NameList((rule, entry) for rule, entry in named if isinstance(entry, Pattern)),
    )


def settle(policy: CompiledPolicy, flow: Flow, local: Container[IPAddress] = frozenset()) -> Decision | None:
    """Decide by address and port alone; None means that a name must be read first."""
    decision, _ = _by_address(policy, flow, local)
    return decision


def decide(
    policy: CompiledPolicy,
    flow: Flow,
    seen: Sniffed | Refused | None,
    local: Container[IPAddress] = frozenset(),
) -> Decision:
    """Decide with what the sniffer saw; ``seen=None`` (nothing was read) blocks where a name is needed."""
    settled, denied = _by_address(policy, flow, local)
    if settled is not None:
        if settled.row == 5 and isinstance(seen, Sniffed):
            return _named_default(policy, settled, seen, flow.dest.port)
        return settled
    if seen is None or isinstance(seen, Refused):
        return _unreadable(_why_unread(flow, seen))
    return _by_name(policy, flow, seen, denied)


def denied_by_address(policy: CompiledPolicy, flow: Flow) -> Decision | None:
    """What ``deny_out`` says to the address alone: the answer where ``settle`` is None and no allowed name
    comes."""
    denied = policy.deny_ips.find(unmapped(flow.dest.ip), flow.dest.port)
    return None if denied is None else _denied_address(denied, None)


def _by_address(
    policy: CompiledPolicy, flow: Flow, local: Container[IPAddress]
) -> tuple[Decision | None, Held | None]:
    """The decision where no name is needed for it, and the entry of ``deny_out`` that holds the address."""
    port = flow.dest.port
    ip = unmapped(flow.dest.ip)
    if classify(ip, local) is AddressKind.FLOOR:
        return _FLOOR, None
    allowed = policy.allow_ips.find(ip, port)
    if allowed is not None:
        return Decision(Verdict.ALLOW, 2, allowed.rule, Reason.ALLOWED_ADDRESS, Target.ASKED), None
    denied = policy.deny_ips.find(ip, port)
    if flow.proto != "tcp":
        return _without_names(policy, flow, denied), denied
    if denied is not None:
        if policy.allow_names.table.covers_port(port) or ip == SINKHOLE:
            return None, denied
        return _denied_address(denied, None), denied
    return (None if policy.deny_names.table.covers_port(port) else BY_DEFAULT), None


def _without_names(policy: CompiledPolicy, flow: Flow, denied: Held | None) -> Decision:
    """UDP and the rest, whose names are never read."""
    if denied is not None:
        return _denied_address(denied, None)
    if policy.deny_names.first is not None and flow.proto == "udp" and flow.dest.port in QUIC_PORTS:
        return Decision(Verdict.BLOCK, 4, policy.deny_names.first, Reason.DENIED_NAME)
    return BY_DEFAULT


def _named_default(policy: CompiledPolicy, settled: Decision, seen: Sniffed, port: int) -> Decision:
    """What was allowed without its name is allowed with it, and the record may as well say by which entry."""
    rule = policy.allow_names.find(seen.host, port)
    if rule is None:
        return settled._replace(host=seen.host)
    return Decision(Verdict.ALLOW, 3, rule, Reason.ALLOWED_NAME, Target.ASKED, seen.host)


def _by_name(policy: CompiledPolicy, flow: Flow, seen: Sniffed, denied: Held | None) -> Decision:
    """Rows 3 to 5 for a destination that a name decides."""
    host, port = seen.host, flow.dest.port
    if seen.port is not None and seen.port != port:
        return _unreadable(Reason.PORT_MISMATCH, host)
    allow_rule = policy.allow_names.find(host, port)
    deny_rule = policy.deny_names.find(host, port)
    if allow_rule is None:
        if deny_rule is not None:
            return Decision(Verdict.BLOCK, 4, deny_rule, Reason.DENIED_NAME, host=host)
        if denied is not None:
            return _denied_address(denied, host)
        if canonical(host) is None:  # a single label, and whatever a sniffer should not have passed on
            return _unreadable(Reason.BAD_NAME, host)
    if seen.ech and policy.ech_refused:
        return _unreadable(Reason.ECH, host)
    if allow_rule is None:
        return BY_DEFAULT._replace(host=host)
    target = Target.ASKED if denied is None and deny_rule is None else Target.BOUND
    return Decision(Verdict.ALLOW, 3, allow_rule, Reason.ALLOWED_NAME, target, host)


def decide_query(policy: CompiledPolicy, host: str) -> Decision:
    """Decide whether DNS may ask for ``host``: any port of an entry will do, since a query names none."""
    allowed = policy.allow_names.find(host, None)
    if allowed is not None:
        return Decision(Verdict.ALLOW, 3, allowed, Reason.ALLOWED_NAME, host=host)
    if policy.allow_everything is not None:
        return Decision(Verdict.ALLOW, 2, policy.allow_everything, Reason.ALLOWED_ADDRESS, host=host)
    if policy.deny_everything is None:
        return BY_DEFAULT._replace(target=Target.NONE, host=host)
    denied = policy.deny_names.find(host, None)
    if denied is not None:
        return Decision(Verdict.BLOCK, 4, denied, Reason.DENIED_NAME, host=host)
    return Decision(Verdict.BLOCK, 4, policy.deny_everything, Reason.NO_ALLOW_ENTRY, host=host)


def usable(
    policy: CompiledPolicy, ip: IPAddress, local: Container[IPAddress], port: int | None = None
) -> bool:
    """Whether a name may lead to ``ip``: never into the floor, to a private address only where an IP entry
    allows it at ``port``; without one, at any.
    """
    kind = classify(ip, local)
    if kind is not AddressKind.PRIVATE:
        return kind is AddressKind.PUBLIC
    return policy.allow_ips.holds(ip) if port is None else policy.allow_ips.find(ip, port) is not None


def bind(
    policy: CompiledPolicy,
    decision: Decision,
    flow: Flow,
    answers: Sequence[IPAddress],
    local: Container[IPAddress] = frozenset(),
) -> Decision:
    """Give a BOUND ``decision`` its addresses: those of ``answers`` that may be dialled, the one asked for
    first.

    The floor is never dialled, a private address only where an IP entry allows it too. None left is a
    refusal.
    """
    if decision.target is not Target.BOUND:
        return decision
    if not answers:
        return unresolved(decision, Reason.RESOLVE_FAILED)
    asked, port = unmapped(flow.dest.ip), flow.dest.port
    found = [
        ip
        for ip in sorted(dict.fromkeys(map(unmapped, answers)), key=asked.__ne__)
        if usable(policy, ip, local, port)
    ]
    if not found:
        return unresolved(decision, Reason.FORBIDDEN_ANSWER)
    chosen, version = found[:MAX_ADDRESSES], found[0].version
    if all(ip.version == version for ip in chosen):
        # One of the other family, which may be the one that is there: RFC 8305, section 4.
        chosen[MAX_ADDRESSES - 1 :] = [ip for ip in found[MAX_ADDRESSES:] if ip.version != version][
            :1
        ] or chosen[MAX_ADDRESSES - 1 :]
    return decision._replace(addresses=tuple(chosen), dest_mismatch=chosen[0] != asked)


def unresolved(decision: Decision, reason: Reason) -> Decision:
    """Block what ``decision`` would have allowed by name, because the name has no address to go to."""
    return decision._replace(verdict=Verdict.BLOCK, reason=reason, target=Target.NONE)


def refuse(reason: Reason, entry: str = "limit") -> Decision:
    """Block for a reason of the gateway's own: a cap, an error, a stop. No row of the table decided it."""
    return Decision(Verdict.BLOCK, 0, entry, reason)


def _why_unread(flow: Flow, seen: Refused | None) -> Reason:
    """At the sinkhole, what speaks neither TLS nor HTTP came for a name that DNS kept back, and shows none."""
    if unmapped(flow.dest.ip) == SINKHOLE and (seen is None or seen.app is None):
        return Reason.SINKHOLE
    return Reason.NO_HELLO if seen is None else seen.reason


def _unreadable(reason: Reason, host: str | None = None) -> Decision:
    return Decision(Verdict.BLOCK, 4, "unreadable", reason, host=host)


def _denied_address(denied: Held, host: str | None) -> Decision:
    reason = Reason.NO_ALLOW_ENTRY if denied.everything else Reason.DENIED_ADDRESS
    return Decision(Verdict.BLOCK, 4, denied.rule, reason, host=host)


_FLOOR: Final = Decision(Verdict.BLOCK, 1, "floor", Reason.FLOOR)
BY_DEFAULT: Final = Decision(Verdict.ALLOW, 5, "default", Reason.DEFAULT_ALLOW, Target.ASKED)
