"""The wheel's path is compiled by mypyc, from the same sources (docs/decisions/0014, which says what compiled code does otherwise).

``EGRESS_COMPILE=0 pip install .`` leaves it out, where there is no C compiler. Every source file is in the wheel either way.
"""

import contextlib
import os
import shutil
import tempfile
from pathlib import Path
from typing import Any

from hatchling.builders.hooks.plugin.interface import BuildHookInterface


class CompileHook(BuildHookInterface):  # type: ignore[type-arg]
    """``modules`` of its table in pyproject.toml, compiled beside their sources."""

    PLUGIN_NAME = "custom"

    def initialize(self, version: str, build_data: dict[str, Any]) -> None:
        """Before the wheel is written. An editable install runs the sources as they are."""
        if version == "editable" or os.environ.get("EGRESS_COMPILE") == "0":
            return
        self._scratch = Path(tempfile.mkdtemp(prefix="egress-compile-"))
        libraries = self._scratch / "lib"
        try:
            with contextlib.chdir(self.root):
                compile_into(libraries, self._scratch, self.config["modules"])
        except BaseException:  # mypyc leaves by SystemExit where a type is wrong
            shutil.rmtree(self._scratch)
            raise
        for path in libraries.rglob("*.so"):
            build_data["force_include"][str(path)] = str(path.relative_to(libraries))
        build_data["pure_python"] = False
        build_data["infer_tag"] = True

    def finalize(self, version: str, build_data: dict[str, Any], artifact_path: str) -> None:
        """It is written."""
        if hasattr(self, "_scratch"):
            shutil.rmtree(self._scratch)


def compile_into(libraries: Path, scratch: Path, modules: list[str]) -> None:
    """Shared libraries of ``modules``, paths of their sources from here. RuntimeError says what to do about a missing compiler."""
    from mypyc.build import mypycify
    from setuptools import Distribution

    extensions = mypycify(
        ["--cache-dir", str(scratch / "cache"), *modules],
        opt_level="3",
        debug_level="0",
        target_dir=str(scratch / "c"),
        group_name="egress",
    )
    command = Distribution({"name": "egress-gateway", "ext_modules": extensions}).get_command_obj("build_ext")
    command.build_lib, command.build_temp = str(libraries), str(scratch / "o")
    command.ensure_finalized()
    try:
        command.run()
    except Exception as error:
        raise RuntimeError(
            f"the path could not be compiled ({error}): install a C compiler and Python's headers "
            "(apt-get install gcc python3-dev), or do without: EGRESS_COMPILE=0"
        ) from error
