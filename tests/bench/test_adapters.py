"""What each proxy is told, and how another is put under the bench."""

import json
from pathlib import Path

import pytest

from bench import adapter as adapters
from bench.__main__ import ORDER, main
from bench.adapter import Adapter, load_adapters
from bench.adapters.egress import Egress
from bench.adapters.envoy import Envoy
from bench.adapters.haproxy import HAProxy, HAProxyBound, HAProxyWithoutSplice
from bench.place import ALLOWED, FORBIDDEN, PROXY_PORT, ROOT, Cores, Namespace, Place

EXAMPLE = (adapters.__doc__ or "").partition("::\n\n")[2].partition("\n\nIt runs")[0]


@pytest.fixture
def place(tmp_path: Path) -> Place:
    nowhere = Namespace(-1)
    return Place(nowhere, nowhere, tmp_path, Cores(0, 1, 1), 0)


def everyone() -> list[Adapter]:
    return [one for name in ORDER for one in load_adapters(ROOT / "bench" / "adapters" / f"{name}.py")]


def told(one: Adapter, place: Place, monkeypatch: pytest.MonkeyPatch) -> str:
    monkeypatch.setattr(one, "path", lambda: one.program)
    return "\n".join([*one.files(place).values(), *one.argv(place)])


def test_every_file_is_in_the_order() -> None:
    assert {path.stem for path in (ROOT / "bench" / "adapters").glob("*.py")} - {"__init__"} == set(ORDER)


@pytest.mark.parametrize("one", [one for one in everyone() if one.filters], ids=lambda one: one.name)
def test_it_is_told_what_is_allowed_and_nothing_else(
    one: Adapter, place: Place, monkeypatch: pytest.MonkeyPatch
) -> None:
    text = told(one, place, monkeypatch)
    assert all(name in text for name in ALLOWED) and FORBIDDEN not in text
    assert one.name == "egress" or str(PROXY_PORT) in text
    assert one.note


def test_the_three_haproxies_differ_in_what_they_say(place: Place) -> None:
    plain, copying, bound = (
        one.files(place)["haproxy.cfg"] for one in (HAProxy(), HAProxyWithoutSplice(), HAProxyBound())
    )
    assert "option splice-request" in plain and "option splice-request" not in copying
    assert "do-resolve" in bound and "do-resolve" not in plain and "nameserver one 8.8.8.8:53" in bound


def test_envoy_and_we_are_told_in_json(place: Place) -> None:
    json.loads(Envoy().files(place)["envoy.json"])
    policy = json.loads(Egress(entries=["*.example.org"]).files(place)["policy.json"])
    assert policy["network"]["allow_out"] == [*ALLOWED, "*.example.org"]


@pytest.mark.parametrize("one", [one for one in everyone() if one.program], ids=lambda one: one.name)
def test_one_that_is_not_installed_says_how_to_install_it(
    one: Adapter, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setattr(one, "path", lambda: "")
    assert one.missing() == f"{one.program} is not installed: {one.install}"
    assert one.install.split()[:2] in (["apt-get", "install"], ["pip", "install"])


def test_the_example_is_an_adapter(tmp_path: Path, place: Place, monkeypatch: pytest.MonkeyPatch) -> None:
    lines = [line.removeprefix("    ") for line in EXAMPLE.splitlines()]
    (tmp_path / "mine.py").write_text("\n".join(lines))
    (found,) = load_adapters(tmp_path / "mine.py")
    assert (found.name, found.redirect) == ("mine", "tproxy")
    assert f"listen {PROXY_PORT}; allow {' '.join(ALLOWED)}" in told(found, place, monkeypatch)


def test_a_file_without_an_adapter(tmp_path: Path) -> None:
    (tmp_path / "none.py").write_text("from bench.adapter import Adapter\n")
    with pytest.raises(ValueError, match=r"none\.py: no class in it is a bench\.adapter\.Adapter"):
        load_adapters(tmp_path / "none.py")
    with pytest.raises(ValueError, match="not a Python file"):
        load_adapters(tmp_path / "absent.py")


def test_the_list_says_what_is_left_out(capsys: pytest.CaptureFixture[str], tmp_path: Path) -> None:
    (tmp_path / "mine.py").write_text(
        "from bench.adapter import Adapter\nclass Mine(Adapter):\n"
        "    name = 'mine'\n    program = 'no-such-proxy'\n    install = 'buy it'\n"
    )
    assert main(["--list", "--adapter", str(tmp_path / "mine.py"), "--only", "naive,mine"]) == 0
    lines = capsys.readouterr().out.splitlines()
    assert "mine                 left out: no-such-proxy is not installed: buy it" in lines
    assert not any(line.startswith("haproxy") for line in lines)


def test_a_name_that_nobody_has() -> None:
    with pytest.raises(SystemExit, match="no such proxy: nobody"):
        main(["--list", "--only", "nobody"])


def test_help_teaches(capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        main(["--help"])
    said = capsys.readouterr().out
    assert "class Mine(Adapter):" in said and "bench compare A.json B.json" in said and "--quick" in said
