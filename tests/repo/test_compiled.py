"""What is compiled (docs/decisions/0014), and the one thing that compiled code does otherwise without a word."""

import ast
import json
import re
import subprocess
import sys
import tomllib
from pathlib import Path

import pytest

ROOT = Path(__file__).resolve().parents[2]
PROJECT = tomllib.loads((ROOT / "pyproject.toml").read_text())
OURS = {"audit", "gateway", "matcher", "rules"}
MODULES: list[str] = PROJECT["tool"]["hatch"]["build"]["targets"]["wheel"]["hooks"]["custom"]["modules"]


@pytest.mark.parametrize("module", MODULES)
def test_nothing_waits_inside_an_except_block(module: str) -> None:
    """mypyc keeps the exception that is being handled for whoever runs meanwhile: each one raised then is chained to it, and the chain grows."""
    assert waits_in_handlers(ast.parse((ROOT / module).read_text())) == []


@pytest.mark.parametrize(
    ("text", "lines"),
    [
        ("async def f():\n try: pass\n except OSError:\n  await g()", [4]),
        ("async def f():\n try: pass\n except OSError:\n  if x:\n   async with g(): pass", [5]),
        ("def f():\n try: pass\n except OSError:\n  yield", [4]),
        ("async def f():\n try: pass\n finally:\n  await g()", [4]),
        ("async def f():\n try: await g()\n except OSError: pass\n await g()", []),
        ("async def f():\n try: pass\n except OSError:\n  async def g(): await h()", []),
    ],
)
def test_what_waits_is_found(text: str, lines: list[int]) -> None:
    assert waits_in_handlers(ast.parse(text)) == lines


def test_what_is_installed_is_compiled() -> None:
    names = [module.removesuffix(".py").removesuffix("/__init__").replace("/", ".") for module in MODULES]
    script = (
        f"import importlib, json; print(json.dumps([importlib.import_module(n).__file__ for n in {names}]))"
    )
    done = subprocess.run([sys.executable, "-P", "-c", script], capture_output=True, text=True, check=True)
    assert [path for path in json.loads(done.stdout) if not path.endswith(".so")] == []


def test_the_build_has_all_that_mypy_reads() -> None:
    """In an environment of its own, with what ``build-system.requires`` brings and nothing else: it follows every import."""
    required = {re.match(r"[\w-]+", one)[0] for one in PROJECT["build-system"]["requires"]}  # type: ignore[index]
    untyped = {
        name.removesuffix(".*")
        for one in PROJECT["tool"]["mypy"]["overrides"]
        if one.get("ignore_missing_imports")
        for name in one["module"]
    }
    known = {"dns" if name == "dnspython" else name for name in required} | untyped | sys.stdlib_module_names
    missing = {name: where for name, where in read_by_mypy().items() if name not in known}
    assert not missing, "import it elsewhere, or add it to build-system.requires"


def read_by_mypy() -> dict[str, str]:
    """Packages that are not ours, by what is compiled and whatever that imports, each with a module that does."""
    left, seen, found = [ROOT / module for module in MODULES], set[Path](), dict[str, str]()
    while left:
        path = left.pop()
        if path in seen:
            continue
        seen.add(path)
        for node in ast.walk(ast.parse(path.read_text())):
            names = [one.name for one in node.names] if isinstance(node, ast.Import) else []
            if isinstance(node, ast.ImportFrom):
                names = [node.module or "", *(f"{node.module}.{one.name}" for one in node.names)]
            for name in names:
                top = name.split(".")[0]
                if top in OURS:
                    place = ROOT.joinpath(*name.split("."))
                    packages = [
                        one / "__init__.py"
                        for one in (place, *place.parents)
                        if one.is_relative_to(ROOT / top)
                    ]
                    left += [one for one in (place.with_suffix(".py"), *packages) if one.exists()]
                else:
                    found.setdefault(top, str(path.relative_to(ROOT)))
    return found


def waits_in_handlers(tree: ast.AST, *, inside: bool = False) -> list[int]:
    """The lines on which something is awaited, or yielded, in an ``except`` or ``finally`` block of the same function."""
    found: list[int] = []
    for node in ast.iter_child_nodes(tree):
        waits = isinstance(node, ast.Await | ast.Yield | ast.YieldFrom | ast.AsyncFor | ast.AsyncWith)
        if waits and (inside or node in getattr(tree, "finalbody", ())):
            found.append(node.lineno)  # type: ignore[attr-defined]
        else:
            function = isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef | ast.Lambda)
            handler = isinstance(node, ast.ExceptHandler) or node in getattr(tree, "finalbody", ())
            found += waits_in_handlers(node, inside=handler or (inside and not function))
    return found
