"""Metrics of a gateway at work: they agree with the records on the disk, whoever is killed, and nobody asks for them from inside a sandbox."""

import contextlib
import os
import shutil
import signal
import stat
import subprocess
import tempfile
import time
from collections import Counter
from collections.abc import Iterator
from functools import partial
from pathlib import Path

import pytest
from prometheus_client.parser import text_string_to_metric_families

from gateway.scrapes import MAX_SCRAPERS
from tests.lab.lab import Lab
from tests.lab.places import BLOCKED_IP, GOOD_IP, WILD_IP, Port
from tests.lab.sandboxed import Record, egress_argv, egress_run, in_session, new_audit_dir, read_records
from tests.netns.conftest import UNPRIVILEGED
from tests.netns.hello import get
from tests.netns.load import LOAD, kill_worker, wait_until
from tests.netns.puppet import PYTHON, Failure, Puppet, await_taken, children, descriptors
from tests.netns.test_sandbox import Told

pytestmark = [pytest.mark.root, pytest.mark.timeout(90)]

Series = dict[tuple[str, ...], float]
"""Values by name, then by the values of the labels but ``sandbox``, in the order of their names."""


def scrape(lab: Lab, path: Path, uid: int | None = None) -> Series:
    """As Prometheus' own parser reads it. Who takes five seconds to ask is not answered, and asks again."""
    argv = ["curl", "-sS", "-f", "-m", "30", "--retry", "3", "--retry-all-errors"]
    argv += ["--unix-socket", str(path), "http://localhost/metrics"]
    asked = lab.run(argv, uid=uid)
    assert asked.returncode == 0, asked.stderr
    found: Series = {}
    for family in text_string_to_metric_families(asked.stdout):
        assert family.documentation, family
        for sample in family.samples:
            labels = tuple(value for name, value in sorted(sample.labels.items()) if name != "sandbox")
            assert (sample.name, *labels) not in found
            found[(sample.name, *labels)] = sample.value
    return found


def recorded(records: list[Record]) -> Counter[tuple[str, ...]]:
    """The series that the records on the disk amount to."""
    sums: Counter[tuple[str, ...]] = Counter()
    for record in records:
        sums["egress_audit_records_total",] += 1
        event, times = record["event"], record.get("count", 1)
        verdict = "allowed" if event.endswith("_allowed") else "blocked"
        if event in ("egress_allowed", "egress_blocked"):
            sums["egress_decisions_total", record["layer"], record["reason"], verdict] += times
        elif event in ("dns_allowed", "dns_blocked"):
            sums["egress_dns_queries_total", record["reason"], verdict] += times
        elif event == "egress_closed":
            sums["egress_connections_closed_total", record["ended_by"], record["phase"]] += 1
            sums["egress_bytes_total", "up"] += record["bytes_up"]
            sums["egress_bytes_total", "down"] += record["bytes_down"]
        elif event == "audit_lost":
            sums["egress_audit_lost_total",] += times
    return sums


RECORDED = (
    "egress_audit_records_total",
    "egress_decisions_total",
    "egress_dns_queries_total",
    "egress_connections_closed_total",
    "egress_bytes_total",
    "egress_audit_lost_total",
)


def agreed(lab: Lab, path: Path, audit: Path, timeout_s: float = 40, **meant: int) -> Series:
    """A scrape that agrees with the disk in everything that is on record, once one does: records are a few milliseconds on their way. And with what
    is ``meant`` of the rest, which is counted at the end of a turn: the client may have had its answer by then."""
    rest = {tuple(f"egress_{key}".split("__")): value for key, value in meant.items()}
    give_up = time.monotonic() + timeout_s
    while True:
        said = scrape(lab, path)
        mine = {key: value for key, value in said.items() if key[0] in RECORDED and value}
        on_disk = {key: value for key, value in recorded(read_records(audit)).items() if value}
        wrong = {key: said[key] for key, value in rest.items() if said[key] != value}
        if mine == on_disk and not wrong:
            return said
        assert time.monotonic() < give_up, (sorted(mine.items() ^ on_disk.items()), wrong)
        time.sleep(0.05)


