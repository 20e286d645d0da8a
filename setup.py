"""Build protocaffe: the schema's descriptor set and the compiled kernels.

Everything else is declared in pyproject.toml. An editable install builds into the source tree (protocaffe/_build),
where the package rebuilds what has changed; a wheel also carries the kernels' sources and the models
(protocaffe/_share), so that users compile their own kernels and start from the shipped nets without a checkout.
"""

from __future__ import annotations

import importlib.util
import os
import shutil
from pathlib import Path
from types import ModuleType

from setuptools import Command, Distribution, setup
from setuptools.command.bdist_wheel import bdist_wheel
from setuptools.command.build import build

ROOT = Path(__file__).resolve().parent
SHARED = ("kernels", "models")
WEIGHTS = ("*.caffemodel*", "*.solverstate*")  # what training in a checkout leaves beside the models


def load(relative: str) -> ModuleType:
    """Load one file of the package without importing the package, whose dependencies a build environment lacks."""
    spec = importlib.util.spec_from_file_location("_protocaffe_" + Path(relative).stem, ROOT / relative)
    assert spec is not None and spec.loader is not None
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


class BuildAssets(Command):
    """Compile the descriptor set and the kernels; for a wheel also copy kernels/ and models/ into the package."""

    description = "compile the schema and the kernels"
    user_options: list = []
    editable_mode = False

    def initialize_options(self) -> None:
        self.build_lib: str | None = None

    def finalize_options(self) -> None:
        self.set_undefined_options("build_py", ("build_lib", "build_lib"))

    @property
    def package(self) -> Path:
        return ROOT / "protocaffe" if self.editable_mode else Path(str(self.build_lib)) / "protocaffe"

    def run(self) -> None:
        out = self.package / "_build"
        out.mkdir(parents=True, exist_ok=True)
        load("protocaffe/io/schema.py").compile_descriptor(ROOT / "proto/protocaffe.proto", out / "protocaffe.desc")
        load("protocaffe/backends/build.py").build_all(ROOT / "kernels", out)
        if not self.editable_mode:
            leave_out = shutil.ignore_patterns(*WEIGHTS)
            for name in SHARED:
                shutil.copytree(ROOT / name, self.package / "_share" / name, ignore=leave_out, dirs_exist_ok=True)

    def get_source_files(self) -> list[str]:
        folders = ("proto", *SHARED)
        files = [p for folder in folders for p in sorted((ROOT / folder).rglob("*")) if p.is_file()]
        return [str(p.relative_to(ROOT)) for p in files if not any(p.match(pattern) for pattern in WEIGHTS)]

    def get_outputs(self) -> list[str]:
        return [str(p) for f in ("_build", "_share") for p in sorted((self.package / f).rglob("*")) if p.is_file()]

    def get_output_mapping(self) -> dict[str, str]:
        return {}


class Build(build):
    """The build with the assets as one more step; if it fails, so does the installation, editable or not."""

    sub_commands = [*build.sub_commands, ("build_assets", None)]


class Wheel(bdist_wheel):
    """A wheel for one platform and every Python 3: the libraries are called through ctypes and know no CPython ABI."""

    def run(self) -> None:
        # A layer that was deleted since the last build would otherwise be shipped, and registered.
        shutil.rmtree(os.path.join(self.get_finalized_command("build").build_base), ignore_errors=True)
        super().run()

    def get_tag(self) -> tuple[str, str, str]:
        return "py3", "none", super().get_tag()[2]


class BinaryDistribution(Distribution):
    def has_ext_modules(self) -> bool:
        return True


setup(
    distclass=BinaryDistribution,
    cmdclass={"build": Build, "build_assets": BuildAssets, "bdist_wheel": Wheel},
)
