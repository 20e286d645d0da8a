"""Convolutions on the GPU: by cuDNN where Caffe's ``engine`` field says so, or where it is the faster engine.

``engine: CAFFE`` is im2col and GEMM (batched.py), ``CUDNN`` cuDNN's best plan that repeats to the bit, ``DEFAULT`` the
faster of both for the shape and step: measured when it is first met, kept by engine_choices.py. With PROTOCAFFE_TUNE=0
nothing is measured: see `by_rule`. Without cuDNN ``DEFAULT`` is im2col and GEMM.
"""

from __future__ import annotations

import logging
from collections.abc import Callable, Mapping, Sequence
from ctypes import c_void_p
from functools import cached_property, partial
from math import prod
from typing import Any

import numpy as np

from ..errors import BackendError
from ..memory import Memory, Slot
from .base import Bound
from .cuda_blas import address
from .cuda_timing import fastest
from .cudnn_graph import BIAS, ConvGraph, Plan, W, X, Y
from .cudnn_library import CudnnError, Library, load
from .depth import DepthConvolution, applies
from .engine_choices import CAFFE, Choices, shape_key, tuning

logger = logging.getLogger("protocaffe.engines")

CUDNN = "CUDNN"
#: cuDNN's on cells of pixels (depth.py)
DEPTH = "DEPTH"
#: multiply-accumulates below which im2col and GEMM are taken without a trial: a step of a few microseconds is not worth
#: cuDNN's start, and what its kernels win alone their changes of layout lose
SMALL = 1 << 29
#: bytes that a plan may need as scratch memory
ROOM = 1 << 30
#: plans that cuDNN's heuristics name and that are measured
PLANS = 16
#: cuDNN must be faster by more than this: less is noise, and gone beside the other kernels of a net
_MARGIN = 0.95
_ALIGNMENT = 16
_ORDER = {"forward": (X, W, BIAS, Y), "backward_data": (Y, W, X), "backward_weights": (X, Y, W, None)}


class Workspace:
    """Scratch memory that all plans share; a call keeps the piece that it first ran with, as do graphs of it."""

    def __init__(self, device: Any) -> None:
        self._device = device
        self.room: Any = None
        self._size = 0

    def reserve(self, size: int) -> None:
        """Have at least ``size`` bytes."""
        if size > self._size:
            self.room, self._size = self._device.allocate(size), size


class _Run:
    """A plan with its addresses as a call."""

    def __init__(self, library: Library, handle: c_void_p, graph: ConvGraph, plan: Plan, places: dict[int, Memory],
                 workspace: Workspace) -> None:  # fmt: skip
        self._library, self._handle = library, handle
        self._graph, self._plan, self._workspace = graph, plan, workspace
        self.keep = places
        self._room: Any = None
        self._pack: Any = None
        workspace.reserve(plan.workspace)

    def __call__(self) -> None:
        if self._pack is None:  # once: a larger piece may not be taken while a graph is captured
            self._room = self._workspace.room if self._plan.workspace else None
            pointers = [address(memory) for memory in self.keep.values()]
            self._pack = self._graph.pack(list(self.keep), pointers, self._room.address if self._room else 0)
        self._library.call("cudnnBackendExecute", self._handle, self._plan.descriptor.pointer, self._pack.pointer)


class _Both:
    """Calls that follow one another as one."""

    def __init__(self, calls: Sequence[Bound]) -> None:
        self.calls = list(calls)

    def __call__(self) -> None:
        for call in self.calls:
            call()


