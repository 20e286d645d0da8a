"""Where a training step's time goes on a GPU: every call of the plan, as it really runs, beside its roofline.

A call's floor is the larger of its bytes over what a copy reaches and its FLOPs over what a product reaches. Bytes are
those of the arrays among its arguments, each read or written once (twice where a kernel reads what it writes); FLOPs
are those of products and convolutions. The whole step is captured as one CUDA graph with an event between any two
calls, so that each meets the caches as the call before it leaves them; the time of an event by itself is taken off.

    python benchmarks/gpu_profile.py [--nets alexnet ...] [--math tf32] [--replays 20] [--top 25] [--calls]
                                     [--json FILE]

Small calls cannot reach their floor: a graph needs 2 to 3 microseconds for any kernel.
"""

from __future__ import annotations

import argparse
import datetime
import gc
import json
import statistics
import time
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import cpu_steps
from gpu_vs_torch import NETS

#: bytes a second, and operations a second by kind of arithmetic, reached on an H100 by large copies and products
COPY = 3.02e12
PEAK = {"tf32": 384e12, "fp32": 49e12}
#: kernels that read what they write
UPDATES = {
    "axpy", "bias_add", "bias_add_columns", "bias_gradient", "bias_gradient_columns", "fused_bias_relu",
    "fused_sum_relu_backward",
}  # fmt: skip
#: arrays, by their place among a kernel's, that it leaves alone on a GPU (LRN: for windows of 3 and 5)
UNTOUCHED = {"lrn_across_forward": (1,), "lrn_across_backward": (1, 2, 4)}


class Item:
    """A call, its part of the step, and what it costs at least."""

    def __init__(self, run: Any, kernel: str, layer: str, part: str) -> None:
        self.run, self.kernel, self.layer, self.part = run, kernel, layer, part
        self.bytes = self.flops = 0
        self.us = 0.0

    def floor_us(self, math: str) -> float:
        """Microseconds that bytes and FLOPs need."""
        return 1e6 * max(self.bytes / COPY, self.flops / PEAK[math])


def solver_of(name: str) -> Any:
    """The solver of a net of models/ on one fixed batch."""
    step: Any = cpu_steps.our_step(name, NETS[name])
    return step.__closure__[0].cell_contents


def items_of(solver: Any) -> list[Item]:
    """The calls of a step in their order."""
    from protocaffe.backends.cuda import nothing

    net = solver.net
    layers = range(len(net._layer_names))
    items = [Item(solver._iteration._clear, "fill", "", "update")]
    items[0].bytes = solver.net.arena.size * solver.backend.real.itemsize
    for part, plan, order in (
        ("forward", net._forward(), (*layers, len(layers))),
        ("backward", net._backward(), tuple(reversed(layers))),
    ):
        for call in plan.calls(order):
            if call.host or call.ahead or call.run is nothing:
                continue
            items.append(Item(call.run, call.name, call.layer, part))
            measure_work(items[-1], net)
    items += [Item(call, "loss_note", "", "update") for call in solver._iteration._bind_notes(True)]
    solver._bind_update()
    for call in solver._update:
        items.append(Item(call, type(solver).kernel, "", "update"))
        measure_work(items[-1], net)
    return items


def measure_work(item: Item, net: Any) -> None:
    """Note bytes and FLOPs."""
    from protocaffe.memory import Memory

    if item.kernel == "gemm":
        _gemm_work(item)
        return
    if item.kernel.startswith(("conv_forward", "conv_backward")):
        _conv_work(item, net)
        return
    memories = [a for a in getattr(item.run, "keep", ()) if isinstance(a, Memory)]
    memories = [m for i, m in enumerate(memories) if i not in UNTOUCHED.get(item.kernel, ())]
    item.bytes = sum(m.count * m.dtype.itemsize for m in memories)
    if item.kernel in UPDATES:
        item.bytes += memories[-1].count * memories[-1].dtype.itemsize
    if item.kernel.endswith("_update"):
        item.bytes += sum(m.count * m.dtype.itemsize for m in memories if m.count == memories[0].count) * 2 // 3


def _gemm_work(item: Item) -> None:
    """From the product's extents."""
    m, n, k, batch, strides = item.run.extents
    item.flops = 2 * m * n * k * batch
    sizes = (m * k, k * n, m * n)
    item.bytes = 4 * sum(size * (batch if stride else 1) for size, stride in zip(sizes, strides, strict=True))
    if batch == 1:
        item.bytes = 4 * sum(sizes)


def _conv_work(item: Item, net: Any) -> None:
    """From the shape of the layer that it belongs to."""
    layer = next(net.layer_dict[n] for n in item.layer.split("+") if hasattr(net.layer_dict[n], "shape"))
    s = layer.shape
    weights = s.num_output * s.kernel_dim
    item.flops = 2 * s.images * s.pixels * weights
    item.bytes = 4 * (s.images * (s.in_count + s.out_count) + weights)


