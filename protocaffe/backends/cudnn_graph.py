"""A convolution as a graph of cuDNN's, and the plans that cuDNN has for it.

A plan is named by the number of its engine and the values of its knobs, "17 2=3 6=1", which is enough to make it anew.
"""

from __future__ import annotations

from collections import Counter
from collections.abc import Callable, Iterator, Sequence
from ctypes import c_void_p
from functools import partial
from math import prod
from typing import Any, NamedTuple

from .cudnn_library import CudnnError, Descriptor, Library

#: numbers of the tensors in a variant pack
X, W, Y, BIAS, _SUM, _SHIFTED = 1, 2, 3, 4, 5, 6
_FLOAT, _DOUBLE = 0, 1
_CROSS_CORRELATION = 1
_ADD, _RELU = 0, 100
_HEURISTICS = (3, 2)  # mode A, then what works anywhere
_TENSOR_CORE, _DOWN_CONVERT, _REDUCED, _NONDETERMINISTIC, _TILE_6, _TILE_13 = 0, 1, 2, 4, 7, 8
#: plans with these notes are never used: results must repeat to the bit, and halves have too few digits
_NEVER = {_DOWN_CONVERT, _REDUCED, _NONDETERMINISTIC}
#: nor these where floats are to be multiplied as floats; large Winograd tiles lose digits
_NOT_IN_FP32 = {_TENSOR_CORE, _TILE_6, _TILE_13}
_COMPILED_AT_RUN_TIME = 0  # takes a second, at every start


class Plan(NamedTuple):
    """An executable plan."""

    name: str
    descriptor: Descriptor
    workspace: int


class ConvGraph:
    """The graph of one step of a convolution over packed tensors, N x C x 1 to 3 spatial axes.

    ``accumulate`` adds to what lies in the result; ``bias`` and ``relu`` follow a forward step; ``alignment``: bytes
    that every address is a multiple of.
    """

    def __init__(
        self, library: Library, handle: c_void_p, trash: list[Callable[[], Any]], step: str, shape: Any,
        double: bool = False, tf32: bool = False, accumulate: bool = False, bias: bool = False, relu: bool = False,
        alignment: int = 16,
    ) -> None:  # fmt: skip
        self._make: Callable[..., Descriptor] = partial(
            Descriptor, library, trash=trash, scalar="double" if double else "float"
        )
        self._type = _DOUBLE if double else _FLOAT
        self._handle, self._alignment = handle, alignment
        self._forbidden = _NEVER if tf32 or double else _NEVER | _NOT_IN_FP32
        flat = len(shape.kernel) == 1  # one axis: as a picture of one row
        lift = partial(_lift, flat)
        y_dims = [shape.images, shape.num_output, *lift(shape.out_dims, 1)]
        x = self._tensor(X, [shape.images, shape.channels, *lift(shape.in_dims, 1)])
        w = self._tensor(W, [shape.num_output, shape.channels // shape.group, *lift(shape.kernel, 1)])
        followed = bias or relu
        convolution = self._make(
            "convolution", precision=self._type, mode=_CROSS_CORRELATION, dilations=lift(shape.dilation, 1),
            strides=lift(shape.stride, 1), before=lift(shape.pad, 0), after=lift(shape.pad, 0),
            axes=max(2, len(shape.kernel)),
        )  # fmt: skip
        last = self._tensor(_SUM, y_dims, virtual=True) if followed else self._tensor(Y, y_dims)
        operations = [
            self._make(step, alpha=1.0, beta=float(accumulate), convolution=convolution, w=w, x=x, y=last)
        ]  # fmt: skip
        if bias:
            b = self._tensor(BIAS, [1, shape.num_output, *[1] * (len(y_dims) - 2)])
            out = self._tensor(_SHIFTED, y_dims, virtual=True) if relu else self._tensor(Y, y_dims)
            add = self._make("pointwise", mode=_ADD, precision=self._type)
            operations.append(self._make("operation", pointwise=add, x=last, b=b, y=out))
            last = out
        if relu:
            clip = self._make("pointwise", mode=_RELU, precision=self._type)
            operations.append(self._make("operation", pointwise=clip, x=last, y=self._tensor(Y, y_dims)))
        self._graph = self._make("graph", handle=handle, operations=operations)

    def _tensor(self, number: int, dims: Sequence[int], virtual: bool = False) -> Descriptor:
        strides = [prod(dims[i + 1 :]) for i in range(len(dims))]
        return self._make(
            "tensor", type=self._type, dims=list(dims), strides=strides, id=number, alignment=self._alignment,
            virtual=virtual,
        )  # fmt: skip

    def plans(self, room: int, most: int, of_engine: int = 3) -> Iterator[Plan]:
        """Plans that repeat to the bit and need at most ``room`` bytes.

        Up to ``most`` that cuDNN's heuristics name, the likeliest first and not more than ``of_engine`` that differ in
        knobs alone; then engines that they leave out, which at times are twice as fast.
        """
        seen: Counter[str] = Counter()
        names: set[str] = set()
        for config in self._configs():
            try:
                engine = config.descriptors("engine", "engine")[0]
                if not self._fits(engine):
                    continue
                name = _name(engine, config.descriptors("knobs", "knob"))
                index = name.split()[0]
                if name in names or seen[index] == of_engine:
                    continue
                plan = self._plan(name, config)
            except CudnnError:
                continue
            if plan.workspace <= room:
                names.add(name)
                seen[index] += 1
                yield plan
            if len(names) == most:
                break
        for number in range(self._graph.get("engines")[0]):
            if not seen[str(number)]:
                try:
                    plan = self.plan(str(number))
                except CudnnError:
                    continue
                if plan.workspace <= room:
                    yield plan

    def _configs(self) -> Iterator[Descriptor]:
        for mode in _HEURISTICS:
            try:
                yield from self._make("heuristics", mode=mode, graph=self._graph).descriptors("results", "config")
            except CudnnError:
                continue

    def _fits(self, engine: Descriptor) -> bool:
        return not self._forbidden & set(engine.get("notes")) and _COMPILED_AT_RUN_TIME not in engine.get("behavior")

    def plan(self, name: str) -> Plan:
        """The plan that `Plan.name` names. Raises CudnnError where this cuDNN has none such."""
        index, *knobs = name.split(" ")
        try:
            pairs = [tuple(map(int, knob.split("="))) for knob in knobs]
            chosen = [self._make("knob", type=kind, value=value) for kind, value in pairs]
            engine = self._make("engine", graph=self._graph, index=int(index))
        except (ValueError, TypeError) as error:
            raise CudnnError(f'"{name}" names no plan of cuDNN ({error})') from error
        if not self._fits(engine):
            raise CudnnError(f'plan "{name}" of cuDNN does not compute as it must')
        more = {"knobs": chosen} if chosen else {}
        return self._plan(name, self._make("config", engine=engine, **more))

    def _plan(self, name: str, config: Descriptor) -> Plan:
        plan = self._make("plan", handle=self._handle, config=config)
        return Plan(name, plan, plan.get("workspace")[0])

    def pack(self, ids: Sequence[int], pointers: Sequence[int], workspace: int) -> Descriptor:
        """The addresses for a run."""
        return self._make("pack", ids=list(ids), pointers=list(pointers), workspace=workspace)


def _lift(flat: bool, values: Sequence[int], first: int) -> list[int]:
    return [first, *values] if flat else list(values)


def _name(engine: Descriptor, knobs: Sequence[Descriptor]) -> str:
    values = [f"{knob.get('type')[0]}={knob.get('value')[0]}" for knob in knobs]
    return " ".join([str(engine.get("index")[0]), *values])