class Convolutions:
    """The convolutions of one CUDA backend."""

    def __init__(self, backend: Any, choices: Choices) -> None:
        self._backend = backend
        self._device = backend.device
        self.choices = choices
        self._workspace = Workspace(backend.device)
        self._told: set[str] = set()

    @cached_property
    def library(self) -> Library | None:
        """cuDNN, if it is there."""
        try:
            return load()
        except BackendError as error:
            self._missing = str(error)
            return None

    @cached_property
    def _handle(self) -> c_void_p:
        assert self.library is not None
        return self.library.create(self._device.stream.handle)

    @cached_property
    def _machine(self) -> str:
        version = self.library.version if self.library else "none"
        return f"{self._device.gpu.name()}, cuDNN {version}, cuBLAS {self._backend.blas_version}"

    @property
    def _precision(self) -> str:
        return self._backend.math if self._backend.real == np.float32 else "fp64"

    # ---------------------------------------------------------------------------------------------------------- verbs
    def bind(self, step: str, shape: Any, args: Sequence[Memory | None], relu: bool = False) -> Bound | None:
        """The step by cuDNN, or None where im2col and GEMM are to do it."""
        explicit = shape.engine == CUDNN
        if explicit and self.library is None:
            raise BackendError(f"engine: CUDNN: {self._missing}")
        if explicit and len(shape.kernel) > 3:
            raise BackendError(f"engine: CUDNN takes 1 to 3 spatial axes, got {len(shape.kernel)}")
        if not all(m is None or m.count for m in args) or not shape.images:
            return None
        if not explicit and (shape.engine == CAFFE or not self._applies(shape)):
            return None
        trial = _Trial(self, step, shape, args, relu)
        key = f"{self._machine}, {self._precision}, {shape.engine}: {trial.name}"
        choice = self.choices.find(key)
        if choice is not None:
            try:
                call = None if choice == CAFFE else trial.bind(choice, args)
                self.choices.use(key, choice)
                return call
            except CudnnError as error:
                logger.info("%s: %s: measured again", key, error)
        if tuning():
            self._tell(logging.INFO, f"measuring which engine is the fastest for each convolution: {self.choices.path}")
            choice = trial.measure()
            self.choices.add(key, choice)
        else:
            choice = trial.first_plan() if explicit or by_rule(step, shape) == CUDNN else CAFFE
        self.choices.use(key, choice)
        return None if choice == CAFFE else trial.bind(choice, args)

    def better(
        self, name: str, shape: Any, steps: Sequence[str], ways: Mapping[str, Callable[..., None]],
        results: Sequence[Memory | None],
    ) -> str:  # fmt: skip
        """Whether im2col and GEMM for all steps together beat each step by its best engine."""
        if shape.engine != "DEFAULT" or not self._applies(shape) or not shape.images:
            return "apart" if shape.engine == CUDNN else "together"
        key = f"{self._machine}, {self._backend.math}: {name} {', '.join(steps)} {shape_key('', shape)}"
        choice = self.choices.find(key)
        if choice is None or choice not in ways:
            if tuning():
                own = [
                    None if memory is None else self._backend.empty(memory.shape, memory.dtype) for memory in results
                ]
                makers = {way: partial(self._recorded, record, own) for way, record in ways.items()}
                times = fastest(self._device, makers)
                choice = min(times, key=lambda way: times[way], default="together")
                if times:  # else there is no room for a trial
                    self.choices.add(key, choice)
            else:
                choice = "apart" if any(by_rule(step, shape) == CUDNN for step in steps) else "together"
        return self.choices.use(key, choice)

    def _recorded(self, record: Callable[..., None], results: Sequence[Memory | None]) -> Bound:
        """Calls on results of their own as one."""
        from ..plan import Recorder

        ops = Recorder(self._backend, "", Slot(self._backend, self._backend.real))
        record(ops, *results)
        both = _Both([call.run for call in ops.calls])
        both.scratch = ops  # type: ignore[attr-defined]  # its memory is in use for as long as the call is
        return both

    def _applies(self, shape: Any) -> bool:
        """Whether there is anything to choose for ``engine: DEFAULT``."""
        if shape.generic or self._backend.real != np.float32 or len(shape.kernel) > 3:
            return False
        if shape.images * shape.pixels * shape.num_output * shape.kernel_dim < SMALL:
            return False
        if self.library is None:
            self._tell(logging.WARNING, f"convolutions are computed by im2col and GEMM: {self._missing}")
        return self.library is not None

    def _tell(self, level: int, text: str) -> None:
        """Log ``text``, once."""
        if text not in self._told:
            self._told.add(text)
            logger.log(level, "%s", text)


def by_rule(step: str, shape: Any) -> str:
    """The engine that ``DEFAULT`` means where nothing may be measured, after what an H100 likes (gpu_conv.json).

    im2col and GEMM for one input channel, for outputs of less than 4x4, and for 1x1 kernels, unless their maps have so
    odd a size that GEMMs on them cannot read whole vectors; else cuDNN.
    """
    unaligned = shape.is_pointwise and shape.pixels % 4
    columns_cost_little = prod(shape.kernel) == 1 and not unaligned
    return CAFFE if shape.channels == 1 or shape.pixels < 16 or columns_cost_little else CUDNN


