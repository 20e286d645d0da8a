"""The core's convolutions and inner products, shape by shape: milliseconds and GFLOP/s of each step.

    python benchmarks/conv_shapes.py [--net resnet18|caffenet|all] [--seconds 0.3] [--batch N] [--torch] [--cpu]

The shapes are those of ResNet-18 on 1x96x96 images and of CaffeNet, batch 32; ``times`` says how often a net has the
layer, and the last line of a net sums them. The figure to compare with is the first line's: a product of 1152 x 1152
matrices. Each step runs for ``--seconds`` and its median counts. ``--torch`` times PyTorch's operators instead, in the
interpreter that runs this file.

On a busy machine set OMP_NUM_THREADS=1 and give ``--cpu``: the least processor time of a step instead of the clock.
"""

from __future__ import annotations

import argparse
import statistics
import sys
import time
from collections.abc import Callable
from pathlib import Path
from typing import NamedTuple

ROOT = Path(__file__).resolve().parent.parent
sys.path.insert(0, str(ROOT))


class Layer(NamedTuple):
    """A convolution of square windows over square maps, and how often the net has it. ``first``: no input gradient."""

    times: int
    channels: int
    size: int
    filters: int
    kernel: int
    stride: int = 1
    pad: int = 0
    group: int = 1
    first: bool = False

    @property
    def out(self) -> int:
        """Rows of an output map."""
        return (self.size + 2 * self.pad - self.kernel) // self.stride + 1

    def flops(self, batch: int) -> float:
        """Operations of one step, two per multiply-add."""
        return 2.0 * batch * self.filters * self.out**2 * self.channels // self.group * self.kernel**2

    def __str__(self) -> str:
        extra = f" g{self.group}" if self.group > 1 else ""
        return (
            f"{self.kernel}x{self.kernel}/{self.stride} p{self.pad}{extra} {self.channels}->{self.filters} @{self.size}"
        )


CONVOLUTIONS = {
    "resnet18": [
        Layer(1, 1, 96, 64, 7, 2, 3, first=True),
        Layer(4, 64, 24, 64, 3, 1, 1),
        Layer(1, 64, 24, 128, 3, 2, 1),
        Layer(1, 64, 24, 128, 1, 2),
        Layer(3, 128, 12, 128, 3, 1, 1),
        Layer(1, 128, 12, 256, 3, 2, 1),
        Layer(1, 128, 12, 256, 1, 2),
        Layer(3, 256, 6, 256, 3, 1, 1),
        Layer(1, 256, 6, 512, 3, 2, 1),
        Layer(1, 256, 6, 512, 1, 2),
        Layer(3, 512, 3, 512, 3, 1, 1),
    ],
    "caffenet": [
        Layer(1, 3, 227, 96, 11, 4, first=True),
        Layer(1, 96, 27, 256, 5, 1, 2, 2),
        Layer(1, 256, 13, 384, 3, 1, 1),
        Layer(1, 384, 13, 384, 3, 1, 1, 2),
        Layer(1, 384, 13, 256, 3, 1, 1, 2),
    ],
}
PRODUCTS = {"resnet18": [(512, 10)], "caffenet": [(9216, 4096), (4096, 4096), (4096, 1000)]}  # inputs, outputs

Step = Callable[[], object]


def median_ms(step: Step, seconds: float, cpu: bool = False) -> float:
    """Milliseconds of a call after two that do not count: the median on the clock, or the least processor time."""
    step(), step()
    clock = time.process_time if cpu else time.perf_counter
    times = []
    end = time.perf_counter() + seconds
    while len(times) < 3 or time.perf_counter() < end:
        start = clock()
        step()
        times.append(1e3 * (clock() - start))
    return min(times) if cpu else statistics.median(times)


