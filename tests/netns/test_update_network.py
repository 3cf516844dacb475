"""Another policy for a sandbox that lives: what it says counts at once, for what runs already too, and never more than both policies allow."""

import pytest

from tests.lab.lab import Lab
from tests.lab.places import ATTACKER_IP, BLOCKED_IP, GOOD_IP, GOOD_IP6, OTHER_IP, WILD_IP, Port
from tests.netns.test_sandbox import Told

pytestmark = [pytest.mark.root, pytest.mark.timeout(120)]

CURL = 'code = lambda name: sbx.commands.run(f"curl -sS -m 30 -o /dev/null https://{name}/").exit_code'


def test_names_come_and_go(lab: Lab, starter: int | None) -> None:
    told = Told(
        lab,
        f"""
        with Sandbox.create(security=only("allowed.test"), envs=TRUST) as sbx:
            {CURL}
            tell(code("allowed.test"), code("blocked.test"))
            tell(sbx.update_network(NetworkPolicy(allow_out=["blocked.test"], deny_out=[ALL_TRAFFIC])))
            tell(code("allowed.test"), code("blocked.test"))
            tell(sbx.update_network(None))
            tell(code("allowed.test"), code("blocked.test"))
        """,
        starter,
    )
    assert told.lines == [[0, 35], [2], [35, 0], [3], [0, 0]]
    decided = [
        (record.get("generation", 1), record["domain"], record["event"])
        for record in told.records
        if record.get("proto") == "tcp" and "reason" in record and record["domain"]
    ]
    assert decided == [
        (1, "allowed.test", "egress_allowed"),
        (1, "blocked.test", "egress_blocked"),
        (2, "allowed.test", "egress_blocked"),
        (2, "blocked.test", "egress_allowed"),
    ]
    by_default = [record for record in told.records if record.get("generation") == 3]
    decisions = [one for one in by_default if "reason" in one and one["layer"] != "dns"]
    assert [one["event"] for one in decisions] == ["egress_allowed"] * 2


def test_from_nothing_to_names_and_back(lab: Lab, starter: int | None) -> None:
    """Without a name there is no DNS; with one there has to be."""
    told = Told(
        lab,
        f"""
        with Sandbox.create(allow_internet_access=False, envs=TRUST) as sbx:
            {CURL}
            tell(code("allowed.test"))
            sbx.update_network(NetworkPolicy(allow_out=["allowed.test"], deny_out=[ALL_TRAFFIC]))
            tell(code("allowed.test"))
            sbx.update_network(NetworkPolicy(deny_out=[ALL_TRAFFIC]))
            tell(code("allowed.test"))
            sbx.update_network(NetworkPolicy(allow_out=["allowed.test"], deny_out=[ALL_TRAFFIC]))
            tell(code("allowed.test"))
        """,
        starter,
    )
    assert told.lines[1] == told.lines[3] == [0]
    assert told.lines[0] != [0] and told.lines[2] != [0]


def test_addresses_come_and_go(lab: Lab, starter: int | None) -> None:
    told = Told(
        lab,
        f"""
        def policy(*allow, deny=(ALL_TRAFFIC,)):
            return NetworkPolicy(allow_out=list(allow), deny_out=list(deny))
        with Sandbox.create(security=only("allowed.test"), envs=TRUST) as sbx:
            def code(ip):
                return sbx.commands.run(f"curl -sS -f -m 30 -o /dev/null http://{{ip}}/").exit_code
            tell(code("{GOOD_IP}"), code("{BLOCKED_IP}"))
            for wanted in (policy("{GOOD_IP}"), policy("{BLOCKED_IP}/32"), policy("198.18.0.0/16"), policy(deny=("{GOOD_IP}",)),
                           policy("{GOOD_IP}:80"), policy(deny=("2001:db8::/32",)), policy("allowed.test")):
                sbx.update_network(wanted)
                tell(code("{GOOD_IP}") == 0, code("{BLOCKED_IP}") == 0)
        """,
        starter,
    )
    assert told.lines[1:] == [
        [True, False],
        [False, True],
        [True, True],
        [False, True],
        [True, False],
        [True, True],
        [False, False],
    ]


