"""Net: a prototxt's layers, wired, run by replaying a plan."""

from __future__ import annotations

import logging
import os
from collections import OrderedDict
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from . import debug
from .arena import Arena
from .backends import Backend, default_backend
from .blob import Blob
from .errors import NetError, ShapeError, did_you_mean
from .fusion import Chain
from .hooks import Hooks
from .layer import TEST, TRAIN, Layer, create_layer
from .memory import Slot
from .parameters import Parameters
from .plan import Plan
from .pycaffe import PycaffeNet, fresh_seed
from .recording import Recording
from .reuse import BlobMemory, KeepAll, Reuse
from .weights import WeightFiles
from .wiring import Wire, backward_needs, force_backward, forward_needs

logger = logging.getLogger("protocaffe.net")


class Net(Recording, PycaffeNet, Hooks, WeightFiles, BlobMemory):
    """A network as pycaffe knows it.

    Parameters
    ----------
    network_file : path of a prototxt, or a NetParameter message
    phase : protocaffe.TRAIN or protocaffe.TEST
    level, stages : select layers by their include and exclude rules
    weights : path of a caffemodel to copy from (comma-separated: several)
    backend : the device; unless given the CPU, or what set_mode_gpu() chose
    seed : seed of fillers and dropout; where negative or None that of set_random_seed, or drawn from the system
    fuse : whether chains of layers (convolution and ReLU, say) run as one where nothing looks in between (fusion.py)
    reuse_memory : TEST nets only: blobs that no later layer reads give their memory on, so that a pass takes a fraction
        of it. Inputs, outputs and what ``keep`` or ``forward(blobs=...)`` names stay readable; reading another blob's
        data after a pass is a NetError, and so is ``backward`` (reuse.py)

    The old order of pycaffe, file, weights, phase, works too.

    >>> import protocaffe
    >>> net = protocaffe.Net("models/lenet/deploy.prototxt", protocaffe.TEST, seed=1)
    >>> net.forward()["prob"].shape[1]
    10
    """

    def __init__(
        self,
        network_file: Any,
        phase: Any = TEST,
        level: Any = 0,
        stages: Sequence[str] | None = None,
        weights: str | os.PathLike | None = None,
        *,
        backend: Backend | None = None,
        seed: int | None = None,
        fuse: bool = True,
        reuse_memory: bool = False,
    ) -> None:
        from .io import prototxt
        from .io.compressed import is_compressed
        from .passes import file_state, filter_net, insert_splits, upgrade_net

        if isinstance(phase, (str, os.PathLike)):
            phase, weights, level = level, phase, 0
        if phase not in (TRAIN, TEST):
            raise NetError(f"phase must be protocaffe.TRAIN (0) or protocaffe.TEST (1), got {phase!r}")
        if reuse_memory and phase == TRAIN:
            raise NetError("reuse_memory is for nets of the TEST phase: training needs all blobs for its backward pass")
        stages = [stages] if isinstance(stages, str) else stages or ()
        is_file = isinstance(network_file, (str, os.PathLike))
        self.source = os.fspath(network_file) if is_file else "<NetParameter>"
        param = prototxt.read_net(self.source) if is_file else upgrade_net(network_file)
        if not param.layer:
            raise NetError(f"{self.source}: the net has no layers")
        self.backend = backend or default_backend()
        self.phase = int(phase)
        self.seed = fresh_seed(seed)
        self._fuse = fuse
        #: the net as given, upgraded and filtered; splits are the net's own business
        self.param = filter_net(param, *file_state(param, self.phase, level, stages))
        self.name = self.param.name
        self.blobs: OrderedDict[str, Blob] = OrderedDict()
        self.inputs: list[str] = []
        self._wires: list[Wire] = []
        self._init_hooks()
        self._scratch = Slot(self.backend, self.backend.real)
        self.forward_count = self.backend.empty((1,), np.uint64)
        self._forward_plan: Plan | None = None
        self._backward_plan: Plan | None = None
        self._mask_diff: tuple[Any, ...] = ()
        self._mask_diff_version = -1
        self._forward_layout: list[Any] = []
        self._backward_layout: list[Any] = []
        self._layouts: dict[str, int] = {}
        self._generation = self.backend.generation
        self._chains: list[Chain] = []
        self._reuse = Reuse(self.name, self.backend, self._wires, self.blobs) if reuse_memory else KeepAll()
        parameters = Parameters()
        self._build(insert_splits(self.param), parameters)
        self.layers = [wire.layer for wire in self._wires]
        self._layer_names = [layer.name for layer in self.layers]
        self.params = OrderedDict((x.name, x.blobs) for x in self.layers if x.blobs)
        self.learnable_params = parameters.owners
        self.params_lr = parameters.lr_mults
        self.params_weight_decay = parameters.decay_mults
        self.arena = Arena(self.backend, [blob for blob in self.learnable_params if not blob.statistic])
        self._watched = [*self.blobs.values(), *(blob for layer in self.layers for blob in layer.blobs)]
        self._dynamic = [i for i, layer in enumerate(self.layers) if layer.dynamic_tops]
        self._count_random = self.phase == TRAIN and any(layer.uses_random for layer in self.layers)
        values = sum(self.blobs[top].count for wire in self._wires for top in wire.tops)
        logger.info("Memory required for data: %d", self.backend.real.itemsize * values)
        if self.param.debug_info:
            debug.attach(self)
        if not weights and is_file and is_compressed(self.source):
            weights = self.source
        for path in filter(None, os.fspath(weights).split(",") if weights else ()):
            self.copy_from(path)

    # -------------------------------------------------------------------------------------------------- construction
    def _build(self, param: Any, parameters: Parameters) -> None:
        available: set[str] = set()
        need: dict[str, bool] = {}
        names: set[str] = set()
        shared_buffers: dict[Any, Slot] | None = {} if self.reuse_memory else None
        for layer_param in param.layer:
            if not layer_param.HasField("phase"):
                layer_param.phase = self.phase
            layer = create_layer(layer_param, self.phase, self.backend, self.seed, self.forward_count)
            layer.shared_buffers = shared_buffers
            if layer.name in names and layer.name:
                logger.warning('layer name "%s" is used more than once: weights are found by name', layer.name)
            names.add(layer.name)
            wire = Wire(layer, self._connect_bottoms(layer, available), [])
            self._connect_tops(layer, wire, available, need)
            bottom, top = [self.blobs[b] for b in wire.bottoms], [self.blobs[t] for t in wire.tops]
            layer.check_counts(len(bottom), len(top))
            if not layer.inplace_ok:
                layer.not_inplace(bottom, top)
            with layer.context():
                layer.setup(bottom, top)
                layer.reshape(bottom, top)
            self._loss_weights(layer, wire.tops)
            parameters.add(layer)
            forward_needs(wire, need, [spec.lr_mult for spec in parameters.specs(layer)])
            self._wires.append(wire)
        backward_needs(self._wires)
        if param.force_backward:
            force_backward(self._wires)
        self.outputs = sorted(available)

    def _connect_bottoms(self, layer: Layer, available: set[str]) -> list[str]:
        bottoms = list(layer.param.bottom)
        for i, name in enumerate(bottoms):
            if name not in available:
                hint = did_you_mean(name, self.blobs) if name not in self.blobs else " (another layer has used it up)"
                layer.fail(NetError, f'bottom {i} "{name}" is not the top of any layer before it{hint}')
        available.difference_update(bottoms)
        return bottoms

    def _connect_tops(self, layer: Layer, wire: Wire, available: set[str], need: dict[str, bool]) -> None:
        tops = list(layer.param.top)
        wanted = max(layer.exact_tops or 0, layer.min_tops) if layer.auto_top else 0
        tops += [f"(automatic {layer.name} {i})" for i in range(len(tops), wanted)]
        for i, name in enumerate(tops):
            inplace = i < len(wire.bottoms) and wire.bottoms[i] == name
            if not inplace:
                if name in self.blobs:
                    layer.fail(NetError, f'top "{name}" is already the top of another layer')
                self.blobs[name] = Blob(self.backend, name)
                need[name] = False
            if i < len(layer.param.top):
                available.add(name)
            if layer.type == "Input":
                self.inputs.append(name)
        wire.tops = tops

    def _loss_weights(self, layer: Layer, tops: list[str]) -> None:
        given = list(layer.param.loss_weight)
        if given and len(given) != len(tops):
            layer.fail(NetError, f"loss_weight must be given for none or all {len(tops)} tops, got {len(given)}")
        layer.loss_weights = given or [layer.default_loss_weight if i == 0 else 0.0 for i in range(len(tops))]

    # -------------------------------------------------------------------------------------------------------- running
    def _index(self, name: str, what: str) -> int:
        if name not in self._layer_names:
            raise NetError(f'{what}: no layer "{name}" in net "{self.name}"{did_you_mean(name, self._layer_names)}')
        return self._layer_names.index(name)

    def run_forward(self, start: int = 0, end: int | None = None, check: bool = True) -> None:
        """Run the layers ``start`` to ``end`` (numbers, inclusive) and nothing else: no dict, no loss.

        ``check=False`` leaves `check` to the caller, who may give the device more to do before waiting for it.
        """
        last = len(self.layers) - 1 if end is None else end
        reuse = self._reuse
        if start > 0:
            self._forward(start)
            reuse.check_slice(range(start, last + 1))
        counter = (len(self.layers),) if start == 0 else ()
        if self._hooks["bf"] or self._hooks["af"]:
            self._forward().run(counter)
            for i in range(start, last + 1):
                with reuse.before(i):
                    self._call_hooks("bf", i)
                with reuse.running():
                    self._forward(i).run((i,))
                with reuse.after(i):
                    self._call_hooks("af", i)
        else:
            # a layer that may have changed a shape ends a piece: the next one is run by a plan that knows the change
            ends = [i for i in self._dynamic if start <= i < last] + [last]
            for first, until in zip([start, *(i + 1 for i in ends)], ends, strict=False):
                with reuse.running():
                    self._forward(first).run((*counter, *range(first, until + 1)))
                counter = ()
        if check:
            self.check(start, last)

    def check(self, start: int = 0, end: int | None = None) -> None:
        """Raise what the layers' kernels found wrong with their input in the last forward pass (bad labels)."""
        for layer in self.layers[start : None if end is None else end + 1]:
            layer.check()

    def run_backward(self, start: int | None = None, end: int = 0) -> None:
        """Run the layers ``start`` down to ``end`` (numbers, inclusive) backward; pruned weights get no gradient."""
        plan = self._backward()
        layers = range(len(self.layers) - 1 if start is None else start, end - 1, -1)
        if not (self._hooks["bb"] or self._hooks["ab"]):
            plan.run(tuple(layers))
        else:
            for i in layers:
                self._call_hooks("bb", i)
                plan.run((i,))
                self._call_hooks("ab", i)
        mask_gradients = self.mask_gradients()
        if mask_gradients:
            self.backend.replay(mask_gradients)

    def mask_gradients(self) -> tuple[Any, ...]:
        """Calls that set the gradients of pruned weights to 0: what a backward pass ends with, unless they live on."""
        if self._mask_diff_version != self.arena.version:
            mask, args = self.arena_memory("mask"), (self.arena_memory("mask"), self.arena_memory("diff"))
            call = (
                None
                if mask is None or self.arena.soft
                else self.backend.bind_launch("apply_mask", self.arena.size, args)
            )
            self._mask_diff, self._mask_diff_version = () if call is None else (call,), self.arena.version
        return self._mask_diff

    @property
    def undivided(self) -> bool:
        """Whether a pass is one run: no hooks between layers, no shape that only a layer's run decides."""
        return not self._dynamic and not any(self._hooks.values())

    def plans(self) -> tuple[Plan, Plan]:
        """The forward and the backward plan at the present shapes."""
        forward = self._forward()
        return forward, self._backward()

    def forward(
        self, blobs: Sequence[str] | None = None, start: str | None = None, end: str | None = None, **inputs: Any
    ) -> dict[str, np.ndarray]:
        """Set the given input blobs, run the layers ``start`` to ``end``, return outputs and ``blobs`` by name.

        A net that reuses memory keeps ``blobs``, and the tops of ``end``, from then on.
        """
        for name, values in inputs.items():
            if name not in self.inputs:
                raise NetError(f'forward: no input "{name}" in net "{self.name}"{did_you_mean(name, self.inputs)}')
            values = np.asarray(values)
            if values.shape != self.blobs[name].shape:
                raise ShapeError(
                    f'forward: input "{name}" must have shape {self.blobs[name].shape}, got {values.shape}'
                )
            self.blobs[name].data = values
        first = self._index(start, "forward") if start is not None else 0
        last = self._index(end, "forward") if end is not None else len(self.layers) - 1
        wanted = list(self._wires[last].tops) if end is not None else list(self.outputs)
        self.keep(*wanted, *(blobs or ()))
        self.run_forward(first, last)
        return {name: self._blob(name).data for name in dict.fromkeys([*wanted, *(blobs or ())])}

    def backward(
        self, diffs: Sequence[str] | None = None, start: str | None = None, end: str | None = None, **top_diffs: Any
    ) -> dict[str, np.ndarray]:
        """Set the given blobs' diffs, run from ``start`` back to ``end``, return the inputs' diffs and ``diffs``."""
        self._backward()
        for name, values in top_diffs.items():
            if np.shape(values) != self._blob(name).shape:
                raise ShapeError(f'backward: "{name}" must have shape {self._blob(name).shape}, got {np.shape(values)}')
            self._blob(name).diff = values
        first = self._index(start, "backward") if start is not None else len(self.layers) - 1
        last = self._index(end, "backward") if end is not None else 0
        self.run_backward(first, last)
        wanted = list(self._wires[last].bottoms) if end is not None else list(self.inputs)
        return {name: self._blob(name).diff for name in dict.fromkeys([*wanted, *(diffs or ())])}

    def loss(self) -> float:
        """The weighted sum of the loss tops of the last forward pass."""
        sums = (weight * float(top.data_mem.read().sum(dtype=np.float64)) for top, weight in self.loss_tops())
        return sum(sums, 0.0)

    def clear_param_diffs(self) -> None:
        """Set every parameter's gradient to 0."""
        self.backend.run("fill", self.arena.size, self.arena_memory("diff"), 0.0)

    def arena_memory(self, which: str) -> Any:
        """A storage of the arena ("master", "working", "diff", "mask") as kernel argument, None if there is none."""
        from .memory import Memory

        storage = getattr(self.arena, which)
        return None if storage is None else Memory(storage, (self.arena.size,))

    def _blob(self, name: str) -> Blob:
        if name not in self.blobs:
            raise NetError(f'no blob "{name}" in net "{self.name}"{did_you_mean(name, self.blobs)}')
        return self.blobs[name]

    # ---------------------------------------------------------------------------------------------------- inspection
    @property
    def layer_dict(self) -> OrderedDict[str, Layer]:
        """Layers by name."""
        return OrderedDict(zip(self._layer_names, self.layers, strict=True))

    @property
    def bottom_names(self) -> OrderedDict[str, list[str]]:
        """Names of each layer's bottoms."""
        return OrderedDict((w.layer.name, list(w.bottoms)) for w in self._wires)

    @property
    def top_names(self) -> OrderedDict[str, list[str]]:
        """Names of each layer's tops."""
        return OrderedDict((w.layer.name, list(w.tops)) for w in self._wires)

    def layer_calls(self) -> list[list[str]]:
        """Names of the calls that each layer's forward pass makes."""
        return [[call.name for call in part] for part in self._forward().parts[: len(self.layers)]]

    def first_bad(self) -> str | None:
        """The first layer, in order, with a NaN or infinite parameter or top; None if all are finite."""
        for wire in self._wires:
            for what, blob in [*(("parameter", b) for b in wire.layer.blobs), *(("top", b) for b in self._tops(wire))]:
                bad = blob.count - int(np.isfinite(blob.data).sum())
                if bad:
                    who = f'{wire.layer.describe()}: {what} "{blob.name}"'
                    return f"{who} has {bad} NaN or infinite of {blob.count} values"
        return None

    def close(self) -> None:
        """Let go of the layers' files and threads."""
        for layer in self.layers:
            layer.close()

    def reseed(self, seed: int) -> None:
        """Draw what is random from now on (dropout, shuffling) as a net made with ``seed`` would."""
        if seed != self.seed:
            self.seed = seed
            for layer in self.layers:
                layer.reseed(seed)
            self._drop_plans()

    def _sources(self) -> Iterable[Layer]:
        return (layer for layer in self.layers if layer.is_source)
