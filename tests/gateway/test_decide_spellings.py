"""What is denied is denied in every spelling of IPv6 that may carry it, by the proxy and by the kernel."""

from ipaddress import IPv4Address, IPv6Address, IPv6Network, ip_network
from typing import Final

import pytest

from gateway import NetworkPolicy
from gateway.addresses import embedded
from gateway.decide import Verdict, compile_policy, settle
from rules.passing import UDP, Passing
from rules.ranges import EMBEDDINGS, Embedding
from rules.terms import read_terms
from tests.gateway.deciding import flow_to

POLICY = NetworkPolicy(deny_out=["203.0.113.0/24", "198.51.100.7:443"])
COMPILED = compile_policy(POLICY)
KERNEL = Passing(read_terms(POLICY, 6))
DENIED, AT_A_PORT, OPEN = IPv4Address("203.0.113.9"), IPv4Address("198.51.100.7"), IPv4Address("198.51.101.7")


TEREDO: Final = {64: 0x08080808 ^ 0xFFFFFFFF, 0: 0x08080808 << 64}
"""What else such an address carries: its client beside its server, and the other way round."""


def spelt(form: Embedding, ip: IPv4Address) -> IPv6Address:
    """An address of that form which carries ``ip``."""
    rest = TEREDO[form.shift] if form.network == "2001::/32" else 0
    number = int(ip) ^ (0xFFFFFFFF if form.inverted else 0)
    return IPv6Address(int(IPv6Network(form.network).network_address) | number << form.shift | rest)


@pytest.mark.parametrize("form", EMBEDDINGS, ids=str)
def test_a_denied_address_is_denied_in_every_spelling(form: Embedding) -> None:
    ip = spelt(form, DENIED)
    assert form.network in ("::/96", "::ffff:0:0/96") or DENIED in embedded(ip)
    decided = settle(COMPILED, flow_to(str(ip)))
    assert decided is not None
    assert (decided.verdict, decided.entry) == (Verdict.BLOCK, "deny_out[0] 203.0.113.0/24"), ip
    assert not KERNEL.holds(UDP, ip.packed, 4444)


@pytest.mark.parametrize("form", [form for form in EMBEDDINGS if form.shift in (0, 80)], ids=str)
def test_at_the_ports_that_are_denied(form: Embedding) -> None:
    ip = spelt(form, AT_A_PORT)
    decided = settle(COMPILED, flow_to(str(ip), 443))
    assert decided is not None and decided.verdict is Verdict.BLOCK


@pytest.mark.parametrize("form", ["64:ff9b::/96", "2002::/16"])
def test_what_carries_another_address_is_not(form: str) -> None:
    (embedding,) = (one for one in EMBEDDINGS if one.network == form)
    ip = spelt(embedding, OPEN)
    decided = settle(COMPILED, flow_to(str(ip)))
    assert decided is not None and decided.verdict is Verdict.ALLOW
    assert KERNEL.holds(UDP, ip.packed, 4444)


def test_an_entry_that_allows_speaks_of_its_own_spelling_alone() -> None:
    policy = compile_policy(NetworkPolicy(["203.0.113.0/24"], ["0.0.0.0/0"]))
    decided = settle(policy, flow_to(str(spelt(EMBEDDINGS[2], DENIED))))
    assert decided is not None and decided.verdict is Verdict.BLOCK
    assert ip_network("203.0.113.0/24") in POLICY.denied[0].spellings()  # type: ignore[union-attr]
