"""What can be told beforehand, what cannot, and on what it depends."""

from ipaddress import ip_address

import pytest

from gateway import ALL_TRAFFIC, NetworkPolicy
from gateway.flow import IPAddress
from gateway.forecast import Forecaster, LinkKind, Outlook, read_question
from matcher import PatternError

ALLOWLIST = NetworkPolicy(["*.openai.com:443", "1.1.1.1:53", "10.1.0.0/16:443"], [ALL_TRAFFIC])
DENYLIST = NetworkPolicy(["api.evil.example"], ["*.evil.example", "10.0.0.0/8"])
ALLOW, BLOCK, UNKNOWN = Outlook.ALLOW, Outlook.BLOCK, Outlook.UNKNOWN


@pytest.mark.parametrize(
    ("policy", "asked", "outlook", "rule"),
    [
        (None, "api.openai.com", ALLOW, "default"),
        (None, "203.0.113.9", ALLOW, "default"),
        (None, "127.0.0.1", BLOCK, "floor"),
        (None, "8.8.8.8:53", ALLOW, "resolver 8.8.8.8"),
        (ALLOWLIST, "api.openai.com:443", ALLOW, "allow_out[0] *.openai.com:443"),
        (ALLOWLIST, "api.openai.com:80", BLOCK, "deny_out[0] 0.0.0.0/0"),
        (ALLOWLIST, "api.openai.com", UNKNOWN, None),
        (ALLOWLIST, "evil.example:443", BLOCK, "deny_out[0] 0.0.0.0/0"),
        (ALLOWLIST, "evil.example", BLOCK, "deny_out[0] 0.0.0.0/0"),
        (ALLOWLIST, "router", BLOCK, "deny_out[0] 0.0.0.0/0"),
        (ALLOWLIST, "1.1.1.1:53", ALLOW, "allow_out[1] 1.1.1.1:53"),
        (ALLOWLIST, "1.1.1.1:80", BLOCK, "deny_out[0] 0.0.0.0/0"),
        (ALLOWLIST, "1.1.1.1", UNKNOWN, None),
        (ALLOWLIST, "10.1.2.3:443", ALLOW, "allow_out[2] 10.1.0.0/16:443"),
        (ALLOWLIST, "203.0.113.9:443", BLOCK, "deny_out[0] 0.0.0.0/0"),
        (ALLOWLIST, "[2001:db8::1]:443", BLOCK, "deny_out[0] 0.0.0.0/0"),
        (ALLOWLIST, "2001:db8::1", BLOCK, "deny_out[0] 0.0.0.0/0"),
        (ALLOWLIST, "169.254.169.254", BLOCK, "floor"),
        (ALLOWLIST, "8.8.8.8:53", ALLOW, "resolver 8.8.8.8"),
        (ALLOWLIST, "8.8.8.8:443", BLOCK, "deny_out[0] 0.0.0.0/0"),
        (ALLOWLIST, "8.8.8.8", UNKNOWN, None),
        (DENYLIST, "api.evil.example", ALLOW, "allow_out[0] api.evil.example"),
        (DENYLIST, "www.evil.example", BLOCK, "deny_out[0] *.evil.example"),
        (DENYLIST, "good.example", UNKNOWN, None),
        (DENYLIST, "10.0.0.1", BLOCK, "deny_out[1] 10.0.0.0/8"),
        (DENYLIST, "203.0.113.9", UNKNOWN, None),
        (NetworkPolicy([], ["evil.example"]), "good.example", ALLOW, "default"),
        (NetworkPolicy([], ["10.0.0.0/8"]), "10.0.0.1", BLOCK, "deny_out[0] 10.0.0.0/8"),
        (NetworkPolicy([], ["10.0.0.0/8"]), "203.0.113.9", ALLOW, "default"),
        (NetworkPolicy(["203.0.113.0/24"], ["evil.example"]), "evil.example", UNKNOWN, None),
        (NetworkPolicy([ALL_TRAFFIC], [ALL_TRAFFIC]), "evil.example", ALLOW, "allow_out[0] 0.0.0.0/0"),
    ],
)
def test_what_can_be_told(
    policy: NetworkPolicy | None, asked: str, outlook: Outlook, rule: str | None
) -> None:
    forecast = Forecaster(policy).ask(read_question(asked))
    assert (forecast.outlook, forecast.rule) == (outlook, rule)
    assert (forecast.note != "") or outlook is not UNKNOWN


