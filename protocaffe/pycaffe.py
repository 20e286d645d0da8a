"""What pycaffe's scripts call beside nets and solvers: seeds, logs, devices, a timer; Net's and Solver's old helpers.

Source: pycaffe's interface (python/caffe/_caffe.cpp, python/caffe/pycaffe.py).
"""

from __future__ import annotations

import logging
import secrets
import sys
import time
from collections import OrderedDict
from collections.abc import Iterator, Mapping, Sequence
from itertools import zip_longest
from typing import TYPE_CHECKING, Any

import numpy as np

from .errors import BackendError, NetError, ParameterError, ShapeError, did_you_mean

if TYPE_CHECKING:
    from .blob import Blob
    from .layer import Layer
    from .net import Net

_seed: int | None = None
_handler: logging.Handler | None = None


def set_random_seed(seed: int) -> None:
    """Let every net and solver made from now on, and given no seed of its own, start from ``seed``; -1 undoes that.

    >>> set_random_seed(1701)
    >>> fresh_seed()
    1701
    >>> set_random_seed(-1)
    """
    global _seed
    _seed = None if seed < 0 else int(seed)


def fresh_seed(seed: int | None = None) -> int:
    """``seed``, or where it is None or negative the one of set_random_seed, or else one drawn from the system."""
    if seed is not None and seed >= 0:
        return int(seed)
    return secrets.randbits(32) if _seed is None else _seed


def init_log(level: int = 0, stderr: bool = True) -> None:
    """Print the package's log in Caffe's form, from a glog level on: 0 info, 1 warnings, 2 errors, 3 fatal ones.

    With ``stderr=False`` nothing is printed and the records go to the handlers of Python's ``logging`` alone. Without
    this call the package is silent but for warnings.
    """
    from .cli.glog import GlogFormatter

    global _handler
    if level not in range(4):
        raise ParameterError(f"init_log: level must be 0 (info), 1, 2 or 3 (fatal), got {level!r}")
    root = logging.getLogger("protocaffe")
    if _handler is not None:
        root.removeHandler(_handler)
        _handler = None
    root.setLevel((logging.INFO, logging.WARNING, logging.ERROR, logging.CRITICAL)[level])
    if stderr:
        _handler = logging.StreamHandler(sys.stderr)
        _handler.setFormatter(GlogFormatter())
        root.addHandler(_handler)


def log(message: str) -> None:
    """Write a line into the package's log."""
    logging.getLogger("protocaffe.python").info("%s", message)


def set_device(device: Any) -> None:
    """Choose the GPU that `set_mode_gpu` and "cuda" mean; "cpu" and -1 are accepted and change nothing.

    Raises BackendError for a GPU that cannot be used.
    """
    from . import backends

    if device in ("cpu", -1):
        return
    if not isinstance(device, int) or device < 0:
        raise BackendError(f"set_device: a GPU's number is 0 or more, got {device!r}")
    backends.get_backend(f"cuda:{device}")
    backends.gpu = device


def solver_count() -> int:
    """Number of solvers that train one net in parallel: 1."""
    return 1


def solver_rank() -> int:
    """Number of this solver: 0."""
    return 0


def set_solver_count(count: int) -> None:
    """Accept 1; raise BackendError for more."""
    if count != 1:
        raise BackendError(f"set_solver_count({count!r}): this version of protocaffe trains with one solver")


def set_solver_rank(rank: int) -> None:
    """Accept 0; raise BackendError for another."""
    if rank != 0:
        raise BackendError(f"set_solver_rank({rank!r}): this version of protocaffe trains with one solver")


def set_multiprocess(multiprocess: bool) -> None:
    """Accept False; raise BackendError for True."""
    if multiprocess:
        raise BackendError("set_multiprocess(True): this version of protocaffe trains with one solver")


def has_nccl() -> bool:
    """Whether several GPUs can train together: no."""
    return False


class Timer:
    """A stop watch.

    >>> timer = Timer()
    >>> timer.start()
    >>> timer.stop()
    >>> timer.ms >= 0
    True
    """

    def __init__(self) -> None:
        self._started: float | None = None
        self._passed = 0.0

    def start(self) -> None:
        """Start to count from 0."""
        self._started = time.perf_counter()

    def stop(self) -> None:
        """Stop counting."""
        if self._started is not None:
            self._passed, self._started = time.perf_counter() - self._started, None

    @property
    def ms(self) -> float:
        """Milliseconds from start to stop, or until now while it runs."""
        return 1000 * (self._passed if self._started is None else time.perf_counter() - self._started)


