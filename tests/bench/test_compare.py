"""What ``python -m bench compare`` calls a change."""

import json
from pathlib import Path
from typing import Any

import pytest

from bench.__main__ import main
from bench.compare import Change, changes
from bench.micro.__main__ import YARDSTICK, gather
from tests.bench.example import result


def beyond(found: list[Change]) -> list[str]:
    return [change.name.split(",")[0] for change in found if change.beyond]


def test_the_same_commit_twice_is_nothing() -> None:
    """The whole machine of the second half as fast, each round of both as fast as it pleases."""
    for seed in range(40):
        assert not beyond(changes(result(seed), result(seed + 1000, machine=2.0)))


def test_slower_by_a_fifth_is_found_and_worse() -> None:
    for seed in range(40):
        found = changes(result(seed), result(seed + 1000, slower=1.2))
        assert beyond(found) == ["CPU a connection", "connections a second"], seed
        assert all(change.worse for change in found if change.beyond)


def test_faster_by_a_fifth_is_found_and_better() -> None:
    found = changes(result(1, slower=1.25), result(2))
    assert beyond(found) == ["CPU a connection", "connections a second"]
    assert not any(change.worse for change in found)


def test_what_is_less_than_the_noise_is_nothing() -> None:
    assert not beyond(changes(result(1, noise=0.3), result(2, noise=0.3, slower=1.2)))


def test_one_wild_round_is_nothing() -> None:
    after = result(2)
    after["figures"]["peers"]["egress"]["rounds"][3]["cpu_us"] *= 5
    assert not beyond(changes(result(1), after))


def test_memory_needs_no_yardstick() -> None:
    before, after = result(1), result(2)
    for round_ in after["figures"]["peers"]["egress"]["rounds"]:
        round_["held_kib"] *= 2
    assert beyond(changes(before, after)) == ["memory a held connection"]


def test_a_yardstick_was_measured_in_every_round_of_both() -> None:
    before, after = result(1), result(2)
    del after["figures"]["peers"]["naive"]["rounds"][2]["cpu_us"]
    after["figures"]["peers"]["haproxy"]["rounds"][0]["connections_s"] = 0.0
    names = [change.name for change in changes(before, after)]
    assert names[:2] == ["CPU a connection, beside 1 others", "connections a second, beside 1 others"]


def test_two_rounds_say_nothing() -> None:
    assert not changes(result(1, rounds=2), result(2, rounds=2, slower=9))


@pytest.mark.parametrize(
    ("after", "why"),
    [
        (result(2, rounds=4), "measured differently"),
        ({"machine": {}, "figures": {"benchmarks": {}}}, "not two results"),
    ],
)
def test_what_cannot_be_compared_is_said(after: dict[str, Any], why: str) -> None:
    with pytest.raises(ValueError, match=why):
        changes(result(1), after)


def test_a_proxy_that_is_in_one_of_them_only() -> None:
    with pytest.raises(ValueError, match="mine was not measured in both; there are: egress"):
        changes(result(1), result(2), "mine")


@pytest.mark.parametrize(
    ("slower", "rounds", "status", "says"),
    [(1.0, 5, 0, "nothing changed"), (1.5, 5, 1, "WORSE"), (1.5, 2, 2, "fewer than 3 rounds")],
)
def test_the_command_and_its_status(
    tmp_path: Path, capsys: pytest.CaptureFixture[str], slower: float, rounds: int, status: int, says: str
) -> None:
    paths = [tmp_path / "a.json", tmp_path / "b.json"]
    for path, found in zip(
        paths, (result(1, rounds=rounds), result(2, slower=slower, rounds=rounds)), strict=True
    ):
        path.write_text(json.dumps(found))
    assert main(["compare", *map(str, paths)]) == status
    said = capsys.readouterr()
    assert says in said.out + said.err


def test_a_file_that_is_not_there(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert main(["compare", str(tmp_path / "a"), str(tmp_path / "b")]) == 2
    assert "No such file" in capsys.readouterr().err


def report(speed: float, cost_us: float) -> dict[str, Any]:
    took = {YARDSTICK: 20.0, "test_x.py::test_x": cost_us}
    return {
        "benchmarks": [
            {"fullname": f"bench/micro/{name}", "stats": {"median": us * speed / 1e6}, "extra_info": {"n": 1}}
            for name, us in took.items()
        ]
    }


def micro(*costs_us: float) -> dict[str, Any]:
    passes = [report(1 + number, cost) for number, cost in enumerate(costs_us)]
    return {"machine": {"commit": "", "at": ""}, "figures": gather(passes)}


def test_passes_are_measured_by_their_own_yardstick() -> None:
    """Though each pass ran on a machine slower than the one before."""
    found = micro(5.0, 5.0, 5.0)["figures"]["benchmarks"]["test_x.py::test_x"]
    assert found == {
        "median_us": 10.0,
        "rounds_us": [5.0, 10.0, 15.0],
        "in_yardsticks": [0.25] * 3,
        "extra_info": {"n": 1},
    }


def test_micro_benchmarks_are_compared() -> None:
    assert not beyond(changes(micro(5.0, 5.1, 4.9), micro(5.2, 5.0, 5.1)))
    assert beyond(changes(micro(5.0, 5.1, 4.9), micro(8.0, 7.9, 8.2))) == ["test_x.py::test_x"]
