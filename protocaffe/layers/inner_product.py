"""InnerProduct."""

from __future__ import annotations

from ..errors import ParameterError, ShapeError
from ..layer import Layer, register


@register("InnerProduct")
class InnerProduct(Layer):
    """y = x W' + b (``transpose: true``: y = x W + b), the axes from ``axis`` on taken together.

    Bottom (M..., K...), top (M..., num_output). Parameters: weights (num_output, K), with ``transpose`` (K,
    num_output), prunable; bias (num_output) unless ``bias_term: false``.

    Options: ``num_output``, ``axis`` 1, ``transpose`` false, ``bias_term`` true, ``weight_filler``, ``bias_filler``,
    ``mask_filler``. Raises ParameterError without num_output, ShapeError if the bottom's K changes.

    Example::

        layer { name: "ip1" type: "InnerProduct" bottom: "pool2" top: "ip1"
                inner_product_param { num_output: 500 weight_filler { type: "xavier" } } }

    Source: Caffe, src/caffe/layers/inner_product_layer.cpp.
    """

    exact_bottoms = 1
    exact_tops = 1

    def setup(self, bottom, top):
        p = self.param.inner_product_param
        if p.num_output < 1:
            self.fail(ParameterError, f"num_output must be given and at least 1, got {p.num_output}")
        self.outputs, self.transpose, self.bias_term = p.num_output, p.transpose, p.bias_term
        self.first_axis = self.axis(bottom[0], p.axis)
        self.inputs = bottom[0].count_range(self.first_axis)
        shape = (self.inputs, self.outputs) if self.transpose else (self.outputs, self.inputs)
        mask_filler = p.mask_filler if p.HasField("mask_filler") else None
        axis = int(self.transpose)
        self.add_param(shape, p.weight_filler, prunable=True, mask_filler=mask_filler, output_axis=axis)
        if self.bias_term:
            self.add_param((self.outputs,), p.bias_filler)

    def reshape(self, bottom, top):
        got = bottom[0].count_range(self.first_axis)
        if got != self.inputs:
            self.fail(
                ShapeError,
                f'bottom "{bottom[0].name}" must hold {self.inputs} values from axis {self.first_axis} on, '
                f"got {got} ({bottom[0].shape})",
            )
        self.rows = bottom[0].count_range(0, self.first_axis)
        top[0].reshape(*bottom[0].shape[: self.first_axis], self.outputs)

    def forward(self, bottom, top):
        m, n, y = self.rows, self.outputs, top[0].data_mem
        self.product(self.ops, bottom[0].data_mem, y)
        if self.bias_term:
            self.ops.launch("bias_add_columns", m, n, self.blobs[1].data_mem, y, work=m * n)

    def product(self, ops, x, y):
        """Record y = x W' on ``ops``."""
        m, n, k = self.rows, self.outputs, self.inputs
        w = self.blobs[0].data_mem
        ops.gemm(False, not self.transpose, m, n, k, 1.0, x, k, w, self._ld, 0.0, y, n)

    def backward(self, top, propagate_down, bottom):
        self.gradients(self.ops, bottom[0], top[0].diff_mem, propagate_down[0])

    def gradients(self, ops, bottom, dy, propagate_down, sign=None):
        """Record dW, db and, if wanted, dx; with ``sign``, dy is first set to 0 where that is not positive."""
        m, n, k = self.rows, self.outputs, self.inputs
        x = bottom.data_mem
        wanted = self.bias_term and self.param_propagate_down[1]
        if wanted or sign is not None:
            db = self.blobs[1].diff_mem if wanted else None
            ops.launch_rows("bias_gradient_panels", -(-n // 32), m, n, sign, dy, db)
        if self.param_propagate_down[0]:
            dw = self.blobs[0].diff_mem
            if self.transpose:
                ops.gemm(True, False, k, n, m, 1.0, x, k, dy, n, 1.0, dw, n)
            else:
                ops.gemm(True, False, n, k, m, 1.0, dy, n, x, k, 1.0, dw, k)
        if propagate_down:
            w, dx = self.blobs[0].data_mem, bottom.diff_mem
            ops.gemm(False, self.transpose, m, k, n, 1.0, dy, n, w, self._ld, 0.0, dx, k)

    @property
    def _ld(self) -> int:
        return self.outputs if self.transpose else self.inputs