class PycaffeNet:
    """The part of Net that pycaffe writes in Python: many batches at once, and its private lists."""

    blobs: OrderedDict[str, Blob]
    inputs: list[str]
    outputs: list[str]
    layers: list[Layer]
    name: str

    @property
    def _blob_names(self) -> list[str]:
        return list(self.blobs)

    @property
    def _inputs(self) -> list[int]:
        return [self._blob_names.index(name) for name in self.inputs]

    @property
    def _outputs(self) -> list[int]:
        return [self._blob_names.index(name) for name in self.outputs]

    def set_input_arrays(self, data: Any, labels: Any = None) -> None:
        """Have the net's first MemoryData layer read from these arrays, (N, C, H, W) and N labels; see there."""
        from .layers.memory_data import MemoryData

        for layer in self.layers:
            if isinstance(layer, MemoryData):
                layer.set_arrays(data, labels)
                return
        raise NetError(f'set_input_arrays: net "{self.name}" has no MemoryData layer')

    def forward_all(self, blobs: Sequence[str] | None = None, **inputs: Any) -> dict[str, np.ndarray]:
        """Run forward over inputs of any number of items, batch by batch (the last one padded with zeros).

        Returns the outputs and ``blobs`` by name, of all items; a blob whose first axis is not the batch's (a loss)
        gives one entry per batch.

        >>> from protocaffe import Net
        >>> net = Net("models/lenet/deploy.prototxt", 1, seed=1)
        >>> net.forward_all(data=np.ones((100, 1, 28, 28)))["prob"].shape
        (100, 10)
        """
        gather = _Gather(self._batch_size())
        items = _count(inputs, "forward_all")
        for batch in self._batches(inputs, items):
            gather.add(self.forward(blobs, **batch))  # type: ignore[attr-defined]
        return gather.arrays(items)

    def forward_backward_all(
        self, blobs: Sequence[str] | None = None, diffs: Sequence[str] | None = None, **values: Any
    ) -> tuple[dict[str, np.ndarray], dict[str, np.ndarray]]:
        """Run forward and backward over any number of items, batch by batch.

        ``values`` are data of inputs and diffs of outputs. Returns (outputs and ``blobs``, diffs of the inputs and of
        ``diffs``) by name, of all items. The parameters' diffs add up over the batches.
        """
        for name in values:
            if name not in self.inputs and name not in self.outputs:
                known = [*self.inputs, *self.outputs]
                raise NetError(
                    f'forward_backward_all: "{name}" is no input and no output of net "{self.name}"'
                    + did_you_mean(name, known)
                )
        data = {name: v for name, v in values.items() if name in self.inputs}
        top_diffs = {name: v for name, v in values.items() if name in self.outputs}
        items = _count(values, "forward_backward_all")
        outs, ins = _Gather(self._batch_size()), _Gather(self._batch_size())
        empty: dict[str, np.ndarray] = {}
        steps = zip_longest(self._batches(data, items), self._batches(top_diffs, items), fillvalue=empty)
        for batch, batch_diffs in steps:
            outs.add(self.forward(blobs, **batch))  # type: ignore[attr-defined]
            ins.add(self.backward(diffs, **batch_diffs))  # type: ignore[attr-defined]
        return outs.arrays(items), ins.arrays(items)

    def _batch_size(self) -> int:
        first = self.blobs[self.inputs[0] if self.inputs else next(iter(self.blobs))]
        if not first.num_axes or first.shape[0] == 0:
            raise ShapeError(f'net "{self.name}": blob "{first.name}" of shape {first.shape} has no batch axis')
        return first.shape[0]

    def _batches(self, values: Mapping[str, Any], items: int) -> Iterator[dict[str, np.ndarray]]:
        size = self._batch_size()
        arrays = {name: np.asarray(v) for name, v in values.items()}
        for start in range(0, items if arrays else 0, size):
            batch = {name: array[start : start + size] for name, array in arrays.items()}
            short = size - min(size, items - start)
            yield {
                name: np.concatenate([a, np.zeros((short, *a.shape[1:]), a.dtype)]) if short else a
                for name, a in batch.items()
            }


def _count(values: Mapping[str, Any], who: str) -> int:
    """Number of items, the same for all values."""
    lengths = {name: (np.shape(v) or (0,))[0] for name, v in values.items()}
    if not lengths or 0 in lengths.values():
        raise ShapeError(f"{who}: needs at least one item of each of its arrays, got {lengths or 'no arrays'}")
    if len(set(lengths.values())) > 1:
        raise ShapeError(f"{who}: all arrays must hold the same number of items, got {lengths}")
    return next(iter(lengths.values()))


class _Gather:
    """Collects blobs by name over batches."""

    def __init__(self, batch_size: int) -> None:
        self._size = batch_size
        self._parts: dict[str, list[np.ndarray]] = {}

    def add(self, values: Mapping[str, np.ndarray]) -> None:
        """Take copies of one batch's blobs."""
        for name, value in values.items():
            self._parts.setdefault(name, []).append(np.array(value))

    def arrays(self, items: int) -> dict[str, np.ndarray]:
        """All items' values by name, without the padding."""
        return {
            name: np.concatenate(parts)[:items] if parts[0].shape[:1] == (self._size,) else np.stack(parts)
            for name, parts in self._parts.items()
        }


class PycaffeSolver:
    """The part of Solver that pycaffe has beside it."""

    net: Net

    def share_weights(self, net: Net) -> None:
        """Have ``net`` use the parameters of the layers of the same names in the training net, as test nets do."""
        net.share_with(self.net)
