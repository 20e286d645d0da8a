"""Convolutions on a GPU, shape by shape and step by step: im2col and GEMM (Caffe's engine) beside cuDNN.

    python benchmarks/gpu_conv.py [--nets mnist_cnn:128 ...] [--math tf32] [--seconds 600] [--json FILE]

Microseconds on the GPU, without bias: each candidate is captured in a graph, several times over, and the least of three
rounds counts. ``first`` is cuDNN's own first choice among the plans that repeat to the bit, ``best`` the fastest of
those that are tried (and its rank), ``legacy`` the fastest deterministic algorithm of cuDNN's older interface
(cudnnConvolutionForward and so on), with its number, and "t" for tensor cores. ``engine: DEFAULT`` takes
best where it is faster than CAFFE by more than 5 %.
"""

from __future__ import annotations

import argparse
import ctypes
import datetime
import json
import sys
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))
NETS = ("mnist_cnn:128", "resnet18_fashion_mnist:256", "alexnet:256", "resnet50:256")
ORDER = {"forward": "xwy", "backward_data": "ywx", "backward_weights": "xyw"}
STEPS = tuple(ORDER)


class Perf(ctypes.Structure):
    """cudnnConvolution*AlgoPerf_t."""

    _fields_ = [
        ("algo", ctypes.c_int), ("status", ctypes.c_int), ("time", ctypes.c_float), ("memory", ctypes.c_size_t),
        ("determinism", ctypes.c_int), ("math", ctypes.c_int), ("reserved", ctypes.c_int * 3),
    ]  # fmt: skip


class Legacy:
    """cuDNN's older interface for one shape: a call for each deterministic algorithm."""

    def __init__(self, library: Any, handle: Any, shape: Any, tf32: bool) -> None:
        self.library, self.handle = library, handle
        pair = ctypes.c_int * 2
        self.descriptors = {name: ctypes.c_void_p() for name in ("x", "y", "w", "c")}
        kinds = {"x": "Tensor", "y": "Tensor", "w": "Filter", "c": "Convolution"}
        for name, kind in kinds.items():
            library.call(f"cudnnCreate{kind}Descriptor", ctypes.byref(self.descriptors[name]))
        d = self.descriptors
        for name, dims in (("x", (shape.channels, *shape.in_dims)), ("y", (shape.num_output, *shape.out_dims))):
            library.call("cudnnSetTensor4dDescriptor", d[name], 0, 0, shape.images, *dims)
        per_group = shape.channels // shape.group
        library.call("cudnnSetFilter4dDescriptor", d["w"], 0, 0, shape.num_output, per_group, *shape.kernel)
        windows = (pair(*v) for v in (shape.pad, shape.stride, shape.dilation))
        library.call("cudnnSetConvolutionNdDescriptor", d["c"], 2, *windows, 1, 0)
        library.call("cudnnSetConvolutionGroupCount", d["c"], shape.group)
        self.math = 0 if tf32 else 3  # CUDNN_DEFAULT_MATH, CUDNN_FMA_MATH
        library.call("cudnnSetConvolutionMathType", d["c"], self.math)

    def makers(self, step: str, args: Any, backend: Any) -> dict[str, Callable[[], Any]]:
        """Calls by the algorithms' numbers."""
        from protocaffe.backends.cuda_blas import address

        d = self.descriptors
        name, order = {
            "forward": ("Forward", "xwcy"),
            "backward_data": ("BackwardData", "wycx"),
            "backward_weights": ("BackwardFilter", "xycw"),
        }[step]
        memory = dict(zip(ORDER[step], args, strict=True))
        found, perf = ctypes.c_int(), (Perf * 10)()
        self.library.call(
            f"cudnnGetConvolution{name}Algorithm_v7", self.handle, *(d[o] for o in order), 10, ctypes.byref(found), perf
        )
        one, beta = ctypes.c_float(1), ctypes.c_float(step == "backward_weights")
        at = {key: ctypes.c_void_p(address(value)) for key, value in memory.items()}

        def make(p: Perf) -> Any:
            self.library.call("cudnnSetConvolutionMathType", d["c"], p.math)
            room = backend.device.allocate(max(1, p.memory))
            a, b, out = order[0], order[1], order[3]

            def call() -> None:
                self.library.call("cudnnSetConvolutionMathType", d["c"], p.math)
                self.library.call(
                    f"cudnnConvolution{name}", self.handle, ctypes.byref(one), d[a], at[a], d[b], at[b], d["c"], p.algo,
                    ctypes.c_void_p(room.address), ctypes.c_size_t(p.memory), ctypes.byref(beta), d[out], at[out],
                )  # fmt: skip

            return call

        return {
            f"{p.algo}{'' if p.math == 3 else 't'}": partial(make, p)
            for p in perf[: found.value]
            if p.status == 0 and p.determinism == 1 and p.memory <= 1 << 30 and (self.math == 0 or p.math == 3)
        }


