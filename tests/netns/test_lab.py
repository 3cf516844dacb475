"""The lab proves itself: what it serves, what it logs, what it captures, and that it goes without a trace.

Clients here sit in ``host`` without any gateway, so that a failure is the lab's.
"""

import hashlib
import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest

from tests.lab import payload, places
from tests.lab.lab import ROOT, Lab
from tests.lab.network import sweep, traces
from tests.lab.places import ATTACKER_IP, GOOD_IP, GOOD_IP6, METADATA_IP, WILD_IP, Port

pytestmark = pytest.mark.root

PYTHON = "/usr/bin/python3"
PATIENT = {"RES_OPTIONS": "timeout:20 attempts:1"}
"""For clients of the lab's DNS: nothing is asked twice, and nothing given up, because the machine has something else to do (resolv.conf(5))."""


def curl(lab: Lab, *arguments: str) -> "subprocess.CompletedProcess[str]":
    """curl with the lab's DNS."""
    return lab.run(["curl", "-sS", "--max-time", "40", *arguments], own_resolver=True, env=PATIENT)


def talk(lab: Lab, address: str, port: int, send: bytes, *, half_close: bool = True) -> bytes:
    """Send, half-close, and read to the end, over TCP from ``host``."""
    script = f"""
import socket, sys
s = socket.create_connection(({address!r}, {int(port)}), 30)
s.sendall({send!r})
{"s.shutdown(socket.SHUT_WR)" if half_close else ""}
got = b""
try:
    while chunk := s.recv(1 << 16):
        got += chunk
except OSError as error:
    got += type(error).__name__.encode()
print(got.hex())
"""
    return bytes.fromhex(lab.run([PYTHON, "-c", script]).stdout)


@pytest.mark.parametrize(
    ("url", "address"),
    [
        ("https://allowed.test/", GOOD_IP),
        ("https://a.wild.test/", WILD_IP),
        ("http://deep.er.wild.test/", WILD_IP),
        ("http://wild.test/", places.APEX_IP),
        ("http://alias.test/", GOOD_IP),
    ],
)
def test_an_origin_names_itself(lab: Lab, url: str, address: str) -> None:
    done = curl(lab, "-4", url)
    assert done.returncode == 0, done.stderr
    seen = json.loads(done.stdout)
    assert seen["address"] == address
    assert seen["host"] == url.split("/")[2]
    request = lab.far.wait("request", host=seen["host"])
    assert (request["dst"], request["src"]) == (address, places.HOST_IP)


def test_ipv6_works_too(lab: Lab) -> None:
    done = curl(lab, "-6", "https://allowed.test/")
    assert json.loads(done.stdout)["address"] == GOOD_IP6


def test_the_certificate_is_the_asked_names(lab: Lab) -> None:
    wrong = curl(lab, "--connect-to", f"nowhere.example:443:{GOOD_IP}:443", "https://nowhere.example/")
    assert wrong.returncode == 60, "a name that the zone does not have gets nobody's certificate"
    attacked = curl(lab, "--connect-to", f"allowed.test:443:{ATTACKER_IP}:443", "https://allowed.test/")
    assert attacked.returncode == 60, "the attacker has no certificate for an honest name"
    assert lab.far.wait("connect", dst=ATTACKER_IP)["dport"] == 443
    assert lab.capture.packets(to=ATTACKER_IP)
    assert lab.capture.beyond()


def test_the_metadata_server_answers_if_anything_arrives(lab: Lab) -> None:
    done = curl(lab, f"http://{METADATA_IP}/latest/meta-data/")
    assert json.loads(done.stdout)["address"] == METADATA_IP
    assert lab.far.wait("request", dst=METADATA_IP)["target"] == "/latest/meta-data/"


@pytest.mark.parametrize("scheme", ["http", "https"])
def test_bulk_both_ways(lab: Lab, scheme: str, tmp_path: Path) -> None:
    size = 30_000_000
    script = f"curl -sS {scheme}://allowed.test/bytes/{size} | sha256sum"
    down = lab.run(["sh", "-ec", script], own_resolver=True, env=PATIENT)
    assert down.stdout.split()[0] == payload.sha256(size)
    file = tmp_path / "up"
    file.write_bytes(payload.BLOCK)
    up = curl(lab, "-T", str(file), "-X", "POST", f"{scheme}://allowed.test/upload")
    assert json.loads(up.stdout) == {
        "sha256": payload.sha256(payload.BLOCK_BYTES),
        "count": payload.BLOCK_BYTES,
    }


def test_raw_services(lab: Lab) -> None:
    digest = hashlib.sha256(b"hello").hexdigest()
    assert talk(lab, GOOD_IP, Port.ECHO, b"hello") == b"hello"
    assert talk(lab, GOOD_IP, Port.BANNER, b"hello") == b"SSH-2.0-lab\r\nhello"
    assert talk(lab, GOOD_IP, Port.BYTES, b"3000000\n") == b"".join(payload.chunks(3_000_000))
    assert talk(lab, GOOD_IP, Port.UPLOAD, b"hello") == f"{digest} 5\n".encode()
    assert talk(lab, GOOD_IP, Port.SLOW, b"5 10\n") == payload.BLOCK[:5]
    assert talk(lab, GOOD_IP, Port.RESETS, b"hello", half_close=False) == b"ConnectionResetError"
    assert talk(lab, GOOD_IP, Port.DISCARD, b"hello") == b""