HELD = """
import os, socket, ssl, sys, time
kind, target, port, ca = sys.argv[1:]
sock = socket.create_connection((target, int(port)), 30)
if kind == "tls":
    sock = ssl.create_default_context(cafile=ca).wrap_socket(sock, server_hostname=target)
else:
    sock.sendall(b"99999999999\\n")
print("open", flush=True)
sock = socket.socket(fileno=sock.detach())  # as TCP sees it: session tickets are still to be read
sock.setblocking(False)
said, seen_open, over = "open", 0.0, False
try:
    while not over:
        over, looked = os.path.exists("over"), time.time()
        if sock.getsockopt(socket.IPPROTO_TCP, socket.TCP_INFO, 1) != b"\\1":  # TCP_ESTABLISHED
            sock.setblocking(True)
            while sock.recv(1 << 16):
                pass
            said = "ended"
            break
        seen_open = looked
        try:
            if kind == "bytes":
                sock.send(b"x")
            sock.recv(1 << 16)
        except BlockingIOError:
            pass
        time.sleep(0.001)
except OSError as error:
    said = type(error).__name__
print(said, seen_open, flush=True)
"""


def test_what_is_no_longer_allowed_ends(lab: Lab, starter: int | None) -> None:
    """A connection by name, one by address, and one that both policies allow: it is still open when the others have ended."""
    told = Told(
        lab,
        f"""
        heard = {{}}
        with Sandbox.create(security=only("allowed.test", "blocked.test", "{WILD_IP}"), envs=TRUST) as sbx:
            running = []
            for kind, target, port in (("tls", "allowed.test", 443), ("bytes", "{WILD_IP}", {int(Port.BYTES)}), ("tls", "blocked.test", 443)):
                heard[target] = ""
                def hear(text, target=target):
                    heard[target] += text
                argv = ["/usr/bin/python3", "-c", {HELD!r}, kind, target, str(port), TRUST["CURL_CA_BUNDLE"]]
                running.append(sbx.commands.run(argv, background=True, on_stdout=hear))
            threads = [threading.Thread(target=one.wait) for one in running]
            for one in threads:
                one.start()
            while not all("open" in said for said in heard.values()):
                time.sleep(0.05)
            time.sleep(0.3)
            sbx.update_network(NetworkPolicy(allow_out=["blocked.test"], deny_out=[ALL_TRAFFIC]))
            swapped = time.time()
            for one in threads[:2]:
                one.join(30)
            sbx.commands.run("touch over")
            for one in threads:
                one.join()
            tell({{target: [said.split()[1], float(said.split()[2]) - swapped] for target, said in heard.items()}})
        """,
        starter,
    )
    ((ended,),) = told.lines
    print({target: (how, f"{after_s * 1000:.0f} ms") for target, (how, after_s) in ended.items()})
    # Where each was last seen open: who is held up sees late how it ended.
    assert ended["allowed.test"][0] == "ConnectionResetError" and ended["allowed.test"][1] < 1
    assert ended[WILD_IP][0] in ("ConnectionResetError", "ended") and ended[WILD_IP][1] < 1
    assert ended["blocked.test"][0] == "open"  # nothing was wrong with it
    by_policy = [record for record in told.records if record.get("ended_by") == "policy"]
    assert {record["domain"] for record in by_policy} == (
        {"allowed.test"} if starter is None else {"allowed.test", None}
    )


ASKS_TWICE = """
import http.client, os, sys, time
connections = [http.client.HTTPConnection(ip, 80, timeout=5) for ip in sys.argv[1:]]
def ask(connection):
    connection.request("GET", "/", headers={"Host": "allowed.test"})
    return connection.getresponse().read() != b""
said = [ask(one) for one in connections]
sockets = [one.sock for one in connections]
print("asked", flush=True)
while not os.path.exists("go"):
    time.sleep(0.02)
for connection, sock in zip(connections, sockets):
    try:
        said.append(ask(connection) and connection.sock is sock)
    except OSError as error:
        said.append(type(error).__name__)
print(said)
"""


def test_an_address_that_is_now_allowed_too_ends_nothing(lab: Lab, starter: int | None) -> None:
    """The proxy has the connection, and keeps it, though the kernel would let the next one out."""
    told = Told(
        lab,
        f"""
        said = []
        with Sandbox.create(security=only("allowed.test", "{WILD_IP}")) as sbx:
            running = sbx.commands.run(["/usr/bin/python3", "-c", {ASKS_TWICE!r}, "{GOOD_IP}", "{GOOD_IP6}"], background=True, on_stdout=said.append)
            waiting = threading.Thread(target=running.wait)
            waiting.start()
            while waiting.is_alive() and "asked" not in "".join(said):
                time.sleep(0.01)
            sbx.update_network(NetworkPolicy(allow_out=["allowed.test", "{WILD_IP}", "{GOOD_IP}", "{GOOD_IP6}"], deny_out=[ALL_TRAFFIC]))
            sbx.commands.run("touch go")
            waiting.join()
            tell("".join(said).split("\\n")[1])
        """,
        starter,
    )
    assert told.lines == [["[True, True, True, True]"]]
    assert not any(record["event"] == "egress_blocked" for record in told.records)
    assert not any(record.get("ended_by") == "policy" for record in told.records)