class _Trial:
    """One step at one shape: its candidates, and calls of them."""

    def __init__(self, owner: Convolutions, step: str, shape: Any, args: Sequence[Memory | None], relu: bool) -> None:
        self._owner, self._backend = owner, owner._backend
        self._step, self._shape, self._args, self._relu = step, shape, args, relu
        self._bias = args[2] if step == "forward" else None
        self._alignment = _aligned(args)
        self.name = shape_key(step, shape, self._bias is not None, relu)
        if self._alignment != _ALIGNMENT:
            self.name += f" at {self._alignment} bytes"

    def _graph(self, fused: bool) -> ConvGraph:
        owner, double = self._owner, self._backend.real == np.float64
        assert owner.library is not None
        return ConvGraph(
            owner.library, owner._handle, owner._device.trash, self._step, self._shape, double,
            self._backend.math == "tf32", self._step == "backward_weights", fused and self._bias is not None,
            fused and self._relu, self._alignment,
        )  # fmt: skip

    def bind(self, choice: str, args: Sequence[Memory | None]) -> Bound:
        """A call of what a choice names: "CUDNN <plan>", "CUDNN fused <plan>" with bias and ReLU in it, or "DEPTH"."""
        if choice == DEPTH:
            return self._deep(args)
        name = choice.removeprefix(f"{CUDNN} ")
        fused = name.startswith("fused ")
        graph = self._graph(fused)
        return self._call(graph, graph.plan(name.removeprefix("fused ")), args, fused, self._owner._workspace)

    def _call(
        self, graph: ConvGraph, plan: Plan, args: Sequence[Memory | None], fused: bool, workspace: Workspace
    ) -> Bound:
        owner = self._owner
        places = {
            number: memory
            for number, memory in zip(_ORDER[self._step], args, strict=True)
            if memory is not None and number is not None and (fused or number != BIAS)
        }
        assert owner.library is not None
        run = _Run(owner.library, owner._handle, graph, plan, places, workspace)
        rest = [] if fused else self._rest(args)
        return _Both([run, *rest]) if rest else run

    def _rest(self, args: Sequence[Memory | None]) -> list[Bound]:
        """Calls of kernels for what the convolution alone leaves to do."""
        bind, s = self._backend.bind_launch, self._shape
        if self._step == "backward_weights" and args[3] is not None:
            more = (s.images, s.num_output, s.pixels, args[1], args[3])
            return [self._owner._recorded(lambda ops: ops.bias_gradient(*more), ())]
        if self._step != "forward":
            return []
        bias, y = args[2:]
        assert y is not None
        if bias is not None:
            kernel = "bias_relu" if self._relu else "bias_add"
            return [bind(kernel, s.images * s.num_output, (s.pixels, s.num_output, bias, y), rows=True)]
        return [bind("relu_forward", y.count, (y, y, 0.0))] if self._relu else []

    # -------------------------------------------------------------------------------------------------------- choosing
    def _ways(self) -> tuple[bool, ...]:
        """Whether bias and ReLU are in the plan: the likelier first."""
        return (True, False) if self._bias is not None or self._relu else (False,)

    def _plans(self) -> list[tuple[str, ConvGraph, Plan, bool]]:
        """The candidates of cuDNN, by choice."""
        found = []
        for fused in self._ways():
            try:
                graph = self._graph(fused)
                for plan in graph.plans(ROOM, PLANS):
                    found.append((f"{CUDNN} {'fused ' * fused}{plan.name}", graph, plan, fused))
            except CudnnError as error:
                logger.debug("%s: %s", self.name, error)
        return found

    def candidates(self, caffe: bool) -> dict[str, Callable[[], Bound]]:
        """What makes a call of each choice, on results of its own and the caller's operands."""
        args = list(self._args)
        for i in (2, 3) if self._step == "backward_weights" else (-1,):
            memory = args[i]
            args[i] = None if memory is None else self._backend.empty(memory.shape)

        workspace = Workspace(self._owner._device)  # its own: what is not chosen may need far more

        def engine(graph: ConvGraph, plan: Plan, fused: bool) -> Callable[[], Bound]:
            return lambda: self._call(graph, plan, args, fused, workspace)

        out: dict[str, Callable[[], Bound]] = {CAFFE: lambda: self._generic(args)} if caffe else {}
        if caffe and applies(self._step, self._shape):
            out[DEPTH] = lambda: self._deep(args)
        return out | {name: engine(graph, plan, fused) for name, graph, plan, fused in self._plans()}

    def _deep(self, args: Sequence[Memory | None]) -> Bound:
        def record(ops: Any) -> None:
            convolution = DepthConvolution(ops, self._shape)
            more = {"relu": self._relu} if self._step == "forward" else {}
            getattr(convolution, self._step)(*args, **more)

        return self._owner._recorded(record, ())

    def _generic(self, args: Sequence[Memory | None]) -> Bound:
        return self._owner._recorded(lambda ops: ops.generic_conv(self._step, self._shape, args, self._relu), ())

    def measure(self) -> str:
        """The fastest choice."""
        explicit = self._shape.engine == CUDNN
        times = fastest(self._owner._device, self.candidates(caffe=not explicit))
        if not times:
            raise BackendError(f"engine: CUDNN: cuDNN has no plan that repeats to the bit for {self.name}")
        if CAFFE in times:
            times[CAFFE] *= _MARGIN
        best = min(times, key=lambda name: times[name])
        logger.debug("%s: %s of %s", self.name, best, {name: round(us, 1) for name, us in times.items()})
        return best

    def first_plan(self) -> str:
        """cuDNN's first plan, without measuring; im2col and GEMM where it has none."""
        for fused in self._ways():
            try:
                for plan in self._graph(fused).plans(ROOM, 1):
                    return f"{CUDNN} {'fused ' * fused}{plan.name}"
            except CudnnError as error:
                logger.debug("%s: %s", self.name, error)
        if self._shape.engine == CUDNN:
            raise BackendError(f"engine: CUDNN: cuDNN has no plan that repeats to the bit for {self.name}")
        return CAFFE


def _aligned(args: Sequence[Memory | None]) -> int:
    """The largest power of two, up to 16, of which every address is a multiple."""
    together = _ALIGNMENT
    for memory in args:
        if memory is not None:
            together |= address(memory)
    return together & -together
