"""Try a built wheel as a user without a compiler would: fresh virtual environment, empty folder, bare PATH.

    python tools/smoke_wheel.py dist/protocaffe-*.whl

Installs the wheel (and pytest), checks that no compiler is in reach, runs the commands on the shipped sample, compiles
nothing, and runs the layers' tests against the installed package.
"""

from __future__ import annotations

import json
import os
import shutil
import subprocess
import sys
import tempfile
import venv
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
COMPILERS = ("cc", "c++", "gcc", "g++", "clang", "clang++", "nvcc")
#: tests that need nothing but the package: copied beside an empty folder and run against what is installed
SUBSET = ("layers", "pruning")


def run(command: list[str], folder: Path, environment: dict[str, str], show: bool = True) -> str:
    """Run a command in ``folder``; its standard output is returned, and shown."""
    print("smoke: " + " ".join(command), flush=True)
    done = subprocess.run(command, cwd=folder, env=environment, stdout=subprocess.PIPE, text=True, check=False)
    if show or done.returncode:
        print(done.stdout, flush=True)
    if done.returncode:
        sys.exit(f"smoke: exit code {done.returncode}")
    return done.stdout


def main() -> int:
    (wheel,) = (Path(name).resolve() for name in sys.argv[1:])
    with tempfile.TemporaryDirectory(prefix="protocaffe-smoke-") as scratch:
        home = Path(scratch)
        empty = home / "empty"
        empty.mkdir()
        venv.create(home / "venv", with_pip=True)
        binaries = home / "venv" / "bin"
        python = str(binaries / "python")
        subprocess.run([python, "-m", "pip", "install", "-q", str(wheel), "pytest", "hypothesis"], check=True)

        # The virtual environment alone: no compiler, no checkout, no cache of compiled kernels.
        bare = {"PATH": str(binaries), "HOME": str(home), "LC_ALL": "C.UTF-8", "PROTOCAFFE_CACHE": str(home / "cache")}
        found = [name for name in COMPILERS if shutil.which(name, path=bare["PATH"])]
        if found:
            sys.exit(f"smoke: {', '.join(found)} in reach: this would prove nothing")
        where = run([python, "-c", "import protocaffe; print(protocaffe.__file__)"], empty, bare)
        if not Path(where.strip()).is_relative_to(home / "venv"):
            sys.exit(f"smoke: the installed package was expected, got {where.strip()}")

        command = str(binaries / "protocaffe")
        out = run([command, "demo", "--offline", "--iterations", "200", "--finetune-iterations", "50"], empty, bare)
        line = json.loads(out.strip().splitlines()[-1])
        if not (line["dense_accuracy"] > 0.8 and line["sparsity"] >= 0.9 and line["finetuned_accuracy"] > 0.8):
            sys.exit(f"smoke: the demo's figures are not those of a net that learns: {line}")
        demo = empty / "protocaffe_demo_offline"
        weights = "lenet_finetuned.caffemodel"
        run([command, "summary", "-model", "models/lenet/deploy.prototxt", "-weights", weights], demo, bare)
        run([command, "time", "-model", "models/lenet/deploy.prototxt", "-iterations=3"], demo, bare)

        tests = home / "tests"
        shutil.copytree(ROOT / "tests", tests, ignore=shutil.ignore_patterns("__pycache__"))
        shutil.copyfile(ROOT / "pyproject.toml", home / "pyproject.toml")
        chosen = [str(tests / name) for name in SUBSET if (tests / name).is_dir()]
        options = ["-q", "-p", "no:cacheprovider", "-o", "pythonpath=", "--import-mode=importlib"]
        bare["PYTHONPATH"] = os.pathsep.join([str(home)])  # tests.support
        run([python, "-m", "pytest", *options, *chosen], empty, bare)
    print("smoke: the wheel works without a compiler")
    return 0


if __name__ == "__main__":
    sys.exit(main())
