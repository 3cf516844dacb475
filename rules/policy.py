"""What a sandbox may reach, as a value: ``NetworkPolicy``, ``SecurityPolicy`` and their form as plain data.

A policy is checked whole when it is made: it exists only if every entry has exactly one reading, and
``PolicyError`` lists every entry that has not. Pure; ``rules.document`` reads files.
"""

import reprlib
from collections.abc import Iterator, Mapping
from dataclasses import dataclass, field, fields
from ipaddress import IPv4Address, IPv6Address, ip_address, ip_network
from typing import Any, Final, Literal, TypeVar, cast, get_args

from matcher import Kind, Pattern
from matcher.errors import quoted
from rules.entry import ALL_TRAFFIC, AddressEntry, Entry, EntryError, read_entry
from rules.errors import PolicyError
from rules.multitenant import tenants_under
from rules.ranges import FLOOR, is_inside

DnsMode = Literal["guarded", "strict", "passthrough"]
EchMode = Literal["allow", "refuse"]
ListName = Literal["allow_out", "deny_out"]

LISTS: Final[tuple[ListName, ...]] = get_args(ListName)
DNS_MODES: Final[tuple[DnsMode, ...]] = get_args(DnsMode)
ECH_MODES: Final[tuple[EchMode, ...]] = get_args(EchMode)
DEFAULT_RESOLVER: Final = "8.8.8.8"
DNS_PORT: Final = 53
QUIC_PORTS: Final = frozenset((443, 853))
"""RFC 9114 section 3.1, RFC 9250 section 4.1.1: UDP that carries a name nobody here can read."""


@dataclass(frozen=True, slots=True, init=False)
class NetworkPolicy:
    """What may leave one sandbox. An allow beats a deny; ``ALL_TRAFFIC`` in ``deny_out`` makes it an
    allowlist.

    Entries are kept in their canonical text and in the order given. Raises ``PolicyError`` with every fault
    at once.
    """

    allow_out: tuple[str, ...] = ()
    deny_out: tuple[str, ...] = ()
    dns: DnsMode = "guarded"
    resolver: str = DEFAULT_RESOLVER
    ech: EchMode = "allow"
    allowed: tuple[Entry, ...] = field(default=(), repr=False, compare=False)
    """``allow_out``, read."""
    denied: tuple[Entry, ...] = field(default=(), repr=False, compare=False)
    """``deny_out``, read."""

    def __init__(
        self,
        allow_out: list[str] | tuple[str, ...] | None = None,
        deny_out: list[str] | tuple[str, ...] | None = None,
        *,
        dns: str = "guarded",
        resolver: str = DEFAULT_RESOLVER,
        ech: str = "allow",
    ) -> None:
        errors: list[str] = []
        allowed = _read_list("allow_out", allow_out, errors)
        denied = _read_list("deny_out", deny_out, errors)
        _check_choice("dns", dns, DNS_MODES, errors)
        shown = _read_resolver(resolver, errors)
        _check_choice("ech", ech, ECH_MODES, errors)
        if errors:
            raise PolicyError(errors)
        values = (_texts(allowed), _texts(denied), dns, shown, ech, allowed, denied)
        for slot, value in zip(fields(self), values, strict=True):
            object.__setattr__(self, slot.name, value)

    def __reduce__(self) -> tuple[Any, ...]:
        return _from_dict, (NetworkPolicy, self.to_dict())

    @property
    def resolver_ip(self) -> IPv4Address | IPv6Address:
        """``resolver`` as an address."""
        return ip_address(self.resolver)

    @property
    def warnings(self) -> tuple[str, ...]:
        """What is legal and probably not meant, a line each."""
        return tuple(_warnings(self))

    def allows_dns(self) -> bool:
        """Whether DNS to the resolver works: a name entry of ``allow_out`` brings it, else the ordinary rules
        decide."""
        if any(isinstance(entry, Pattern) for entry in self.allowed):
            return True
        return self._holds(self.allowed) or not self._holds(self.denied)

    def _holds(self, entries: tuple[Entry, ...]) -> bool:
        resolver = self.resolver_ip
        return any(isinstance(entry, AddressEntry) and entry.holds(resolver, DNS_PORT) for entry in entries)

    def to_dict(self) -> dict[str, Any]:
        """Plain data that ``from_dict`` gives back; every key is there."""
        return {
            "allow_out": list(self.allow_out),
            "deny_out": list(self.deny_out),
            "dns": self.dns,
            "resolver": self.resolver,
            "ech": self.ech,
        }

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "NetworkPolicy":
        """Build from plain data; missing keys have their defaults, unknown ones are errors. Raises
        ``PolicyError``."""
        return _from_dict(cls, data)