@contextlib.contextmanager
def _place(lab: Lab, uid: int | None = None) -> Iterator[Path]:
    """Where a socket may be made, in a directory that everybody can enter."""
    place = lab.directory / "metrics"
    place.mkdir()
    if uid is not None:
        os.chown(place, uid, uid)
    try:
        yield place / "egress.sock"
        assert list(place.iterdir()) == [], "the socket goes with its gateway"
    finally:
        for left in place.iterdir():
            left.unlink()
        place.rmdir()


def _monotone(before: Series, after: Series) -> None:
    fallen = [
        key
        for key, value in before.items()
        if key[0].endswith(("_total", "_bucket", "_count", "_sum")) and after[key] < value
    ]
    assert fallen == []


def _attempts(puppet: Puppet, first: int, *, by_address: bool = True) -> None:
    """One of each kind; the sockets are numbered from ``first`` on."""
    puppet.connect(GOOD_IP, Port.HTTP, first)
    puppet.send(get("allowed.test"), first)
    assert b" 200 OK" in puppet.receive_all(first)
    puppet.connect(GOOD_IP, Port.HTTP, first + 1)
    puppet.send(get("evil.test"), first + 1)
    assert b" 403 " in puppet.receive_all(first + 1)
    puppet.connect(GOOD_IP, Port.HTTPS, first + 2)
    puppet.send(b"neither\r\n\r\n", first + 2)
    with contextlib.suppress(Failure):  # a reset
        puppet.receive_all(first + 2)
    if by_address:  # the kernel's to decide on veth, the proxy's on lo
        puppet.connect(WILD_IP, Port.BYTES, first + 3)
        puppet.send(b"1000\n", first + 3)
        puppet.do("shut", id=first + 3)
        assert len(puppet.receive_all(first + 3)) == 1000
    for number in range(3 + by_address):
        puppet.do("close", id=first + number)


@pytest.mark.parametrize("link", ["veth", "lo"])
def test_what_is_told_is_what_is_on_record_also_after_a_worker_died(lab: Lab, link: str) -> None:
    with _place(lab) as path:
        options = ["--metrics", str(path), "--link", link, "--name", 'a "name"']
        with Puppet(lab, allow=["allowed.test", WILD_IP], options=options) as puppet:
            assert stat.S_IMODE(path.stat().st_mode) == 0o600
            begun = scrape(lab, path)
            worker = puppet.worker
            held = descriptors(worker)
            assert begun["egress_connections_total",] == 0
            assert begun["egress_decisions_total", "proxy", "worker_died", "blocked"] == 0
            _attempts(puppet, 0)
            puppet.connect(GOOD_IP, Port.HTTP, 11)
            puppet.send(get("allowed.test").replace(b"close", b"keep-alive"), 11)  # carried
            assert b" 200 OK" in bytes.fromhex(puppet.do("receive", id=11))
            agreed(lab, path, puppet.audit, connections_live__carried=1)
            wait_until(lambda: descriptors(worker) <= held + 2, "the others end")
            puppet.connect(GOOD_IP, Port.HTTP, 10)
            puppet.send(get("allowed.test")[:-2], 10)  # undecided
            await_taken(worker, held + 2)
            os.kill(worker, signal.SIGSTOP)  # or it would be so for five seconds, and no longer
            proxied = 5 if link == "veth" else 6
            first = agreed(
                lab,
                path,
                puppet.audit,
                connections_total=proxied,
                connections_live__undecided=1,
                connections_live__carried=1,
                decision_duration_seconds_count=proxied - 1,
                connect_duration_seconds_count=proxied - 3,
            )
            assert first["egress_decision_duration_seconds_bucket", "+Inf"] == proxied - 1
            assert 0 < first["egress_connect_duration_seconds_sum",] < 10
            assert first["egress_bytes_total", "down"] > 0
            assert first["egress_worker_restarts_total",] == 0
            puppet.kill_worker()
            second = agreed(lab, path, puppet.audit)
            _monotone(first, second)
            assert second["egress_worker_restarts_total",] == 1
            assert second["egress_decisions_total", "proxy", "worker_died", "blocked"] == 1
            assert second["egress_audit_lost_total",] == 1  # the end of what was carried
            assert second["egress_connections_live", "undecided"] == 0
            assert second["egress_connections_live", "carried"] == 0
            _attempts(puppet, 20)
            total = proxied + proxied - 2
            third = agreed(lab, path, puppet.audit, connections_total=total, connections_live__carried=0)
            _monotone(second, third)
            assert third["egress_bytes_total", "up"] == 2 * first["egress_bytes_total", "up"]


