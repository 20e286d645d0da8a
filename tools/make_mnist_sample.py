"""Make protocaffe/data/sample/mnist_sample.npz from MNIST's four IDX files.

    python tools/make_mnist_sample.py FOLDER_WITH_THE_IDX_FILES

Of each digit's n images, in the order of the file, numbers floor(k * n / m), k = 0 .. m-1, are taken: m = 200 of the
training images, 50 of the test images. They stay in the order of the file. The files' SHA-256 are checked, so that the
result is the same everywhere.
"""

from __future__ import annotations

import io
import sys
import zipfile
from pathlib import Path

import numpy as np

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from protocaffe.data.catalogue import MNIST
from protocaffe.data.datasets import SAMPLE, SAMPLE_COUNTS
from protocaffe.data.fetch import from_folder
from protocaffe.data.idx import read_idx


def chosen(labels: np.ndarray, per_digit: int) -> np.ndarray:
    """Return the indices of ``per_digit`` evenly spaced images of each digit, ascending."""
    picks = []
    for digit in range(10):
        places = np.flatnonzero(labels == digit)
        picks.append(places[np.arange(per_digit) * len(places) // per_digit])
    return np.sort(np.concatenate(picks))


def main(folder: str) -> None:
    """Write the sample."""
    contents = from_folder(MNIST, Path(folder))
    arrays = {}
    for key, split in (("train", MNIST.train), ("test", MNIST.test)):
        images = read_idx(contents[split.images.stem], split.images.stem)
        labels = read_idx(contents[split.labels.stem], split.labels.stem)
        indices = chosen(labels, SAMPLE_COUNTS[key] // 10)
        arrays[f"{key}_images"], arrays[f"{key}_labels"] = images[indices], labels[indices]
    SAMPLE.parent.mkdir(exist_ok=True)
    with zipfile.ZipFile(SAMPLE, "w", zipfile.ZIP_DEFLATED, compresslevel=9) as archive:
        for name, array in arrays.items():
            member = zipfile.ZipInfo(name + ".npy", (1980, 1, 1, 0, 0, 0))  # no date: the file is reproducible
            member.compress_type = zipfile.ZIP_DEFLATED
            buffer = io.BytesIO()
            np.save(buffer, array)
            archive.writestr(member, buffer.getvalue(), compresslevel=9)
    print(f"{SAMPLE}: {SAMPLE.stat().st_size} bytes")


if __name__ == "__main__":
    main(*sys.argv[1:])
