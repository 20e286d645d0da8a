"""Chains of layers fused and as written, on the CPU: forward and backward of single chains and of whole nets.

Both nets live in one process and run in turns, so that both meet the machine's noise; what counts is the ratio of the
medians, and on a busy machine `cpu_ratio`, that of the smallest processor times (of all threads).
`passes` counts the arguments of kernels that are as large as the chain's top: passes over memory.

    python benchmarks/fusion.py [--rounds 30] [--threads 2] [--only TEXT] [--json FILE]
"""

from __future__ import annotations

import argparse
import json
import os
import statistics
import time
from pathlib import Path

import numpy as np

from protocaffe import TEST, TRAIN, Net
from protocaffe.backends import get_backend
from protocaffe.io import prototxt
from protocaffe.memory import Memory

ROOT = Path(__file__).resolve().parent.parent
INPUT = 'layer {{ name: "in" type: "Input" {} input_param {{ {} }} }} force_backward: true '


def layer(type_name: str, bottoms: str, top: str, more: str = "") -> str:
    """A layer's text; bottoms are one letter each."""
    lines = " ".join(f'bottom: "{b}"' for b in bottoms)
    return f'layer {{ name: "{type_name}" type: "{type_name}" {lines} top: "{top}" {more} }} '


def entry(tops: str, *shape: int) -> str:
    """The inputs, all of one shape."""
    dims = " ".join(f"dim: {d}" for d in shape)
    return INPUT.format(" ".join(f'top: "{t}"' for t in tops), f"shape {{ {dims} }}")


def norm(top: str, relu: bool = True) -> str:
    """BatchNorm, Scale and perhaps ReLU; in place if the top is x."""
    text = layer("BatchNorm", "x", top) + layer("Scale", top, top, "scale_param { bias_term: true }")
    return text + (layer("ReLU", top, top) if relu else "")


def conv(outputs: int, kernel: int, pad: int) -> str:
    """Convolution and ReLU."""
    filler = 'weight_filler { type: "xavier" }'
    options = f"convolution_param {{ num_output: {outputs} kernel_size: {kernel} pad: {pad} {filler} }}"
    return layer("Convolution", "x", "y", options) + layer("ReLU", "y", "y")


def inner(outputs: int) -> str:
    """InnerProduct and ReLU."""
    options = f'inner_product_param {{ num_output: {outputs} weight_filler {{ type: "xavier" }} }}'
    return layer("InnerProduct", "x", "y", options) + layer("ReLU", "y", "y")


#: name: (text, phase)
CHAINS = {
    "BatchNorm Scale ReLU, in place, 32x64x56x56": (entry("x", 32, 64, 56, 56) + norm("x"), TRAIN),
    "BatchNorm Scale ReLU, norm not in place, 32x64x56x56": (entry("x", 32, 64, 56, 56) + norm("y"), TRAIN),
    "BatchNorm Scale, in place, 32x64x56x56": (entry("x", 32, 64, 56, 56) + norm("x", relu=False), TRAIN),
    "BatchNorm Scale ReLU, in place, 32x512x7x7": (entry("x", 32, 512, 7, 7) + norm("x"), TRAIN),
    "BatchNorm Scale ReLU, in place, 64x64x24x24": (entry("x", 64, 64, 24, 24) + norm("x"), TRAIN),
    "BatchNorm Scale ReLU, in place, test, 32x64x56x56": (
        entry("x", 32, 64, 56, 56).replace("force_backward: true", "") + norm("x"), TEST,
    ),
    "Eltwise ReLU, 32x64x56x56": (
        entry("xz", 32, 64, 56, 56) + layer("Eltwise", "xz", "y") + layer("ReLU", "y", "y"), TRAIN,
    ),
    "Convolution 3x3 ReLU, 16x64x56x56": (entry("x", 16, 64, 56, 56) + conv(64, 3, 1), TRAIN),
    "Convolution 1x1 ReLU, 16x64x56x56": (entry("x", 16, 64, 56, 56) + conv(64, 1, 0), TRAIN),
    "Convolution 5x5 ReLU, 64x1x28x28": (entry("x", 64, 1, 28, 28) + conv(20, 5, 0), TRAIN),
    "InnerProduct ReLU, 64x800 to 500": (entry("x", 64, 800) + inner(500), TRAIN),
    "InnerProduct ReLU, 128x512 to 128": (entry("x", 128, 512) + inner(128), TRAIN),
    "InnerProduct ReLU, 1x4096 to 4096": (entry("x", 1, 4096) + inner(4096), TRAIN),
}  # fmt: skip
#: model: (file, batch, phase)
NETS = {
    "resnet18_fashion_mnist, train": ("train_val", 16, TRAIN),
    "resnet18_fashion_mnist, test": ("deploy", 16, TEST),
    "resnet50, test": ("deploy", 2, TEST),
    "mobilenet_v1, test": ("deploy", 4, TEST),
    "vgg16, test": ("deploy", 1, TEST),
    "mnist_cnn, train": ("train_val", 128, TRAIN),
}


