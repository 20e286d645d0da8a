"""The lint rule that keeps device bindings inside protocaffe/backends."""

import importlib.util
from pathlib import Path

import pytest

TOOL = Path(__file__).resolve().parents[2] / "tools" / "check_layering.py"


@pytest.fixture(scope="module")
def tool():
    spec = importlib.util.spec_from_file_location("check_layering", TOOL)
    module = importlib.util.module_from_spec(spec)
    spec.loader.exec_module(module)
    return module


@pytest.mark.parametrize(
    "line",
    [
        "import pycuda.driver as cuda",
        "from cuda.bindings import driver",
        "def f():\n    import nvmath",
        "importlib.import_module('pycuda.autoprimaryctx')",
        "__import__('cupy')",
    ],
)
def test_an_import_outside_is_found_and_one_inside_is_fine(tool, tmp_path, line):
    for name in ("layers", "backends"):
        (tmp_path / name).mkdir()
        (tmp_path / name / "x.py").write_text(line + "\n")
    (found,) = tool.violations(tmp_path)
    assert found.startswith(f"{tmp_path / 'layers' / 'x.py'}:{line.count(chr(10)) + 1}: ")


def test_other_imports_are_nobodys_business(tool, tmp_path):
    (tmp_path / "x.py").write_text("import numpy\nfrom . import cuda\nfrom protocaffe.backends import cuda\n")
    assert tool.violations(tmp_path) == []


def test_the_package_keeps_the_rule(tool):
    assert tool.violations(TOOL.parents[1] / "protocaffe") == []
