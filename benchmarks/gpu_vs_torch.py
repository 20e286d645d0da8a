"""Training steps on a GPU beside PyTorch: forward, backward and update of nets of models/, in one run on one GPU.

Ours is ``solver.step(1)``, loss read back included. PyTorch runs eagerly and as one CUDA graph per step, which is the
best it does for nets as small as these; neither reads its loss back. All run the same net and rule on one fixed batch,
each in child processes of its own, in turns; what counts is the ratio of the medians. fp32 multiplies in float, tf32 on
tensor cores with factors rounded to 10 bits; PyTorch's bf16 is autocast with channels last.

    python benchmarks/gpu_vs_torch.py [--nets mnist_cnn ...] [--rounds 3] [--json FILE]
"""

from __future__ import annotations

import argparse
import datetime
import json
import os
import statistics
import subprocess
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import cpu_steps

ROOT = Path(__file__).resolve().parent.parent
NETS = {
    "mnist_cnn": cpu_steps.Case((128, 1, 28, 28)),
    "lenet": cpu_steps.Case((64, 1, 28, 28)),
    "resnet18_fashion_mnist": cpu_steps.Case((256, 1, 96, 96)),
}
SIDES = ("ours fp32", "ours tf32", "eager fp32", "eager tf32", "graph fp32", "graph tf32", "graph bf16")
STEPS, SAMPLES, WARMUP = 20, 15, 10


def our_step(name: str, mode: str) -> tuple[Callable[[], object], Callable[[], object]]:
    """Our step, and what waits for the GPU."""
    import protocaffe
    from protocaffe.backends import get_backend

    protocaffe.set_mode_gpu()
    cuda: Any = get_backend("cuda")
    cuda.math = mode
    return cpu_steps.our_step(name, NETS[name]), cuda.synchronize


def their_step(name: str, kind: str, mode: str) -> tuple[Callable[[], object], Callable[[], object]]:
    """PyTorch's step, and what waits for the GPU."""
    import torch
    import torch.nn.functional as F
    import torch_nets

    torch.manual_seed(0)
    torch.backends.cudnn.benchmark = True
    torch.backends.cuda.matmul.allow_tf32 = torch.backends.cudnn.allow_tf32 = mode != "fp32"
    case, half = NETS[name], mode == "bf16"
    order = torch.channels_last if half else torch.contiguous_format
    model = torch_nets.NETS[name]().cuda().to(memory_format=order)
    x = torch.rand(case.shape, device="cuda").contiguous(memory_format=order)
    y = torch.randint(0, case.classes, case.shape[:1], device="cuda")
    optimizer = torch_nets.rule(name, model.parameters())
    for group in optimizer.param_groups:
        if "capturable" in group:
            group["capturable"] = kind == "graph"

    def step() -> None:
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cuda", torch.bfloat16, enabled=half, cache_enabled=False):
            loss = F.cross_entropy(model(x), y)
        loss.backward()
        optimizer.step()

    if kind == "eager":
        return step, torch.cuda.synchronize
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(5):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay, torch.cuda.synchronize


def measure(name: str, side: str) -> dict[str, Any]:
    """Median microseconds of a step."""
    kind, mode = side.split()
    start = time.perf_counter()
    step, wait = our_step(name, mode) if kind == "ours" else their_step(name, kind, mode)
    step()
    wait()
    first = time.perf_counter() - start
    for _ in range(WARMUP):
        step()
    wait()
    us = []
    for _ in range(SAMPLES):
        start = time.perf_counter()
        for _ in range(STEPS):
            step()
        wait()
        us.append(1e6 * (time.perf_counter() - start) / STEPS)
    return {"us": statistics.median(us), "first_step_s": first}


def child(name: str, side: str) -> dict[str, Any]:
    """Measure in a process of its own."""
    env = {**os.environ, "PYTHONPATH": f"{ROOT}:{os.environ.get('PYTHONPATH', '')}"}
    command = [sys.executable, __file__, "--child", side, name]
    done = subprocess.run(command, env=env, capture_output=True, text=True)
    if done.returncode:
        raise SystemExit(f"{' '.join(command)} failed:\n{done.stderr}")
    return json.loads(done.stdout.splitlines()[-1])


def versions() -> dict[str, str]:
    """What ran."""
    import torch

    import protocaffe

    return {
        "date": datetime.date.today().isoformat(),
        "gpu": torch.cuda.get_device_name(),
        "torch": torch.__version__,
        "cuda": str(torch.version.cuda),
        "protocaffe": protocaffe.__version__,
    }


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--nets", nargs="+", choices=NETS, default=["mnist_cnn"])
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--child", nargs=2, metavar=("SIDE", "NET"))
    args = parser.parse_args()
    if args.child:
        print(json.dumps(measure(args.child[1], args.child[0])))
        return
    rows = []
    for name in args.nets:
        got: dict[str, list[dict[str, Any]]] = {side: [] for side in SIDES}
        for _ in range(args.rounds):
            for side in SIDES:
                got[side].append(child(name, side))
        batch = NETS[name].shape[0]
        sides = {
            side: {
                "us": round(us := statistics.median(one["us"] for one in runs), 1),
                "images_per_s": round(batch * 1e6 / us),
                "first_step_s": round(min(one["first_step_s"] for one in runs), 2),
            }
            for side, runs in got.items()
        }
        rows.append({"net": name, "batch": batch, "sides": sides})
        print(f"{name}, batch {batch}")
        for side, figures in sides.items():
            print(f"  {side:12}{figures['us']:10.1f} us {figures['images_per_s']:10} images/s")
        for mode in ("fp32", "tf32"):
            ratio = sides[f"graph {mode}"]["us"] / sides[f"ours {mode}"]["us"]
            print(f"  ours against PyTorch's graph, {mode}: {ratio:.2f}x")
    if args.json:
        args.json.write_text(json.dumps({**versions(), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
