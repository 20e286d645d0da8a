"""A search for a recipe on a validation split: the last 10,000 of the 60,000 training items; no test item is read.

Each recipe changes some fields of the model's solver file, trains on the first 50,000 items for a number of passes and
is scored on the split. What is chosen goes into the solver file; benchmarks/gpu_training.py then scores that on the
test items, once.

    protocaffe data mnist
    python benchmarks/recipe_search.py --model mnist_cnn --data data/mnist/mnist_train_lmdb --gpu \\
        --passes 10 --seeds 1 2 --recipes "base_lr: 0.001" "base_lr: 0.002 lr_policy: 'poly' power: 1"
"""

from __future__ import annotations

import argparse
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

import protocaffe
from protocaffe.data.datum import encode_datum
from protocaffe.data.datum_source import DatumSource
from protocaffe.data.lmdb_source import LmdbWriter
from protocaffe.io import prototxt

ROOT = Path(__file__).resolve().parent.parent
VALIDATION = 10_000


def split(source: str, folder: Path) -> tuple[Path, Path, int]:
    """LMDBs of all items but the last 10,000, and of these; and how many the first has."""
    data = DatumSource(source)
    items, labels = data.fetch(np.arange(len(data)))
    count = len(data) - VALIDATION
    paths = folder / "fit_lmdb", folder / "validation_lmdb"
    for path, part in zip(paths, (slice(None, count), slice(count, None)), strict=True):
        with LmdbWriter(path) as writer:
            for item, label in zip(items[part], labels[part], strict=True):
                writer.put(encode_datum(item, int(label)))
    return *paths, count


def train(model: str, recipe: str, seed: int, passes: int, paths: tuple[Path, Path, int]) -> float:
    """Accuracy on the validation split."""
    param = prototxt.read_solver(ROOT / "models" / model / "solver.prototxt")
    net = prototxt.read_net(ROOT / param.net)
    batch = 0
    for layer in net.layer:
        if layer.type == "Data":
            training = layer.include[0].phase == protocaffe.TRAIN
            layer.data_param.source = str(paths[0 if training else 1])
            batch = layer.data_param.batch_size if training else batch
            if not training:
                layer.data_param.batch_size = 100
    param.MergeFrom(prototxt.parse_solver(recipe))
    param.ClearField("net")
    param.net_param.CopyFrom(net)
    param.test_iter[:] = [VALIDATION // 100]
    param.max_iter = passes * paths[2] // batch
    param.random_seed, param.display, param.snapshot = seed, 0, 0
    param.test_interval, param.test_initialization = param.max_iter + 1, False
    solver: Any = protocaffe.get_solver(param)
    solver.step(param.max_iter)
    accuracy = float(solver.test(0)["accuracy"])
    solver.close()
    return accuracy


def main() -> None:
    """Train, print a line for each recipe, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--recipes", nargs="+", required=True, help="fields of the solver, as text")
    parser.add_argument("--model", required=True)
    parser.add_argument("--data", required=True, help="LMDB of the training items")
    parser.add_argument("--passes", type=int, nargs="+", default=[10])
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--gpu", action="store_true")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    if args.gpu:
        protocaffe.set_mode_gpu()
    rows = []
    with tempfile.TemporaryDirectory() as folder:
        paths = split(args.data, Path(folder))
        for passes in args.passes:
            for recipe in args.recipes:
                start = time.perf_counter()
                found = [train(args.model, recipe, seed, passes, paths) for seed in args.seeds]
                seconds = (time.perf_counter() - start) / len(found)
                rows.append({"recipe": recipe, "passes": passes, "seeds": args.seeds, "accuracy": found})
                values = " ".join(f"{value:.4f}" for value in found)
                print(f"{statistics.mean(found):.4f} ({values}) {passes} passes, {seconds:.1f} s: {recipe}", flush=True)
    if args.json:
        args.json.write_text(
            json.dumps({"benchmark": "recipe_search", "model": args.model, "rows": rows}, indent=1) + "\n"
        )


if __name__ == "__main__":
    main()
