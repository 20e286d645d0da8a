"""Training steps on the CPU beside PyTorch: forward, backward and update of the nets of models/.

LeNet (batch 64), mnist_cnn (128), ResNet-18 on 1x96x96 images (32) and CaffeNet on 3x227x227 (32). Both sides run the
same net and rule on one fixed batch. Each side runs in child processes of its own, in turns, so that two OpenMP
runtimes do not share a process and both meet the machine's noise; what counts is the ratio of the medians. PyTorch runs
in both memory layouts and its faster one is taken. Memory is the largest resident size of the child.

    python benchmarks/cpu_steps.py [--nets lenet ...] [--rounds 7] [--threads 2] [--torch-python PATH] [--json FILE]

Without PyTorch only our side is timed. ``load`` is the mean of the machine's load average before the children started;
up to the number of threads it is this benchmark itself. Beyond that, wall times say more about the neighbours than
about the code (PyTorch's threads spin, which suffers most): then use ``--threads 1`` and ``cpu_ratio``, the ratio of
processor times.
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import resource
import statistics
import subprocess
import sys
import time
from pathlib import Path
from typing import Any, NamedTuple

ROOT = Path(__file__).resolve().parent.parent


class Case(NamedTuple):
    """Shape of a batch, number of classes, and how long a child measures."""

    shape: tuple[int, ...]
    classes: int = 10
    warmup: int = 5
    seconds: float = 1.5


NETS = {
    "lenet": Case((64, 1, 28, 28)),
    "mnist_cnn": Case((128, 1, 28, 28)),
    "resnet18_fashion_mnist": Case((32, 1, 96, 96), warmup=2, seconds=4),
    "caffenet": Case((32, 3, 227, 227), 1000, warmup=2, seconds=6),
}


def timed(step: Any, case: Case) -> dict[str, Any]:
    """Median milliseconds of a step on the wall clock and of the processor, and the process's largest size in MB."""
    for _ in range(case.warmup):
        step()
    wall, cpu = [], []
    end = time.perf_counter() + case.seconds
    while time.perf_counter() < end or len(wall) < 3:
        start, started = time.perf_counter(), time.process_time()
        step()
        cpu.append(1e3 * (time.process_time() - started))
        wall.append(1e3 * (time.perf_counter() - start))
    size = resource.getrusage(resource.RUSAGE_SELF).ru_maxrss / 1024
    return {"ms": statistics.median(wall), "cpu_ms": statistics.median(cpu), "mb": size}


def our_step(name: str, case: Case | None = None) -> Any:
    """Our step: the net of models/<name> with its data layer replaced by an Input."""
    import numpy as np

    import protocaffe
    from protocaffe.io import prototxt

    case = case or NETS[name]
    solver_param = prototxt.read_solver(ROOT / "models" / name / "solver.prototxt")
    net = prototxt.read_net(ROOT / "models" / name / "train_val.prototxt")
    kept = [layer for layer in net.layer if layer.type not in ("Data", "Accuracy")]
    shape = " ".join(f"dim: {d}" for d in case.shape)
    inputs = prototxt.parse_net(
        'layer { name: "in" type: "Input" top: "data" top: "label" '
        f"input_param {{ shape {{ {shape} }} shape {{ dim: {case.shape[0]} }} }} }}"
    )
    del net.layer[:]
    net.layer.extend([*inputs.layer, *kept])
    for field in ("net", "test_iter", "test_interval", "display", "snapshot", "iter_size"):
        solver_param.ClearField(field)
    solver_param.net_param.CopyFrom(net)
    solver = protocaffe.get_solver(solver_param)
    rng = np.random.default_rng(0)
    solver.net.blobs["data"].data = rng.random(case.shape)
    solver.net.blobs["label"].data = rng.integers(0, case.classes, case.shape[0])
    return lambda: solver.step(1)


def their_step(name: str, layout: str) -> Any:
    """PyTorch's step."""
    import torch_nets

    case = NETS[name]
    return torch_nets.training_step(name, case.shape, case.classes, layout, int(os.environ["OMP_NUM_THREADS"]))


def child(python: str, side: str, name: str, threads: int) -> dict[str, Any]:
    """Run one side ("ours", or PyTorch's layout) in a process of its own."""
    env = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONPATH": str(ROOT)}
    command = [python, __file__, "--child", side, name]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def has_torch(python: str) -> bool:
    """Whether this interpreter can import PyTorch."""
    return subprocess.run([python, "-c", "import torch"], capture_output=True).returncode == 0


def processor() -> str:
    """The processor's name."""
    for line in Path("/proc/cpuinfo").read_text().splitlines():
        if line.startswith("model name"):
            return line.split(":", 1)[1].strip()
    return "unknown"


def compare(name: str, args: argparse.Namespace) -> dict[str, Any]:
    """One row of the table."""
    sides = {"ours": sys.executable}
    if has_torch(args.torch_python):
        sides |= {"NCHW": args.torch_python, "NHWC": args.torch_python}
    got: dict[str, list[dict[str, Any]]] = {side: [] for side in sides}
    loads = []
    for _ in range(args.rounds):
        for side, python in sides.items():
            loads.append(os.getloadavg()[0])
            got[side].append(child(python, side, name, args.threads))

    def figures(side: str) -> dict[str, float]:
        ms, cpu, mb = ([one[key] for one in got[side]] for key in ("ms", "cpu_ms", "mb"))
        return {"ms": statistics.median(ms), "best_ms": min(ms), "cpu_ms": statistics.median(cpu), "mb": max(mb)}

    row = {"net": name, "batch": NETS[name].shape[0], "load": statistics.mean(loads)}
    mine = figures("ours")
    row |= {f"ours_{key}": value for key, value in mine.items()}
    if len(sides) > 1:
        theirs = {layout: figures(layout) for layout in ("NCHW", "NHWC")}
        layout = min(theirs, key=lambda k: theirs[k]["ms"])
        row |= {f"torch_{key}": value for key, value in theirs[layout].items()} | {"torch_layout": layout}
        for label, key in (("ratio", "ms"), ("ratio_best", "best_ms"), ("cpu_ratio", "cpu_ms")):
            row[label] = mine[key] / theirs[layout][key]
    return row


def main() -> None:
    """Time both sides in turns and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nets", nargs="+", choices=NETS, default=list(NETS), metavar="NET", help=", ".join(NETS))
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--torch-python", default=sys.executable, help="an interpreter with PyTorch")
    parser.add_argument("--json", help="write the figures here")
    parser.add_argument("--child", nargs=2, metavar=("SIDE", "NET"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        side, name = args.child
        print(json.dumps(timed(our_step(name) if side == "ours" else their_step(name, side), NETS[name])))
        return
    rows = []
    for name in args.nets:
        rows.append(compare(name, args))
        print(
            "  ".join(f"{k} {v:.3f}" if isinstance(v, float) else f"{k} {v}" for k, v in rows[-1].items()), flush=True
        )
    if args.json:
        result = {
            "benchmark": "cpu_steps", "date": datetime.date.today().isoformat(), "processor": processor(),
            "threads": args.threads, "rounds": args.rounds, "rows": rows,
        }  # fmt: skip
        Path(args.json).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