def test_a_server_that_closes_first_logs_what_it_got(lab: Lab) -> None:
    assert talk(lab, GOOD_IP, Port.CLOSES_FIRST, b"hello") == b"bye\n"
    (connect,) = lab.far.entries("connect", dport=Port.CLOSES_FIRST)
    end = lab.far.wait("end", conn=connect["conn"])
    assert (end["received"], end["eof"]) == (5, True)
    request = b"POST /closes-first HTTP/1.1\r\nHost: allowed.test\r\nContent-Length: 5\r\n\r\nhello"
    assert talk(lab, GOOD_IP, Port.HTTP, request).endswith(b"bye\n")
    (asked,) = lab.far.entries("request", target="/closes-first")
    assert lab.far.wait("end", conn=asked["conn"])["received"] == 5


def test_first_bytes_are_logged(lab: Lab) -> None:
    talk(lab, ATTACKER_IP, Port.HTTP_ALT, b"secret")
    assert bytes.fromhex(lab.far.wait("first", dst=ATTACKER_IP, dport=Port.HTTP_ALT)["bytes"]) == b"secret"


def test_a_silent_client_is_logged_as_a_connect(lab: Lab) -> None:
    connect = f"import socket; socket.create_connection(({ATTACKER_IP!r}, 22), 30)"
    lab.run([PYTHON, "-c", connect])
    lab.far.wait("connect", dst=ATTACKER_IP)
    assert len(lab.far.entries("connect", dst=ATTACKER_IP)) == 1


def test_zone_steps_are_taken_in_order(lab: Lab) -> None:
    lab.zone.put("rebind.test", {"A": [GOOD_IP], "ttl": 0}, {"A": ["127.0.0.1"], "ttl": 0})
    lookup = "import socket; print(*(socket.gethostbyname('rebind.test') for _ in range(3)))"
    done = lab.run([PYTHON, "-c", lookup], own_resolver=True, env=PATIENT)
    assert done.stdout.split() == [GOOD_IP, "127.0.0.1", "127.0.0.1"]
    assert [entry["answer"] for entry in lab.far.entries("dns", type="A")] == [
        [GOOD_IP],
        ["127.0.0.1"],
        ["127.0.0.1"],
    ]


def test_zone_faults(lab: Lab) -> None:
    lab.zone.put("gone.test")
    lab.zone.put("mute.test", {"drop": True})
    lab.zone.put("big.test", {"A": [GOOD_IP], "truncate": True})
    lab.zone.put("lied.test", {"A": [GOOD_IP], "lies": ["id", "question", "source", "garbage"]})
    lookup = """
import socket, sys
for name in sys.argv[1:]:
    try:
        print(socket.gethostbyname(name))
    except OSError as error:
        print(error.errno)
"""
    ask = [PYTHON, "-c", lookup]
    mute = lab.run([*ask, "mute.test"], own_resolver=True)
    assert mute.stdout.split() == ["-3"], mute
    done = lab.run([*ask, "gone.test", "big.test", "lied.test"], own_resolver=True, env=PATIENT)
    gone, big, lied = done.stdout.split()
    assert gone == "-2", done
    assert (big, lied) == (GOOD_IP, GOOD_IP), "TCP after truncation; a lie is not believed"
    asked = lab.far.entries("dns", name="big.test", again=False)
    assert [entry["transport"] for entry in asked] == ["udp", "tcp"]


def test_the_capture_sees_a_syn_that_nobody_answers(lab: Lab) -> None:
    script = f"import socket; socket.create_connection(({places.BLACKHOLE_IP!r}, 443), 0.3)"
    assert "timed out" in lab.run([PYTHON, "-c", script]).stderr
    sent = lab.capture.packets(to=places.BLACKHOLE_IP)
    assert {(packet.proto, packet.dport, packet.flags) for packet in sent} == {("tcp", 443, "S")}
    assert not lab.capture.packets(src=places.BLACKHOLE_IP)
    assert lab.capture.lost() == 0


def test_nothing_of_the_machine_routes_to_the_lab(lab: Lab) -> None:
    links = json.loads(subprocess.run(["ip", "-j", "addr"], capture_output=True, check=True).stdout)
    held = {entry["local"] for link in links for entry in link["addr_info"]}
    assert not held & {*places.SERVED, places.HOST_IP, places.NET_IP, places.HOST_IP6, places.NET_IP6}
    routes = subprocess.run(["ip", "route"], capture_output=True, check=True, text=True).stdout
    assert "198.18." not in routes


def test_a_lab_of_its_own_leaves_nothing() -> None:
    with Lab() as lab:
        assert len(traces(lab.name)) >= 5, "two namespaces, a directory, two processes"
    assert not traces(lab.name)


def test_a_lab_goes_when_its_user_fails() -> None:
    lab = Lab()
    with pytest.raises(KeyboardInterrupt), lab:
        raise KeyboardInterrupt
    assert not traces(lab.name)


def test_leftovers_of_a_killed_process_are_swept() -> None:
    script = """
import time
from tests.lab.lab import Lab
with Lab() as lab:
    print(lab.name, flush=True)
    time.sleep(60)
"""
    argv = [sys.executable, "-c", script]
    with subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, text=True) as process:
        assert process.stdout is not None
        name = process.stdout.readline().strip()
        sweep()
        living = traces(name)
        os.kill(process.pid, signal.SIGKILL)
    assert len(living) >= 5, "a living process keeps its lab"
    deadline = time.monotonic() + 30
    while traces(name) and time.monotonic() < deadline:
        sweep()
    assert not traces(name)