@dataclass(frozen=True, slots=True)
class AuditConfig:
    """Whether this sandbox's attempts are recorded."""

    enabled: bool = True

    def __post_init__(self) -> None:
        if not isinstance(cast(object, self.enabled), bool):
            raise PolicyError(
                [f"audit.enabled: {_shown(self.enabled)} is neither true nor false; write true or false"]
            )

    def to_dict(self) -> dict[str, Any]:
        """Plain data that ``from_dict`` gives back."""
        return {"enabled": self.enabled}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "AuditConfig":
        """Build from plain data. Raises ``PolicyError``."""
        return _from_dict(cls, data)


@dataclass(frozen=True, slots=True)
class SecurityPolicy:
    """Everything a sandbox is created under. ``network=None`` is full egress, still recorded; the floor holds
    in any case."""

    network: NetworkPolicy | None = None
    audit: AuditConfig = field(default_factory=AuditConfig)

    def __post_init__(self) -> None:
        expected: tuple[tuple[str, object, tuple[type, ...], str], ...] = (
            ("network", self.network, (NetworkPolicy, type(None)), "NetworkPolicy(allow_out=[...])"),
            ("audit", self.audit, (AuditConfig,), "AuditConfig(enabled=True)"),
        )
        errors = [
            f"{name}: {_shown(value)} is no {kinds[0].__name__}; write {example}"
            for name, value, kinds, example in expected
            if not isinstance(value, kinds)
        ]
        if errors:
            raise PolicyError(errors)

    @property
    def resolver_ip(self) -> IPv4Address | IPv6Address:
        """The resolver that DNS of the sandbox goes to."""
        return ip_address(DEFAULT_RESOLVER) if self.network is None else self.network.resolver_ip

    @property
    def warnings(self) -> tuple[str, ...]:
        """What is legal and probably not meant, a line each."""
        return () if self.network is None else self.network.warnings

    def to_dict(self) -> dict[str, Any]:
        """Plain data that ``from_dict`` gives back, as in a policy file."""
        network = None if self.network is None else self.network.to_dict()
        return {"network": network, "audit": self.audit.to_dict()}

    @classmethod
    def from_dict(cls, data: Mapping[str, Any]) -> "SecurityPolicy":
        """Build from plain data as in a policy file; unknown keys are errors. Raises ``PolicyError`` with
        every fault."""
        errors: list[str] = []
        known = _known_keys("", data, ("network", "audit"), errors)
        parts: dict[str, Any] = {}
        for name, part in (("network", NetworkPolicy), ("audit", AuditConfig)):
            if name not in known or (name == "network" and known[name] is None):
                continue
            try:
                parts[name] = part.from_dict(known[name])
            except PolicyError as error:
                errors += error.errors
        if errors:
            raise PolicyError(errors)
        return cls(**parts)


def without_internet(policy: SecurityPolicy | None = None) -> SecurityPolicy:
    """``allow_internet_access=False``: everything denied, nothing allowed. PolicyError if ``policy`` allows
    something beside it."""
    base = SecurityPolicy() if policy is None else policy
    network = base.network
    if network is None:
        return SecurityPolicy(NetworkPolicy(deny_out=[ALL_TRAFFIC]), base.audit)
    if network.allow_out:
        mend = "drop allow_out, or do not ask for no internet access"
        raise PolicyError(
            [f"allow_out[{index}] {quoted(text)}: allowed, and no internet access asked for; {mend}"
             for index, text in enumerate(network.allow_out)]
        )  # fmt: skip
    everything = dict.fromkeys((ALL_TRAFFIC, *network.deny_out))
    denied = NetworkPolicy(
        deny_out=list(everything), dns=network.dns, resolver=network.resolver, ech=network.ech
    )
    return SecurityPolicy(denied, base.audit)


_Section = TypeVar("_Section", NetworkPolicy, AuditConfig)

_KEYS: Final[Mapping[type, tuple[str, ...]]] = {
    NetworkPolicy: (*LISTS, "dns", "resolver", "ech"),
    AuditConfig: ("enabled",),
}
_SECTION: Final[Mapping[type, str]] = {NetworkPolicy: "network", AuditConfig: "audit"}


def _from_dict(cls: type[_Section], data: object) -> _Section:
    errors: list[str] = []
    known = _known_keys(_SECTION[cls], data, _KEYS[cls], errors)
    try:
        made = cls(**known)
    except PolicyError as error:
        errors += error.errors
    if errors:
        raise PolicyError(errors)
    return made


