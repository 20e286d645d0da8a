"""Loss of models/resnet18_fashion_mnist on the CPU, and whether it is the same at any number of threads.

    python benchmarks/resnet18_losses.py [--batch 256] [--iterations 200] [--json FILE]
    python benchmarks/resnet18_losses.py --compare 20 [--batch 256] [--threads 1 2] [--json FILE]

The first form trains with the model's own solver file and records every iteration's loss. The second trains for a few
iterations in a process of its own for each number of threads (OMP_NUM_THREADS) and compares the losses bit by bit; it
fails when they differ. With --json the result is added to what FILE holds. A smaller --batch keeps rate and seed.

Needs data/fashion-mnist (`protocaffe data fashion-mnist`) in the current folder.
"""

from __future__ import annotations

import argparse
import json
import os
import subprocess
import sys
import time
from pathlib import Path
from typing import Any

ROOT = Path(__file__).resolve().parent.parent
MODEL = ROOT / "models" / "resnet18_fashion_mnist"


def train(batch: int, iterations: int) -> dict[str, Any]:
    """Train and return each iteration's loss."""
    import protocaffe
    from protocaffe.io import prototxt

    net = prototxt.read_net(MODEL / "train_val.prototxt")
    solver_param = prototxt.read_solver(MODEL / "solver.prototxt")
    for layer in net.layer:
        if layer.type == "Data":
            layer.data_param.batch_size = batch
    for field in ("net", "test_iter", "test_interval", "display", "snapshot_prefix"):
        solver_param.ClearField(field)
    solver_param.net_param.CopyFrom(net)
    solver_param.average_loss = 1
    solver = protocaffe.get_solver(solver_param)
    losses, start = [], time.perf_counter()
    for i in range(iterations):
        solver.step(1)
        losses.append(solver.smoothed_loss)
        print(f"{i} {losses[-1]:.6f} {time.perf_counter() - start:.1f} s", file=sys.stderr, flush=True)
    return {
        "batch": batch, "base_lr": round(solver_param.base_lr, 6), "seed": solver_param.random_seed,
        "threads": int(os.environ.get("OMP_NUM_THREADS", os.cpu_count() or 1)),
        "seconds": round(time.perf_counter() - start, 1), "losses": losses,
    }  # fmt: skip


def compare(batch: int, iterations: int, threads: list[int]) -> dict[str, Any]:
    """The same training in a process for each number of threads; ``identical`` tells whether all bits agree."""
    runs = []
    for count in threads:
        command = [sys.executable, __file__, "--batch", str(batch), "--iterations", str(iterations), "--print"]
        env = {**os.environ, "OMP_NUM_THREADS": str(count)}
        runs.append(json.loads(subprocess.run(command, env=env, check=True, stdout=subprocess.PIPE).stdout))
    bits = [[loss.hex() for loss in run["losses"]] for run in runs]
    return {"identical": all(row == bits[0] for row in bits), "runs": runs}


def main() -> None:
    parser = argparse.ArgumentParser(description=(__doc__ or "").partition("\n")[0])
    parser.add_argument("--batch", type=int, default=256)
    parser.add_argument("--iterations", type=int, default=200)
    parser.add_argument("--compare", type=int, metavar="ITERATIONS")
    parser.add_argument("--threads", type=int, nargs="+", default=[1, 2])
    parser.add_argument("--json", type=Path)
    parser.add_argument("--print", action="store_true", help=argparse.SUPPRESS)
    wanted = parser.parse_args()
    if wanted.compare:
        key, result = "threads", compare(wanted.batch, wanted.compare, wanted.threads)
    else:
        key, result = "training", train(wanted.batch, wanted.iterations)
    if wanted.print:
        print(json.dumps(result))
        return
    if wanted.json:
        held = json.loads(wanted.json.read_text()) if wanted.json.exists() else {}
        wanted.json.write_text(json.dumps({"benchmark": "resnet18_losses", **held, key: result}, indent=1) + "\n")
    if key == "threads":
        print("the same losses, bit by bit" if result["identical"] else "the losses differ", *wanted.threads, "threads")
        sys.exit(not result["identical"])
    losses = result["losses"]
    tenth = max(1, len(losses) // 10)
    means = [sum(losses[i : i + tenth]) / tenth for i in range(0, len(losses) - tenth + 1, tenth)]
    print("mean loss of each tenth:", " ".join(f"{mean:.4f}" for mean in means), f"in {result['seconds']:.0f} s")


if __name__ == "__main__":
    main()
