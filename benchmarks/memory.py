"""Memory of deploy nets that keep every blob and of nets that reuse it: bytes after one forward pass.

    python benchmarks/memory.py [--batch 1] [--json FILE]

`data` are the blobs, `buffers` what layers keep beside them, `scratch` what all layers share; parameters are the same
in both. Figures are exact: nothing is timed.
"""

from __future__ import annotations

import argparse
import json
from pathlib import Path

import numpy as np

from protocaffe import TEST, Net
from protocaffe.errors import ProtocaffeError
from protocaffe.io import prototxt

ROOT = Path(__file__).resolve().parent.parent
MB = 1e6


def measure(path: Path, batch: int) -> dict:
    """Both nets of one deploy file."""
    param = prototxt.read_net(path)
    for layer in param.layer:
        for shape in layer.input_param.shape:
            shape.dim[0] = batch
    row: dict = {"net": path.parent.name, "batch": batch}
    outputs = []
    for name, options in (("kept", {}), ("reused", {"reuse_memory": True})):
        net = Net(param, TEST, seed=1, **options)
        rng = np.random.default_rng(0)
        for blob in net.inputs:
            net.blobs[blob].data = rng.random(net.blobs[blob].shape)
        outputs.append({k: v.copy() for k, v in net.forward().items()})
        used = net.memory_used()
        row |= {f"{name}_{what}": used[what] for what in ("data", "buffers", "scratch")}
    row["parameters"] = used["parameters"]
    for name, values in outputs[0].items():
        np.testing.assert_allclose(outputs[1][name], values, rtol=1e-5)
    row["data_ratio"] = row["reused_data"] / row["kept_data"]
    return row


def main() -> None:
    """Print and write the figures of all models."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--batch", type=int, default=1)
    parser.add_argument("--json", help="write the figures here")
    args = parser.parse_args()
    rows = []
    for path in sorted(ROOT.glob("models/*/deploy.prototxt")):
        try:
            row = measure(path, args.batch)
        except ProtocaffeError as error:
            print(f"{path.parent.name}: SKIPPED, {error}")
            continue
        rows.append(row)
        sizes = "  ".join(
            f"{what} {row['kept_' + what] / MB:.2f} -> {row['reused_' + what] / MB:.2f}" for what in ("data", "buffers")
        )
        print(f"{row['net']}, batch {args.batch}, MB: {sizes} ({row['data_ratio']:.2f})", flush=True)
    if args.json:
        Path(args.json).write_text(json.dumps({"benchmark": "memory", "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
