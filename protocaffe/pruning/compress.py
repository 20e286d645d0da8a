"""From a net's parameters to a compressed model: which get a code book, and what is stored of each."""

from __future__ import annotations

import math
import os
from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from protocaffe.errors import ParameterError, did_you_mean
from protocaffe.io.compressed import CodedBlob, CodedLayer, code_bits, grid
from protocaffe.io.compressed_writer import Sizes, write_compressed
from protocaffe.pruning.codebook import kmeans, nearest

if TYPE_CHECKING:
    from protocaffe.net import Net

#: bits of the code books of weights, and of the grids of biases
BITS, BIAS_BITS = 5, 8


def compress_net(
    path: str | os.PathLike[str],
    net: Net,
    param: Any = None,
    bits: int = BITS,
    layer_bits: Mapping[str, int] | None = None,
    bias_bits: int = BIAS_BITS,
) -> Sizes:
    """Write a net's parameters and masks to a compressed model; returns where its bytes are.

    Parameters
    ----------
    param : the net to store (NetParameter of today's form); by default the one in ``net``, of its phase alone
    bits : code books of prunable weights hold up to 2^bits values; 0 keeps floats
    layer_bits : the same for single layers
    bias_bits : biases beside prunable weights are rounded to 2^bits - 1 steps from minus to plus the largest; 0 keeps
        floats. Parameters of other layers (BatchNorm, Scale, PReLU ...) are always kept as floats

    Raises ParameterError for bits out of range and unknown layers.
    """
    own = dict(layer_bits or {})
    names = [layer.name for layer in net.layers if any(blob.prunable for blob in layer.blobs)]
    for name, count in {"": bits, "biases": bias_bits, **own}.items():
        if not 0 <= count <= 8:
            raise ParameterError(f"bits{f' of {name}' if name else ''} must be from 0 to 8, got {count}")
    for name in own:
        if name not in names:
            hint = did_you_mean(name, names) or f"; there are {', '.join(names) or 'none'}"
            raise ParameterError(f'no layer "{name}" with weights for a code book{hint}')
    layers = []
    for layer in net.layers:
        if not layer.blobs:
            continue
        with_weights = any(blob.prunable for blob in layer.blobs)
        coded: list[CodedBlob | tuple[int, ...]] = []
        for blob in layer.blobs:
            blob.apply_mask()
            if not net._owned(blob):
                coded.append(blob.shape)
                continue
            width = own.get(layer.name, bits) if blob.prunable else bias_bits if with_weights else 0
            coded.append(code_blob(np.asarray(blob.data, np.float32), blob.mask, width, not blob.prunable))
        layers.append(CodedLayer(layer.name, coded))
    return write_compressed(path, net.param if param is None else param, layers)


def code_blob(values: np.ndarray, mask: np.ndarray | None, bits: int, linear: bool = False) -> CodedBlob:
    """A parameter as it is to be stored: ``bits`` 0 keeps floats, ``linear`` takes a grid in place of a code book.

    Floats are kept, too, where a book would take more room than it saves, and for values that are not finite.
    """
    flat = values.ravel()
    kept = flat != 0 if mask is None else np.asarray(mask, bool).ravel()
    left = flat[kept]
    if not np.isfinite(left).all():
        bits = 0
    book, step = _grid(left, bits) if linear and bits else (_table(left, bits), 0.0)
    each = 32 if book is None else code_bits(len(book))
    if mask is None and not _worth_it(flat.size, left.size, each):
        kept = np.ones(flat.size, bool)
        left = flat
        if book is not None and not step:  # zeros want a place in the book
            book = _table(left, bits)
    keep = None if kept.all() else kept
    codes = np.ascontiguousarray(left, np.float32) if book is None else nearest(left, book)
    return CodedBlob(values.shape, keep, mask is not None, book, codes, step)


def _worth_it(count: int, left: int, bits: int) -> bool:
    """Whether positions take less room than the zeros that they spare."""
    share = left / count if count else 0
    if not 0 < share < 1:
        return True
    entropy = -share * math.log2(share) - (1 - share) * math.log2(1 - share)
    return entropy * count < bits * (count - left)


def _table(values: np.ndarray, bits: int) -> np.ndarray | None:
    """A code book in half precision, in single precision where halves lose too much, None where floats are smaller."""
    if not bits or not values.size:
        return None
    exact = kmeans(values, 1 << bits).astype(np.float32)
    with np.errstate(over="ignore"):
        halves = exact.astype(np.float16).astype(np.float32)
    halves_do = bool(np.all(np.abs(halves - exact) <= np.abs(exact) * 2.0**-10))
    book = np.unique(halves if halves_do else exact)
    stored = len(book) * (16 if halves_do else 32) + values.size * code_bits(len(book))
    return book if stored < 32 * values.size else None


def _grid(values: np.ndarray, bits: int) -> tuple[np.ndarray | None, float]:
    half = (1 << (bits - 1)) - 1
    largest = float(np.abs(values).max()) if values.size else 0.0
    step = float(np.float32(largest / max(half, 1)))
    if not half or not step or not math.isfinite(step * half):
        return None, 0.0
    return grid(step, half), step
