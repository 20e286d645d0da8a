"""Compile the kernels for the CPU: at package build, in a source tree when they changed, and for a user's own kernels.

The file imports nothing of the package, so that setup.py can load it by its path before any dependency is there.

One shared object per variant, ``kernels-<real>-<isa>-<hash>.so``: ``real`` is f32 or f64 (the check build), ``isa`` one
of x86-64's levels (v4: AVX-512, v3: AVX2 and FMA, base), chosen when the library is loaded. The flags are fast maths
without
``-ffinite-math-only`` (infinities and NaN must survive), and they stand on the compiler's line only: linking with fast
maths would set flush-to-zero for the whole process.
"""

from __future__ import annotations

import hashlib
import os
import platform
import shutil
import subprocess
import tempfile
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

FLAGS = (
    "-std=c++20 -O3 -fopenmp -fPIC -fno-gnu-unique -fno-math-errno -fno-trapping-math -fassociative-math "
    "-fno-signed-zeros -freciprocal-math -ffp-contract=fast -Wall -Wextra"
).split()
LINK = "-shared -fopenmp -static-libstdc++ -static-libgcc -Wl,--as-needed,-Bsymbolic".split()
#: such as "address,undefined": build for a run under sanitizers (tools/sanitize.py), in a folder of its own
SANITIZERS = os.environ.get("PROTOCAFFE_SANITIZE", "")
if SANITIZERS:
    FLAGS += f"-O1 -g -fno-omit-frame-pointer -fsanitize={SANITIZERS} -fsanitize-recover=all".split()
    LINK += [f"-fsanitize={SANITIZERS}"]
ISA_FLAGS = {"v4": ["-march=x86-64-v4"], "v3": ["-march=x86-64-v3"], "base": []}
ISA_NEEDS = {
    "v4": {"avx512f", "avx512bw", "avx512cd", "avx512dq", "avx512vl"},
    "v3": {"avx2", "fma", "bmi1", "bmi2", "f16c", "movbe", "abm"},
    "base": set(),
}


class BuildError(RuntimeError):
    """The compiler is missing or refused a kernel."""


def isas() -> list[str]:
    """The instruction-set levels that this kind of machine can have, best first."""
    return ["v4", "v3", "base"] if platform.machine() in ("x86_64", "AMD64") else ["base"]


def best_isa() -> str:
    """The best level that this processor has; the environment variable PROTOCAFFE_ISA overrides it."""
    chosen = os.environ.get("PROTOCAFFE_ISA")
    if chosen:
        if chosen not in isas():
            raise BuildError(f"PROTOCAFFE_ISA must be one of {', '.join(isas())}, got {chosen!r}")
        return chosen
    try:
        lines = Path("/proc/cpuinfo").read_text(encoding="ascii", errors="replace").splitlines()
    except OSError:
        return "base"
    flags = set(next((line for line in lines if line.startswith("flags")), "").split())
    return next(isa for isa in isas() if ISA_NEEDS[isa] <= flags | ({"abm"} if "lzcnt" in flags else set()))


def variants() -> list[str]:
    """All variants that a package carries."""
    return [f"f32-{isa}" for isa in isas()] + ["f64-base"]


def sources(folder: Path) -> list[Path]:
    """The translation units: the portable kernels and the CPU core."""
    return sorted(folder.glob("*.cu")) + sorted((folder / "cpu").glob("*.cpp"))


def source_hash(folder: Path) -> str:
    """A hash over every source, header and flag that goes into the libraries."""
    digest = hashlib.sha256(" ".join(FLAGS + LINK).encode())
    for path in sorted(folder.rglob("*")):
        if path.suffix in (".cu", ".h", ".cpp"):
            digest.update(path.relative_to(folder).as_posix().encode() + b"\0" + path.read_bytes() + b"\0")
    return digest.hexdigest()[:12]


def compiler() -> str:
    """The C++ compiler: $CXX, else g++, else c++."""
    for name in (os.environ.get("CXX"), "g++", "c++"):
        if name and shutil.which(name.split()[0]):
            return name
    raise BuildError("compiling the kernels needs a C++ compiler (g++ 11 or newer), and none was found on PATH")


