"""Instructions of a connection, as callgrind counts them."""

import json
import os
import shutil
from pathlib import Path

import pytest

from bench.instructions import figures_of, main

TOLD = """\
--------------------------------------------------------------------------------
Ir                   I1mr               D1mr
--------------------------------------------------------------------------------
80,450,000 (100.0%)  3,287,000 (100.0%) 611,000 (100.0%)  PROGRAM TOTALS
79,394,000 (98.69%)  3,266,000 (99.36%) 603,000 (98.69%)  ./src/unix/poll.c:uv__poll_io [/x/loop.so]
58,735,000 (73.01%)  2,428,000 (73.87%) 452,000 (73.98%)  ???:CPyDef_session___run_session [/x/egress__mypyc.so]
 1,265,137 ( 1.57%)     29,000 ( 0.88%)       .          ???:CPyDef_tally___Tally___decided [/x/egress__mypyc.so]
"""


def test_what_callgrind_says_a_connection() -> None:
    figures = figures_of(TOLD.splitlines(), 1000)
    assert figures["instructions"] == 80450.0
    assert figures["first_cache_misses"] == {"instructions": 3287.0, "data": 611.0}
    assert figures["with_all_they_call"] == {
        "session___run_session": [58735.0, 2428.0, 452.0],
        "tally___Tally___decided": [1265.1, 29.0, 0],
    }


def test_no_total_is_no_figure() -> None:
    with pytest.raises(RuntimeError, match="no total"):
        figures_of(TOLD.splitlines()[4:], 1000)


def test_what_it_needs_is_named(monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setattr(shutil, "which", lambda name: None)
    monkeypatch.setattr("sys.argv", ["instructions"])
    assert main() == 2
    assert "apt-get install valgrind" in capsys.readouterr().err


@pytest.mark.root
@pytest.mark.slow
@pytest.mark.timeout(120)
@pytest.mark.skipif(os.geteuid() != 0, reason="needs root: a network namespace")
@pytest.mark.skipif(
    shutil.which("valgrind") is None, reason="valgrind is not installed: apt-get install valgrind"
)
def test_a_connection_is_counted(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Twice nearly the same, of few connections: that is what it is for."""
    counts = []
    for name in ("one", "other"):
        monkeypatch.setattr(
            "sys.argv", ["instructions", "--connections", "300", "--out", str(tmp_path / name)]
        )
        assert main() == 0
        figures = json.loads((tmp_path / name / "instructions.json").read_text())["figures"]
        assert (
            figures["with_all_they_call"]["session___run_session_gen_____mypyc_generator_helper__"][0]
            > 10_000
        )
        counts.append(figures["instructions"])
    assert counts[0] == pytest.approx(counts[1], rel=0.05)
