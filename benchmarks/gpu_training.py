"""Training on a GPU as a user does it: solver files of models/, LMDBs, test accuracy; then what must hold beside.

``mnist_cnn``: its solver, several seeds: accuracy on the 10,000 test digits after 1, 10 and all passes, seconds of a
pass. ``resnet18``: models/resnet18_fashion_mnist, several seeds at 96 x 96 and one at 224 x 224: accuracy on training
and test images, images per second. ``masks``: pruning on both devices gives the same masks, and fine-tuning under them
keeps every pruned weight +0 and its history 0. ``memory``: 10,000 iterations; what the GPU and the process hold before
and after. ``host``: what the process does for an iteration while the GPU works.

    protocaffe data mnist; protocaffe data fashion-mnist
    python benchmarks/gpu_training.py [--parts mnist_cnn masks ...] [--seeds 1 2 3] [--math tf32] [--json FILE]
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import resource
import statistics
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np

import protocaffe
from protocaffe.backends import get_backend
from protocaffe.io import prototxt
from protocaffe.pruning import prune_net, sparsity_of_net

ROOT = Path(__file__).resolve().parent.parent
IMAGES = 60_000


def solver_of(model: str, change: Callable[[Any, Any], None] | None = None, backend: Any = None) -> Any:
    """The model's solver, silent and without tests of its own; ``change`` gets its SolverParameter and net."""
    param = prototxt.read_solver(ROOT / "models" / model / "solver.prototxt")
    net = prototxt.read_net(ROOT / param.net)
    param.test_interval, param.test_initialization = 10**9, False
    param.display = param.snapshot = 0
    if change is not None:
        change(param, net)
    param.ClearField("net")
    param.net_param.CopyFrom(net)
    return protocaffe.get_solver(param, backend=backend)


