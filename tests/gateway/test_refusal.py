"""What a refused client is told: exact, the same each time, and of some use."""

import json
from ipaddress import ip_address
from typing import Any

import h11
import pytest

from gateway.decide import Decision, Verdict, refuse
from gateway.reasons import Reason
from gateway.refusal import TLS_ACCESS_DENIED, refusal
from gateway.sniff.result import Refused, Sniffed
from tests.gateway.deciding import said, tls

NOT_LISTED = said("4*", "", None)._replace(host="evil.example")
HTTP = Sniffed("http", "evil.example")
POLICY = {Reason.NO_ALLOW_ENTRY, Reason.DENIED_ADDRESS, Reason.DENIED_NAME}


def _answer(
    decision: Decision, seen: Sniffed | Refused = HTTP, method: str = "GET"
) -> tuple[h11.Response, dict[str, Any]]:
    """As a client of its own reads it: to the last byte."""
    client = h11.Connection(h11.CLIENT)
    client.send(h11.Request(method=method, target="/", headers=[("Host", "evil.example")]))
    client.send(h11.EndOfMessage())
    client.receive_data(refusal(seen, decision))
    client.receive_data(b"")
    response, data, end, closed = (client.next_event() for _ in range(4))
    assert isinstance(response, h11.Response)
    assert isinstance(data, h11.Data)
    assert isinstance(end, h11.EndOfMessage)
    assert isinstance(closed, h11.ConnectionClosed)
    return response, json.loads(bytes(data.data))


def test_tls_is_told_by_a_fatal_alert() -> None:
    # RFC 8446 section 5.1: alert(21), legacy version 3.3, length 2; section 6: fatal(2), access_denied(49).
    assert (
        refusal(tls("evil.example"), NOT_LISTED) == bytes.fromhex("15 0303 0002 02 31") == TLS_ACCESS_DENIED
    )
    assert refusal(Refused(Reason.BAD_TLS, "tls"), NOT_LISTED) == TLS_ACCESS_DENIED


@pytest.mark.parametrize("seen", [None, Refused(Reason.NOT_TLS_NOT_HTTP), Refused(Reason.CLIENT_CLOSED)])
def test_who_has_no_protocol_is_told_nothing(seen: Refused | None) -> None:
    assert refusal(seen, NOT_LISTED) == b""


def test_http_is_told_what_by_which_rule_and_what_to_ask_for() -> None:
    response, body = _answer(NOT_LISTED)
    assert response.status_code == 403
    headers = {name.decode(): value.decode() for name, value in response.headers}
    assert headers["content-type"] == "application/json"
    assert headers["connection"] == "close"
    assert headers["cache-control"] == "no-store"
    assert body == {
        "error": "egress_blocked",
        "host": "evil.example",
        "rule": "deny_out[0] 0.0.0.0/0",
        "reason": "no_allow_entry",
        "mend": "ask whoever runs this sandbox to add evil.example to allow_out",
    }


def test_the_same_decision_is_said_the_same_way() -> None:
    assert refusal(HTTP, NOT_LISTED) == refusal(HTTP._replace(consumed=99, port=80), NOT_LISTED)


@pytest.mark.parametrize("reason", Reason)
def test_every_reason_can_be_said_in_http_and_only_the_policy_is_to_be_asked(reason: Reason) -> None:
    for decision in (NOT_LISTED._replace(reason=reason), refuse(reason), refuse(reason, "unreadable")):
        _, body = _answer(decision, Refused(reason, "http"))
        assert body["reason"] == reason
        assert ("ask whoever" in body["mend"]) == (reason in POLICY and decision.host is not None)
        assert "None" not in body["mend"]


def test_no_text_of_the_policy_or_the_client_breaks_out_of_the_body() -> None:
    hostile = 'x"\r\n\r\nHTTP/1.1 200 OK\r\n\x00\x1b é'
    decision = Decision(
        Verdict.BLOCK, 4, hostile, Reason.NO_ALLOW_ENTRY, host=hostile, addresses=(ip_address("10.0.0.1"),)
    )
    _, body = _answer(decision)
    assert (body["host"], body["rule"]) == (hostile, hostile)
    head, _, text = refusal(HTTP, decision).partition(b"\r\n\r\n")
    assert text.count(b"\n") == 1
    assert text.endswith(b"\n")
    assert hostile.encode() not in head + text
