"""The bench for real, in short: namespaces, the naive proxy and ours, the load; and that nothing of it is left."""

import json
import os
import select
import signal
import subprocess
import sys
import time
from pathlib import Path

import dns.message
import dns.rdatatype
import pytest

from bench import probe
from bench.adapter import Adapter, family
from bench.adapters.direct import Direct
from bench.adapters.egress import Egress
from bench.adapters.naive import Naive
from bench.load import quantile_us
from bench.machine import keep
from bench.origin import ANSWER, CHUNK, answer
from bench.place import ALLOWED, HOLD, ROOT, SHORT, Lab, Place
from bench.probe import Probe, Trouble
from bench.reach import Reach
from bench.rounds import Settings, compare_proxies
from bench.workers import SHARE, second_worker
from gateway.sniff.handshake import Handshake
from tests.lab.sandboxed import in_session
from tests.netns.hello import client_hello

root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: network namespaces")
FIGURES = {
    "cpu_us",
    "connections_s",
    "p50_us",
    "p99_us",
    "added_p50_us",
    "added_p99_us",
    "cpu_s_gb",
    "held_kib",
    "idle_mib",
}


def test_the_origin_answers_dns() -> None:
    for kind, answers in (("A", ["198.18.0.10"]), ("AAAA", [])):
        query = dns.message.make_query(SHORT, kind, use_edns=True)
        said = dns.message.from_wire(answer(query.to_wire()))
        assert query.is_response(said)
        assert [str(one) for found in said.answer for one in found] == answers


@pytest.mark.parametrize("said", [ANSWER, CHUNK])
def test_what_the_origin_says_is_worth_no_second_look(said: bytes) -> None:
    """Or a gateway that looks for TLS would be measured at what no TLS server makes it do."""
    watch = Handshake("short.bench.test", client_hello("short.bench.test"))
    watch.down(said)
    assert watch.settled


def test_quantiles() -> None:
    assert quantile_us([0.003, 0.001, 0.002], 0.5) == 2000.0
    assert quantile_us([], 0.99) == 0.0


@pytest.mark.root
@pytest.mark.slow
@pytest.mark.timeout(180)
@root
def test_a_small_run() -> None:
    """Every figure of both, without an error."""
    said: list[str] = []
    settings = Settings(rounds=1, seconds=0.2, held=50)
    with Lab() as lab:
        figures = compare_proxies(lab, [Direct(), Egress(), Naive()], settings, said.append)
    assert len(said) == 3
    for name in ("egress", "naive"):
        peer = figures["peers"][name]
        assert not peer["troubles"]
        assert set(peer["medians"]) == FIGURES
        (sample,) = peer["rounds"]
        assert all(sample[key] > 0 for key in FIGURES if not key.startswith(("added", "held")))
    assert set(figures["peers"]["direct"]["medians"]) == {"p50_us", "p99_us"}


@pytest.mark.root
@pytest.mark.slow
@pytest.mark.timeout(120)
@root
def test_a_second_worker() -> None:
    """Either carries connections alone and beside the other, and no more than its share lets it."""
    with Lab() as lab:
        found = second_worker(lab, Reach(rounds=1, connections=300), lambda _: None)
    if found["left_out"]:
        pytest.skip(found["left_out"])
    (sample,) = found["rounds"]
    assert min(sample.values()) > 0 and found["ratio"] > 0
    assert found["share"] == SHARE


class Open(Direct):
    """Says that it filters."""

    name = "open"
    filters = True


class Narrow(Naive):
    """Holds no connection, for it knows the name of it not."""

    name = "narrow"

    def argv(self, place: Place) -> list[str]:
        return [word for word in super().argv(place) if word != HOLD]


class Dead(Adapter):
    """Ends at once."""

    name = "dead"

    def argv(self, place: Place) -> list[str]:
        return ["false"]


@pytest.mark.root
@pytest.mark.slow
@pytest.mark.timeout(120)
@root
def test_what_goes_wrong_is_no_figure(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(probe, "REFUSAL_S", "30")  # an answer that is late is one too
    settings = Settings(rounds=1, seconds=0.1, held=5)
    with Lab() as lab:
        with lab.place("none") as place, Open().start(place) as running:
            with pytest.raises(Trouble, match="lets a forbidden name through"):
                Probe(lab, running).await_ready()
        figures = compare_proxies(lab, [Narrow(), Dead()], settings, lambda _: None)["peers"]
    assert "cpu_us" in figures["narrow"]["rounds"][0] and "held_kib" not in figures["narrow"]["rounds"][0]
    assert figures["narrow"]["troubles"] == ["hold: 5 of 5 were refused"]
    assert figures["dead"]["rounds"] == [{}]
    assert "it ended with status 1" in figures["dead"]["troubles"][0]


@pytest.mark.root
@pytest.mark.slow
@pytest.mark.timeout(180)
@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGKILL])
@root
def test_nothing_is_left(tmp_path: Path, number: signal.Signals) -> None:
    """Whenever it is interrupted: no process and no namespace; and no directory, which after SIGKILL the next run removes."""
    argv = [sys.executable, "-m", "bench", "--quick", "--only", "egress", "--out", str(tmp_path)]
    before = set(Path("/var/tmp").glob("egress-bench-*"))
    with subprocess.Popen(argv, cwd=ROOT, stdout=subprocess.PIPE, text=True, start_new_session=True) as bench:
        assert bench.stdout is not None
        while "direct" not in (line := bench.stdout.readline()):
            assert line, "it ended by itself"
        begun: list[int] = []
        while not any("gateway" in _words(pid) for pid in begun):
            begun = family(bench.pid)[1:]
            assert bench.poll() is None, "it ended by itself"
        bench.send_signal(number)
        bench.wait(60)
    ended = _await_end(begun)
    assert not ended, ended
    give_up = time.monotonic() + 60
    while in_session(bench.pid) and time.monotonic() < give_up:  # of those too that were begun since
        time.sleep(0.02)
    assert not in_session(bench.pid)
    if number == signal.SIGKILL:
        with Lab():
            pass
    else:
        assert bench.returncode == 130
    assert set(Path("/var/tmp").glob("egress-bench-*")) <= before
    assert not (tmp_path / "proxies.json").exists()


def _await_end(pids: list[int]) -> list[str]:
    """What of them lives on though it was waited for."""
    left = []
    for pid in pids:
        try:
            descriptor = os.pidfd_open(pid)
        except ProcessLookupError:
            continue
        with os.fdopen(descriptor) as watched:
            if not _ends(watched.fileno()):
                left.append(_words(pid))
    return left


def _words(pid: int) -> str:
    try:
        return Path(f"/proc/{pid}/cmdline").read_text().replace("\0", " ")
    except OSError:
        return ""


def _ends(pidfd: int) -> bool:
    return bool(select.select([pidfd], [], [], 60)[0])


def test_results_are_json_with_where_they_were_measured(tmp_path: Path) -> None:
    found = json.loads(keep("x", {"a": 1}, tmp_path).read_text())
    assert found["figures"] == {"a": 1}
    assert {"at", "cpu", "cores", "kernel", "python", "packages", "commit"} <= set(found["machine"])
    assert len(ALLOWED) == 3
