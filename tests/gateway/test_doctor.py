"""What ``egress doctor`` tries as root: the checkout itself, with a network namespace for a host."""

import json
import os
import shlex
import signal
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

from gateway import doctor, leftovers
from gateway.netd import variants

ROOT = Path(__file__).parents[2]
DOCTOR = shlex.join([sys.executable, "-P", "-m", "gateway", "doctor", "--json"])
OWN = "ip link set lo up; mount -t tmpfs tmpfs /run"
STATE = "ip -br link; ip route; ip rule; cat /proc/sys/net/ipv4/ip_forward; iptables-legacy-save; iptables-nft-save"
"""The host as far as an uplink changes it."""
UPLINK = "ip link add eth9 type veth peer name far9; ip addr add 10.9.8.7/24 dev eth9; ip link set eth9 up; ip link set far9 up"
CHAIN = "iptables-legacy -t filter -N {0}; iptables-legacy -t filter -A FORWARD -j {0}"
GONE = "while ip -br link | grep -q egprobe; do sleep 0.05; done"
"""What was sent through goes with the cell, when the kernel comes to it."""
GOT_THROUGH = "what is allowed got through, under the host's address; to the host itself nothing did"
root = [
    pytest.mark.root,
    pytest.mark.timeout(90),
    pytest.mark.skipif(os.geteuid() != 0, reason="needs root: a network namespace"),
]


def as_host(tmp_path: Path, script: str) -> "subprocess.Popen[str]":
    """A shell in network and mount namespaces of its own, which knows ``$DOCTOR``."""
    return subprocess.Popen(
        ["unshare", "--net", "--mount", "bash", "-c", f"{OWN}\n{script}"],
        cwd="/",
        env={
            **os.environ,
            "PYTHONPATH": str(ROOT),
            "PYTHONDONTWRITEBYTECODE": "1",
            "EGRESS_AUDIT_DIR": str(tmp_path),
            "DOCTOR": DOCTOR,
        },
        stdout=subprocess.PIPE,
        stderr=subprocess.PIPE,
        text=True,
    )


def _shows(file: Path, text: str) -> str:
    """Wait until it does."""
    return f"until grep -q {text} {file}; do sleep 0.05; done"


def examined(tmp_path: Path, prepare: str = "", *, after: str = "") -> tuple[int, dict[str, dict[str, Any]]]:
    """What is found on a host that ``prepare`` made, and the exit status; ``after`` must succeed there."""
    script = f"{prepare}\n$DOCTOR; status=$?; set -e; {after or ':'}; exit $((status + 40))"
    with as_host(tmp_path, script) as host:
        stdout, stderr = host.communicate(timeout=60)
    assert host.returncode >= 40, stderr
    assert "Traceback" not in stderr
    return host.returncode - 40, {found["what"]: found for found in map(json.loads, stdout.splitlines())}


@pytest.mark.parametrize(
    ("lacking", "needed"),
    [((), None), (("NET_ADMIN", "KILL"), True), (("SYS_ADMIN",), True), (("KILL",), False)],
)
def test_capabilities(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, lacking: tuple[str, ...], needed: bool | None
) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 0)
    monkeypatch.setattr(doctor, "STATUS", tmp_path / "status")
    bits = {**doctor.CAPABILITIES, **doctor.LESSER_CAPABILITIES}
    effective = sum(1 << bit for name, bit in bits.items() if name not in lacking)
    (tmp_path / "status").write_text(f"Name:\tegress\nCapEff:\t{effective:016x}\n")
    found = doctor._capabilities()
    assert found.ok is (not lacking)
    assert needed is None or found.needed is needed
    for name in lacking:
        assert f"--cap-add={name}" in found.said


