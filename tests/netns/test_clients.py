"""Real TLS clients through the gateway, verifying the origin's own certificate: nothing in between opens anything."""

import json

import pytest

from tests.lab.lab import Lab
from tests.lab.places import ATTACKER_IP, GOOD_IP
from tests.lab.sandboxed import egress_run

pytestmark = pytest.mark.root

PYTHON_CLIENT = """
import ssl, socket
context = ssl.create_default_context()
with socket.create_connection(("allowed.test", 443), 30) as tcp:
    with context.wrap_socket(tcp, server_hostname="allowed.test") as tls:
        tls.sendall(b"GET / HTTP/1.1\\r\\nHost: allowed.test\\r\\nConnection: close\\r\\n\\r\\n")
        got = b""
        while chunk := tls.recv(65536):
            got += chunk
print(got.partition(b"\\r\\n\\r\\n")[2].decode())
"""
NODE_CLIENT = """
// One address: it gives each 250 ms, and would make another connection where it was not heard of by then.
require("https").get("https://allowed.test/", {autoSelectFamily: false}, (answer) => {
  let got = "";
  answer.on("data", (chunk) => { got += chunk; });
  answer.on("end", () => { console.log(got); });
}).on("error", (error) => { console.error(error); process.exit(1); });
"""
OPENSSL_CLIENT = """
printf 'GET / HTTP/1.1\\r\\nHost: allowed.test\\r\\nConnection: close\\r\\n\\r\\n' |
openssl s_client -quiet -verify_return_error -verify_hostname allowed.test -CAfile "$SSL_CERT_FILE" \\
  -servername allowed.test -connect allowed.test:443 "$@" 2>/dev/null | tail -n 1
"""

CLIENTS = {
    "curl": ["curl", "-sS", "https://allowed.test/"],
    "curl-tls-1.2": ["curl", "-sS", "--tls-max", "1.2", "https://allowed.test/"],
    "openssl": ["sh", "-c", OPENSSL_CLIENT, "sh"],
    "openssl-tls-1.2": ["sh", "-c", OPENSSL_CLIENT, "sh", "-tls1_2"],
    "python": ["/usr/bin/python3", "-c", PYTHON_CLIENT],
    "node": ["node", "-e", NODE_CLIENT],
}


@pytest.mark.parametrize("client", CLIENTS)
def test_an_allowed_host_answers_with_its_own_certificate(lab: Lab, client: str) -> None:
    outcome = egress_run(lab, CLIENTS[client], allow=["allowed.test"])
    assert outcome.status == 0, outcome
    assert json.loads(outcome.stdout)["address"] == GOOD_IP
    (record,) = outcome.decisions
    assert (record["event"], record["domain"], record["app"]) == ("egress_allowed", "allowed.test", "tls")
    assert lab.far.wait("request", dst=GOOD_IP)["host"] == "allowed.test"


@pytest.mark.parametrize("client", CLIENTS)
def test_a_certificate_for_another_name_is_seen_by_the_client(lab: Lab, client: str) -> None:
    """So the gateway shows no certificate of its own, and the verification above was real: an allowed name whose address is the attacker's."""
    command = [word.replace("allowed.test", "stranger.test") for word in CLIENTS[client]]
    lab.zone.put("stranger.test", {"A": [ATTACKER_IP]})
    outcome = egress_run(lab, command, allow=["stranger.test"])
    assert '"address"' not in outcome.stdout, outcome
    assert [record["event"] for record in outcome.decisions] == ["egress_allowed"]
    assert not lab.far.entries("request")
