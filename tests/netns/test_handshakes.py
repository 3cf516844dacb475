"""Ordinary TLS through one gateway, by the thousand: every kind of handshake that clients make, full and resumed, and none of them disturbed.

HANDSHAKES says how many (150); each kind is counted by what OpenSSL itself says of it.
"""

import contextlib
import json
import os
import threading
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from tests.lab.lab import Lab
from tests.lab.places import GOOD_IP
from tests.lab.sandboxed import egress_run

pytestmark = pytest.mark.root

HANDSHAKES = int(os.environ.get("HANDSHAKES", "150"))
EARLY = max(HANDSHAKES // 20, 5)
PORT, EARLY_PORT = 8790, 8791
SERVER = """
import socket, ssl, sys
context = ssl.SSLContext(ssl.PROTOCOL_TLS_SERVER)
context.load_cert_chain(sys.argv[3])
server = socket.create_server((sys.argv[1], int(sys.argv[2])), backlog=100)
print("ACCEPT", flush=True)
while True:
    tcp, _ = server.accept()
    try:
        with context.wrap_socket(tcp, server_side=True) as tls:
            tls.sendall(b"hello")
            tls.recv(100)
            tls.unwrap()  # or OpenSSL forgets the session
    except OSError as error:
        print(repr(error), flush=True)
"""
CLIENT = """
import collections, json, socket, ssl, sys
def context(version):
    made = ssl.create_default_context()
    made.minimum_version = made.maximum_version = version
    return made
contexts = [context(ssl.TLSVersion.TLSv1_2), context(ssl.TLSVersion.TLSv1_3)]
ticketless = context(ssl.TLSVersion.TLSv1_2)
ticketless.options |= ssl.OP_NO_TICKET
contexts.append(ticketless)
seen = collections.Counter()
sessions = {}
for number in range(int(sys.argv[2])):
    made = contexts[number % 3]
    # Every other one of a kind is resumed, from the one before it.
    session = sessions.pop(number % 3, None)
    with socket.create_connection(("allowed.test", int(sys.argv[1])), 60) as tcp:
        with made.wrap_socket(tcp, server_hostname="allowed.test", session=session) as tls:
            if tls.recv(100) != b"hello":
                seen["wrong answer"] += 1
            tls.sendall(b"bye")
            kind = "session id" if made is ticketless else "ticket"
            seen[f"{tls.version()} {'resumed by ' + kind if tls.session_reused else 'full'}"] += 1
            if session is None:
                sessions[number % 3] = tls.session
            if tls.unwrap().recv(1):  # its end: nothing is under way any more when this one goes
                seen["said more"] += 1
print(json.dumps(seen))
"""
EARLY_CLIENT = """
set -e
say() { printf 'early %s\\n' "$1"; }
here=$(mktemp -d)
one() { openssl s_client -connect allowed.test:$PORT -servername allowed.test -CAfile "$SSL_CERT_FILE" -verify_return_error -tls1_3 "$@" 2>&1; }
# Its tickets come behind the handshake, and with the end of its input it would not wait for them.
n=0; while [ ! -s "$here/session" ] && [ $n -lt 1200 ]; do sleep 0.05; n=$((n + 1)); done | one -sess_out "$here/session" > "$here/first"
n=0
while [ $n -lt "$COUNT" ]; do
  say $n > "$here/early"
  sleep 0.02 | one -sess_in "$here/session" -early_data "$here/early" | grep -E '^(Early data was|Reused|New), *|^Early data was' | tr '\\n' ' '
  echo
  n=$((n + 1))
done
"""


@contextlib.contextmanager
def serving(lab: Lab, argv: list[str | Path]) -> Iterator[list[str]]:
    """A server in the far side's namespace, until the end; then what it said. It says ACCEPT when it listens, as openssl's does."""
    said: list[str] = []
    with lab.popen(argv, namespace="net", stdin=-1) as process:
        assert process.stdout is not None
        assert "ACCEPT\n" in iter(process.stdout.readline, ""), "it does not listen"
        # A pipe that nobody reads is full after a hundred sessions, and the server would wait.
        reader = threading.Thread(target=said.extend, args=((line.rstrip("\n") for line in process.stdout),))
        reader.start()
        try:
            yield said
        finally:
            process.terminate()
            reader.join()


@pytest.fixture
def leaf(lab: Lab) -> Path:
    path = lab.work / "handshakes.pem"
    path.write_text(lab.leaf("allowed.test"))
    return path


@pytest.mark.timeout(600)
def test_every_kind_of_handshake_passes(lab: Lab, leaf: Path) -> None:
    server: list[str | Path] = ["/usr/bin/python3", "-c", SERVER, GOOD_IP, str(PORT), leaf]
    with serving(lab, server) as complaints:
        command = ["/usr/bin/python3", "-c", CLIENT, str(PORT), str(HANDSHAKES - EARLY)]
        outcome = egress_run(lab, command, allow=["allowed.test"], timeout=580)
    assert outcome.status == 0, outcome.stderr
    seen = json.loads(outcome.stdout)
    print(seen)
    assert sum(seen.values()) == HANDSHAKES - EARLY
    assert set(seen) == {
        "TLSv1.2 full",
        "TLSv1.2 resumed by ticket",
        "TLSv1.2 resumed by session id",
        "TLSv1.3 full",
        "TLSv1.3 resumed by ticket",
    }
    assert min(seen.values()) >= (HANDSHAKES - EARLY) // 8
    assert complaints == []
    decided = Counter((record["event"], record["domain"]) for record in outcome.decisions)
    assert decided == {("egress_allowed", "allowed.test"): HANDSHAKES - EARLY}
    assert {record["ended_by"] for record in outcome.records if record["event"] == "egress_closed"} <= {
        "client",
        "upstream",
    }


@pytest.mark.timeout(600)
def test_early_data_is_taken(lab: Lab, leaf: Path) -> None:
    """0-RTT: what the client sends behind its hello passes with it."""
    server: list[str | Path] = [
        "openssl",
        "s_server",
        "-accept",
        f"{GOOD_IP}:{EARLY_PORT}",
        "-cert",
        leaf,
        "-key",
        leaf,
        "-cert_chain",
        leaf,
    ]
    server += ["-tls1_3", "-early_data", "-no_anti_replay"]
    with serving(lab, server) as said:
        outcome = egress_run(
            lab,
            ["sh", "-c", EARLY_CLIENT],
            allow=["allowed.test"],
            env={"PORT": str(EARLY_PORT), "COUNT": str(EARLY)},
            timeout=580,
        )
        # It answers before it reads what came early: a client may be gone by then.
        give_up = time.monotonic() + 30
        while f"early {EARLY - 1}" not in said:
            assert time.monotonic() < give_up, said[-5:]
            time.sleep(0.02)
    lines = outcome.stdout.splitlines()
    assert len(lines) == EARLY
    assert all("Reused, TLSv1.3" in line and "Early data was accepted" in line for line in lines), lines[:3]
    assert [line for line in said if line.startswith("early ")] == [
        f"early {number}" for number in range(EARLY)
    ]
    assert len(outcome.decisions) == EARLY + 1