def test_an_ordinary_user_needs_no_capability(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("os.geteuid", lambda: 1000)
    assert doctor._capabilities().ok
    assert leftovers.leftovers({}).ok


def test_chains_that_were_left_come_with_what_takes_them_away(monkeypatch: pytest.MonkeyPatch) -> None:
    held = {
        "filter": [
            ":FORWARD",
            ":EGRESS-FORWARD",
            ":DOCKER",
            "-A FORWARD -j EGRESS-FORWARD",
            "-A FORWARD -j DOCKER",
        ]
    }
    monkeypatch.setattr(variants, "in_use", lambda family: ["nft"] if family == 6 else [])
    monkeypatch.setattr(variants, "saved", lambda *_: held)
    argv = "ip6tables-nft -t filter"
    assert dict(leftovers._left_chains()) == {
        "chain EGRESS-FORWARD of ip6tables-nft, table filter": f"{argv} -D FORWARD -j EGRESS-FORWARD; "
        f"{argv} -F EGRESS-FORWARD; {argv} -X EGRESS-FORWARD"
    }


@pytest.mark.parametrize("ended_with", [0, 1])
def test_a_program_is_run(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, ended_with: int) -> None:
    monkeypatch.setattr(doctor, "SYSTEM_PATH", str(tmp_path))
    assert "not found: apt-get install some-package" in doctor._program("some", "some-package").said
    (tmp_path / "some").write_text(f"#!/bin/sh\nexit {ended_with}\n")
    (tmp_path / "some").chmod(0o755)
    found = doctor._program("some", "some-package")
    assert found.ok is not ended_with
    assert ("--reinstall some-package" in found.said) is bool(ended_with)


class TestAsRoot:
    """One host each."""

    pytestmark = root

    def test_all_of_it_is_tried_and_nothing_is_left(self, tmp_path: Path) -> None:
        before, after = tmp_path / "before", tmp_path / "after"
        # The first uplink of a host leaves empty tables.
        prepare = f"{UPLINK}; $DOCTOR >/dev/null; {GONE}; ({STATE}) 2>&1 | grep -v '^#' >{before}"
        status, found = examined(tmp_path, prepare, after=f"{GONE}; ({STATE}) 2>&1 | grep -v '^#' >{after}")
        assert status == 0
        assert all(one["ok"] or not one["needed"] for one in found.values()), found
        assert found["cell"]["said"].endswith(", and an uplink for IPv4")
        assert found["uplink"]["said"] == GOT_THROUGH
        assert found["wall"]["said"].endswith("and so was the metadata address")
        assert found["leftovers"]["said"] == "none"
        assert after.read_text() == before.read_text()

    def test_no_packet_leaves(self, tmp_path: Path) -> None:
        """By IPv4; for IPv6 a device says of itself that it is there, whoever made it."""
        frames = tmp_path / "frames"
        begun, seen = _shows(frames, "listening"), _shows(frames, "203.0.113.9")
        listen = f"timeout 60 {sys.executable} -c {shlex.quote(LISTEN)} >{frames} & listener=$!; {begun}"
        away = "ip route add default via 10.9.8.1; ip neigh add 10.9.8.1 lladdr 02:00:00:00:00:01 dev eth9"
        control = f"echo x >/dev/udp/203.0.113.9/9; {seen}; kill $listener; wait $listener || true"
        status, found = examined(tmp_path, f"{UPLINK}; {away}; {listen}", after=control)
        assert status == 0 and found["uplink"]["said"] == GOT_THROUGH
        assert frames.read_text().split() == ["listening", "203.0.113.9"], "that one was sent to be seen"

    @pytest.mark.parametrize(
        "rules",
        [
            "ip rule add pref 77 fwmark 5 lookup 9",
            "ip rule add pref 77 from 169.254.64.0/18 lookup 9; ip route add default via 10.9.8.1 table 9",
        ],
        ids=["by marks", "by source"],
    )
    def test_where_it_could_leave_none_is_sent(self, tmp_path: Path, rules: str) -> None:
        status, found = examined(tmp_path, f"{UPLINK}; {rules}")
        assert status == 0
        assert "nothing sent" in found["uplink"]["said"]

    def test_a_firewall_that_drops_what_is_forwarded(self, tmp_path: Path) -> None:
        status, found = examined(tmp_path, "iptables-nft -t mangle -A FORWARD -j DROP")
        assert status == 0 and not found["uplink"]["ok"]
        assert "what comes in by egress-*" in found["uplink"]["said"]

    def test_ipset_that_does_nothing(self, tmp_path: Path) -> None:
        """What ``run`` fails at is found."""
        status, found = examined(tmp_path, "mount --bind /bin/false $(command -v ipset)")
        assert status == 1
        assert not any(found[what]["ok"] for what in ("ipset", "firewall", "cell"))
        assert "apt-get install --reinstall ipset" in found["ipset"]["said"]

    def test_without_a_capability(self, tmp_path: Path) -> None:
        script = "exec setpriv --bounding-set=-net_raw --inh-caps=-net_raw $DOCTOR"
        with as_host(tmp_path, script) as host:
            stdout, _ = host.communicate(timeout=60)
        assert host.returncode == 1
        assert "--cap-add=NET_RAW" in stdout

    def test_what_the_next_run_sweeps_is_swept(self, tmp_path: Path) -> None:
        gone = "! iptables-legacy-save | grep EGRESS"
        status, found = examined(tmp_path, CHAIN.format("EGRESS-FORWARD"), after=gone)
        assert status == 0 and found["leftovers"]["ok"]
        assert found["leftovers"]["said"].startswith("swept just now")
        assert "EGRESS-FORWARD of iptables-legacy" in found["leftovers"]["said"]

    def test_what_no_run_sweeps_is_named_with_the_command(self, tmp_path: Path) -> None:
        status, found = examined(tmp_path, CHAIN.format("EGRESS-OTHER"))
        said = found["leftovers"]["said"]
        assert status == 0 and not found["leftovers"]["ok"]
        command = said.partition("to take it away: ")[2].rpartition(")")[0]
        gone = f"set -e; {command}; ! iptables-legacy-save | grep EGRESS"
        with as_host(tmp_path, f"{CHAIN.format('EGRESS-OTHER')}; {gone}") as host:
            _, stderr = host.communicate(timeout=60)
        assert host.returncode == 0, stderr

    def test_a_device_whose_owner_is_not_known_here(self, tmp_path: Path) -> None:
        """Its rules would stay with it, and so would those that an uplink of the trial's makes."""
        prepare = (
            "ip link add egress-8 type veth peer name x8; ip link set egress-8 alias 'egress-netd 1-a.1'"
        )
        status, found = examined(tmp_path, prepare, after="! iptables-legacy-save | grep EGRESS")
        assert status == 0 and found["cell"]["ok"]
        assert not found["uplink"]["ok"] and "under leftovers" in found["uplink"]["said"]
        assert "ip link del egress-8, unless a gateway" in found["leftovers"]["said"]

    @pytest.mark.parametrize("killed", [False, True])
    def test_a_gateway_with_an_uplink(self, tmp_path: Path, killed: bool) -> None:
        """While it lives, what is its is nobody's leftover."""
        pids = tmp_path / "pids"
        start = f"{sys.executable} -P -c {shlex.quote(LIVING)} >{pids} &"
        prepare = f": >{pids}; {start} until read one two <{pids}; do sleep 0.05; done"
        if killed:
            # What it held locked as long as it lived is free when it is dead.
            prepare += (
                "; kill -KILL $one $two; until flock -n /run/egress/*/*.alive true; do sleep 0.05; done"
            )
        after = "kill -KILL $one $two" if not killed else ":"
        status, found = examined(tmp_path, prepare, after=after)
        assert status == 0 and found["leftovers"]["ok"]
        assert found["leftovers"]["said"].startswith("swept just now" if killed else "none")

    @pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
    def test_ended_in_the_middle_it_takes_everything_down(
        self, tmp_path: Path, number: signal.Signals
    ) -> None:
        """Where an uplink stands already."""
        script = f"""
            exec {sys.executable} -c {shlex.quote(INTERRUPTED)} {number.value} $DOCTOR
        """
        with as_host(tmp_path, script) as host:
            stdout, stderr = host.communicate(timeout=60)
        assert host.returncode == 0, stderr
        status, left = stdout.split()
        assert (int(status), left) == (128 + number, "0")


LISTEN = """
import ipaddress, socket
with socket.socket(socket.AF_PACKET, socket.SOCK_DGRAM, socket.htons(0x0800)) as sock:
    sock.bind(("far9", 0))
    print("listening", flush=True)
    while True:
        print(ipaddress.ip_address(sock.recv(2000)[16:20]), flush=True)
"""
LIVING = """
import os, time
from gateway.netd.server import Netd
from rules import NetworkPolicy, build_plan
netd = Netd()
cell = netd.open_cell(build_plan(NetworkPolicy(["10.1.1.1"], ["0.0.0.0/0"]), "veth"))
print(netd.pid, os.getpid(), flush=True)
time.sleep(60)
"""
INTERRUPTED = """
import os, signal, socket, subprocess, sys, time
signal.signal(signal.SIGINT, signal.SIG_DFL)
signal.signal(signal.SIGHUP, signal.SIG_DFL)
def uplinks():
    return [name for _, name in socket.if_nameindex() if name.startswith(("egress-", "egprobe"))]
status = 0
while not status:  # one that was over by the time that it was looked at was not ended in the middle
    while uplinks():
        time.sleep(0.01)
    process = subprocess.Popen(sys.argv[2:], stdout=subprocess.DEVNULL)
    while not uplinks() and process.poll() is None:
        time.sleep(0.001)
    process.send_signal(int(sys.argv[1]))
    status = process.wait()
while any(name.startswith("egprobe") for name in uplinks()):  # the kernel takes it away when it comes to it
    time.sleep(0.01)
chains = subprocess.run("iptables-legacy-save; iptables-nft-save", shell=True, capture_output=True, text=True).stdout
print(status, len(uplinks()) + chains.count(":EGRESS"))
"""
