"""What was decided a moment ago is what would be decided now: for the same question, the same answer, and no longer than it is good."""

from collections.abc import Callable
from ipaddress import ip_address
from itertools import product

import pytest

from gateway import rulings as module
from gateway.decide import Target, bind, compile_policy, decide, settle
from gateway.flow import Endpoint, Flow, IPAddress
from gateway.reasons import Reason
from gateway.rulings import MOST, Rulings
from gateway.sniff.result import Refused, Sniffed
from rules import ALL_TRAFFIC, NetworkPolicy
from tests.gateway.deciding import NAME, OTHER, UNREADABLE, flow_to, tls

POLICY = compile_policy(
    NetworkPolicy(allow_out=[NAME, "*.wild.test:443", "203.0.113.0/24"], deny_out=[ALL_TRAFFIC], ech="refuse")
)
FLOWS = [
    flow_to(ip, port, proto)
    for ip, port, proto in product(
        ("203.0.113.9", "198.51.100.7", "169.254.169.254", "10.0.0.7", "::ffff:198.51.100.7", "2001:db8::1"),
        (443, 80),
        ("tcp", "udp"),
    )
]
SEEN = [
    None,
    UNREADABLE,
    Refused(Reason.NO_NAME, "tls"),
    *(tls(name, ech=ech) for name, ech in product((NAME, OTHER, "a.wild.test", "localhost"), (False, True))),
    *(Sniffed("http", NAME, port) for port in (None, 80, 443)),
]
ANSWERS = [
    (),
    (ip_address("198.51.100.7"),),
    (ip_address("192.0.2.1"), ip_address("198.51.100.7")),
    (ip_address("127.0.0.1"),),
]


class Local:
    """Which addresses are the host's own, and how often that was asked."""

    def __init__(self, *own: str) -> None:
        self.own = {ip_address(one) for one in own}
        self.asked = 0

    def __contains__(self, ip: object) -> bool:
        self.asked += 1
        return ip in self.own


@pytest.fixture
def clock(monkeypatch: pytest.MonkeyPatch) -> Callable[[float], None]:
    moment = [100.0]
    monkeypatch.setattr(module, "lately", lambda: moment[0])

    def forward(seconds: float) -> None:
        moment[0] += seconds

    return forward


def test_each_question_has_its_own_answer_the_first_time_and_the_second() -> None:
    local = Local("192.0.2.1")
    rulings = Rulings(POLICY, local)
    for _ in range(2):
        for flow in FLOWS:
            assert rulings.settle(flow) == settle(POLICY, flow, local)
            for seen in SEEN:
                made = rulings.decide(flow, seen)
                assert made == decide(POLICY, flow, seen, local)
                for answers in ANSWERS:
                    assert rulings.bind(made, flow, answers) == bind(POLICY, made, flow, answers, local)


@pytest.mark.usefixtures("clock")
def test_the_same_question_is_thought_about_once() -> None:
    """The endpoint is the same object, as ``net.sockets.destination`` has it. No time passes in which it would be forgotten."""
    local = Local()
    rulings, flow = Rulings(POLICY, local), flow_to("198.51.100.7")
    results, asked = [], []
    for number in range(3):
        another = flow._replace(id=f"ab-{number}", source=Endpoint(ip_address("10.0.0.2"), number))
        made = rulings.decide(another, tls(NAME))
        results.append((rulings.settle(another), made, rulings.bind(made, another, ANSWERS[1])))
        asked.append(local.asked)
    assert asked == asked[:1] * 3
    assert all(one is other for one, other in zip(results[0], results[2], strict=True))


@pytest.mark.parametrize("step", ["settle", "decide", "bind"])
def test_an_address_that_becomes_the_hosts_is_refused_within_the_time(
    step: str, clock: Callable[[float], None]
) -> None:
    local = Local()
    rulings = Rulings(POLICY, local)
    place = ip_address("203.0.113.9" if step == "settle" else "198.51.100.7")
    flow = flow_to("198.51.100.8" if step == "bind" else place)

    def said() -> Reason | None:
        if step == "settle":
            settled = rulings.settle(flow)
            return None if settled is None else settled.reason
        made = rulings.decide(flow, tls(NAME))
        return made.reason if step == "decide" else rulings.bind(made, flow, (place,)).reason

    assert said() in (Reason.ALLOWED_ADDRESS, Reason.ALLOWED_NAME)
    local.own.add(place)
    clock(module.KEPT_S)
    assert said() is (Reason.FORBIDDEN_ANSWER if step == "bind" else Reason.FLOOR)


def test_another_answer_of_the_resolver_is_bound_anew() -> None:
    rulings, flow = Rulings(POLICY, Local()), flow_to("198.51.100.7")
    made = rulings.decide(flow, tls(NAME))
    assert made.target is Target.BOUND
    bound: list[tuple[IPAddress, ...]] = [rulings.bind(made, flow, answers).addresses for answers in ANSWERS]
    assert bound == [(), ANSWERS[1], (ANSWERS[2][1], ANSWERS[2][0]), ()]


def test_a_workload_that_invents_names_takes_no_memory() -> None:
    rulings, flow = Rulings(POLICY, Local()), flow_to("198.51.100.7")
    for number in range(3 * MOST):
        made = rulings.decide(flow, tls(f"n{number}.wild.test"))
        rulings.bind(made, flow, ANSWERS[1])
        rulings.settle(Flow("", "", flow.source, flow.dest._replace(port=number)))
    kept = [len(one) for one in (rulings._named, rulings._settled, rulings._bound, rulings._last)]
    assert max(kept) <= MOST + 1


def test_what_cannot_be_asked_is_no_answer() -> None:
    class Broken:
        def __contains__(self, ip: object) -> bool:
            raise OSError(105, "no buffer")

    rulings = Rulings(POLICY, Broken())
    for _ in range(2):
        with pytest.raises(OSError, match="no buffer"):
            rulings.settle(flow_to("203.0.113.9"))
