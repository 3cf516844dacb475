"""A policy is replaced on a bad day: its asker is interrupted, the worker dies, netd dies half way, commands come and go all the while."""

import pytest

from tests.lab.lab import Lab
from tests.lab.places import OTHER_IP, WILD_IP
from tests.netns.test_sandbox import Told
from tests.netns.wall.standing import host_state

pytestmark = [pytest.mark.root, pytest.mark.timeout(120)]

ABOUT = """
import fcntl, signal, termios
from pathlib import Path
def children(pid):
    # Until it is twice the same: one that ends meanwhile may hide another (proc(5)).
    path = Path(f"/proc/{pid}/task/{pid}/children")
    said = path.read_text()
    while said != (said := path.read_text()):
        pass
    return [int(child) for child in said.split()]
def worker_of(sbx):
    while True:
        for child in children(sbx._attended.pid):
            try:
                status = Path(f"/proc/{child}/status").read_text()
            except OSError:  # it ended meanwhile
                continue
            if "\\nUid:\\t65534" in status and "Name:\\tbwrap" not in status and "\\nState:\\tZ" not in status:
                return child
        time.sleep(0.01)
def held_by(pid):
    return len(os.listdir(f"/proc/{pid}/fd"))
def sleeps(pid):
    return Path(f"/proc/{pid}/stat").read_text().rpartition(") ")[2][0] == "S"
def unread():  # bytes that the attendant was told, and has not heard
    return int.from_bytes(fcntl.ioctl(sbx._attended._channel, termios.TIOCOUTQ, bytes(4)), sys.byteorder)
def code(name):
    return sbx.commands.run(f"curl -sS -m 30 -o /dev/null https://{name}/").exit_code
def policy(*allow):
    return NetworkPolicy(allow_out=list(allow), deny_out=[ALL_TRAFFIC])
"""


def test_a_worker_that_took_anothers_place_obeys_as_the_first_did(lab: Lab) -> None:
    """It said that it is ready when nobody listened: that is no answer to an order."""
    told = Told(
        lab,
        ABOUT
        + """
with Sandbox.create(security=only("allowed.test"), envs=TRUST) as sbx:
    first = worker_of(sbx)
    os.kill(first, signal.SIGKILL)
    code("allowed.test")
    while worker_of(sbx) == first:
        time.sleep(0.01)
    second = worker_of(sbx)
    sbx.update_network(policy("blocked.test"))
    tell(first != second, second == worker_of(sbx), code("blocked.test"))
""",
    )
    assert told.lines == [[True, True, 0]]


def test_a_worker_that_dies_in_the_middle_of_it(lab: Lab) -> None:
    told = Told(
        lab,
        ABOUT
        + """
with Sandbox.create(security=only("allowed.test"), envs=TRUST) as sbx:
    worker = worker_of(sbx)
    code("allowed.test")
    os.kill(sbx._attended.pid, signal.SIGSTOP)  # so that it hears of the order first, then of the death
    said = []
    asking = threading.Thread(target=lambda: said.append(sbx.update_network(policy("blocked.test"))))
    asking.start()
    while asking.is_alive() and not unread():
        time.sleep(0.01)
    os.kill(worker, signal.SIGKILL)
    os.kill(sbx._attended.pid, signal.SIGCONT)
    asking.join()
    tell(said, code("blocked.test"), code("allowed.test"))
""",
    )
    assert told.lines == [[[2], 0, 35]]


def test_what_a_dead_worker_left_is_of_the_policy_that_it_obeyed(lab: Lab) -> None:
    told = Told(
        lab,
        ABOUT
        + f"""
# What is refused for saying nothing, while the machine holds up the rest, comes again.
SILENT = '''
import socket
while True:
    with socket.create_connection(("{OTHER_IP}", 443)) as sock:
        sock.send(bytes([22]))
        print("open", flush=True)
        try:
            sock.recv(1)
        except OSError:
            pass
'''
with Sandbox.create(security=only("allowed.test")) as sbx:
    sbx.update_network(policy("blocked.test"))
    worker, heard = worker_of(sbx), []
    held = held_by(worker)
    running = sbx.commands.run(["/usr/bin/python3", "-c", SILENT], background=True, on_stdout=heard.append)
    waiting = threading.Thread(target=running.wait)
    waiting.start()
    while not heard:
        time.sleep(0.01)
    while held_by(worker) <= held or not sleeps(worker):  # what it has not taken would be its successor's
        time.sleep(0.01)
    os.kill(worker, signal.SIGKILL)
    while worker_of(sbx) == worker:
        time.sleep(0.01)
    running.kill()
    waiting.join()
""",
    )
    died = [record for record in told.records if record.get("reason") == "worker_died"]
    assert [record["generation"] for record in died] == [2]


