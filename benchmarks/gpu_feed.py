"""What feeding costs on a GPU: training steps of mnist_cnn on a fixed batch, on MNIST kept on the device, and on MNIST
through the ring; and the time of a batch alone, of 256 items of 3x256x256 bytes, cropped to 227 and mirrored.

    python -m protocaffe data mnist          # writes data/mnist/mnist_train_lmdb
    python benchmarks/gpu_feed.py [--mnist data/mnist/mnist_train_lmdb] [--steps 400] [--rounds 5] [--json FILE]

The sides of a comparison run in turns in one process; figures are medians of the rounds. ``host_us`` is the time that
the host spends ahead of a replay when each is waited for (median and 99 %).
"""

from __future__ import annotations

import argparse
import datetime
import json
import statistics
import tempfile
import time
from pathlib import Path
from typing import Any

import numpy as np

import protocaffe
from protocaffe.backends import describe_gpus, get_backend
from protocaffe.data.datum import encode_datum
from protocaffe.data.lmdb_source import write_lmdb
from protocaffe.io import prototxt

ROOT = Path(__file__).resolve().parent.parent
BATCH = 128
INPUTS = f"""
layer {{ name: "data" type: "Input" top: "data" input_param {{ shape {{ dim: {BATCH} dim: 1 dim: 28 dim: 28 }} }} }}
layer {{ name: "label" type: "Input" top: "label" input_param {{ shape {{ dim: {BATCH} }} }} }}
"""


def solver(source: str, cache: str | None) -> Any:
    """mnist_cnn's solver, without tests and displays; without ``cache`` on one batch that stays where it is."""
    param = prototxt.read_solver(ROOT / "models/mnist_cnn/solver.prototxt")
    net = prototxt.read_net(ROOT / "models/mnist_cnn/train_val.prototxt")
    for field in ("net", "test_iter", "test_interval", "display", "snapshot"):
        param.ClearField(field)
    for layer in [x for x in net.layer if x.type == "Data"]:
        if cache is None:
            net.layer.remove(layer)
        else:
            layer.data_param.source = source
            layer.data_param.cache = layer.data_param.Cache.Value(cache)
    if cache is None:
        layers = [*prototxt.parse_net(INPUTS).layer, *net.layer]
        del net.layer[:]
        net.layer.extend(layers)
    param.net_param.CopyFrom(net)
    param.average_loss = 1
    made = protocaffe.get_solver(param, backend=get_backend("cuda"))
    if cache is None:
        rng = np.random.default_rng(0)
        made.net.blobs["data"].data = rng.random((BATCH, 1, 28, 28))
        made.net.blobs["label"].data = rng.integers(0, 10, BATCH)
    return made


def timed(run: Any) -> float:
    """Seconds until the GPU has done it."""
    backend = get_backend("cuda")
    backend.synchronize()
    start = time.perf_counter()
    run()
    backend.synchronize()
    return time.perf_counter() - start


def host_times(net: Any, step: Any, steps: int) -> dict[str, float]:
    """Microseconds that the host spends ahead of a replay, when the GPU is not behind (it would be waited for)."""
    device = net.layers[0]._device
    ahead, times = device.ahead, []

    def watched() -> None:
        start = time.perf_counter()
        ahead()
        times.append(1e6 * (time.perf_counter() - start))

    device.ahead = watched
    for _ in range(steps):
        timed(step)
    del device.ahead
    return {"median": round(statistics.median(times), 1), "p99": round(float(np.percentile(times, 99)), 1)}


def mnist(source: str, steps: int, rounds: int) -> dict[str, Any]:
    """Images a second of training."""
    sides: dict[str, Any] = {
        "fixed batch": None,
        "DEVICE": "DEVICE",
        "ring, cache HOST": "HOST",
        "ring, cache NONE": "NONE",
    }
    solvers = {name: solver(source, cache) for name, cache in sides.items()}
    first = {name: timed(lambda made=made: made.step(1)) for name, made in solvers.items()}
    rates: dict[str, list[float]] = {name: [] for name in sides}
    for made in solvers.values():
        made.step(500)  # HOST has every digit after 469
    for _ in range(rounds):
        for name, made in solvers.items():
            rates[name].append(BATCH * steps / timed(lambda made=made: made.step(steps)))
    out = {}
    for name, made in solvers.items():
        out[name] = {"images_per_second": round(statistics.median(rates[name])), "first_step_s": round(first[name], 3)}
        if sides[name]:
            out[name]["host_us"] = host_times(made.net, lambda made=made: made.step(1), steps)
        made.close()
    return out


def crops(rounds: int, count: int = 1024, batch: int = 256, batches: int = 24) -> dict[str, Any]:
    """Milliseconds of a batch and nothing else."""
    out = {}
    with tempfile.TemporaryDirectory() as folder:
        rng = np.random.default_rng(0)
        items = (rng.integers(0, 256, (3, 256, 256), np.uint8) for _ in range(count))
        write_lmdb(Path(folder) / "db", (encode_datum(item, i % 100) for i, item in enumerate(items)))
        for name, cache in {"DEVICE": "DEVICE", "ring, cache HOST": "HOST", "ring, cache NONE": "NONE"}.items():
            text = f"""layer {{ name: "data" type: "Data" top: "data" top: "label"
              transform_param {{ crop_size: 227 mirror: true mean_value: 104 mean_value: 117 mean_value: 123 }}
              data_param {{ source: "{folder}/db" backend: LMDB batch_size: {batch}
                           shuffle: true cache: {cache} }} }}"""
            net = protocaffe.Net(prototxt.parse_net(text), protocaffe.TRAIN, backend=get_backend("cuda"), seed=1)
            first = timed(net.run_forward)

            def run(net: Any = net) -> None:
                for _ in range(batches):
                    net.run_forward()

            run()
            times = [1e3 * timed(run) / batches for _ in range(rounds)]
            out[name] = {
                "ms_per_batch": round(statistics.median(times), 3),
                "images_per_second": round(1e3 * batch / statistics.median(times)),
                "first_batch_s": round(first, 3),
                "host_us": host_times(net, net.run_forward, batches),
            }
            net.close()
    return out


def main() -> None:
    """Measure and print."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--mnist", default="data/mnist/mnist_train_lmdb")
    parser.add_argument("--steps", type=int, default=400)
    parser.add_argument("--rounds", type=int, default=5)
    parser.add_argument("--json")
    args = parser.parse_args()
    result = {
        "date": datetime.date.today().isoformat(),
        "gpu": describe_gpus(0)[0]["Name"],
        "mnist_cnn b128": mnist(args.mnist, args.steps, args.rounds),
        "256 crops 227 of 3x256x256": crops(args.rounds),
    }
    print(json.dumps(result, indent=2))
    if args.json:
        Path(args.json).write_text(json.dumps(result, indent=2) + "\n", encoding="utf-8")


if __name__ == "__main__":
    main()