def model(name: str, file: str, batch: int) -> str:
    """A model's net, its data layer replaced by an Input."""
    net = prototxt.read_net(ROOT / "models" / name / f"{file}.prototxt")
    shape = {"resnet18_fashion_mnist": "dim: 1 dim: 96 dim: 96", "mnist_cnn": "dim: 1 dim: 28 dim: 28"}
    dims = shape.get(name, "dim: 3 dim: 224 dim: 224")
    tops = 'top: "data" top: "label"' if file == "train_val" else 'top: "data"'
    shapes = f"shape {{ dim: {batch} {dims} }}" + (f" shape {{ dim: {batch} }}" if file == "train_val" else "")
    kept = [each for each in net.layer if each.type not in ("Data", "Input", "Accuracy")]
    del net.layer[:]
    text = f'layer {{ name: "in" type: "Input" {tops} input_param {{ {shapes} }} }}'
    net.layer.extend([*prototxt.parse_net(text).layer, *kept])
    return net


def passes(plan, layers, size: int) -> int:
    """Arguments, as large as the chain's top, of the kernels that these layers run."""
    flat = []
    for call in plan.calls(layers):
        for value in call.run.keep:
            flat += value if isinstance(value, tuple) else [value]
    return sum(isinstance(m, Memory) and m.count == size for m in flat)


def alternate(steps: list, rounds: int) -> tuple[list[float], list[float]]:
    """Of each step, run in turns: the median of the milliseconds and the smallest processor time."""
    times: list[list[float]] = [[] for _ in steps]
    used: list[list[float]] = [[] for _ in steps]
    for step in steps:
        step()
    for _ in range(rounds):
        for step, passed, worked in zip(steps, times, used, strict=True):
            start, cpu = time.perf_counter(), time.process_time()
            step()
            passed.append(1e3 * (time.perf_counter() - start))
            worked.append(1e3 * (time.process_time() - cpu))
    return [statistics.median(t) for t in times], [min(t) for t in used]


def measure(name: str, param, phase: int, rounds: int) -> dict:
    """Both nets of one case."""
    nets = [Net(param, phase, seed=1, fuse=fuse) for fuse in (False, True)]
    rng = np.random.default_rng(0)
    for blob in nets[0].inputs:
        values = rng.normal(size=nets[0].blobs[blob].shape) if blob != "label" else 0
        for net in nets:
            net.blobs[blob].data = values
    row: dict = {"case": name, "chains": len(nets[1].fused_layers())}
    small = len(nets[0].layers) < 5
    for which in ("forward", "backward"):
        if which == "backward" and not any(wire.need_backward for wire in nets[0]._wires):
            continue
        for net in nets:
            net.run_forward()
            for blob in net.outputs if which == "backward" and small else ():
                net.blobs[blob].diff = rng.normal(size=net.blobs[blob].shape)
        (plain, fused), cpu = alternate([getattr(net, f"run_{which}") for net in nets], rounds)
        row |= {f"{which}_plain_ms": plain, f"{which}_fused_ms": fused, f"{which}_ratio": fused / plain}
        row[f"{which}_cpu_ratio"] = cpu[1] / cpu[0]
        if small:
            size = nets[1]._chains[0].pattern.top.count
            order = range(len(nets[0].layers))
            order = order if which == "forward" else order[::-1]
            row[f"{which}_passes"] = [passes(getattr(net, f"_{which}")(), order, size) for net in nets]
    return row


def show(row: dict) -> None:
    """Print a case's figures."""
    print("  ".join(f"{k} {v:.3f}" if isinstance(v, float) else f"{k} {v}" for k, v in row.items()), flush=True)


def main() -> None:
    """Time all cases and print the table."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--rounds", type=int, default=30)
    parser.add_argument("--threads", type=int, default=len(os.sched_getaffinity(0)))
    parser.add_argument("--only", default="", help="only cases whose name holds this text")
    parser.add_argument("--json", help="write the figures here")
    args = parser.parse_args()
    get_backend("cpu").threads = args.threads
    rows = []
    for name, (text, phase) in CHAINS.items():
        if args.only in name:
            rows.append(measure(name, prototxt.parse_net(text), phase, args.rounds))
            show(rows[-1])
    for name, (file, batch, phase) in NETS.items():
        if args.only in name and (ROOT / "models" / name.split(",")[0]).exists():
            param = model(name.split(",")[0], file, batch)
            rows.append(measure(f"{name}, batch {batch}", param, phase, max(3, args.rounds // 5)))
            show(rows[-1])
    if args.json:
        load = os.getloadavg()[0]
        result = {"benchmark": "fusion", "threads": args.threads, "rounds": args.rounds, "load": load, "rows": rows}
        Path(args.json).write_text(json.dumps(result, indent=1) + "\n")


if __name__ == "__main__":
    main()
