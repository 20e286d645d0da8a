"""Convolution on im2col and GEMM over many images at once: a few large calls where GenericConvolution makes many."""

from __future__ import annotations

from collections.abc import Callable, Iterator
from typing import Any

from ..memory import Memory
from .base import GenericConvolution

#: elements of scratch memory that columns, or the images' weight gradients, may take
ROOM = 1 << 27


class StackedConvolution(GenericConvolution):
    """A product for each image, all in one call: 1x1 convolutions, which need no columns, and windows that are not 2-D.

    The same results as GenericConvolution's, up to the order of sums.
    """

    def _chunks(self, per_image: int) -> Iterator[tuple[int, int]]:
        """(first image, number of images) of pieces whose scratch memory has room."""
        most = max(1, ROOM // max(1, per_image))
        for first in range(0, self.s.images, most):
            yield first, min(most, self.s.images - first)

    @property
    def _per_image(self) -> int:
        return 0 if self.s.is_pointwise else self.s.kernel_dim * self.s.group * self.s.pixels

    def _unfold(self, images: Memory, columns: Memory, count: int) -> Memory:
        """The columns of ``count`` images."""
        if self.s.is_pointwise:
            return images
        n = count * self._per_image
        if self.s.window2d is not None:
            self.ops.launch("im2col", count, self.s.window2d, images, columns, work=n)
        else:
            self.ops.launch("im2col_nd", n, self.s.window_nd, images, columns)
        return columns

    def _products(
        self, count: int, trans_a: bool, trans_b: bool, m: int, n: int, k: int, a: Memory, lda: int, b: Memory,
        ldb: int, c: Memory, ldc: int, of_image: tuple[int, int, int], of_group: tuple[int, int, int],
    ) -> None:  # fmt: skip
        """A product for each image and group; operands lie ``of_image`` and ``of_group`` elements apart."""
        group = self.s.group
        outer, inner, step, strides = (
            (count, group, of_image, of_group) if group > count else (group, count, of_group, of_image)
        )
        for i in range(outer):
            self.ops.gemm_batched(
                inner, trans_a, trans_b, m, n, k, 1.0, a.at(i * step[0]), lda, b.at(i * step[1]), ldb, 0.0,
                c.at(i * step[2]), ldc, strides,
            )  # fmt: skip

    def forward(self, x: Memory, w: Memory, bias: Memory | None, y: Memory) -> None:
        """y = W columns(x) + b."""
        s = self.s
        for first, count in self._chunks(self._per_image):
            columns = self.ops.scratch((count * self._per_image,))
            cols = self._unfold(x.at(first * s.in_count), columns, count)
            self._products(
                count, False, False, s.out_group, s.pixels, s.kernel_dim, w, s.kernel_dim, cols, s.pixels,
                y.at(first * s.out_count), s.pixels, (0, s.group * s.kernel_dim * s.pixels, s.out_count),
                (s.out_group * s.kernel_dim, s.kernel_dim * s.pixels, s.out_group * s.pixels),
            )  # fmt: skip
        if bias is not None:
            self.ops.launch_rows("bias_add", s.images * s.num_output, s.pixels, s.num_output, bias, y)

    def backward_data(self, dy: Memory, w: Memory, dx: Memory) -> None:
        """dx = col2im(W' dy)."""
        s = self.s
        for first, count in self._chunks(self._per_image):
            images = dx.at(first * s.in_count)
            cols = images if s.is_pointwise else self.ops.scratch((count * self._per_image,))
            self._products(
                count, True, False, s.kernel_dim, s.pixels, s.out_group, w, s.kernel_dim,
                dy.at(first * s.out_count), s.pixels, cols, s.pixels,
                (0, s.out_count, s.group * s.kernel_dim * s.pixels),
                (s.out_group * s.kernel_dim, s.out_group * s.pixels, s.kernel_dim * s.pixels),
            )  # fmt: skip
            if s.is_pointwise:
                continue
            n = count * s.in_count
            if s.window2d is not None:
                self.ops.launch("col2im", count, s.window2d, cols, images, work=n)
            else:
                self.ops.launch("col2im_nd", n, s.window_nd, cols, images)

    def backward_weights(self, x: Memory, dy: Memory, dw: Memory, db: Memory | None) -> None:
        """dW += sum over n of dy[n] columns(x[n])', each image's first on its own; db += sum of dy."""
        s = self.s
        weights = s.num_output * s.kernel_dim
        for first, count in self._chunks(self._per_image + weights):
            own = -(-count * self._per_image // 64) * 64
            scratch = self.ops.scratch((own + count * weights,))
            partial = scratch.at(own, count * weights)
            cols = self._unfold(x.at(first * s.in_count), scratch, count)
            self._products(
                count, False, True, s.out_group, s.kernel_dim, s.pixels, dy.at(first * s.out_count), s.pixels,
                cols, s.pixels, partial, s.kernel_dim, (s.out_count, s.group * s.kernel_dim * s.pixels, weights),
                (s.out_group * s.pixels, s.kernel_dim * s.pixels, s.out_group * s.kernel_dim),
            )  # fmt: skip
            self.ops.launch("bias_gradient_columns", weights, count, partial, dw)
        if db is not None:
            self.ops.bias_gradient(s.images, s.num_output, s.pixels, dy, db)


class WideConvolution(GenericConvolution):
    """2-D windows: the images' columns lie beside each other, so that a layer is one product of large matrices.

    The product has channels outermost, [F, N, P]; the pass that puts images first adds the bias and applies the ReLU.
    """

    fuses_relu = together = True

    def _chunks(self) -> Iterator[tuple[int, int]]:
        s = self.s
        most = max(1, ROOM // max(1, (s.kernel_dim * s.group + s.num_output) * s.pixels))
        for first in range(0, s.images, most):
            yield first, min(most, s.images - first)

    def _scratch(self, count: int) -> tuple[Memory, Memory]:
        """Room for columns and for outputs with channels outermost."""
        s = self.s
        columns, outputs = s.kernel_dim * s.group * s.pixels * count, s.num_output * s.pixels * count
        start = -(-columns // 64) * 64
        both = self.ops.scratch((start + outputs,))
        return both.at(0, columns), both.at(start, outputs)

    def _product(
        self, trans_a: bool, trans_b: bool, m: int, n: int, k: int, a: Memory, lda: int, b: Memory, ldb: int,
        beta: float, c: Memory, ldc: int,
    ) -> None:  # fmt: skip
        """The product of each group, whose parts of the operands follow one another."""
        strides = (m * k, k * n, m * n)
        self.ops.gemm_batched(self.s.group, trans_a, trans_b, m, n, k, 1.0, a, lda, b, ldb, beta, c, ldc, strides)

    def forward(
        self, x: Memory, w: Memory, bias: Memory | None, y: Memory, relu: bool = False,
        pooled: tuple[Memory, Memory] | None = None,
    ) -> None:  # fmt: skip
        """y = W columns(x) + b, with ``relu`` max(0, that), with ``pooled`` the maxima of 2x2 windows, too."""
        s = self.s
        for first, count in self._chunks():
            columns, outputs = self._scratch(count)
            wide = count * s.pixels
            out = y.at(first * s.out_count, count * s.out_count)
            self._unfold(x, first, count, columns)
            self._product(
                False, False, s.out_group, wide, s.kernel_dim, w, s.kernel_dim, columns, wide, 0.0, outputs, wide
            )
            if pooled is None:
                args = (s.pixels, s.num_output, count, outputs, bias, int(relu), out)
                self.ops.launch("images_first", count * s.num_output, *args, work=outputs.count)
                continue
            windows = count * s.out_count // 4
            small = [memory.at(first * s.out_count // 4, windows) for memory in pooled]
            extents = (*(extent // 2 for extent in s.out_dims), s.num_output, count)
            args = (*extents, outputs, bias, out, *small)
            self.ops.launch("conv_pool_epilogue", count * s.num_output, *args, work=windows)

    def _unfold(self, x: Memory, first: int, count: int, columns: Memory) -> None:
        image = x.at(first * self.s.in_count, count * self.s.in_count)
        self.ops.launch("im2col_wide", count, self.s.window2d, image, columns, work=columns.count)

    def _outer(self, dy: Memory, first: int, count: int, outputs: Memory) -> None:
        s = self.s
        args = (s.pixels, s.num_output, count, dy.at(first * s.out_count, count * s.out_count), outputs)
        self.ops.launch("channels_first", count * s.num_output, *args, work=outputs.count)

    def backward_data(self, dy: Memory, w: Memory, dx: Memory) -> None:
        """dx = col2im(W' dy)."""
        self.backward(None, dy, w, None, None, dx)

    def backward_weights(self, x: Memory, dy: Memory, dw: Memory, db: Memory | None) -> None:
        """dW += dy columns(x)'; db += sum of dy."""
        self.backward(x, dy, None, dw, db, None)

    def backward(
        self, x: Memory | None, dy: Memory, w: Memory | None, dw: Memory | None, db: Memory | None, dx: Memory | None,
        fill: Callable[[int, int, Memory | None], None] | None = None,
    ) -> None:  # fmt: skip
        """The wanted gradients: dy is brought into the order of the products once for all of them."""
        s = self.s
        for first, count in self._chunks():
            columns, outputs = self._scratch(count)
            wide = count * s.pixels
            if fill is None:
                self._outer(dy, first, count, outputs)
            else:
                fill(first, count, outputs)
            if dw is not None:
                assert x is not None
                self._unfold(x, first, count, columns)
                args = (outputs, wide, columns, wide, 1.0, dw, s.kernel_dim)
                self._product(False, True, s.out_group, s.kernel_dim, wide, *args)
            if dx is not None:
                assert w is not None
                self._product(
                    True, False, s.kernel_dim, wide, s.out_group, w, s.kernel_dim, outputs, wide, 0.0, columns, wide
                )
                image = dx.at(first * s.in_count, count * s.in_count)
                self.ops.launch("col2im_wide", count, s.window2d, columns, image, work=image.count)
        if db is not None:
            self.ops.bias_gradient(s.images, s.num_output, s.pixels, dy, db)


def batched_convolution(ops: Any, shape: Any) -> GenericConvolution:
    """The better of the two for a shape."""
    wide = shape.window2d is not None and not shape.is_pointwise
    return WideConvolution(ops, shape) if wide else StackedConvolution(ops, shape)
