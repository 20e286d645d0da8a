"""Test accuracy of the shipped models over several seeds: the mean and the spread, dense and (--sparsity) fine-tuned.

Each model of models/ is trained by its own solver file, with nothing changed but ``random_seed``, and scored once on
the 10,000 test digits when it is done. With ``--sparsity`` it is then pruned by global magnitude and fine-tuned under
its masks, for half the iterations from half the learning rate, as models/lenet/README.md says. No choice is made on
the test digits here: recipes are what the files say.

    protocaffe data mnist
    python benchmarks/accuracy.py [--models lenet,mnist_cnn] [--seeds 1,2,3] [--sparsity 0.9] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from pathlib import Path
from typing import Any

import protocaffe
from protocaffe.io import prototxt
from protocaffe.pruning import prune_net, sparsity_of_net

ROOT = Path(__file__).resolve().parent.parent


def train(model: str, seed: int, weights: list[Any] | None = None) -> Any:
    """A trained solver; from ``weights`` it fine-tunes."""
    param = prototxt.read_solver(ROOT / "models" / model / "solver.prototxt")
    param.random_seed, param.test_initialization, param.snapshot_after_train = seed, False, False
    param.test_interval = param.max_iter + 1
    if weights is not None:
        param.base_lr, param.max_iter = param.base_lr / 2, param.max_iter // 2
    solver = protocaffe.get_solver(param)
    if weights is not None:
        solver.net.copy_weights(weights)
    solver.step(param.max_iter)
    return solver


def row_of(model: str, seeds: list[int], sparsity: float | None) -> dict[str, Any]:
    """One model's figures."""
    figures: dict[str, list[float]] = {}
    row: dict[str, Any] = {"model": model, "seeds": seeds}
    for seed in seeds:
        start = time.perf_counter()
        solver = train(model, seed)
        figures.setdefault("dense", []).append(float(solver.test(0)["accuracy"]))
        if sparsity is not None:
            prune_net(solver.net, sparsity)
            figures.setdefault("pruned", []).append(float(solver.test(0)["accuracy"]))
            weights = solver.net.layer_weights()
            tuned = train(model, seed, weights)
            figures.setdefault("fine-tuned", []).append(float(tuned.test(0)["accuracy"]))
            row["sparsity"] = sparsity_of_net(tuned.net).sparsity
            tuned.close()
        solver.close()
        print(f"{model} seed {seed}: {figures} ({time.perf_counter() - start:.0f} s)", flush=True)
    for what, values in figures.items():
        row[what] = {"mean": statistics.mean(values), "min": min(values), "max": max(values), "values": values}
        if len(values) > 1:
            row[what]["standard_deviation"] = statistics.stdev(values)
    return row


def main() -> None:
    """Train, print a line for each model, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--models", default="lenet,lenet_300_100,mnist_cnn")
    parser.add_argument("--seeds", default="1,2,3")
    parser.add_argument("--sparsity", type=float, help="also prune to this share of zeros and fine-tune")
    parser.add_argument("--json", help="write the figures here")
    args = parser.parse_args()
    output = args.json and Path(args.json).resolve()
    os.chdir(ROOT)  # the data's paths in the models' files are relative
    rows = [row_of(m, [int(s) for s in args.seeds.split(",")], args.sparsity) for m in args.models.split(",")]
    for row in rows:
        for what in ("dense", "pruned", "fine-tuned"):
            if what in row:
                f = row[what]
                spread = f" +- {f['standard_deviation']:.4f}" if "standard_deviation" in f else ""
                print(f"{row['model']:15} {what:10} {f['mean']:.4f}{spread} ({f['min']:.4f} to {f['max']:.4f})")
    if output:
        output.write_text(json.dumps({"benchmark": "accuracy", "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
