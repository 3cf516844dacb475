"""The fuzzer itself: it runs, it counts, and it finds what is wrong."""

import json
import os
import re
import subprocess
import sys
from collections.abc import Callable
from functools import partial
from importlib.util import find_spec
from pathlib import Path

import pytest

from gateway.reasons import Reason
from gateway.sniff import NeedMore, Refused, Sniffed, sniff
from tests.fuzz import __main__, compare, run
from tests.fuzz.compare import KINDS, Finding, check
from tests.fuzz.inputs import seeds
from tests.gateway.dns.flood import flood, steady
from tests.gateway.sniff.heads import GET, HOST, LIMIT, head

HEAD = head(GET, HOST)
Answer = Sniffed | NeedMore | Refused
Buffer = bytes | memoryview
READ_HTTP = KINDS["http"][1]


def raising(data: Buffer, scanned: int) -> Answer:
    raise IndexError


BROKEN: dict[str, Callable[[Buffer, int], Answer]] = {
    "an exception": raising,
    "another host": lambda data, scanned: Sniffed("http", "b.test", None, False, len(HEAD)),
    "a refusal": lambda data, scanned: Refused(Reason.BAD_HTTP, "http"),
    "no answer": lambda data, scanned: NeedMore(1),
    "a name too early": lambda data, scanned: (
        sniff(HEAD) if data[: len(HEAD)] == HEAD[: len(data)] else sniff(data)
    ),
    "a name that needs a byte behind": lambda data, scanned: (
        NeedMore(1) if data == HEAD[:-1] + b"\n" and scanned else sniff(data)
    ),
    "another answer when resumed": lambda data, scanned: (
        NeedMore(1) if scanned and len(data) >= len(HEAD) else sniff(data)
    ),
    "another answer behind": lambda data, scanned: (
        Refused(Reason.BAD_HTTP, "http") if data[-1:] == b"\0" else sniff(data)
    ),
    "waits too long": lambda data, scanned: NeedMore(9) if isinstance(sniff(data), NeedMore) else sniff(data),
    "a refusal taken back": lambda data, scanned: (
        Refused(Reason.BAD_HTTP, "http") if 18 <= len(data) < 22 else sniff(data)
    ),
    "another answer for a view": lambda data, scanned: (
        NeedMore(1) if isinstance(data, memoryview) else sniff(data)
    ),
}


def test_the_check_passes_what_is_right() -> None:
    for kind, (shape, read) in KINDS.items():
        for data in seeds(kind)[::7]:
            if len(data) < 2000:
                answer, took = check(shape(data), read)
                assert answer == sniff(shape(data))
                assert took > 0


@pytest.mark.parametrize("wrong", BROKEN)
def test_the_check_finds(wrong: str, monkeypatch: pytest.MonkeyPatch) -> None:
    def broken(data: Buffer, *, scanned: int = 0) -> Answer:
        return BROKEN[wrong](data, scanned)

    monkeypatch.setattr(compare, "sniff", broken)
    with pytest.raises(Finding, match=r"a\.test"):
        check(HEAD, READ_HTTP)


@pytest.mark.parametrize("at_least", [0, -1, 65536])
def test_the_check_finds_a_wait_without_end(at_least: int, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(compare, "sniff", lambda data, scanned=0: NeedMore(at_least))
    with pytest.raises(Finding, match="waits for"):
        check(GET, READ_HTTP)


def test_the_check_finds_a_name_that_is_kept_whole(monkeypatch: pytest.MonkeyPatch) -> None:
    kept = Refused(Reason.BAD_NAME, "http", b"x" * 254)
    monkeypatch.setattr(compare, "sniff", lambda data, scanned=0: kept)
    with pytest.raises(Finding, match="keeps more"):
        check(GET, lambda data: kept)


def test_the_check_finds_a_name_beyond_the_limit(monkeypatch: pytest.MonkeyPatch) -> None:
    data = b"x" * (2 * LIMIT + 1)
    far = Sniffed("http", "a.test", None, False, len(data))
    monkeypatch.setattr(compare, "sniff", lambda data, scanned=0: far)
    with pytest.raises(Finding, match="read 65537"):
        check(data, lambda data: far)


@pytest.mark.parametrize("kind", ["tls", "http"])
def test_a_short_run(kind: str, capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    run.main(kind, "loop", "1000", "1", str(tmp_path))
    counts = json.loads(capsys.readouterr().out.splitlines()[-1])
    assert counts["mutants"] == counts["names"] + counts["refused"] + counts["undecided"] == 1000
    assert min(counts["names"], counts["refused"], counts["undecided"]) > 10


def fuzz(**environ: str) -> subprocess.CompletedProcess[str]:
    command = [sys.executable, "-m", "tests.fuzz"]
    return subprocess.run(
        command, capture_output=True, text=True, env=os.environ | environ, timeout=60, check=False
    )


ENGINES = [
    "loop",
    pytest.param(
        "atheris", marks=pytest.mark.skipif(find_spec("atheris") is None, reason="atheris is not installed")
    ),
]


@pytest.mark.timeout(60)
@pytest.mark.parametrize("engine", ENGINES)
def test_the_last_lines_say_what_was_done(engine: str) -> None:
    done = fuzz(FUZZ_RUNS="1000", FUZZ_ENGINE=engine, FUZZ_SEED="3", FUZZ_DNS_SECONDS="0.2")
    last, dns = done.stdout.splitlines()[-2:]
    assert done.returncode == 0, done.stdout
    assert last.startswith("fuzz: 1,000 mutants by ")
    assert ("mutants by atheris" in last) == (engine == "atheris")
    assert dns.startswith("fuzz: dns guard: ") and dns.endswith(
        "FUZZ_SEED=3: 0 exceptions, 0 forwarded as they came, no growth, 0.2 s"
    )
    assert "FUZZ_SEED=3: " in last and "0 differences, 0 exceptions" in last


def test_a_second_of_the_dns_flood(
    monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setenv("FUZZ_RUNS", "0")
    monkeypatch.setenv("FUZZ_SEED", "4")
    monkeypatch.setenv("FUZZ_DNS_SECONDS", "1")
    monkeypatch.setattr(__main__, "flood", partial(flood, clock=steady()))
    assert __main__.main() == 0
    last = capsys.readouterr().out.splitlines()[-1]
    said = re.fullmatch(
        r"fuzz: dns guard: ([0-9,]+) mutated packets, FUZZ_SEED=4: 0 exceptions, .*, 1 s", last
    )
    assert said and int(said[1].replace(",", "")) > 500


@pytest.mark.parametrize("found", [AssertionError("8001"), IndexError("8001")])
def test_what_the_dns_flood_finds_fails(
    found: Exception, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def finds(seconds: float, seed: int) -> int:
        raise found

    monkeypatch.setenv("FUZZ_RUNS", "0")
    monkeypatch.setenv("FUZZ_SEED", "4")
    monkeypatch.setattr(__main__, "flood", finds)
    assert __main__.main() == 1
    said = capsys.readouterr().out
    assert "8001" in said and "FAILED (dns, FUZZ_SEED=4)" in said.splitlines()[-1]
