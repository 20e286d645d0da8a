"""What share of a training step the net waits for its data: the time of the Data layer's load over that of the step.

Batches are prepared by a thread while the net computes, so the load should be no more than taking a batch that is
ready: a copy. ResNet-18's batches are enlarged from 28x28 to 96x96 on that thread. Data is the sample of MNIST that
comes with the package, shuffled; what is measured does not depend on what the images show.

    python benchmarks/prefetch.py [--iterations 60] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import protocaffe
from protocaffe.data.datasets import offline_sample
from protocaffe.io import prototxt

ROOT = Path(__file__).resolve().parent.parent
#: batch size, iterations for each of --iterations
CASES = {"lenet": (64, 4), "mnist_cnn": (128, 1), "resnet18_fashion_mnist": (32, 0.25)}


def measure(name: str, batch: int, iterations: int, database: Path) -> dict[str, Any]:
    """Median milliseconds of a step and of the load in it, after the first ten steps."""
    param = prototxt.read_solver(ROOT / "models" / name / "solver.prototxt")
    net = prototxt.read_net(ROOT / "models" / name / "train_val.prototxt")
    for layer in net.layer:
        if layer.type == "Data":
            layer.data_param.source, layer.data_param.batch_size = str(database), batch
    for field in ("net", "test_iter", "test_interval", "display", "snapshot"):
        param.ClearField(field)
    param.net_param.CopyFrom(net)
    solver = protocaffe.get_solver(param)
    loads: list[float] = []
    start = 0.0

    def begin(_: str) -> None:
        nonlocal start
        start = time.perf_counter()

    data = next(layer.name for layer in solver.net.layers if layer.type == "Data")
    solver.net.before_forward(begin, data)
    solver.net.after_forward(lambda _: loads.append(1e3 * (time.perf_counter() - start)), data)
    steps = []
    for _ in range(iterations + 10):
        since = time.perf_counter()
        solver.step(1)
        steps.append(1e3 * (time.perf_counter() - since))
    solver.close()
    step, load = statistics.median(steps[10:]), statistics.median(loads[10:])
    return {"net": name, "batch": batch, "step_ms": step, "load_ms": load, "share": load / step}


def main() -> None:
    """Print a line for each net."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--iterations", type=int, default=60)
    parser.add_argument("--json", help="write the figures here")
    args = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        database = offline_sample(folder)["train"]
        rows = [measure(n, batch, int(args.iterations * f), database) for n, (batch, f) in CASES.items()]
    load = os.getloadavg()[0]
    for row in rows:
        print(f"{row['net']:24} step {row['step_ms']:8.2f} ms, load {row['load_ms']:6.3f} ms: {row['share']:.2%}")
    print(f"load average {load:.1f}")
    if args.json:
        Path(args.json).write_text(json.dumps({"benchmark": "prefetch", "load": load, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