def shapes(net: str) -> dict[Any, list[str]]:
    """The net's convolutions at a batch size: layers by shape."""
    import protocaffe

    name, _, batch = net.partition(":")
    made = protocaffe.Net(str(ROOT / "models" / name / "deploy.prototxt"), 1, backend=protocaffe.get_backend("cpu"))
    blob = made.blobs[made.inputs[0]]
    blob.reshape(int(batch), *blob.shape[1:])
    made.reshape()
    found: dict[Any, list[str]] = {}
    for layer_name, layer in zip(made._layer_names, made.layers, strict=True):
        if layer.type == "Convolution":
            found.setdefault(layer.shape, []).append(layer_name)
    return found


def operands(cuda: Any, shape: Any) -> dict[str, Any]:
    """Input, weights and output (or its gradient), all of random values."""
    n, weights = shape.images, (shape.num_output, shape.kernel_dim)
    sizes = {"x": (n, shape.in_count), "w": weights, "y": (n, shape.out_count)}
    some = np.random.default_rng(0).standard_normal(1 << 20, "f4")
    memory = {}
    for name, size in sizes.items():
        memory[name] = cuda.empty(size)
        memory[name].assign(np.resize(some, size))
    cuda.flush()
    return memory


def measure(cuda: Any, shape: Any, step: str, memory: dict[str, Any]) -> dict[str, Any]:
    """Microseconds of all candidates of a step."""
    from protocaffe.backends.cuda_dnn import CAFFE, _Trial
    from protocaffe.backends.cuda_timing import fastest

    args = [memory[o] for o in ORDER[step]]
    full = [*args[:2], None, args[2]] if step == "forward" else [*args, None] if step == "backward_weights" else args
    trial = _Trial(cuda._convolutions, step, shape, full, False)
    started = time.perf_counter()
    times = fastest(cuda.device, trial.candidates(True), hopeless=20)
    took = time.perf_counter() - started
    plans = [name for name in times if name != CAFFE]
    best = min(plans, key=lambda name: times[name], default=None)
    side = Legacy(cuda._convolutions.library, cuda._convolutions._handle, shape, cuda.math == "tf32")
    legacy = fastest(cuda.device, side.makers(step, args, cuda), hopeless=20)
    algorithm = min(legacy, key=lambda name: legacy[name], default=None)
    return {
        "step": step, "caffe": times.get(CAFFE), "plans": len(plans), "first": times[plans[0]] if plans else None,
        "best": times.get(best), "plan": best, "rank": plans.index(best) if best else None,
        "legacy": legacy.get(algorithm), "algorithm": algorithm, "measuring_s": round(took, 2),
    }  # fmt: skip


def cell(us: float | None) -> str:
    return f"{us:10.1f}" if us is not None else f"{'-':>10}"


def main() -> None:
    """Print a table, write the figures."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nets", nargs="+", default=NETS)
    parser.add_argument("--math", choices=["fp32", "tf32"], default="tf32")
    parser.add_argument("--seconds", type=float, default=600)
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()
    from protocaffe.backends import get_backend

    cuda: Any = get_backend("cuda")
    cuda.math = args.math
    library = cuda._convolutions.library
    print(f"{cuda.device.gpu.name()}, cuDNN {library.version}, cuBLAS {cuda.blas_version}, {args.math}; us")
    end = time.perf_counter() + args.seconds
    rows = []
    for net in args.nets:
        print(
            f"{net:40}{'step':>17}{'CAFFE':>10}{'first':>10}{'best':>10}{'legacy':>10}  rank of plans, plan, algorithm"
        )
        for shape, layers in shapes(net).items():
            if time.perf_counter() > end:
                break
            window = f"{'x'.join(map(str, shape.kernel))}/{shape.stride[0]} p{shape.pad[0]} g{shape.group}"
            name = f"{len(layers)}x {window} {shape.channels}@{shape.in_dims[0]} to {shape.num_output}"
            memory = operands(cuda, shape)
            for step in STEPS:
                row = measure(cuda, shape, step, memory)
                cells = "".join(cell(row[key]) for key in ("caffe", "first", "best", "legacy"))
                print(
                    f"{name:40}{step:>17}{cells}  {row['rank']} of {row['plans']}, {row['plan']}, {row['algorithm']}",
                    flush=True,
                )
                rounded = {key: round(v, 1) if isinstance(v, float) else v for key, v in row.items()}
                rows.append({"net": net, "layers": len(layers), "shape": name.split(" ", 1)[1]} | rounded)
    if args.json:
        about = {
            "date": datetime.date.today().isoformat(), "gpu": cuda.device.gpu.name(), "cudnn": library.version,
            "cublas": cuda.blas_version, "math": args.math,
        }  # fmt: skip
        args.json.write_text(json.dumps(about | {"rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
