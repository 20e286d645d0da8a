"""Where the files beside the Python code lie: kernels/ and models/ of a checkout, or their copies in a wheel."""

from __future__ import annotations

from pathlib import Path

PACKAGE = Path(__file__).resolve().parent


def in_checkout() -> bool:
    """True when the package is imported from its source tree (also after an editable install)."""
    return (PACKAGE.parent / "pyproject.toml").is_file() and (PACKAGE.parent / "kernels").is_dir()


def resource_path(name: str) -> Path:
    """Return the folder ``name`` ("kernels" or "models").

    >>> (resource_path("models") / "lenet" / "solver.prototxt").is_file()
    True

    Raises FileNotFoundError when neither a checkout nor the installed package holds it.
    """
    folder = (PACKAGE.parent if in_checkout() else PACKAGE / "_share") / name
    if not folder.is_dir():
        raise FileNotFoundError(f'the folder "{name}" was expected at {folder}: is the installation complete?')
    return folder