def test_dns_and_the_kernel_and_another_policy(lab: Lab, starter: int | None) -> None:
    """By ``Sandbox``, as root and as an ordinary user."""
    with _place(lab, starter) as path:
        told = Told(
            lab,
            f"""
            import subprocess
            from collections import Counter
            def scrape():
                asked = subprocess.run(["curl", "-sS", "-f", "--retry", "3", "--retry-all-errors", "--unix-socket", {str(path)!r}, "http://localhost/metrics"],
                                       capture_output=True, text=True, check=True)
                return asked.stdout
            with Sandbox.create(security=only("allowed.test"), envs=TRUST, metrics={str(path)!r}) as sbx:
                for name in ("allowed.test", "evil.test"):
                    sbx.commands.run(f"curl -sS -m 30 -o /dev/null https://{{name}}/")
                sbx.commands.run(["/usr/bin/python3", "-c", '''
            import socket
            sock = socket.socket(socket.AF_INET, socket.SOCK_DGRAM)
            sock.sendto(b"x", ("{BLOCKED_IP}", 9))
            '''.replace("\\n            ", "\\n")])
                sbx.update_network(NetworkPolicy(allow_out=["blocked.test"], deny_out=[ALL_TRAFFIC]))
                def counts(start):
                    return [float(line.split()[-1]) for line in scrape().splitlines() if line.startswith(start)]
                def refused():  # by the kernel, as far as it was read of
                    return any('layer="kernel"' in line and not line.endswith(" 0.0") for line in scrape().splitlines())
                give_up = time.monotonic() + 40
                while (any(counts("egress_connections_live")) or not refused()) and time.monotonic() < give_up:
                    time.sleep(0.05)  # of those that have ended all is counted
                tell(scrape())
                inside = sbx.commands.run(["curl", "-sS", "-m", "5", "--unix-socket", {str(path)!r}, "http://localhost/metrics"])
                tell(inside.exit_code, inside.stdout)
            """,
            starter,
        )
    ((text,), (status, inside)) = told.lines
    said = {
        (
            sample.name,
            *(value for name, value in sorted(sample.labels.items()) if name != "sandbox"),
        ): sample.value
        for family in text_string_to_metric_families(text)
        for sample in family.samples
    }
    assert said["egress_policy_generation",] == 2
    assert said["egress_dns_queries_total", "allowed_name", "allowed"] >= 1
    assert said["egress_dns_queries_total", "no_allow_entry", "blocked"] >= 1
    assert sum(value for key, value in said.items() if key[:2] == ("egress_decisions_total", "kernel")) >= 1
    final = recorded(told.records)
    for key, value in said.items():
        if key[0] in ("egress_decisions_total", "egress_dns_queries_total", "egress_bytes_total") and value:
            assert final[key] == value, key
    assert (status, inside) == (7, ""), "the sandbox has no such socket"


ASK = r"""
import socket, sys
for path in sys.argv[1:]:
    sock = socket.socket(socket.AF_UNIX)
    sock.settimeout(30)
    try:
        sock.connect(path)
        try:
            sock.sendall(b"GET /metrics HTTP/1.0\r\n\r\n")
        except BrokenPipeError:
            pass  # who is not to be told anything is told so at once
        print(sock.recv(65536).decode().split("\r\n")[0])
    except OSError as error:
        print(type(error).__name__)
"""
WRITE = r"""
import os, sys
path, inner = sys.argv[1:]
for act in (lambda: os.rename(inner, inner + "-moved"), lambda: os.unlink(path), lambda: os.rename(path, path + "-moved")):
    try:
        act()
        print("done")
    except OSError as error:
        print("not done")
"""


