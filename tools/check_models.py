"""Check trained Caffe models of a folder against what is known of them, and print a table: expected, got.

    python tools/check_models.py FOLDER [--mnist data/mnist]

FOLDER holds dns_lenet5, cifar10_full, lenet_v1, fp16_raw_data and corrupt_mean.binaryproto as tests/trained/README.md
describes them, under the names that their authors gave them. `protocaffe data mnist` makes data/mnist; a database of
test digits may be given itself.
Exit code 1 if a row does not hold.
"""

from __future__ import annotations

import argparse
import sys
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))

import protocaffe  # noqa: E402
from protocaffe.errors import FileFormatError  # noqa: E402
from protocaffe.io import hdf5, parse_net, read_caffemodel, read_mean, read_net  # noqa: E402
from protocaffe.io.solverstate import read_solverstate  # noqa: E402
from tests.test_trained_models import CIFAR, HALF, LENET, restored  # noqa: E402


class Table:
    """Rows of what was expected and what came."""

    def __init__(self) -> None:
        self.failed = 0

    def row(self, what: str, expected: Any, got: Any, good: bool) -> None:
        self.failed += not good
        print(f"{'ok  ' if good else 'FAIL'} {what:58} expected {expected!s:28} got {got}", flush=True)


def errors_on_mnist(weights: Path, database: Path) -> int:
    """Errors of LeNet with these weights on 10,000 digits, pixels / 256."""
    net_param = read_net(ROOT / "models/lenet/train_val.prototxt")
    for layer in net_param.layer:
        if layer.type == "Data":
            layer.data_param.source = str(database)
    net = protocaffe.Net(net_param, protocaffe.TEST, weights=weights)
    right = sum(float(net.forward()["accuracy"]) for _ in range(100))
    net.close()
    return round(10_000 - 100 * right)


def largest_difference(text: str, weights: Path, io: Path) -> float:
    """The largest difference of the last blob from what is stored."""
    net = protocaffe.Net(parse_net(text), protocaffe.TEST, weights=weights)
    with np.load(io) as stored:
        net.forward(data=stored["input"])
        last = "prob" if "prob" in stored.files else "dense"
        return float(np.abs(net.blobs[last].data - stored[last]).max())


def surgery(table: Table, folder: Path, database: Path) -> None:
    """LeNet-5 before and after Dynamic Network Surgery."""
    for name in ("original", "sparse"):
        path = folder / f"caffe_lenet5_{name}.caffemodel"
        if database.exists():
            errors = errors_on_mnist(path, database)
            table.row(f"dns_lenet5 {name}: errors of 10,000", "91 (+- 1)", errors, abs(errors - 91) <= 1)
        else:
            table.row(f"dns_lenet5 {name}: errors of 10,000", "91 (+- 1)", f'no "{database}"', False)
    layers = [w for w in read_caffemodel(folder / "caffe_lenet5_sparse.caffemodel") if w.blobs]
    weights = [int(np.count_nonzero(w.blobs[0])) for w in layers]
    total = sum(int(np.count_nonzero(b)) for w in layers for b in w.blobs)
    table.row("dns_lenet5 sparse: non-zero weights", [72, 770, 2920, 215], weights, weights == [72, 770, 2920, 215])
    table.row("dns_lenet5 sparse: non-zero parameters", 3993, total, total == 3993)


def four_forms(table: Table, folder: Path) -> None:
    """cifar10_full in protobuf and HDF5."""
    stem = folder / "cifar10_full_iter_70000"
    difference = largest_difference(CIFAR, Path(f"{stem}.caffemodel"), folder / "io.npz")
    table.row("cifar10_full .caffemodel: probabilities", "<= 1e-4", f"{difference:.1e}", difference <= 1e-4)
    difference = largest_difference(CIFAR, Path(f"{stem}.caffemodel.h5"), folder / "io.npz")
    table.row("cifar10_full .caffemodel.h5: probabilities", "<= 1e-4", f"{difference:.1e}", difference <= 1e-4)
    one = {w.name: w.blobs for w in read_caffemodel(f"{stem}.caffemodel") if w.blobs}
    two = {w.name: w.blobs for w in hdf5.read_weights(f"{stem}.caffemodel.h5") if w.blobs}
    apart = max(float(np.abs(a - b).max()) for n in one for a, b in zip(one[n], two[n], strict=True))
    table.row("cifar10_full: weights of both forms, largest difference", 0, f"{apart:.2g}", apart == 0)
    first, second = read_solverstate(f"{stem}.solverstate"), hdf5.read_state(f"{stem}.solverstate.h5")
    apart = max(float(np.abs(a - b).max()) for a, b in zip(first.history, second.history, strict=True))
    table.row("cifar10_full: histories of both forms, largest difference", 0, f"{apart:.2g}", apart == 0)


def lenet_state(table: Table, folder: Path) -> None:
    """The solver state of lenet_v1, restored in a solver: iteration, history, weights, and a step that goes on."""
    solver = restored(LENET, folder / "lenet_iter_10000.solverstate")
    stored = read_solverstate(folder / "lenet_iter_10000.solverstate").history
    history = max(
        float(np.abs(a - b.reshape(a.shape)).max()) for a, b in zip(solver.masked_history(), stored, strict=True)
    )
    file = {w.name: w.blobs for w in read_caffemodel(folder / "lenet_iter_10000.caffemodel") if w.blobs}
    weights = max(
        float(np.abs(a.data - b.reshape(a.shape)).max())
        for name, blobs in solver.net.params.items()
        for a, b in zip(blobs, file[name], strict=True)
    )
    got = (solver.iter, len(stored), history, weights)
    table.row("lenet_v1: restored iteration, histories, differences", (10000, 8, 0, 0), got, got == (10000, 8, 0, 0))
    solver.step(1)
    loss = solver.smoothed_loss
    table.row("lenet_v1: iteration and loss after a step", "10001, finite", f"{solver.iter}, {loss:.3g}",
              solver.iter == 10001 and bool(np.isfinite(loss)))  # fmt: skip


def main() -> int:
    """Print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("folder", type=Path)
    parser.add_argument("--mnist", type=Path, default=ROOT / "data/mnist")
    args = parser.parse_args()
    inner = args.mnist / "mnist_test_lmdb"
    table = Table()
    surgery(table, args.folder / "dns_lenet5", inner if inner.is_dir() else args.mnist)
    four_forms(table, args.folder / "cifar10_full")
    for name, text, weights in (
        ("lenet_v1", LENET, "lenet_iter_10000"),
        ("fp16_raw_data", HALF, "HorizonalFinemapping"),
    ):
        difference = largest_difference(
            text, args.folder / name / f"{weights}.caffemodel", args.folder / name / "io.npz"
        )
        table.row(f"{name}: output", "<= 1e-4", f"{difference:.1e}", difference <= 1e-4)
    lenet_state(table, args.folder / "lenet_v1")
    try:
        got = f"shape {read_mean(args.folder / 'corrupt_mean.binaryproto').shape}"
    except FileFormatError as error:
        got = str(error)
    table.row("corrupt_mean.binaryproto", "refused by name", f"...{got[-60:]}", "corrupt_mean" in got)
    print(f"{table.failed} rows do not hold" if table.failed else "every row holds")
    return 1 if table.failed else 0


if __name__ == "__main__":
    sys.exit(main())
