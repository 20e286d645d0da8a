"""The Layer base class and the registry of layer types."""

from __future__ import annotations

import difflib
import importlib
import pkgutil
from collections.abc import Callable, Mapping, Sequence
from math import prod
from typing import TYPE_CHECKING, Any, ClassVar, NoReturn, TypeVar
from zlib import crc32

from .blob import Blob
from .errors import NetError, ProtocaffeError, ShapeError
from .fillers import fill, layer_rng
from .layout import WeightLayout
from .memory import Memory, Slot

if TYPE_CHECKING:
    from .backends.base import Backend
    from .plan import Recorder

TRAIN, TEST = 0, 1

_registry: dict[str, type[Layer]] = {}
_L = TypeVar("_L", bound="type[Layer]")


class Layer:
    """One step of a net. A subclass stands in one file of layers/ and overrides what it needs:

    ``setup`` reads ``self.param`` and adds parameters, once; ``reshape`` gives the tops their shapes; ``forward`` and
    ``backward`` record calls on ``self.ops`` (plan.Recorder). They run once per shape, not once per step: what changes
    from step to step must lie in memory that a kernel reads. ``backward`` writes the bottoms' diffs over, and adds to
    the parameters' diffs.
    """

    exact_bottoms: ClassVar[int | None] = None
    min_bottoms: ClassVar[int] = 0
    max_bottoms: ClassVar[int | None] = None
    exact_tops: ClassVar[int | None] = None
    min_tops: ClassVar[int] = 0
    max_tops: ClassVar[int | None] = None
    #: tops that the prototxt does not name are made (losses)
    auto_top: ClassVar[bool] = False
    #: makes data: runs before the rest of a step, has a position to save
    is_source: ClassVar[bool] = False
    #: works when top and bottom are the same blob
    inplace_ok: ClassVar[bool] = False
    #: may give its tops other shapes while it runs: what follows is recorded anew then
    dynamic_tops: ClassVar[bool] = False
    #: its first top is an accuracy: shown while training, and what `finetune` and `sensitivity` measure by
    is_accuracy: bool = False
    #: draws random numbers at each forward pass of the TRAIN phase
    uses_random: ClassVar[bool] = False
    #: loss weight of the first top where the prototxt gives none
    default_loss_weight: ClassVar[float] = 0.0
    #: a user's own kernel files, compiled on first use
    kernels: ClassVar[Sequence[str]] = ()
    type_name: ClassVar[str] = ""

    ops: Recorder
    #: of a Python layer: python_param.param_str, under both of pycaffe's names
    param_str: str
    param_str_: str

    def __init__(self, param: Any, phase: int, backend: Backend, seed: int, forward_count: Any = None) -> None:
        self.param = param
        self.phase = phase
        self.backend = backend
        self.name: str = param.name
        self.type: str = param.type
        self.rng_seed = seed
        self.forward_count = forward_count
        self.blobs: list[Blob] = []
        self.param_propagate_down: list[bool] = []
        self.loss_weights: list[float] = []
        self._buffers: dict[str, Memory] = {}
        #: in a net without backward passes: what all its layers' buffers for it share
        self.shared_buffers: dict[Any, Slot] | None = None
        for path in self.kernels:
            backend.load_kernels(path)  # type: ignore[attr-defined]

    # ------------------------------------------------------------------------------------ what a layer type overrides
    def setup(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """Read the parameters, add weights; called once, before the first reshape."""

    def reshape(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """Give the tops their shapes."""
        raise TypeError(f"{type(self).__name__} must define reshape")

    def forward(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """Record the calls that compute the tops' data."""
        raise TypeError(f"{type(self).__name__} must define forward")

    def backward(self, top: Sequence[Blob], propagate_down: Sequence[bool], bottom: Sequence[Blob]) -> None:
        """Record the calls that compute the diffs of the bottoms with ``propagate_down`` and of the parameters."""
        if any(propagate_down):
            self.fail(NetError, "this layer type has no gradient")

    def allow_force_backward(self, index: int) -> bool:
        """Whether ``force_backward`` reaches bottom ``index``."""
        return True

    def check(self) -> None:
        """Look, after a forward pass, at what the kernels found wrong with their input (bad labels)."""

    def position(self) -> int:
        """A source's place in its data, for solver states."""
        return 0

    def seek(self, position: int) -> None:
        """Go on from ``position``."""

    def reseed(self, seed: int) -> None:
        """Draw from ``seed`` from now on; the net records the layer anew."""
        self.rng_seed = seed

    def close(self) -> None:
        """Let go of files and threads."""

    # ------------------------------------------------------------------------------------------------- for subclasses
    def add_param(
        self,
        shape: Sequence[int],
        filler: Any = None,
        prunable: bool = False,
        mask_filler: Any = None,
        statistic: bool = False,
        output_axis: int = 0,
        groups: int = 1,
    ) -> Blob:
        """Add a parameter filled by ``filler`` (a FillerParameter), masked where ``mask_filler`` gives 0.

        A ``statistic`` is computed by the layer's own forward pass: solvers leave it alone. ``output_axis`` and
        ``groups`` say which values of a prunable one belong to which output (WeightLayout).
        """
        index = len(self.blobs)
        blob = Blob(self.backend, f"{self.name}[{index}]", tuple(shape))
        blob.prunable, blob.statistic = prunable, statistic
        blob.layout = WeightLayout(tuple(shape), output_axis, groups)
        with self.context():
            _ = blob.data_mem  # more memory than there is fails here, before it is filled
        if filler is not None:
            with self.context():
                blob.data = fill(filler, blob.shape, layer_rng(self.rng_seed, self.name, index))
        if mask_filler is not None:
            with self.context():
                blob.mask = fill(mask_filler, blob.shape, layer_rng(self.rng_seed, f"{self.name}/mask", index)) != 0
        self.blobs.append(blob)
        self.param_propagate_down.append(True)
        return blob

    def buffer(self, name: str, shape: Sequence[int], dtype: Any = None, for_backward: bool = False) -> Memory:
        """The layer's own memory of this name; what lies in it stays until the number of values changes.

        ``for_backward``: nothing but a backward pass reads it after the layer's forward pass. In nets that have none
        (``reuse_memory``) the layers' buffers of this name are one.
        """
        shape = tuple(shape)
        if for_backward and self.shared_buffers is not None:
            key = (name, self.backend.real if dtype is None else dtype)
            slot = self.shared_buffers.setdefault(key, Slot(self.backend, key[1]))
            self._buffers[name] = slot.memory(shape, prod(shape))
            return self._buffers[name]
        held = self._buffers.get(name)
        if held is None or held.count != prod(shape):
            held = self.backend.empty(shape, dtype)
        self._buffers[name] = Memory(held.storage, shape)
        return self._buffers[name]

    @property
    def random_key(self) -> int:
        """The layer's Philox key: net seed and layer name."""
        return (self.rng_seed & 0xFFFFFFFF) | crc32(self.name.encode()) << 32

    def describe(self) -> str:
        """`layer "conv1" (Convolution)`."""
        return f'layer "{self.name}" ({self.type})'

    def fail(self, error: type[ProtocaffeError], text: str) -> NoReturn:
        """Raise ``error`` with the layer's name before the text."""
        raise error(f"{self.describe()}: {text}")

    def context(self) -> _Context:
        """``with`` block whose errors get the layer's name."""
        return _Context(self)

    def axis(self, blob: Blob, axis: int) -> int:
        """``axis`` of ``blob`` counted from the front, or a ShapeError that names the layer."""
        with self.context():
            return blob.canonical_axis(axis)

    def check_counts(self, bottoms: int, tops: int) -> None:
        """Raise NetError unless the prototxt gives as many bottoms and tops as the type takes."""
        for what, got, exact, low, high in (
            ("bottom", bottoms, self.exact_bottoms, self.min_bottoms, self.max_bottoms),
            ("top", tops, self.exact_tops, self.min_tops, self.max_tops),
        ):
            if exact is not None and got != exact:
                self.fail(NetError, f"takes {exact} {what} blob{'s' * (exact != 1)}, got {got}")
            if got < low:
                self.fail(NetError, f"takes at least {low} {what} blob{'s' * (low != 1)}, got {got}")
            if high is not None and got > high:
                self.fail(NetError, f"takes at most {high} {what} blob{'s' * (high != 1)}, got {got}")

    def not_inplace(self, bottom: Sequence[Blob], top: Sequence[Blob]) -> None:
        """Raise NetError if a top is a bottom."""
        if any(t is b for t in top for b in bottom):
            self.fail(NetError, "cannot work in place: give its top another name than its bottom")


class _Context:
    def __init__(self, layer: Layer) -> None:
        self.layer = layer

    def __enter__(self) -> None:
        return None

    def __exit__(self, kind: Any, error: BaseException | None, trace: Any) -> None:
        if isinstance(error, ProtocaffeError) and self.layer.describe() not in str(error):
            raise type(error)(f"{self.layer.describe()}: {error}") from error


def register(type_name: str, parameter: Mapping[str, Mapping[str, Any]] | None = None) -> Callable[[_L], _L]:
    """Class decorator: make a layer type known to prototxts.

    ``parameter`` brings the layer's own parameter message, ``{"my_param": {"alpha": ("float", 1.0)}}``: a prototxt then
    writes ``my_param { alpha: 2 }`` and the layer reads ``self.param.my_param.alpha``.
    """

    def add(cls: _L) -> _L:
        for field, fields in (parameter or {}).items():
            from .io import schema

            schema.add_layer_parameter(field, dict(fields))
        known = _registry.get(type_name)
        if known is not None and (known.__module__, known.__qualname__) != (cls.__module__, cls.__qualname__):
            raise NetError(f'layer type "{type_name}" is already registered by {known.__module__}.{known.__qualname__}')
        cls.type_name = type_name
        _registry[type_name] = cls
        return cls

    return add


def layer_types() -> dict[str, type[Layer]]:
    """All registered types by name; the package's own are imported by scanning layers/."""
    package = importlib.import_module("protocaffe.layers")
    for module in pkgutil.iter_modules(package.__path__):
        importlib.import_module(f"protocaffe.layers.{module.name}")
    return _registry


def create_layer(param: Any, phase: int, backend: Backend, seed: int, forward_count: Any = None) -> Layer:
    """Make the layer that a LayerParameter describes. Raises NetError for an unknown type."""
    cls = _registry.get(param.type) or layer_types().get(param.type)
    if cls is None:
        close = difflib.get_close_matches(param.type, _registry, 1)
        hint = f' (did you mean "{close[0]}"?)' if close else ""
        raise NetError(f'layer "{param.name}": unknown layer type "{param.type}"{hint}')
    return cls(param, phase, backend, seed, forward_count)


__all__ = ["TEST", "TRAIN", "Layer", "ShapeError", "create_layer", "layer_types", "register"]
