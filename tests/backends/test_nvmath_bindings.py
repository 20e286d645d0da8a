"""A binding of nvmath without nvmath: on a package that a test writes, in a process of its own."""

from __future__ import annotations

import subprocess
import sys

import pytest

from protocaffe.backends.nvmath_bindings import nvmath_binding

FILES = {
    "nvmath/__init__.py": "print('whole')\nfrom nvmath import bindings\n",
    "nvmath/bindings/__init__.py": "from nvmath.bindings import cublas, cufft\n",
    "nvmath/bindings/cublas.py": "from nvmath.bindings._internal import loader\nhandle = loader.load()\n",
    "nvmath/bindings/cufft.py": "",
    "nvmath/bindings/_internal/__init__.py": "",
    "nvmath/bindings/_internal/loader.py": "def load():\n    return 7\n",
}
CODE = """
import sys
from protocaffe.backends.nvmath_bindings import nvmath_binding
cublas = nvmath_binding("cublas")
assert cublas.handle == 7 and nvmath_binding("cublas") is cublas
assert "nvmath" not in sys.modules and "nvmath.bindings.cufft" not in sys.modules
cufft = nvmath_binding("cufft")
print("bare")
try:
    nvmath_binding("nothing")
except ImportError as error:
    print(error)
import nvmath
from nvmath.bindings import cublas as again
assert nvmath.bindings.cublas is cublas is again is nvmath_binding("cublas") and nvmath.bindings.cufft is cufft
"""


def test_only_what_is_asked_for_is_imported_and_the_whole_may_follow(tmp_path):
    for name, text in FILES.items():
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(text)
    code = f"import sys; sys.path.insert(0, {str(tmp_path)!r})\n{CODE}"
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=False)
    assert done.stdout.split("\n") == ["bare", "No module named 'nvmath.bindings.nothing'", "whole", ""], done.stderr


def test_nvmath_is_missing(monkeypatch):
    monkeypatch.setattr(sys, "path", [])
    for name in [name for name in sys.modules if name.split(".")[0] == "nvmath"]:
        monkeypatch.delitem(sys.modules, name)
    with pytest.raises(ImportError, match="No module named 'nvmath'"):
        nvmath_binding("cublas")
    assert "nvmath" not in sys.modules
