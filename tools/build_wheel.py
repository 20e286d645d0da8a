"""Build the wheel into dist/ and, where auditwheel and patchelf are there, make it a manylinux one.

That puts the OpenMP runtime (libgomp) into the wheel, so that a machine without any compiler package runs it. Without
them the wheel is for machines that have libgomp, and this says so.
"""

from __future__ import annotations

import shutil
import subprocess
import sys
import tempfile
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent


def main() -> int:
    dist = ROOT / "dist"
    with tempfile.TemporaryDirectory() as scratch:
        subprocess.run([sys.executable, "-m", "build", "--wheel", "--outdir", scratch, str(ROOT)], check=True)
        (built,) = Path(scratch).glob("*.whl")
        dist.mkdir(exist_ok=True)
        for old in dist.glob("protocaffe-*.whl"):
            old.unlink()
        if shutil.which("auditwheel") and shutil.which("patchelf"):
            repaired = Path(scratch) / "repaired"
            done = subprocess.run(["auditwheel", "repair", "--wheel-dir", str(repaired), str(built)], check=False)
            if done.returncode == 0:
                (built,) = repaired.glob("*.whl")
            else:
                print("wheel: auditwheel failed: the wheel needs libgomp on the machine that runs it")
        else:
            print("wheel: auditwheel or patchelf is missing: the wheel needs libgomp on the machine that runs it")
        target = dist / built.name
        shutil.copyfile(built, target)
    print(f"wheel: {target.relative_to(ROOT)}")
    return 0


if __name__ == "__main__":
    sys.exit(main())