def _run(command: list[str]) -> None:
    done = subprocess.run(command, capture_output=True, text=True)
    if done.returncode:
        raise BuildError(f"{' '.join(command)}\n{(done.stderr or done.stdout).strip()[:4000]}")


def _flags(variant: str) -> list[str]:
    real, isa = variant.split("-")
    return FLAGS + ISA_FLAGS[isa] + (["-DREAL_DOUBLE"] if real == "f64" else [])


def compile_library(
    units: list[Path], include: Path, target: Path, variant: str, extra: list[str] | None = None
) -> Path:
    """Compile ``units`` into the shared object ``target`` (written to a temporary name, then renamed)."""
    return compile_libraries(units, include, {variant: target}, extra)[variant]


def compile_libraries(
    units: list[Path], include: Path, targets: dict[str, Path], extra: list[str] | None = None
) -> dict[str, Path]:
    """Compile ``units`` once per variant, all objects in parallel. Raises BuildError with the compiler's words."""
    cxx = compiler().split()
    with tempfile.TemporaryDirectory(prefix="protocaffe-build-") as scratch:
        jobs: list[list[str]] = []
        objects: dict[str, list[str]] = {}
        for variant in targets:
            for unit in units:
                obj = os.path.join(scratch, f"{variant}-{unit.stem}{unit.suffix[1:]}.o")
                objects.setdefault(variant, []).append(obj)
                jobs.append(
                    [
                        *cxx,
                        *_flags(variant),
                        *(extra or []),
                        "-I",
                        str(include),
                        "-x",
                        "c++",
                        "-c",
                        str(unit),
                        "-o",
                        obj,
                    ]
                )
        with ThreadPoolExecutor(os.cpu_count() or 1) as pool:
            list(pool.map(_run, jobs))
        for variant, target in targets.items():
            target.parent.mkdir(parents=True, exist_ok=True)
            partial = target.with_name(f".{target.name}.{os.getpid()}")
            _run([*cxx, *LINK, *(extra or []), *objects[variant], "-o", str(partial)])
            with open(partial, "rb+") as written:  # a library cut short by a power failure would stay for good
                os.fsync(written.fileno())
            os.replace(partial, target)
    return targets


def build_all(source_dir: Path | str, out_dir: Path | str, only: list[str] | None = None) -> dict[str, Path]:
    """Bring the libraries of ``source_dir`` up to date in ``out_dir``; libraries of older sources are removed."""
    source_dir, out_dir = Path(source_dir), Path(out_dir)
    tag = source_hash(source_dir)
    wanted = {v: out_dir / f"kernels-{v}-{tag}.so" for v in (only or variants())}
    missing = {v: p for v, p in wanted.items() if not p.is_file()}
    if missing:
        compile_libraries(sources(source_dir), source_dir, missing)
        for variant, current in wanted.items():
            for old in out_dir.glob(f"kernels-{variant}-*.so"):
                if old != current:
                    old.unlink(missing_ok=True)
    return wanted


def library(variant: str, source_dir: Path | None, out_dir: Path) -> Path:
    """The library to load: rebuilt if a source tree is given and has changed, else the one that was shipped."""
    if SANITIZERS:
        out_dir = out_dir / "sanitized"
    if source_dir is not None:
        return build_all(source_dir, out_dir, [variant])[variant]
    found = sorted(out_dir.glob(f"kernels-{variant}-*.so"))
    if not found:
        raise BuildError(f"no compiled kernels for {variant} in {out_dir}: is the installation complete?")
    return found[-1]


def cache_folder() -> Path:
    """Where compiled kernels of a user's are kept: PROTOCAFFE_CACHE, default ~/.cache/protocaffe."""
    return Path(os.environ.get("PROTOCAFFE_CACHE") or Path.home() / ".cache" / "protocaffe")


def build_user(unit: Path, include: Path, variant: str) -> Path:
    """Compile a user's own kernel file into their cache (PROTOCAFFE_CACHE, default ~/.cache/protocaffe)."""
    tag = hashlib.sha256(source_hash(include).encode() + unit.read_bytes()).hexdigest()[:16]
    target = cache_folder() / "kernels" / f"{unit.stem}-{variant}-{tag}.so"
    return target if target.is_file() else compile_library([unit], include, target, variant)
