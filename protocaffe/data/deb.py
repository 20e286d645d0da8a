"""Unpack files from a Debian package where dpkg-deb is missing: an `ar` archive that holds data.tar.*."""

from __future__ import annotations

import io
import tarfile
from pathlib import Path, PurePosixPath


def extract(package: Path, folder: str, destination: Path, limit: int) -> str:
    """Write the package's plain files directly in ``folder`` (and smaller than ``limit`` bytes) below ``destination``.

    Returns what went wrong, or an empty text.
    """
    try:
        data = _data_member(package.read_bytes())
        with tarfile.open(fileobj=io.BytesIO(data)) as archive:
            for member in archive:
                path = PurePosixPath(member.name)
                if not member.isfile() or str(path.parent) != folder or member.size > limit:
                    continue
                content = archive.extractfile(member)
                target = destination / folder / path.name
                target.parent.mkdir(parents=True, exist_ok=True)
                target.write_bytes(content.read() if content else b"")
    except Exception as error:  # a damaged archive may raise the exceptions of four decompressors
        return f"{package.name}: {error}"
    return ""


def _data_member(content: bytes) -> bytes:
    if content[:8] != b"!<arch>\n":
        raise ValueError("not an ar archive")
    at = 8
    while at + 60 <= len(content):
        name = content[at : at + 16].decode("ascii", "replace").strip().rstrip("/")
        size = int(content[at + 48 : at + 58])
        if name.startswith("data.tar"):
            return content[at + 60 : at + 60 + size]
        at += 60 + size + size % 2
    raise ValueError("no data.tar member")