def passes(solver: Any, batch: int, count: int, marks: tuple[int, ...]) -> tuple[dict[str, float], list[float]]:
    """Train for ``count`` passes; test accuracy after those of ``marks``, and the seconds of each pass."""
    found, seconds = {}, []
    for number in range(1, count + 1):
        start = time.perf_counter()
        solver.step(number * IMAGES // batch - solver.iter)  # it waits for the GPU at its end
        seconds.append(time.perf_counter() - start)
        if number in marks:
            found[str(number)] = float(solver.test(0)["accuracy"])
    return found, seconds


def spread(values: list[float]) -> dict[str, Any]:
    """Values with their mean and deviation."""
    more = {"standard_deviation": statistics.stdev(values)} if len(values) > 1 else {}
    return {"values": values, "mean": statistics.mean(values), **more}


def seeded(seed: int) -> Callable[[Any, Any], None]:
    """A change of the seed alone."""
    return lambda param, net: setattr(param, "random_seed", seed)


def mnist_cnn(seeds: list[int]) -> dict[str, Any]:
    """Accuracy and seconds of mnist_cnn."""
    marks: dict[str, list[float]] = {}
    seconds = []
    for seed in seeds:
        solver = solver_of("mnist_cnn", seeded(seed))
        count = round(solver.param.max_iter * 128 / IMAGES)
        found, times = passes(solver, 128, count, (1, 10, count))
        for mark, value in found.items():
            marks.setdefault(mark, []).append(value)
        seconds += times[1:]
        print(f"mnist_cnn seed {seed}: {found}, {statistics.median(times[1:]):.3f} s a pass", flush=True)
        solver.close()
    accuracy = {f"after {mark} passes": spread(values) for mark, values in marks.items()}
    return {"seeds": seeds, "accuracy": accuracy, "seconds_per_pass": statistics.median(seconds)}


def resnet(seed: int, size: int) -> dict[str, Any]:
    """One run of ten passes."""

    def change(param: Any, net: Any) -> None:
        param.random_seed = seed
        for layer in net.layer:
            if layer.type == "Data":
                layer.transform_param.resize_param.height = layer.transform_param.resize_param.width = size

    solver = solver_of("resnet18_fashion_mnist", change)
    accuracy, seconds = passes(solver, 256, 10, (10,))
    data = next(layer for layer in solver.param.net_param.layer if layer.type == "Data" and layer.include[0].phase == 0)
    source = data.data_param.source

    def on_training_images(param: Any, net: Any) -> None:
        change(param, net)
        for layer in net.layer:
            if layer.type == "Data" and layer.include[0].phase == protocaffe.TEST:
                layer.data_param.source = source
        param.test_iter[:] = [IMAGES // 100]

    again = solver_of("resnet18_fashion_mnist", on_training_images)
    again.net.copy_weights(solver.net.layer_weights())
    train = float(again.test(0)["accuracy"])
    speed = IMAGES / statistics.median(seconds[1:])
    row = {"seed": seed, "size": size, "test": accuracy["10"], "train": train, "images_per_s": speed}
    print(row, flush=True)
    for each in (solver, again):
        each.close()
    return row


def resnet18(seeds: list[int]) -> dict[str, Any]:
    """Accuracy and images per second of ResNet-18."""
    rows = [resnet(seed, 96) for seed in seeds]
    return {"runs": [*rows, resnet(seeds[0], 224)], "test at 96": spread([row["test"] for row in rows])}


def masks(seeds: list[int]) -> dict[str, Any]:
    """Prune and fine-tune."""
    dense = solver_of("mnist_cnn", seeded(seeds[0]))
    dense.step(5 * IMAGES // 128)
    weights = dense.net.layer_weights()
    rows = []
    for sparsity in (0.9, 0.98):
        found = {}
        for device in ("cuda", "cpu"):
            solver = solver_of("mnist_cnn", seeded(seeds[0]), get_backend(device))
            solver.net.copy_weights(weights)
            prune_net(solver.net, sparsity)
            found[device] = [None if blob.mask is None else blob.mask.copy() for blob in solver.net.learnable_params]
            if device == "cuda":
                tuned = solver
        same = all(np.array_equal(a, b) for a, b in zip(found["cuda"], found["cpu"], strict=True))
        pruned = float(tuned.test(0)["accuracy"])
        tuned.param.base_lr = tuned.param.base_lr / 2
        tuned.step(5 * IMAGES // 128)
        revived = moved = 0
        for blob, history, keep in zip(tuned.net.learnable_params, tuned.masked_history(), found["cuda"], strict=True):
            if keep is not None:
                bits = np.ascontiguousarray(blob.data[~keep]).view(np.uint32)  # +0 is all zeros, -0 is not
                revived += int(np.count_nonzero(bits))
                moved += int(np.count_nonzero(history[~keep])) + int((blob.mask != keep).sum())
        rows.append({
            "sparsity": sparsity_of_net(tuned.net).sparsity, "masks of CPU and GPU are the same": same,
            "dense": float(dense.test(0)["accuracy"]), "pruned": pruned,
            "fine-tuned": float(tuned.test(0)["accuracy"]), "revived weights": revived, "moved masks or history": moved,
        })  # fmt: skip
        print(rows[-1], flush=True)
    return {"rows": rows}


def _held() -> tuple[int, int]:
    """Bytes in use on the GPU, and the process's resident size."""
    import pycuda.driver as cuda

    free, total = cuda.mem_get_info()
    with open("/proc/self/statm") as file:
        pages = int(file.read().split()[1])
    return total - free, pages * resource.getpagesize()


def memory(seeds: list[int]) -> dict[str, Any]:
    """What 10,000 iterations leave."""
    solver = solver_of("mnist_cnn", seeded(seeds[0]))
    solver.step(1000)
    before = _held()
    solver.step(10_000)
    after = _held()
    gpu, host = (b - a for a, b in zip(before, after, strict=True))
    return {"iterations": 10_000, "gpu_bytes_more": gpu, "host_bytes_more": host}


def host(seeds: list[int]) -> dict[str, Any]:
    """Microseconds of the process per iteration, and of an iteration."""
    solver = solver_of("mnist_cnn", seeded(seeds[0]))
    solver.step(500)
    wait = solver.backend.synchronize
    own, whole = [], []
    for _ in range(20):
        wait()
        start = time.perf_counter()
        for _ in range(50):
            solver._iteration.run(0)
            solver.apply_update()
        given = time.perf_counter()
        wait()
        own.append(1e6 * (given - start) / 50)
        whole.append(1e6 * (time.perf_counter() - start) / 50)
        solver._look()
    return {"host_us": statistics.median(own), "step_us": statistics.median(whole)}


PARTS = {"mnist_cnn": mnist_cnn, "masks": masks, "memory": memory, "host": host, "resnet18": resnet18}


def main() -> None:
    """Run the parts, print each result, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--parts", nargs="+", choices=PARTS, default=list(PARTS))
    parser.add_argument("--seeds", nargs="+", type=int, default=[1, 2, 3])
    parser.add_argument("--math", choices=("fp32", "tf32"), default="tf32")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    output = args.json and args.json.resolve()
    os.chdir(ROOT)  # the data's paths in the models' files are relative
    protocaffe.set_mode_gpu()
    cuda: Any = get_backend("cuda")
    cuda.math = args.math
    results: dict[str, Any] = {
        "benchmark": "gpu_training", "date": datetime.date.today().isoformat(), "gpu": cuda.device.gpu.name(),
        "math": args.math,
    }  # fmt: skip
    for part in args.parts:
        start = time.perf_counter()
        results[part] = PARTS[part](args.seeds)
        print(f"{part}: {json.dumps(results[part])} ({time.perf_counter() - start:.0f} s)", flush=True)
        if output:
            output.write_text(json.dumps(results, indent=1) + "\n")


if __name__ == "__main__":
    main()