class Timer:
    """CUDA graphs with events in them."""

    def __init__(self, backend: Any) -> None:
        from cuda.bindings import driver

        self.driver, self.backend = driver, backend
        self.stream = backend.device.stream

    def do(self, result: Any) -> Any:
        if int(result[0]):
            raise SystemExit(f"the GPU's driver: {result[0].name}")
        return result[1] if len(result) > 1 else None

    def times(self, runs: Sequence[Any], replays: int) -> list[float]:
        """Microseconds of each of ``runs`` in the sequence of all: medians over replays of one graph."""
        d, handle = self.driver, self.stream.handle
        events = [self.do(d.cuEventCreate(0)) for _ in range(len(runs) + 2)]
        for run in runs:
            run()
        self.backend.synchronize()
        gc.disable()
        self.do(d.cuStreamBeginCapture(handle, d.CUstreamCaptureMode.CU_STREAM_CAPTURE_MODE_THREAD_LOCAL))
        external = d.CUevent_record_flags.CU_EVENT_RECORD_EXTERNAL
        for event in events[:2]:  # the first interval holds nothing
            self.do(d.cuEventRecordWithFlags(event, handle, external))
        for run, event in zip(runs, events[2:], strict=True):
            run()
            self.do(d.cuEventRecordWithFlags(event, handle, external))
        graph = self.do(d.cuGraphInstantiate(self.do(d.cuStreamEndCapture(handle)), 0))
        gc.enable()
        taken: list[list[float]] = [[] for _ in runs]
        for replay in range(replays + 2):
            self.do(d.cuGraphLaunch(graph, handle))
            self.backend.synchronize()
            if replay < 2:
                continue
            empty = self._between(events[0], events[1])
            for i, one in enumerate(taken):
                one.append(max(0.0, self._between(events[i + 1], events[i + 2]) - empty))
        return [statistics.median(one) for one in taken]

    def _between(self, first: Any, second: Any) -> float:
        return 1e3 * float(self.do(self.driver.cuEventElapsedTime(first, second)))


def step_us(solver: Any, backend: Any) -> float:
    """Median microseconds of a training step as users run it."""
    solver.step(3)
    backend.synchronize()
    taken = []
    for _ in range(7):
        start = time.perf_counter()
        solver.step(2)
        backend.synchronize()
        taken.append(1e6 * (time.perf_counter() - start) / 2)
    return statistics.median(taken)


def profile(name: str, math: str, replays: int) -> dict[str, Any]:
    """A net's calls with their times, and their sums by kernel."""
    from protocaffe.backends import get_backend

    backend: Any = get_backend("cuda")
    backend.math = math
    solver = solver_of(name)
    step = step_us(solver, backend)
    backend.graphs = False
    items = items_of(solver)
    backend.graphs = True
    for item, us in zip(items, Timer(backend).times([item.run for item in items], replays), strict=True):
        item.us = us
    free, total = backend.device.driver.mem_get_info()
    calls = [
        {
            "kernel": i.kernel, "layer": i.layer, "part": i.part, "mb": round(i.bytes / 1e6, 2),
            "gflop": round(i.flops / 1e9, 2), "floor_us": round(i.floor_us(math), 2), "us": round(i.us, 2),
        }
        for i in items
    ]  # fmt: skip
    return {
        "net": name, "batch": NETS[name].shape[0], "math": math, "step_us": round(step, 1),
        "calls_us": round(sum(i.us for i in items), 1), "memory_mib": (total - free) >> 20, "kernels": by_kernel(calls),
        "calls": calls,
    }  # fmt: skip


def by_kernel(calls: Sequence[dict[str, Any]]) -> list[dict[str, Any]]:
    """Sums over the calls of each kernel, most expensive first."""
    sums: dict[str, dict[str, Any]] = {}
    for call in calls:
        one = sums.setdefault(
            call["kernel"], {"kernel": call["kernel"], "calls": 0, "mb": 0, "gflop": 0, "floor_us": 0, "us": 0}
        )
        one["calls"] += 1
        for key in ("mb", "gflop", "floor_us", "us"):
            one[key] = round(one[key] + call[key], 2)
    return sorted(sums.values(), key=lambda one: -one["us"])


def show(row: dict[str, Any], top: int) -> None:
    """Print a net's tables."""
    print(
        f"{row['net']}, batch {row['batch']}, {row['math']}: step {row['step_us']} us, sum of calls {row['calls_us']} "
        f"us, {row['memory_mib']} MiB in use"
    )
    line = "  {:34}{:>6}{:>10}{:>10}{:>10}{:>10}{:>7}"
    print(line.format("kernel", "calls", "MB", "GFLOP", "floor us", "us", "ratio"))
    for one in row["kernels"]:
        print(line.format(one["kernel"], one["calls"], *_figures(one)))
    print(line.format("call", "part", "MB", "GFLOP", "floor us", "us", "ratio"))
    for one in sorted(row["calls"], key=lambda c: c["floor_us"] - c["us"])[:top]:
        print(line.format(f"{one['kernel']} {one['layer']}"[:33], one["part"][:4], *_figures(one)))


def _figures(one: dict[str, Any]) -> list[str]:
    ratio = one["us"] / one["floor_us"] if one["floor_us"] > 0.01 else 0
    return [f"{one['mb']:.1f}", f"{one['gflop']:.1f}", f"{one['floor_us']:.1f}", f"{one['us']:.1f}", f"{ratio:.2f}"]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("--nets", nargs="+", choices=NETS, default=["mnist_cnn"])
    parser.add_argument("--math", choices=PEAK, default="tf32")
    parser.add_argument("--replays", type=int, default=20)
    parser.add_argument("--top", type=int, default=25, help="calls to print, those that lose most time first")
    parser.add_argument("--calls", action="store_true", help="also write each call to the file")
    parser.add_argument("--json", type=Path)
    args = parser.parse_args()

    import protocaffe

    protocaffe.set_mode_gpu()
    rows = []
    for name in args.nets:
        rows.append(profile(name, args.math, args.replays))
        show(rows[-1], args.top)
        if not args.calls:
            del rows[-1]["calls"]
        gc.collect()
        if args.json:
            from protocaffe.backends.cuda_device import describe

            facts = {"date": datetime.date.today().isoformat(), "gpu": describe(0)[0]["Name"]}
            facts |= {"copy": COPY, "peak": PEAK[args.math]}
            args.json.write_text(json.dumps({**facts, "rows": rows}, indent=1) + "\n")


if __name__ == "__main__":
    main()