def test_an_answer_that_nobody_waited_for_is_not_the_next_ones(lab: Lab, starter: int | None) -> None:
    """A signal, a Ctrl-C: the caller no longer waits, and asks for something else."""
    told = Told(
        lab,
        ABOUT
        + """
class Enough(Exception):
    pass
def enough(*_):
    raise Enough
signal.signal(signal.SIGALRM, enough)
def interrupted_over(network):
    # Once it has asked, and the attendant, which is stopped, has not read it.
    def interrupt():
        while not unread():
            time.sleep(0.01)
        signal.pthread_kill(threading.main_thread().ident, signal.SIGALRM)
    threading.Thread(target=interrupt).start()
    try:
        sbx.update_network(network)
    except Enough:
        tell("interrupted")
with Sandbox.create(security=only("allowed.test"), envs=TRUST) as sbx:
    os.kill(sbx._attended.pid, signal.SIGSTOP)
    interrupted_over(policy("allowed.test", "blocked.test"))
    threading.Timer(0.3, os.kill, (sbx._attended.pid, signal.SIGCONT)).start()
    tell(sbx.update_network(policy("allowed.test")), code("blocked.test"), code("allowed.test"))
    os.kill(sbx._attended.pid, signal.SIGSTOP)
    interrupted_over(NetworkPolicy(resolver="9.9.9.9"))
    os.kill(sbx._attended.pid, signal.SIGCONT)
tell(sbx.audit_dir == AUDIT)
""",
        starter,
    )
    assert told.lines == [["interrupted"], [3, 35, 0], ["interrupted"], [True]]


def test_from_many_threads_while_commands_come_and_go(lab: Lab) -> None:
    """Nobody keeps a descriptor or an uplink of it, and no answer goes astray."""
    before = host_state(lab)
    told = Told(
        lab,
        ABOUT
        + f"""
policies = [policy("allowed.test", "{WILD_IP}", "2001:db8::9"), policy(), None, policy("allowed.test", "blocked.test"),
            policy("2001:db8::9", "{OTHER_IP}")]
with Sandbox.create(security=only("allowed.test"), envs=TRUST) as sbx:
    def held():
        pids = [sbx._attended.pid, *children(sbx._attended.pid)[:1], worker_of(sbx)]
        return [len(os.listdir(f"/proc/{{pid}}/fd")) for pid in pids]
    generations, wrong, over = [], [], []
    def updates(first):
        for number in range(8):
            generations.append(sbx.update_network(policies[(first + number) % len(policies)]))
    def commands():
        while not over:
            if sbx.commands.run("true").exit_code:
                wrong.append("true")
    def guarded(work, *args):
        try:
            work(*args)
        except Exception as error:
            wrong.append(repr(error))
    for one in policies:
        sbx.update_network(one)
    def settled():  # for a moment who looks after the records, or after the host, holds more
        while True:
            netd, *others = children(sbx._attended.pid)
            found = held()
            time.sleep(0.05)
            if len(others) == 1 and not children(netd) and held() == found:
                return found
    first = settled()
    running = [threading.Thread(target=guarded, args=(commands,)) for _ in range(3)]
    asking = [threading.Thread(target=guarded, args=(updates, number)) for number in range(3)]
    for one in running + asking:
        one.start()
    for one in asking:
        one.join()
    over.append(True)
    for one in running:
        one.join()
    give_up = time.monotonic() + 20  # of the last command something may still be held
    while (last := settled()) != first and time.monotonic() < give_up:
        time.sleep(0.05)
    tell(sorted(generations) == list(range(7, 31)), wrong, first == last, first, last)
""",
        timeout_s=100,
    )
    ((numbered, wrong, equal, *held),) = told.lines
    assert (numbered, wrong) == (True, [])
    assert equal, held
    assert host_state(lab) == before


PROBE = """
import socket, sys
for ip in sys.argv[1:]:
    sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
    sock.settimeout(1)
    sock.connect((ip, 9))
    try:
        sock.send(b"x")
        sock.recv(1)
        print(ip, "answered")
    except ConnectionRefusedError:
        print(ip, "left")  # refused by the far side, which has nothing on that port
    except OSError as error:
        print(ip, type(error).__name__)
"""