@pytest.mark.parametrize("where", ["out of reach", "in the current directory", "in a bound one", "by a link"])
def test_nobody_inside_a_sandbox_can_ask(lab: Lab, starter: int | None, where: str) -> None:
    """Least of all where the command is the same user as the gateway, and may write all around the socket."""
    work = lab.work / "asks"
    inner = work / "inner"
    inner.mkdir(parents=True)
    (work / "link").symlink_to(inner)
    for path in (work, inner):
        path.chmod(0o777)
    place = (work / "link" if where == "by a link" else inner) / "m.sock"
    options: list[str | Path] = ["--metrics", place]
    if where == "in a bound one":
        options += ["--bind", work]
    ask, write = f'{PYTHON} -c "$ASK"', f'{PYTHON} -c "$WRITE"'
    script = f"{ask} {place} {inner}/m.sock; {write} {place} {inner}; {ask} {place} {inner}-moved/m.sock"
    try:
        outcome = egress_run(
            lab,
            ["sh", "-c", script],
            options=options,
            uid=starter,
            cwd=work if where in ("in the current directory", "by a link") else "/",
            env={"ASK": ASK, "WRITE": WRITE},
        )
        print(outcome)
        said = outcome.stdout.splitlines()
        assert said[2:5] == ["not done"] * 3
        assert len(said) == 7 and not [line for line in said if line.startswith("HTTP")]
        assert not place.exists(), "it went with the gateway"
    finally:
        shutil.rmtree(work)


def test_in_the_machines_own_tmp_it_is_not_there_either(lab: Lab, starter: int | None) -> None:
    with tempfile.TemporaryDirectory(dir="/tmp") as directory:
        Path(directory).chmod(0o777)
        place = Path(directory) / "m.sock"
        outcome = egress_run(lab, ["find", "/tmp"], options=["--metrics", place], uid=starter, cwd="/")
        assert (outcome.status, outcome.stdout) == (0, "/tmp\n")
        assert list(Path(directory).iterdir()) == []


def test_who_comes_from_another_network_namespace_is_not_answered(lab: Lab) -> None:
    """A sandbox's process that has the file all the same, through a directory that somebody shared, for example."""
    with _place(lab) as path, Puppet(lab, options=["--metrics", str(path)]) as puppet:
        argv = [PYTHON, "-c", ASK, str(path)]
        assert lab.run(argv).stdout == "HTTP/1.0 200 OK\n"
        assert lab.run(argv, namespace="net").stdout == "HTTP/1.0 403 Forbidden\n"
        sandbox = f"--net=/proc/{_inside(puppet.process.pid)}/ns/net"
        asked = subprocess.run(["nsenter", sandbox, *argv], capture_output=True, text=True, check=True)
        assert asked.stdout == "HTTP/1.0 403 Forbidden\n"


def _inside(supervisor: int) -> int:
    """A process in another network namespace that descends from ``supervisor``: one of the sandbox's."""
    ours = os.readlink(f"/proc/{supervisor}/ns/net")
    found = [supervisor]
    for pid in found:
        with contextlib.suppress(OSError):  # it ended meanwhile
            if os.readlink(f"/proc/{pid}/ns/net") != ours:
                return pid
            found += children(pid)
    raise LookupError("nobody is in the sandbox")


def test_another_user_may_not_ask(lab: Lab) -> None:
    with _place(lab) as path, Puppet(lab, options=["--metrics", str(path)]):
        argv = [PYTHON, "-c", ASK, str(path)]
        assert lab.run(argv, uid=UNPRIVILEGED).stdout == "PermissionError\n"


# -- who is slow, and who dies

SILENT = r"""
import socket, sys
socks = []
for number in range(int(sys.argv[2])):
    sock = socket.socket(socket.AF_UNIX)
    sock.connect(sys.argv[1])
    if number % 2:
        try:
            sock.sendall(b"GET /metrics HTTP/1.0\r\n")
        except OSError:
            pass  # five seconds have gone by
    socks.append(sock)
print("open", flush=True)
sys.stdin.read()
"""


def test_scrapers_that_say_nothing_hold_up_no_record(lab: Lab) -> None:
    """Many more of them than are served at once, while connections come, a worker dies, and somebody else asks."""
    with _place(lab) as path, Puppet(lab, allow=["allowed.test"], options=["--metrics", str(path)]) as puppet:
        argv = [PYTHON, "-c", SILENT, str(path), str(MAX_SCRAPERS * 8)]
        with lab.popen(argv, stdin=subprocess.PIPE) as silent:
            assert silent.stdout is not None and silent.stdout.readline() == "open\n"
            for first in (0, 20):
                _attempts(puppet, first, by_address=False)
                agreed(lab, path, puppet.audit)
                puppet.kill_worker()
            agreed(lab, path, puppet.audit)
            silent.communicate("", timeout=40)


