"""Training steps on a GPU beside PyTorch: forward, backward and update of nets of models/, in one run on one GPU.

"ours" is ``solver.step(1)`` on one fixed batch, "lmdb" the whole of it: the model's solver file as it is, with real
batches from its LMDB (``protocaffe data mnist`` first), ``--nets mnist_cnn`` only. PyTorch runs on one fixed batch:
eagerly, as one CUDA graph per step, which is the best it does for nets as small as LeNet, and, with ``--compile``,
compiled (mode "reduce-overhead", which makes graphs of its own; the first step takes a minute or more). Neither side
reads a loss back in between. All run the same net and rule, each in child processes of its own, in turns; what counts
is the ratio of the medians. fp32 multiplies in float, tf32 on tensor cores with factors rounded to 10 bits; PyTorch's
bf16 is autocast with channels last. Memory is what the GPU's driver says is in use at the end, the context and what an
allocator keeps included.

    python benchmarks/gpu_vs_torch.py [--nets mnist_cnn ...] [--sides "ours tf32" ...] [--compile] [--rounds 3]
                                      [--json FILE]
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
    "alexnet": cpu_steps.Case((256, 3, 227, 227), 1000),
    "resnet50": cpu_steps.Case((256, 3, 224, 224), 1000),
}
SIDES = (
    "ours fp32",
    "ours tf32",
    "lmdb fp32",
    "lmdb tf32",
    "eager fp32",
    "eager tf32",
    "graph fp32",
    "graph tf32",
    "graph bf16",
)
OURS = SIDES[:4]
COMPILED = ("compile tf32", "compile bf16")
#: nets whose solver files find their data
WITH_DATA = {"mnist_cnn": "data/mnist/mnist_train_lmdb"}
#: steps before any is timed, samples, and how long a sample should take in seconds
WARMUP, SAMPLES, SAMPLE = 4, 15, 0.02


Step = tuple[Callable[[], object], Callable[[], object], Callable[[], tuple[int, int]]]


def our_step(name: str, kind: str, mode: str) -> Step:
    """Our step, what waits for the GPU, and what tells free and total memory."""
    import gpu_training

    import protocaffe
    from protocaffe.backends import get_backend

    protocaffe.set_mode_gpu()
    cuda: Any = get_backend("cuda")
    cuda.math = mode
    wait, memory = cuda.synchronize, cuda.device.driver.mem_get_info
    if kind == "lmdb":
        os.chdir(ROOT)  # the data's paths in the models' files are relative
        solver = gpu_training.solver_of(name)
        return lambda: solver.step(1), wait, memory
    return cpu_steps.our_step(name, NETS[name]), wait, memory


def their_step(name: str, kind: str, mode: str) -> Step:
    """The same of PyTorch."""
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
            group["capturable"] = kind != "eager"
    run = torch.compile(model, mode="reduce-overhead") if kind == "compile" else model
    update = optimizer.step
    if kind == "compile" and "capturable" in optimizer.param_groups[0]:
        update = torch.compile(update)

    def step() -> None:
        if kind == "compile":
            torch.compiler.cudagraph_mark_step_begin()
        optimizer.zero_grad(set_to_none=True)
        with torch.autocast("cuda", torch.bfloat16, enabled=half, cache_enabled=False):
            loss = F.cross_entropy(run(x), y)
        loss.backward()
        update()

    wait, memory = torch.cuda.synchronize, torch.cuda.mem_get_info
    if kind != "graph":
        return step, wait, memory
    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for _ in range(5):
            step()
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        step()
    return graph.replay, wait, memory


def measure(name: str, side: str) -> dict[str, Any]:
    """Median microseconds of a step, and the memory in use."""
    kind, mode = side.split()
    start = time.perf_counter()
    step, wait, memory = our_step(name, kind, mode) if kind in ("ours", "lmdb") else their_step(name, kind, mode)
    step()
    wait()
    first = time.perf_counter() - start
    steps = WARMUP
    us = []
    for sample in range(SAMPLES + 2):
        start = time.perf_counter()
        for _ in range(steps):
            step()
        wait()
        took = (time.perf_counter() - start) / steps
        if sample < 2:
            steps = max(1, round(SAMPLE / took))
        else:
            us.append(1e6 * took)
    free, total = memory()
    return {"us": statistics.median(us), "first_step_s": first, "memory_mib": (total - free) >> 20}


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
    parser.add_argument("--sides", nargs="+", choices=(*SIDES, *COMPILED), default=SIDES)
    parser.add_argument("--compile", action="store_true", help="PyTorch's compiler, too: a minute or more per side")
    parser.add_argument("--rounds", type=int, default=3)
    parser.add_argument("--json", type=Path)
    parser.add_argument("--child", nargs=2, metavar=("SIDE", "NET"))
    args = parser.parse_args()
    if args.child:
        print(json.dumps(measure(args.child[1], args.child[0])))
        return
    rows = []
    chosen = [*args.sides, *(side for side in COMPILED if args.compile and side not in args.sides)]
    for name in args.nets:
        without = not (ROOT / WITH_DATA.get(name, "nothing")).exists()
        mine = [side for side in chosen if not (without and side.startswith("lmdb"))]
        got: dict[str, list[dict[str, Any]]] = {side: [] for side in mine}
        for _ in range(args.rounds):
            for side in mine:
                got[side].append(child(name, side))
        batch = NETS[name].shape[0]
        sides = {
            side: {
                "us": round(us := statistics.median(one["us"] for one in runs), 1),
                "images_per_s": round(batch * 1e6 / us),
                "first_step_s": round(min(one["first_step_s"] for one in runs), 2),
                "memory_mib": max(one["memory_mib"] for one in runs),
            }
            for side, runs in got.items()
        }
        rows.append({"net": name, "batch": batch, "sides": sides})
        print(f"{name}, batch {batch}")
        for side, figures in sides.items():
            line = f"  {side:12}{figures['us']:10.1f} us {figures['images_per_s']:10} images/s"
            print(f"{line} {figures['memory_mib']:8} MiB", flush=True)
        theirs = {side: figures["us"] for side, figures in sides.items() if side not in OURS}
        for ours in (side for side in sides if side in OURS):
            for side, us in theirs.items():
                if side.split()[0] != "eager":
                    print(f"  {ours} against PyTorch's {side}: {us / sides[ours]['us']:.2f}x")
        if args.json:
            args.json.write_text(json.dumps({**versions(), "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
