"""Whose a sample of ``bench.where`` is: by perf's words of a stack, of its stage, and the kernel's or not."""

import contextlib
import json
import os
import shutil
import sys
import time
from collections import Counter
from collections.abc import Iterator
from pathlib import Path

import pytest

from bench import where
from bench.where import STAGES, Found, attribute, call_of, figures, main, stage_of
from tests.netns.puppet import children, sleeps

root = pytest.mark.skipif(os.geteuid() != 0, reason="needs root: network namespaces")
EXCERPT = """\

ffffffff82034822 tcp_v4_rcv
ffffffff81e2ed99 __sys_connect
ffffffff81e2ede4 __x64_sys_connect
ffffffff821ed511 do_syscall_64
          10a7c0 __libc_connect
          122635 PyObject_VectorcallMethod
           98454 CPyDef_connect___connect_gen_____mypyc_generator_helper__
           9bb6a CPyDef_session____connect_gen_____mypyc_generator_helper__
           eb4ba CPyDef_session___run_session_gen_____mypyc_generator_helper__
           711da CPyDef_poller___Strand____resume


           fef39 [unknown]
          12d033 _PyEval_EvalFrameDefault
           5ddbb CPyDef_rulings___Rulings___bind
           5ed9b CPyDef_session____bind_gen_____mypyc_generator_helper__
           cf08f CPyDef_session____judge_gen_____mypyc_generator_helper__
           eae7b CPyDef_session___run_session_gen_____mypyc_generator_helper__


ffffffff816f0001 vfs_write
ffffffff816f0002 ksys_write
ffffffff821ed511 do_syscall_64
          10b2f0 __write
           5a001 CPyDef_feed___Feed____write
           76969 CPyDef_poller___Poller____turn


ffffffff82054e34 tcp_close
ffffffff81740001 __x64_sys_close
ffffffff821ed511 do_syscall_64
          10b000 __close
          122635 PyObject_VectorcallMethod
           ec94d CPyDef_session___run_session_gen_____mypyc_generator_helper__


          2870cd [unknown]
          122635 PyObject_VectorcallMethod
           ec94d CPyDef_session___run_session_gen_____mypyc_generator_helper__


           eae7b CPyDef_session___run_session_gen_____mypyc_generator_helper__
          122635 PyObject_VectorcallMethod
           711da CPyDef_poller___Strand____resume


ffffffff817310ee do_epoll_wait
ffffffff81731650 __x64_sys_epoll_pwait
ffffffff821ed511 do_syscall_64
          1383f8 uv__io_poll
ffffffffffffffff [unknown]


           76969 CPyDef_poller___Poller____turn
          1383f8 uv__io_poll
ffffffffffffffff [unknown]


ffffffffc000064c [unknown]
           4fe25 CPyDef_poller___Poller___register
           cd4d4 CPyDef_session____sniff_gen_____mypyc_generator_helper__
"""
"""``perf script``, in this order: connect, decide, record, two closes, other, and three of the driver, the last in a nameless seccomp filter."""


def test_stages_sides_and_calls() -> None:
    found = attribute(EXCERPT.splitlines(keepends=True))
    assert found.stages == {"connect": 1, "decide": 1, "record": 1, "close": 2, "other": 1, "driver": 3}
    assert found.sides == {"kernel": 5, "user": 4}
    assert found.calls == {"connect": 1, "write": 1, "close": 1, "epoll_pwait": 1, "other": 1}


def test_the_end_of_the_lines_ends_a_sample() -> None:
    """And any number of empty ones is between two."""
    lines = ["\n", "\n", "  10a7c0 __libc_connect\n", "\n", "\n", "ffffffff81000c82 asm_exc_page_fault"]
    assert attribute(lines) == Found(Counter(driver=2), Counter(user=1, kernel=1), Counter(other=1))
    assert attribute([]) == Found(Counter(), Counter(), Counter())


@pytest.mark.parametrize(
    ("symbol", "stage"),
    [
        ("worker___Worker____begin", "accept"),
        ("sockets___Listener___accept", "accept"),
        ("session____sniff_gen_____mypyc_generator_helper__", "sniff"),
        ("tls___sniff_tls", "sniff"),
        ("sniff___watch", "sniff"),
        ("sockets___received", "sniff"),
        ("rulings___Rulings____forget_the_old", "decide"),
        ("session____judge_gen_____mypyc_generator_helper__", "decide"),
        ("session____judge_anew", "decide"),
        ("session____bind_gen_clear", "decide"),
        ("journal____pack", "record"),
        ("journal_____mypyc__Attempt_setup", "record"),
        ("ledger___Ledger___open", "record"),
        ("form___Form___line", "record"),
        ("tally___Tally___closed", "record"),
        ("wording___Wordings___of", "record"),
        ("connect___connect_gen_____mypyc_generator_helper__", "connect"),
        ("session____connect", "connect"),
        ("session_____mypyc___3_connect_gen_setup", "connect"),
        ("relay___relay_gen_____mypyc_generator_helper__", "relay"),
        ("direction___Direction____send", "relay"),
        ("direction___Direction___close", "relay"),
        ("handshake___Handshake____look", "relay"),
        ("session____watching", "relay"),
        ("poller___ready_gen_____mypyc_generator_helper__", "driver"),
        ("poller_____mypyc__Strand_setup", "driver"),
        ("session____refuse", "other"),
        ("session_____mypyc__run_session_gen_setup", "other"),
        ("more___Of___it", "other"),
    ],
)
def test_the_nearest_compiled_function_is_the_stage(symbol: str, stage: str) -> None:
    outer = ["CPyDef_worker___Worker____accept", "CPyDef_tls___sniff_tls", "uv_run"]
    assert stage_of(["memcpy", f"CPyDef_{symbol}", *outer]) == stage