def test_a_port_that_is_not_named_is_all_ports() -> None:
    assert (
        Forecaster(ALLOWLIST)
        .ask(read_question("api.openai.com"))
        .note.startswith("it depends on the port: allowed at 443;")
    )
    all_but_one = NetworkPolicy([], ["203.0.113.9:25"])
    assert (
        Forecaster(all_but_one)
        .ask(read_question("203.0.113.9"))
        .note.startswith("it depends on the port: blocked at 25;")
    )


@pytest.mark.parametrize(
    ("answers", "outlook", "addresses"),
    [
        (["203.0.113.9", "203.0.113.8"], ALLOW, ["203.0.113.9", "203.0.113.8"]),
        (["10.1.2.3"], ALLOW, ["10.1.2.3"]),
        (["10.2.0.1"], BLOCK, []),
        (["127.0.0.1"], BLOCK, []),
    ],
)
def test_a_name_whose_addresses_are_known(answers: list[str], outlook: Outlook, addresses: list[str]) -> None:
    known = [ip_address(text) for text in answers]
    forecast = Forecaster(ALLOWLIST).ask(read_question("api.openai.com:443"), known)
    assert forecast.outlook is outlook
    assert [str(ip) for ip in forecast.addresses] == addresses


def test_addresses_on_both_sides_of_a_deny() -> None:
    policy = NetworkPolicy([], ["203.0.113.0/24"])
    known: list[IPAddress] = [ip_address("203.0.113.9"), ip_address("198.51.100.1")]
    forecast = Forecaster(policy).ask(read_question("good.example:443"), known)
    assert forecast.outlook is UNKNOWN
    assert forecast.note.endswith("allowed at 198.51.100.1")
    assert Forecaster(policy).ask(read_question("good.example:443"), known[:1]).outlook is BLOCK
    assert Forecaster(policy).ask(read_question("good.example:443"), known[1:]).addresses == tuple(known[1:])


@pytest.mark.parametrize(
    ("dns", "asked", "outlook", "layer"),
    [
        ("guarded", "evil.example:443", BLOCK, "proxy"),
        ("strict", "evil.example:443", BLOCK, "dns"),
        ("passthrough", "evil.example:443", UNKNOWN, None),
        ("passthrough", "evil.example:25", BLOCK, "proxy"),
        ("guarded", "8.8.8.8:53", ALLOW, "dns"),
        ("passthrough", "8.8.8.8:53", ALLOW, "kernel"),
    ],
)
def test_what_dns_has_to_do_with_it(dns: str, asked: str, outlook: Outlook, layer: str | None) -> None:
    policy = NetworkPolicy(["api.openai.com:443", "10.0.0.0/8:443"], [ALL_TRAFFIC], dns=dns)
    forecast = Forecaster(policy).ask(read_question(asked))
    assert (forecast.outlook, forecast.layer) == (outlook, layer)


@pytest.mark.parametrize(
    ("link", "asked", "layer"),
    [
        ("lo", "169.254.169.254:80", "proxy"),
        ("veth", "169.254.169.254:80", "kernel"),
        ("veth", "1.1.1.1:53", "kernel"),
        ("veth", "1.1.1.1:80", "kernel"),
        ("veth", "1.1.1.1:443", "proxy"),
        ("veth", "api.openai.com:443", "proxy"),
    ],
)
def test_the_layer(link: LinkKind, asked: str, layer: str) -> None:
    assert Forecaster(ALLOWLIST, link).ask(read_question(asked)).layer == layer


def test_the_host_itself() -> None:
    own = ip_address("203.0.113.9")
    assert Forecaster(None, local=frozenset({own})).ask(read_question("203.0.113.9")).rule == "floor"


def test_whether_resolving_helps() -> None:
    forecaster = Forecaster(ALLOWLIST)
    asked = {
        text: forecaster.needs_addresses(read_question(text))
        for text in ("a.openai.com", "evil.example", "1.1.1.1")
    }
    assert asked == {"a.openai.com": True, "evil.example": False, "1.1.1.1": False}


def test_when_entries_speak_of_every_address_that_could_stand_for_the_rest() -> None:
    halves = NetworkPolicy([], ["0.0.0.0/1", "128.0.0.0/1"])
    assert Forecaster(halves).ask(read_question("good.example:443")).outlook is BLOCK


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("API.OpenAI.com.", "api.openai.com"),
        ("a.b:443", "a.b:443"),
        ("[2001:db8::1]:53", "[2001:db8::1]:53"),
        ("::1", "::1"),
    ],
)
def test_questions(text: str, shown: str) -> None:
    assert str(read_question(text)) == shown


@pytest.mark.parametrize("text", ["a b", "*.openai.com", "~x", "10.0.0.0/8", "a.b:443,80", "0.0.0.0/0", ""])
def test_what_is_no_question(text: str) -> None:
    with pytest.raises(PatternError):
        read_question(text)
