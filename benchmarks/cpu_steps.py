"""Training steps on the CPU beside PyTorch: forward, backward and update of LeNet (batch 64) and mnist_cnn (batch 128).

Both sides run the same net and rule on one fixed batch. Each side runs in child processes of its own, in turns, so that
two OpenMP runtimes do not share a process and both meet the machine's noise; what counts is the ratio of the medians.
PyTorch runs in both memory layouts and its faster one is taken.

    python benchmarks/cpu_steps.py [--rounds 7] [--threads 2] [--torch-python PATH] [--json FILE]

Without PyTorch only our side is timed. The arithmetic floor counts 2 x multiply-adds of the convolutions and inner
products, three passes (forward, both gradients) less the first layer's input gradient.
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import subprocess
import sys
import time
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
NETS = {"lenet": (64, 1, 28, 28), "mnist_cnn": (128, 1, 28, 28)}


def timed(step, warmup: int = 5, seconds: float = 1.5) -> list[float]:
    """Milliseconds of single steps, for about ``seconds``."""
    for _ in range(warmup):
        step()
    times: list[float] = []
    end = time.perf_counter() + seconds
    while time.perf_counter() < end:
        start = time.perf_counter()
        step()
        times.append(1e3 * (time.perf_counter() - start))
    return times


def ours(name: str) -> dict[str, list[float]]:
    """Our step: the net of models/<name> with its data layer replaced by an Input."""
    import numpy as np

    import protocaffe
    from protocaffe.io import prototxt

    solver_param = prototxt.read_solver(ROOT / "models" / name / "solver.prototxt")
    net = prototxt.read_net(ROOT / "models" / name / "train_val.prototxt")
    kept = [layer for layer in net.layer if layer.type not in ("Data", "Accuracy")]
    shape = " ".join(f"dim: {d}" for d in NETS[name])
    inputs = prototxt.parse_net(
        'layer { name: "in" type: "Input" top: "data" top: "label" '
        f"input_param {{ shape {{ {shape} }} shape {{ dim: {NETS[name][0]} }} }} }}"
    )
    del net.layer[:]
    net.layer.extend([*inputs.layer, *kept])
    for field in ("net", "test_iter", "test_interval", "display", "snapshot"):
        solver_param.ClearField(field)
    solver_param.net_param.CopyFrom(net)
    solver = protocaffe.get_solver(solver_param)
    rng = np.random.default_rng(0)
    solver.net.blobs["data"].data = rng.random(NETS[name])
    solver.net.blobs["label"].data = rng.integers(0, 10, NETS[name][0])
    return {"plan": timed(lambda: solver.step(1))}


def torch_side(name: str) -> dict[str, list[float]]:
    """PyTorch's step in both memory layouts."""
    import torch
    import torch.nn.functional as F
    from torch import nn

    torch.manual_seed(0)
    torch.set_num_threads(int(os.environ["OMP_NUM_THREADS"]))

    class LeNet(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.c1, self.c2 = nn.Conv2d(1, 20, 5), nn.Conv2d(20, 50, 5)
            self.f1, self.f2 = nn.Linear(800, 500), nn.Linear(500, 10)

        def forward(self, x):
            x = F.max_pool2d(self.c1(x), 2)
            x = F.max_pool2d(self.c2(x), 2).flatten(1)
            return F.log_softmax(self.f2(F.relu(self.f1(x))), 1)

    class MnistCnn(nn.Module):
        def __init__(self) -> None:
            super().__init__()
            self.c1, self.c2, self.c3 = nn.Conv2d(1, 32, 5), nn.Conv2d(32, 64, 5), nn.Conv2d(64, 128, 3)
            self.f1, self.f2 = nn.Linear(512, 128), nn.Linear(128, 10)

        def forward(self, x):
            x = F.max_pool2d(F.relu(self.c1(x)), 2)
            x = F.max_pool2d(F.relu(self.c2(x)), 2)
            x = F.relu(self.c3(x)).flatten(1)
            return F.log_softmax(F.relu(self.f2(F.relu(self.f1(x)))), 1)

    out = {}
    for layout in (torch.contiguous_format, torch.channels_last):
        model = (LeNet if name == "lenet" else MnistCnn)().to(memory_format=layout)
        x = torch.rand(NETS[name]).contiguous(memory_format=layout)
        y = torch.randint(0, 10, (NETS[name][0],))
        if name == "lenet":
            rule = torch.optim.SGD(model.parameters(), lr=0.01, momentum=0.9, weight_decay=5e-4)
        else:
            rule = torch.optim.RMSprop(model.parameters(), lr=0.003, alpha=0.99, weight_decay=1e-4)

        def step(model=model, x=x, y=y, rule=rule):
            rule.zero_grad()
            F.nll_loss(model(x), y).backward()
            rule.step()

        out["NCHW" if layout is torch.contiguous_format else "NHWC"] = timed(step)
    return out


def child(python: str, side: str, name: str, threads: int) -> dict[str, list[float]]:
    """Run one side in a process of its own."""
    env = {**os.environ, "OMP_NUM_THREADS": str(threads), "PYTHONPATH": str(ROOT)}
    command = [python, __file__, "--child", side, name]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def has_torch(python: str) -> bool:
    """Whether this interpreter can import PyTorch."""
    return subprocess.run([python, "-c", "import torch"], capture_output=True).returncode == 0


def main() -> None:
    """Time both sides in turns and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=7)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--torch-python", default=sys.executable, help="an interpreter with PyTorch")
    parser.add_argument("--json", help="write the figures here")
    parser.add_argument("--child", nargs=2, metavar=("SIDE", "NET"), help=argparse.SUPPRESS)
    args = parser.parse_args()
    if args.child:
        side, name = args.child
        print(json.dumps(ours(name) if side == "ours" else torch_side(name)))
        return
    peer = has_torch(args.torch_python)
    rows = []
    for name, shape in NETS.items():
        medians: dict[str, list[float]] = {}
        for _ in range(args.rounds):
            for label, times in child(sys.executable, "ours", name, args.threads).items():
                medians.setdefault(label, []).append(statistics.median(times))
            if peer:
                for label, times in child(args.torch_python, "torch", name, args.threads).items():
                    medians.setdefault(label, []).append(statistics.median(times))
        mine = medians.pop("plan")
        row = {"net": name, "batch": shape[0], "ours_ms": statistics.median(mine), "ours_best_ms": min(mine)}
        if peer:
            layout = min(medians, key=lambda k: statistics.median(medians[k]))
            theirs = medians[layout]
            row |= {"torch_ms": statistics.median(theirs), "torch_best_ms": min(theirs), "torch_layout": layout}
            row["ratio"] = row["ours_ms"] / row["torch_ms"]
            row["ratio_best"] = row["ours_best_ms"] / row["torch_best_ms"]
        rows.append(row)
        print("  ".join(f"{k} {v:.3f}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()), flush=True)
    if args.json:
        result = {"benchmark": "cpu_steps", "threads": args.threads, "rounds": args.rounds, "rows": rows}
        Path(args.json).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