STREAM = """
import socket, sys, time
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
sock.bind((sys.argv[1], 9001))
print("ready", flush=True)
_, peer = sock.recvfrom(1)
while True:
    sock.sendto(b"x", peer)
    time.sleep(0.005)
"""
LISTENER = """
import os, socket, struct, sys
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
# When each came, and not when this process was given the time to read it.
sock.setsockopt(socket.SOL_SOCKET, 35, 1)  # SO_TIMESTAMPNS_OLD, asm-generic/socket.h
sock.connect((sys.argv[1], 9001))
sock.send(b"x")
sock.settimeout(0.1)
heard, over = 0, False
while not over:
    try:
        _, ((_, _, stamp),), _, _ = sock.recvmsg(16, 64)
        seconds, nanoseconds = struct.unpack("qq", stamp)
        heard, last = heard + 1, seconds + nanoseconds / 1e9
        if heard % 50 == 0:
            print("hears", flush=True)
    except TimeoutError:  # nothing waits to be read
        over = os.path.exists("over")
print(heard, last, flush=True)
"""


def test_a_flow_that_is_only_listened_to_ends_too(lab: Lab) -> None:
    """Nothing asks the rules about answers: the kernel must forget the flow."""
    with lab.popen(["/usr/bin/python3", "-c", STREAM, WILD_IP], namespace="net") as stream:
        assert stream.stdout is not None and stream.stdout.readline() == "ready\n"
        told = Told(
            lab,
            f"""
            said = []
            with Sandbox.create(security=only("{WILD_IP}")) as sbx:
                running = sbx.commands.run(["/usr/bin/python3", "-c", {LISTENER!r}, "{WILD_IP}"], background=True, on_stdout=said.append)
                waiting = threading.Thread(target=running.wait)
                waiting.start()
                def hears(more):
                    wanted = "".join(said).count("hears") + more
                    while waiting.is_alive() and "".join(said).count("hears") < wanted:
                        time.sleep(0.01)
                hears(1)
                sbx.update_network(NetworkPolicy(allow_out=["{WILD_IP}", "{OTHER_IP}", "allowed.test"], deny_out=[ALL_TRAFFIC]))
                hears(3)  # of which the first may be of before
                tell(waiting.is_alive())
                sbx.update_network(NetworkPolicy(allow_out=["allowed.test"], deny_out=[ALL_TRAFFIC]))
                done = time.time()
                time.sleep(3)
                sbx.commands.run("touch over")
                waiting.join()
                *_, heard, last = "".join(said).split()
                tell(int(heard), float(last) - done)
            """,
        )
        assert stream.poll() is None  # it says something all the while
        stream.kill()
    (heard_still,), (heard, after_end_s) = told.lines
    print(f"{heard} datagrams; the last {after_end_s * 1000:.0f} ms after the swap had ended")
    assert heard_still and heard >= 150  # a policy that allows it still leaves it alone
    assert after_end_s < 0.02


def test_another_resolver_is_no_swap_and_changes_nothing(lab: Lab, starter: int | None) -> None:
    told = Told(
        lab,
        f"""
        with Sandbox.create(security=only("allowed.test"), envs=TRUST) as sbx:
            {CURL}
            try:
                sbx.update_network(NetworkPolicy(allow_out=["blocked.test"], deny_out=[ALL_TRAFFIC], resolver="9.9.9.9"))
            except EgressError as error:
                tell(type(error).__name__, str(error))
            try:
                sbx.update_network(["blocked.test"])
            except TypeError as error:
                tell(type(error).__name__, str(error))
            tell(code("allowed.test"), code("blocked.test"))
        try:
            sbx.update_network(None)
        except SandboxClosed as error:
            tell(type(error).__name__)
        """,
        starter,
    )
    assert told.lines == [
        ["SetupError", "resolver=9.9.9.9: a sandbox keeps its resolver, 8.8.8.8; create another sandbox"],
        ["TypeError", "network: write NetworkPolicy(allow_out=[...])"],
        [0, 35],
        ["SandboxClosed"],
    ]
    assert all(record.get("generation", 1) == 1 for record in told.records)
    assert ATTACKER_IP not in str(told.records)
