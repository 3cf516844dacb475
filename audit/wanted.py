"""Which records are asked for: times, names, addresses, rules. Pure, but for the clock that "an hour ago" needs."""

import re
import time
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from datetime import UTC, datetime
from fnmatch import translate
from ipaddress import IPv4Network, IPv6Network, ip_address, ip_network
from typing import Any, Final

from audit.record import Event, timestamp

_AGO = re.compile(r"(\d{1,9})([smhdw])", re.ASCII).fullmatch
_SPELT_ONE_WAY = re.compile(r"[A-Za-z0-9._-]+", re.ASCII).fullmatch
SECONDS: Final = {"s": 1, "m": 60, "h": 3600, "d": 86400, "w": 7 * 86400}
ADDRESSES: Final = ("dest_ip", "upstream_ip", "src_ip")

Moment = str | datetime


def moment(value: Moment, now_ns: int | None = None) -> str:
    """A time as records spell it: of a ``datetime``, of ISO 8601 text (UTC unless it says otherwise), or of ``90s``, ``1h``, ``7d``: so long ago.

    ValueError, with the forms there are.
    """
    if isinstance(value, str):
        ago = _AGO(value.strip())
        if ago is not None:
            now = time.time_ns() if now_ns is None else now_ns
            return timestamp(max(now - int(ago[1]) * SECONDS[ago[2]] * 10**9, 0))
        try:
            value = datetime.fromisoformat(value.strip())
        except ValueError:
            raise ValueError(
                f"{value!r} is no time: write 1h, 7d, 2026-11-23 or 2026-11-23T07:15:00Z"
            ) from None
    return spelt(value)


def spelt(moment: datetime) -> str:
    """As records spell it; what is beyond the calendar as its end. strftime(3) would not fill up the years before 1000."""
    if moment.tzinfo is not None:
        try:
            moment = moment.astimezone(UTC)
        except OverflowError:
            moment = datetime.min if moment.year == 1 else datetime.max
    return moment.replace(tzinfo=None).isoformat(timespec="microseconds") + "Z"


@dataclass(frozen=True, slots=True)
class Wanted:
    """A question. Everything is None where it does not matter."""

    since: str | None = None
    """As records spell times; this moment included."""
    until: str | None = None
    """This moment not included."""
    sandbox: str | None = None
    event: str | None = None
    domain: str | None = None
    """A name, or a pattern with ``*`` and ``?``, as records spell names."""
    ip: IPv4Network | IPv6Network | None = None
    """Holds the address dialled, the one gone to, or the sandbox's."""
    rule: str | None = None
    """A pattern, or a part of the rule's text."""
    reason: str | None = None

    def test(self) -> Callable[[Mapping[str, Any]], bool]:
        """Whether a record, whose time is not looked at, is wanted."""
        tests: list[Callable[[Mapping[str, Any]], bool]] = []
        for name, value in (("sandbox", self.sandbox), ("event", self.event), ("reason", self.reason)):
            if value is not None:
                tests.append(lambda record, name=name, value=value: record.get(name) == value)  # type: ignore[misc]
        if self.domain is not None:
            tests.append(_named(self.domain))
        if self.rule is not None:
            tests.append(_ruled(self.rule))
        if self.ip is not None:
            network = self.ip
            tests.append(lambda record: any(_holds(network, record.get(name)) for name in ADDRESSES))
        return lambda record: all(test(record) for test in tests)

    def needles(self) -> list[bytes]:
        """What every line that is wanted contains as it is: a line without one need not be read. Only what JSON spells in one way, whoever
        wrote it and with whatever spaces."""
        exact = [self.sandbox, self.event, self.reason]
        if self.domain is not None and not _is_pattern(self.domain):
            exact.append(self.domain)
        return [f'"{value}"'.encode() for value in exact if value is not None and _SPELT_ONE_WAY(value)]


def wanted(
    *,
    since: Moment | None = None,
    until: Moment | None = None,
    sandbox: str | None = None,
    event: str | None = None,
    domain: str | None = None,
    ip: str | None = None,
    rule: str | None = None,
    reason: str | None = None,
) -> Wanted:
    """From what people write. ValueError names everything that is wrong at once."""
    wrong: list[str] = []
    times: dict[str, str | None] = {}
    for name, value in (("since", since), ("until", until)):
        try:
            times[name] = None if value is None else moment(value)
        except ValueError as error:
            wrong.append(f"{name}: {error}")
    if domain is not None:
        if not domain.isascii():
            wrong.append(f"domain: {domain!r} is on record by its A-labels: write xn--...")
        domain = domain.lower().removesuffix(".")
    network = None
    if ip is not None:
        try:
            network = ip_network(ip, strict=False)
        except ValueError:
            wrong.append(f"ip: {ip!r} is no address and no network; write 203.0.113.9 or 203.0.113.0/24")
    if event is not None and event not in set(Event):
        wrong.append(f"event: there is no {event!r}; there are {', '.join(Event)}")
    if wrong:
        raise ValueError("; ".join(wrong))
    return Wanted(times["since"], times["until"], sandbox, event, domain, network, rule, reason)


def _is_pattern(text: str) -> bool:
    return any(letter in text for letter in "*?[")


def _named(domain: str) -> Callable[[Mapping[str, Any]], bool]:
    if not _is_pattern(domain):
        return lambda record: record.get("domain") == domain
    matches = re.compile(translate(domain)).match
    return lambda record: isinstance(name := record.get("domain"), str) and matches(name) is not None


def _ruled(rule: str) -> Callable[[Mapping[str, Any]], bool]:
    """A rule's text has brackets of its own (``deny_out[0]``): they are no pattern here."""
    pattern = re.escape(rule).replace(r"\*", ".*").replace(r"\?", ".")
    matches = re.compile(pattern, re.S).search
    return lambda record: isinstance(text := record.get("rule"), str) and matches(text) is not None


def _holds(network: IPv4Network | IPv6Network, value: object) -> bool:
    try:
        return isinstance(value, str) and ip_address(value) in network
    except ValueError:
        return False