@pytest.mark.slow
def test_workers_that_die_under_load_take_no_counter_back(lab: Lab) -> None:
    """A kill can fall between a decision's line and its count: one for each kill at the most."""
    kills, audit = 4, new_audit_dir(lab)
    script = f'{PYTHON} -c "$LOAD" allowed.test 10 8 600 >/dev/null; echo done; read end'
    with _place(lab) as path:
        argv = egress_argv(audit, ["sh", "-c", script], allow=["allowed.test"], options=["--metrics", path])
        with lab.popen(argv, stdin=subprocess.PIPE, env={"LOAD": LOAD}) as run:
            wait_until(path.is_socket, "it listens")
            before = scrape(lab, path)
            for number in range(kills):
                wanted = 100 * (number + 1)
                while before["egress_connections_total",] < wanted:
                    after = scrape(lab, path)
                    _monotone(before, after)
                    before = after
                kill_worker(run.pid)
                # Else a kill could fall on one that is dead already: a scrape may find enough for two.
                wait_until(partial(_restarted, lab, path, number + 1), "it is replaced")
            assert run.stdout is not None and run.stdout.readline() == "done\n"
            # The ends are counted before they are on record.
            wait_until(lambda: _over(scrape(lab, path), read_records(audit)), "all is on record")
            last = scrape(lab, path)
            on_disk = recorded(read_records(audit))
            run.communicate("\n", timeout=40)
    _monotone(before, last)
    assert last["egress_worker_restarts_total",] == kills
    assert last["egress_audit_lost_total",] == on_disk["egress_audit_lost_total",]
    assert last["egress_audit_records_total",] == on_disk["egress_audit_records_total",]
    decided = {key: value for key, value in last.items() if key[:2] == ("egress_decisions_total", "proxy")}
    differ = {key: value - on_disk[key] for key, value in decided.items() if value != on_disk[key]}
    print(differ, {key: value for key, value in decided.items() if value})
    assert sum(map(abs, differ.values())) <= 2 * kills
    assert abs(sum(differ.values())) <= kills


def _restarted(lab: Lab, path: Path, times: int) -> bool:
    return scrape(lab, path)["egress_worker_restarts_total",] == times


def _over(said: Series, records: list[Record]) -> bool:
    """Whether no connection is left of which anything is to be told, and all is on the disk."""
    live = said["egress_connections_live", "undecided"] + said["egress_connections_live", "carried"]
    on_disk = recorded(records)["egress_audit_records_total",]
    return not live and said["egress_audit_records_total",] == on_disk


def test_a_gateway_that_does_not_start_leaves_no_socket(lab: Lab) -> None:
    with _place(lab) as path:
        file = lab.work / "no-directory"
        file.write_text("")
        refused = egress_run(lab, ["true"], options=["--metrics", path, "--audit-dir", file])
        file.unlink()
        assert refused.status == 125 and "no records can be kept" in refused.notices[-1]


def test_what_a_killed_gateway_left_is_replaced_and_nothing_else(lab: Lab) -> None:
    with _place(lab) as path:
        options = ["--metrics", str(path)]
        with Puppet(lab, options=options) as first:
            assert "there is such a file already" in egress_run(lab, ["true"], options=options).notices[-1]
            assert scrape(lab, path)["egress_policy_generation",] == 1
            os.kill(first.process.pid, signal.SIGKILL)
            first.process.wait()
            # Whoever it has just forked may have its socket still, and then somebody listens.
            wait_until(lambda: not in_session(first.process.pid), "all of it ends")
            assert path.is_socket()
            with Puppet(lab, options=options):
                assert scrape(lab, path)["egress_policy_generation",] == 1
        path.write_text("mine")
        refused = egress_run(lab, ["true"], options=options)
        assert refused.status == 125 and "there is such a file already" in refused.notices[-1]
        assert path.read_text() == "mine"
        path.unlink()