def _known_keys(section: str, data: object, keys: tuple[str, ...], errors: list[str]) -> dict[str, Any]:
    """The entries of ``data`` under known keys; everything else is put into ``errors``."""
    where = section or "policy"
    if not isinstance(data, Mapping):
        errors.append(f"{where}: {_shown(data)} is no mapping; write the keys {', '.join(keys)} under it")
        return {}
    known = {}
    for key, value in data.items():
        if not isinstance(key, str) or key not in keys:
            errors.append(f"{where}: unknown key {_shown(key)}; {_key_meant(section, key, keys)}")
        elif value is None and section:
            errors.append(f"{section}.{key}: has no value; write one, or drop the key")
        else:
            known[key] = value
    return known


def _key_meant(section: str, key: object, keys: tuple[str, ...]) -> str:
    if section == "" and key in _KEYS[NetworkPolicy]:
        return f"move it under network: network: {{{key}: ...}}"
    return f"the keys here are {', '.join(keys)}"


def _read_list(name: ListName, given: object, errors: list[str]) -> tuple[Entry, ...]:
    if given is None:
        return ()
    if not isinstance(given, list | tuple):
        example = f"[{_shown(given)}]" if isinstance(given, str) else "['api.openai.com']"
        errors.append(f"{name}: {_shown(given)} is no list; write a list of entries, as {example}")
        return ()
    entries: list[Entry] = []
    for index, item in enumerate(given):
        if not isinstance(item, str):
            errors.append(
                f"{name}[{index}] {_shown(item)}: an entry is text; put it in quotes, as 'api.openai.com'"
            )
            continue
        try:
            entries.append(read_entry(item))
        except EntryError as error:
            errors.append(f"{name}[{index}] {error}")
    return tuple(entries)


def _texts(entries: tuple[Entry, ...]) -> tuple[str, ...]:
    return tuple(map(str, entries))


def _check_choice(name: str, given: object, choices: tuple[str, ...], errors: list[str]) -> None:
    if given not in choices:
        errors.append(
            f"{name}: {_shown(given)} is no mode of {name}; write {', '.join(choices[:-1])} or {choices[-1]}"
        )


def _read_resolver(given: object, errors: list[str]) -> str:
    mend = f"write the address of a DNS server, as {DEFAULT_RESOLVER}"
    try:
        if not isinstance(given, str):
            raise ValueError
        ip = ip_address(given)
        if ip.version == 6 and (ip.scope_id or ip.ipv4_mapped):
            raise ValueError
    except ValueError:
        errors.append(f"resolver: {_shown(given)} is no plain IP address; {mend}")
        return DEFAULT_RESOLVER
    if is_inside(ip, FLOOR):
        errors.append(f"resolver: {_shown(given)} lies in the floor, where nothing is ever reached; {mend}")
    return str(ip)


def _in_floor(entry: AddressEntry) -> bool:
    """All of it, and in one range."""
    ends = entry.network[0], entry.network[-1]
    return any(all(ip in ip_network(text) for ip in ends) for text, _ in FLOOR)


def _warnings(policy: NetworkPolicy) -> Iterator[str]:
    from rules.terms import denies_all  # which reads policies

    if policy.allow_out and not policy.deny_out:
        yield f"allow_out without deny_out allows everything: add {ALL_TRAFFIC} to deny_out to deny the rest"
    for index, entry in enumerate(policy.allowed):
        where = f"allow_out[{index}] {quoted(str(entry))}"
        if isinstance(entry, AddressEntry):
            if _in_floor(entry):
                yield f"{where}: lies in the floor, which nothing can allow: drop it"
        elif entry.kind is Kind.WILDCARD and (tenants := tenants_under(entry.name)) is not None:
            shared = f"{tenants[0]} ({tenants[1]})"
            yield f"{where}: anyone may have a name under {shared}: name the hosts you need"
    for index, entry in enumerate(policy.denied):
        if isinstance(entry, AddressEntry) and str(entry.network) in ("0.0.0.0/32", "::/128"):
            yield f"deny_out[{index}] {entry}: one address, which nobody can reach: for everything write {ALL_TRAFFIC}"
    if denies_all(policy.denied, 4) and not denies_all(policy.denied, 6):
        yield f"deny_out leaves no IPv4 address and all of IPv6: DNS forwards every name; for both write {ALL_TRAFFIC}"
    if policy.dns == "passthrough":
        yield "dns: passthrough is an open channel through the resolver: use guarded unless you need it"


def _shown(value: object) -> str:
    """One short line, whatever it is: a file's aliases can make a small text into an enormous value."""
    return quoted(value if isinstance(value, str) else reprlib.repr(value))