def test_only_what_run_session_calls_is_a_close() -> None:
    """Not what called it, which is by a method as well; nor another stage's method."""
    run, method = "CPyDef_session___run_session_gen_____mypyc_generator_helper__", "PyObject_VectorcallMethod"
    assert stage_of([method, run, method]) == "close"
    assert stage_of(["PyType_GenericAlloc", run, method]) == "other"
    assert stage_of([method, "CPyDef_direction___Direction____send", run, method]) == "relay"


@pytest.mark.parametrize(
    ("symbols", "call"),
    [
        (["tcp_sendmsg", "__sys_sendto", "__x64_sys_sendto", "do_syscall_64"], "sendto"),
        (["__arm64_sys_accept4", "el0_svc"], "accept4"),
        (["__x64_sys_inner", "__x64_sys_outer"], "outer"),
        (["__seccomp_filter", "syscall_trace_enter", "do_syscall_64"], "other"),
    ],
)
def test_the_outermost_system_call(symbols: list[str], call: str) -> None:
    assert call_of(symbols) == call


def test_figures_are_shares_of_what_was_counted() -> None:
    found = attribute(EXCERPT.splitlines())
    told = figures(found, 50, 90.0, 8.04)
    assert told.keys() == {
        "connections",
        "samples",
        "user_us",
        "kernel_us",
        "keeper_us",
        "stages_us",
        "calls_us",
    }
    assert (told["connections"], told["samples"]) == (50, 9)
    assert (told["user_us"], told["kernel_us"], told["keeper_us"]) == (40.0, 50.0, 8.0)
    assert list(told["stages_us"]) == [stage for stage, _ in STAGES]
    assert told["stages_us"]["close"] == 20.0
    assert told["stages_us"]["accept"] == 0.0
    assert told["calls_us"]["close"] == 10.0


def test_the_ten_dearest_calls_are_kept() -> None:
    calls = Counter({f"call{number}": number for number in range(1, 13)})
    found = Found(Counter(close=78), Counter(kernel=78), calls)
    assert list(figures(found, 1, 78.0, 0.0)["calls_us"]) == [f"call{number}" for number in range(12, 2, -1)]


@pytest.mark.parametrize("samples", [0, 7])
def test_a_path_that_is_not_compiled_has_no_stages(samples: int) -> None:
    with pytest.raises(RuntimeError, match="compiled"):
        figures(Found(Counter(driver=samples), Counter(user=samples), Counter()), 1, 1.0, 1.0)


def test_without_perf_it_says_what_to_install(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("PATH", str(tmp_path))
    monkeypatch.setattr(sys, "argv", ["where", "--out", str(tmp_path)])
    assert main() == 2
    out, err = capsys.readouterr()
    assert (out, err.count("\n")) == ("", 1)
    assert "apt-get install linux-perf" in err


def perf_looks() -> bool:
    """Whether it has begun to: it has opened its events, and waits for them."""
    for pid in children(os.getpid()):
        with contextlib.suppress(OSError):  # it ended meanwhile
            place = Path(f"/proc/{pid}")
            held = [os.readlink(one) for one in (place / "fd").iterdir()]
            if (place / "comm").read_text() == "perf\n" and "anon_inode:[perf_event]" in held:
                return sleeps(pid)
    return False


@pytest.mark.root
@pytest.mark.slow
@pytest.mark.timeout(120)
@root
@pytest.mark.skipif(shutil.which("perf") is None, reason="perf is not installed: apt-get install linux-perf")
def test_a_small_one(
    monkeypatch: pytest.MonkeyPatch, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    """For real: every stage is seen, and the sums are."""
    recording = where.recording

    @contextlib.contextmanager
    def once_it_looks(pid: int, data: Path, core: int) -> Iterator[None]:
        with recording(pid, data, core):
            give_up = time.monotonic() + 60
            while not perf_looks():
                assert time.monotonic() < give_up
                time.sleep(0.01)
            yield

    monkeypatch.setattr(where, "recording", once_it_looks)
    monkeypatch.setattr(where, "CONNECTIONS", 3000)
    monkeypatch.setattr(sys, "argv", ["where", "--out", str(tmp_path), "--name", "small"])
    assert main() == 0
    told = json.loads((tmp_path / "small.json").read_text())["figures"]
    assert told["connections"] == 6000
    assert all(told["stages_us"][stage] > 0 for stage, _ in STAGES if stage != "other")
    assert sum(told["stages_us"].values()) == pytest.approx(told["user_us"] + told["kernel_us"], abs=1)
    assert {"close", "connect", "sendto"} <= told["calls_us"].keys()
    assert "stages" in capsys.readouterr().out
