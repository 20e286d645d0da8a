"""A CPU that convolves by im2col and GEMM, as any device can."""

from __future__ import annotations

from typing import Any

from protocaffe.backends.cpu import CpuBackend


class Generic(CpuBackend):
    """A CPU without convolutions of its own, but for ``engine: CUDNN``."""

    def bind_conv(self, step: str, shape: Any, args: Any, relu: bool = False) -> Any:
        return super().bind_conv(step, shape, args, relu) if shape.engine == "CUDNN" else None
