"""Nets after channels were taken out of them, beside what they were: forward passes (phase TEST) in turns, one process.

Weights do not matter here, so that the nets are made with their fillers. What counts is the ratio of the medians.

    python benchmarks/shrunk_speed.py [--dense models/resnet18_fashion_mnist/train_val.prototxt]
        [--small records/resnet18_half_macs.prototxt ...] [--batch 32] [--shape 1 96 96] [--gpu] [--rounds 15]
        [--json FILE]
"""

from __future__ import annotations

import argparse
import datetime
import json
import statistics
import time
from pathlib import Path
from typing import Any

import numpy as np

import protocaffe
from protocaffe.cli.summary import rows as summary_rows
from protocaffe.io import prototxt

ROOT = Path(__file__).resolve().parent.parent
DENSE = ROOT / "models/resnet18_fashion_mnist/train_val.prototxt"
SMALL = [ROOT / "records/resnet18_half_macs.prototxt"]


def with_input(path: Path, shape: tuple[int, ...]) -> Any:
    """The net of a prototxt on an Input of a shape, without its loss and accuracy."""
    net = prototxt.read_net(path)
    kept = [layer for layer in net.layer if layer.bottom and "label" not in layer.bottom]
    dims = " ".join(f"dim: {d}" for d in shape)
    first = prototxt.parse_net(
        f'layer {{ name: "data" type: "Input" top: "data" input_param {{ shape {{ {dims} }} }} }}'
    )
    del net.layer[:]
    net.layer.extend([*first.layer, *kept])
    made = protocaffe.Net(net, protocaffe.TEST, seed=1)
    made.blobs["data"].data = np.random.default_rng(0).random(shape)
    return made


def main() -> None:
    """Time, print a line for each net, write JSON."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--dense", type=Path, default=DENSE)
    parser.add_argument("--small", type=Path, nargs="+", default=SMALL)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--shape", type=int, nargs=3, default=[1, 96, 96])
    parser.add_argument("--gpu", action="store_true")
    parser.add_argument("--rounds", type=int, default=15)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    if args.gpu:
        protocaffe.set_mode_gpu()
    nets = {path: with_input(path, (args.batch, *args.shape)) for path in (args.dense, *args.small)}
    repeats: dict[Path, int] = {}
    times: dict[Path, list[float]] = {path: [] for path in nets}
    for turn in range(args.rounds + 3):
        for path, net in nets.items():
            count = repeats.get(path, 1)
            net.backend.synchronize()
            start = time.perf_counter()
            for _ in range(count):
                net.forward()
            net.backend.synchronize()
            took = (time.perf_counter() - start) / count
            if turn < 3:
                repeats[path] = max(1, round(0.05 / took))
            else:
                times[path].append(took)
    dense = statistics.median(times[args.dense])
    out = []
    for path, net in nets.items():
        ms = 1e3 * statistics.median(times[path])
        macs = sum(row.macs for row in summary_rows(net))
        out.append(
            {
                "net": path.stem if path != args.dense else path.parent.name,
                "macs": macs,
                "ms": ms,
                "faster": 1e3 * dense / ms,
            }
        )
        figures = f"{macs:,} multiply-accumulates an item, {ms:.3f} ms a batch of {args.batch}"
        print(f"{out[-1]['net']}: {figures}, {1e3 * dense / ms:.2f}x", flush=True)
    if args.json:
        facts = {"benchmark": "shrunk_speed", "date": datetime.date.today().isoformat(), "batch": args.batch}
        facts["device"] = next(iter(nets.values())).backend.name
        args.json.write_text(json.dumps({**facts, "rows": out}, indent=1) + "\n")


if __name__ == "__main__":
    main()