class Ours:
    """Steps of the package's CPU backend."""

    def __init__(self) -> None:
        import numpy as np

        from protocaffe.backends import get_backend

        self.backend, self.rng = get_backend("cpu"), np.random.default_rng(0)

    def draw(self, *shape: int):
        """Random memory."""
        return self.backend.from_array(self.rng.standard_normal(shape).astype("f4"))

    def product(self, trans_a: bool, trans_b: bool, m: int, n: int, k: int, beta: float = 0.0) -> Step:
        """C (m x n) = op(A) op(B) + beta C."""
        a, b, c = self.draw(m * k), self.draw(k * n), self.draw(m * n)
        return self.backend.bind_gemm(
            trans_a, trans_b, m, n, k, 1.0, a, m if trans_a else k, b, k if trans_b else n, beta, c, n
        )

    def inner_product(self, rows: int, inputs: int, outputs: int) -> list[Step]:
        """Forward, input gradient, weight gradient."""
        return [
            self.product(False, True, rows, outputs, inputs),
            self.product(False, False, rows, inputs, outputs),
            self.product(True, False, outputs, inputs, rows, 1.0),
        ]

    def convolution(self, batch: int, v: Layer) -> list[Step]:
        """Forward, input gradient, weight gradient."""
        from protocaffe.layers.convolution import ConvShape

        shape = ConvShape(
            batch, v.channels, v.filters, v.group, (v.size,) * 2, (v.out,) * 2, (v.kernel,) * 2, (v.stride,) * 2,
            (v.pad,) * 2, (1, 1),
        )  # fmt: skip
        x, dx = (self.draw(batch, v.channels, v.size, v.size) for _ in range(2))
        y, dy = (self.draw(batch, v.filters, v.out, v.out) for _ in range(2))
        w, dw = (self.draw(v.filters, v.channels // v.group, v.kernel, v.kernel) for _ in range(2))
        b, db = (self.draw(v.filters) for _ in range(2))
        steps = [
            self.backend.bind_conv("forward", shape, (x, w, b, y)),
            self.backend.bind_conv("backward_data", shape, (dy, w, dx)),
            self.backend.bind_conv("backward_weights", shape, (x, dy, dw, db)),
        ]
        assert all(step is not None for step in steps)
        return steps  # type: ignore[return-value]


class Torch:
    """The same steps through PyTorch's operators, contiguous (NCHW)."""

    def product(self, trans_a: bool, trans_b: bool, m: int, n: int, k: int) -> Step:
        """op(A) op(B)."""
        import torch

        a = torch.rand(k, m).T if trans_a else torch.rand(m, k)
        b = torch.rand(n, k).T if trans_b else torch.rand(k, n)
        return lambda: a @ b

    def inner_product(self, rows: int, inputs: int, outputs: int) -> list[Step]:
        """Forward, input gradient, weight gradient."""
        return [
            self.product(False, True, rows, outputs, inputs),
            self.product(False, False, rows, inputs, outputs),
            self.product(True, False, outputs, inputs, rows),
        ]

    def convolution(self, batch: int, v: Layer) -> list[Step]:
        """Forward, input gradient, weight gradient."""
        import torch

        x, w = (
            torch.rand(batch, v.channels, v.size, v.size),
            torch.rand(v.filters, v.channels // v.group, v.kernel, v.kernel),
        )
        b, dy = torch.rand(v.filters), torch.rand(batch, v.filters, v.out, v.out)
        window = ([v.stride] * 2, [v.pad] * 2, [1, 1])

        def backward(*which: bool) -> Step:
            return lambda: torch.ops.aten.convolution_backward(
                dy, x, w, [v.filters], *window, False, [0, 0], v.group, which
            )

        def forward() -> object:
            return torch.ops.aten.convolution(x, w, b, *window, False, [0, 0], v.group)

        return [forward, backward(True, False, False), backward(False, True, True)]


def main() -> None:
    """Print a table for each net."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--net", choices=[*CONVOLUTIONS, "all"], default="all")
    parser.add_argument("--seconds", type=float, default=0.3)
    parser.add_argument("--batch", type=int, default=32)
    parser.add_argument("--torch", action="store_true")
    parser.add_argument("--cpu", action="store_true")
    args = parser.parse_args()
    side = Torch() if args.torch else Ours()
    took = median_ms(side.product(False, False, 1152, 1152, 1152), args.seconds, args.cpu)
    print(f"1152 x 1152 x 1152: {2 * 1152**3 / took / 1e6:.0f} GFLOP/s")
    for net in CONVOLUTIONS if args.net == "all" else [args.net]:
        print(f"\n{net}, batch {args.batch}: ms (GFLOP/s)")
        print(f"{'layer':32}{'times':>5}{'forward':>16}{'input':>16}{'weights':>16}")
        sums = [0.0, 0.0, 0.0]
        rows = [
            (str(v), v.times, v.first, v.flops(args.batch), side.convolution(args.batch, v)) for v in CONVOLUTIONS[net]
        ]
        rows += [
            (f"{k}->{n}", 1, False, 2.0 * args.batch * k * n, side.inner_product(args.batch, k, n))
            for k, n in PRODUCTS[net]
        ]
        for name, times, first, flops, steps in rows:
            line = f"{name:32}{times:5}"
            for i, step in enumerate(steps):
                if first and i == 1:
                    line += f"{'-':>16}"
                    continue
                took = median_ms(step, args.seconds, args.cpu)
                sums[i] += times * took
                line += f"{took:8.2f} ({flops / took / 1e6:4.0f})".rjust(16)
            print(line, flush=True)
        print(f"{'all':37}" + "".join(f"{ms:16.1f}" for ms in sums) + f"  together {sum(sums):.0f} ms")


if __name__ == "__main__":
    main()