def test_when_netd_dies_half_way_nobody_stays_between_two_policies(lab: Lab) -> None:
    """What it had begun goes on without it: what the kernel enforces is not known any more."""
    lab.capture.clear()
    told = Told(
        lab,
        ABOUT
        + f"""
wide = NetworkPolicy(allow_out=["{OTHER_IP}", *(f"10.{{n >> 8}}.{{n & 255}}.0/25" for n in range(8000))], deny_out=[ALL_TRAFFIC])
with Sandbox.create(security=only("allowed.test", "{WILD_IP}")) as sbx:
    netd = children(sbx._attended.pid)[0]
    said = []
    def update():
        try:
            said.append(sbx.update_network(wide))
        except EgressError as error:
            said.append(repr(error))
    def network(pid):
        try:
            return os.readlink(f"/proc/{{pid}}/ns/net")
        except OSError:
            return network(netd)
    def at_it():  # not just any child: netd runs programs to look after the host, which are copies of it before they are programs
        return [pid for pid in children(netd) if network(pid) != network(netd)]
    def stopped(pid):
        try:
            os.kill(pid, signal.SIGSTOP)
            while (state := Path(f"/proc/{{pid}}/stat").read_text().rpartition(") ")[2][0]) not in "TZX":
                time.sleep(0.001)
            return state == "T"
        except OSError:
            return False
    while True:  # until it is found half way: whoever looks may be late
        said.clear()
        asking = threading.Thread(target=update)
        asking.start()
        while asking.is_alive() and not (found := at_it()):
            time.sleep(0.001)
        if asking.is_alive() and stopped(found[0]):
            break
        asking.join()
    os.kill(netd, signal.SIGKILL)
    try:
        os.kill(found[0], signal.SIGCONT)
    except ProcessLookupError:  # the kernel had it go on: an orphan that is stopped (setpgid(2))
        pass
    asking.join()
    try:
        tell(said, sbx.commands.run(["/usr/bin/python3", "-c", {PROBE!r}, "{OTHER_IP}"]).stdout)
    except SandboxClosed:
        tell(said, None)
""",
    )
    ((said, stdout),) = told.lines
    print(said, stdout)
    assert "InDoubt" in said[0]
    assert stdout is None
    assert lab.capture.packets(to=OTHER_IP) == []
    # Another takes away what the dead one left of its uplink.
    Told(lab, f'Sandbox.create(security=only("{WILD_IP}")).kill()')


FLOOD = """
import socket, sys
sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
print("floods", flush=True)
for number in range(10**9):
    for ip in sys.argv[1:]:
        try:
            sock.sendto(b"x", (ip, 1 + number % 60000))
        except OSError:
            pass
"""


def test_a_flood_keeps_neither_the_kernel_nor_the_worker_from_obeying(lab: Lab) -> None:
    """More flows than can be looked at one by one, more messages than can be read meanwhile: the worker is not taken for one that does not obey, and
    what the kernel let out under one policy is not on record as another's."""
    told = Told(
        lab,
        ABOUT
        + f"""
def await_record(generation, ip):
    given = (f'"generation":{{generation}},', f'"dest_ip":"{{ip}}"', '"event":"egress_allowed"', '"layer":"kernel"')
    give_up = time.monotonic() + 30
    while time.monotonic() < give_up:
        for path in Path(AUDIT).glob("egress-*.jsonl"):
            if any(all(one in line for one in given) for line in path.read_text().splitlines()):
                return
        time.sleep(0.1)
with Sandbox.create(security=only("allowed.test", "{WILD_IP}"), envs=TRUST) as sbx:
    worker, heard = worker_of(sbx), []
    running = sbx.commands.run(["/usr/bin/python3", "-c", {FLOOD!r}, "{WILD_IP}", "{OTHER_IP}"], background=True, on_stdout=heard.append)
    waiting = threading.Thread(target=running.wait)
    waiting.start()
    while not heard:
        time.sleep(0.01)
    time.sleep(1)
    await_record(1, "{WILD_IP}")
    sbx.update_network(policy("allowed.test", "{OTHER_IP}"))
    await_record(2, "{OTHER_IP}")  # what waited in the kernel's buffer has been read, and some of what comes
    time.sleep(1)
    sbx.update_network(policy("allowed.test", "{WILD_IP}"))
    time.sleep(1)
    tell(worker == worker_of(sbx), code("allowed.test"))
    running.kill()
    waiting.join()
""",
        timeout_s=90,
    )
    assert told.lines == [[True, 0]]
    by = {
        (record["generation"], record["dest_ip"], record["reason"])
        for record in told.records
        if record["event"] == "egress_allowed" and record["proto"] == "udp" and record["layer"] == "kernel"
    }
    # Of what came last there may be no more than a sum.
    assert {(1, WILD_IP, "allowed_address"), (2, OTHER_IP, "allowed_address")} <= by
    assert by <= {
        (1, WILD_IP, "allowed_address"),
        (2, OTHER_IP, "allowed_address"),
        (3, WILD_IP, "allowed_address"),
    }
