"""Solver: the training loop of Caffe (src/caffe/solver.cpp, src/caffe/solvers/sgd_solver.cpp)."""

from __future__ import annotations

import logging
import math
import os
import time
from collections import deque
from collections.abc import Callable
from itertools import compress
from typing import TYPE_CHECKING, Any, ClassVar

import numpy as np

from . import backends, debug
from .backends import Backend, default_backend, get_backend, prefer_math
from .errors import BackendError, DivergedError, ParameterError, SolverError, did_you_mean
from .hooks import Handle
from .iteration import Iteration
from .layer import TEST, TRAIN
from .lr_policies import learning_rate
from .net import Net
from .pycaffe import PycaffeSolver, fresh_seed
from .scoring import Scoring, number
from .snapshots import Snapshots
from .weights import copy_to

if TYPE_CHECKING:
    from .pruning.training import Pruner

logger = logging.getLogger("protocaffe.solver")

#: iterations, on a device with memory of its own, after which the loss is looked at if it is not displayed before
LOOK = 100
#: pieces of the gradient whose squares are summed on their own, whatever the number of threads
CLIP_PIECES = 64

_registry: dict[str, type[Solver]] = {}


class Solver(PycaffeSolver, Scoring, Snapshots):
    """Trains a net as a SolverParameter says. Use a subclass, or get_solver, which picks it by ``type``.

    Parameters
    ----------
    solver_file : path of a solver prototxt, or a SolverParameter message
    backend : the device; unless given what ``solver_mode`` or set_mode_gpu() says, else the CPU
    source : what messages and snapshots call the solver where a SolverParameter is given: its file, say
    reuse_memory : whether the blobs of test nets give their memory on to later ones, so that between passes only the
        nets' inputs and outputs can be read

    Notes
    -----
    Attributes are pycaffe's: ``net``, ``test_nets``, ``iter``, ``param``, ``lr``; and ``smoothed_loss``,
    ``test_scores`` (for each test net its last mean outputs). Raises SolverError for a solver that cannot run,
    ParameterError for impossible values, DivergedError when the loss becomes NaN or infinite.

    >>> import protocaffe
    >>> solver = protocaffe.get_solver("models/lenet/solver.prototxt")  # doctest: +SKIP
    >>> solver.step(100)  # doctest: +SKIP
    """

    #: name in ``type:``; kernel of the update; arrays of history per parameter
    type_name: ClassVar[str] = ""
    kernel: ClassVar[str] = ""
    histories: ClassVar[int] = 1

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        if cls.type_name:
            _registry[cls.type_name] = cls

    def __init__(
        self,
        solver_file: Any,
        *,
        backend: Backend | None = None,
        source: str | None = None,
        reuse_memory: bool = False,
    ) -> None:
        from .io import prototxt
        from .passes import upgrade_solver

        is_file = isinstance(solver_file, (str, os.PathLike))
        self.source = source or (os.fspath(solver_file) if is_file else "<SolverParameter>")
        self.param = prototxt.read_solver(self.source) if is_file else upgrade_solver(solver_file)
        self.backend = backend or self._default_backend()
        self._check_param()
        if self.param.HasField("math"):
            prefer_math(self.backend, self.param.Math.Name(self.param.math).lower())
        self.seed = fresh_seed(self.param.random_seed)
        self.iter = 0
        self.current_step = 0
        self.lr = 0.0
        self._smoothed = 0.0
        self.test_scores: list[dict[str, np.ndarray]] = []
        #: asked after each iteration and test batch: "stop", "snapshot" or None
        self.action: Callable[[], str | None] = lambda: None
        self._losses: deque[float] = deque(maxlen=max(1, self.param.average_loss))
        self._callbacks: list[tuple[Callable[[], Any], Callable[[], Any]]] = []
        self._stopped = False
        self._debug: list[Handle] = []
        self._timer = (time.perf_counter(), 0)
        #: iterations after which the loss is looked at; a device is given more to do before it is waited for
        self._patience = 1 if self.backend.unified else LOOK
        self.reuse_memory = reuse_memory
        self.net = self._train_net()
        self.test_nets = self._test_nets()
        self.test_scores = [{} for _ in self.test_nets]
        self._pruner = self._make_pruner()
        for names in self.param.weights:
            for path in filter(None, names.split(",")):
                self.copy_from(path.strip())
        self._init_update()

    # -------------------------------------------------------------------------------------------------- construction
    def fail(self, error: type[Exception], text: str) -> Any:
        """Raise ``error`` with the solver's file before the text."""
        raise error(f'solver "{self.source}": {text}')

    def _default_backend(self) -> Backend:
        p = self.param
        if p.HasField("solver_mode") and p.solver_mode == p.GPU and not backends.cpu_chosen:
            try:
                return get_backend(f"cuda:{p.device_id}" if p.HasField("device_id") else "cuda")
            except BackendError as error:
                self.fail(
                    BackendError,
                    f'solver_mode: GPU, but {error}, protocaffe.set_mode_cpu() or backend=get_backend("cpu"), or take '
                    "the line out",
                )
        return default_backend()

    def _check_param(self) -> None:
        p = self.param
        if p.iter_size < 1:
            self.fail(ParameterError, f"iter_size must be at least 1, got {p.iter_size}")
        if p.regularization_type not in ("L1", "L2"):
            self.fail(ParameterError, f'regularization_type must be "L1" or "L2", got "{p.regularization_type}"')
        if any(batches < 1 for batches in p.test_iter):
            self.fail(ParameterError, f"test_iter must be at least 1, got {list(p.test_iter)}")
        try:
            learning_rate(p, 0)
        except ParameterError as error:
            self.fail(ParameterError, str(error))
        for name in ("display", "test_interval", "snapshot", "max_iter"):
            if getattr(p, name) < 0:
                self.fail(ParameterError, f"{name} must not be negative, got {getattr(p, name)}")

    def _make_net(self, source: Any, phase: int, state: Any) -> Net:
        from .io import prototxt
        from .passes import solver_state, upgrade_net

        param = prototxt.read_net(source) if isinstance(source, str) else upgrade_net(source)
        phase, level, stages = solver_state(param, phase, state)
        reuse = self.reuse_memory and phase == TEST
        net = Net(param, phase, level, stages, backend=self.backend, seed=self.seed, reuse_memory=reuse)
        if isinstance(source, str):
            net.source = source
        return net

    def _train_net(self) -> Net:
        p = self.param
        given = [f for f in ("net", "net_param", "train_net", "train_net_param") if p.HasField(f)]
        if len(given) != 1:
            got = ", ".join(given) or "none"
            self.fail(SolverError, f"give exactly one of net, net_param, train_net, train_net_param; got {got}")
        logger.info(
            "Creating training net from %s: %s", given[0], getattr(p, given[0]) if "param" not in given[0] else ""
        )
        return self._make_net(getattr(p, given[0]), TRAIN, p.train_state)

    def _make_pruner(self) -> Pruner | None:
        if not self.param.HasField("pruning_param"):
            return None
        from .pruning.training import Pruner

        try:
            return Pruner(self.net, self.param.pruning_param, self.param.max_iter)
        except ParameterError as error:
            return self.fail(ParameterError, str(error))

    @property
    def prunes_softly(self) -> bool:
        """Whether the solver file lets pruned weights come back (``mode: SOFT``)."""
        return self._pruner is not None and self._pruner.soft

    def _test_nets(self) -> list[Net]:
        p = self.param
        sources: list[Any] = [*p.test_net_param, *p.test_net]
        shared = p.net if p.HasField("net") else p.net_param if p.HasField("net_param") else None
        if shared is not None:
            sources += [shared] * (len(p.test_iter) - len(sources))
        if len(sources) != len(p.test_iter):
            self.fail(
                SolverError, f"test_iter must be given for each test net: {len(sources)} nets, {len(p.test_iter)} given"
            )
        if p.test_state and len(p.test_state) != len(sources):
            self.fail(
                SolverError,
                f"test_state must be given for none or all {len(sources)} test nets, got {len(p.test_state)}",
            )
        if sources and not p.test_interval:
            self.fail(SolverError, "test_interval must be given and positive where there are test nets")
        nets = []
        for i, source in enumerate(sources):
            logger.info("Creating test net (#%d)", i)
            nets.append(self._make_net(source, TEST, p.test_state[i] if p.test_state else None))
            nets[-1].share_with(self.net)
        return nets

    def copy_from(self, path: str | os.PathLike) -> None:
        """Copy weights from a caffemodel to the training net, and to the layers that only a test net has."""
        copy_to((self.net, *self.test_nets), path)
        if self.net.arena.soft:
            self.net.arena.soften()

    # --------------------------------------------------------------------------------------------------------- update
    def _init_update(self) -> None:
        arena, real = self.net.arena, self.backend.real
        self.history = [self.backend.empty((arena.size,)) for _ in range(self.histories)]
        self._hyper = self.backend.empty((8,), real)
        self._hyper_values: tuple[float, ...] = ()
        self._clip = self.backend.from_array(np.array([1, 0], real))
        self._partial = self.backend.empty((CLIP_PIECES,), real)
        learnt = [not blob.statistic for blob in self.net.learnable_params]
        self._lr_mult = arena.per_block(list(compress(self.net.params_lr, learnt)))
        self._decay_mult = arena.per_block(list(compress(self.net.params_weight_decay, learnt)))
        self._update_version = -1
        self._iteration = Iteration(self.net, self.param.iter_size, self._clip)
        self._check_rule()

    def _check_rule(self) -> None:
        """Raise ParameterError for values that the rule cannot use."""

    def _bind_update(self) -> None:
        net, arena = self.net, self.net.arena
        for layer in net.layers:
            if any(blob.values.arena is not arena for blob in layer.blobs if not blob.statistic):
                self.fail(
                    SolverError,
                    f"{layer.describe()} of the training net uses another net's parameters, which this solver does not "
                    "update; share the other way round: net.share_with(solver.net)",
                )
        weights, diff, mask = net.arena_memory("master"), net.arena_memory("diff"), net.arena_memory("mask")
        masked, l1 = int(mask is not None and not arena.soft), int(self.param.regularization_type == "L1")
        bind = self.backend.bind_launch
        update: list[Any] = []
        if self.param.clip_gradients >= 0:
            args = (arena.size, diff, mask, masked, self._partial)
            update.append(bind("square_sums", CLIP_PIECES, args, rows=True))
            update.append(bind("clip_scale", 1, (CLIP_PIECES, self._partial, self._hyper, self._clip), rows=True))
        rates = (self._lr_mult, self._decay_mult)
        args = (weights, diff, *self.history, mask, masked, *rates, l1, self._hyper, self._clip)
        update.append(bind(self.kernel, arena.blocks, args, work=arena.size))
        if arena.soft:
            working = net.arena_memory("working")
            copied = ("copy", (weights, working)) if mask is None else ("masked_copy", (mask, weights, working))
            update.append(bind(copied[0], arena.size, copied[1]))
        self._update = self.backend.sequence(update)
        self._update_version = arena.version

    def adam_correction(self) -> float:
        """What scales the rate beside the policy; 1 but for Adam."""
        return 1.0

    def second_decay(self) -> float:
        """``momentum2`` or ``rms_decay``, whichever the rule reads."""
        return self.param.momentum2

    def apply_update(self) -> None:
        """Update the parameters from their diffs, under their masks, at the policy's learning rate."""
        p = self.param
        self.lr, self.current_step = learning_rate(p, self.iter, self.current_step)
        if p.display and self.iter % p.display == 0:
            logger.info("Iteration %d, lr = %s", self.iter, number(self.lr))
        hyper = (
            self.lr, p.momentum, self.second_decay(), p.delta, p.weight_decay, 1 / p.iter_size, self.adam_correction(),
            p.clip_gradients,
        )  # fmt: skip
        if hyper != self._hyper_values:  # a copy to a device saved
            self._hyper.assign(hyper)
            self._hyper_values = hyper
        if self._update_version != self.net.arena.version:
            self._bind_update()
        self.backend.replay(self._update)

    # ------------------------------------------------------------------------------------------------------- training
    def add_callback(self, on_start: Callable[[], Any], on_gradients: Callable[[], Any]) -> None:
        """Call ``on_start()`` before each iteration's first pass and ``on_gradients()`` before each update."""
        self._callbacks.append((on_start, on_gradients))

    def step(self, iterations: int) -> None:
        """Train for a number of iterations: test, forward and backward ``iter_size`` times, update, snapshot."""
        p, stop = self.param, self.iter + iterations
        self.net.warn_of_zeros()
        self._timer = (time.perf_counter(), self.iter)
        while self.iter < stop:
            if p.test_interval and self.iter % p.test_interval == 0 and (self.iter > 0 or p.test_initialization):
                self._look()
                self.test_all()
                if self._stopped:
                    return
            for on_start, _ in self._callbacks:
                on_start()
            shown = p.display and self.iter % p.display == 0
            if p.debug_info and shown:
                self._debug = debug.attach(self.net)
            if self._pruner is not None:
                self._pruner.prepare(self.iter)
            self._iteration.run(self.iter)
            if shown or self._iteration.waiting >= self._patience:
                self._look()
            if shown:
                self._display(self.smoothed_loss)
            for _, on_gradients in self._callbacks:
                on_gradients()
            if self._pruner is not None:
                self._pruner.prune(self.iter, self.seed)
            self.apply_update()
            if self._debug:
                debug.log_update(self.net)
                self._debug = debug.detach(self._debug)
            self.iter += 1
            wanted = self.action()
            if (p.snapshot and self.iter % p.snapshot == 0) or wanted == "snapshot":
                self.snapshot()
            if wanted == "stop":
                self._stopped = True
                break
        if iterations > 1:  # who steps one by one does not want to wait for the device each time
            self._look()

    @property
    def smoothed_loss(self) -> float:
        """The mean loss of the last ``average_loss`` iterations; reading it waits for the device."""
        self._look()
        return self._smoothed

    def _look(self) -> None:
        """Take note of the losses so far. Raises DivergedError for NaN or an infinite one."""
        for iteration, loss in self._iteration.look():
            self._note_loss(iteration, loss)

    def _note_loss(self, iteration: int, loss: float) -> None:
        if not math.isfinite(loss):
            where = self.net.first_bad() or "all blobs and parameters are finite"
            raise DivergedError(
                f'solver "{self.source}": the loss is {loss} at iteration {iteration}; first bad: {where}'
            )
        self._losses.append(loss)
        self._smoothed = sum(self._losses) / len(self._losses)

    def solve(self, resume_file: str | os.PathLike | None = None) -> None:
        """Train to ``max_iter``, from a solver state if one is given, with the final snapshot and test."""
        p = self.param
        if p.snapshot or p.snapshot_after_train:
            self.check_snapshot_folder()
        logger.info("Solving %s", self.net.name)
        logger.info("Learning Rate Policy: %s", p.lr_policy)
        self._stopped = False
        if resume_file is not None:
            self.restore(resume_file)
        self.step(max(0, p.max_iter - self.iter))
        self._look()
        if p.snapshot_after_train and (not p.snapshot or self.iter % p.snapshot != 0):
            self.snapshot()
        if self._stopped:
            logger.info("Optimization stopped early.")
            return
        if p.display and self.iter % p.display == 0:
            self.net.run_forward()
            self._note_loss(self.iter, self.net.loss())
            logger.info("Iteration %d, loss = %s", self.iter, number(self.smoothed_loss))
        if p.test_interval and self.iter % p.test_interval == 0:
            self.test_all()
        logger.info("Optimization Done.")

    def close(self) -> None:
        """Let go of the nets' files and threads."""
        for net in (self.net, *self.test_nets):
            net.close()


def get_solver(
    solver_file: Any, *, backend: Backend | None = None, source: str | None = None, reuse_memory: bool = False
) -> Solver:
    """The solver of the type that the file names ("SGD" if it names none). See Solver.

    Raises SolverError for an unknown type.
    """
    from . import solvers
    from .io import prototxt
    from .passes import upgrade_solver

    is_file = isinstance(solver_file, (str, os.PathLike))
    param = prototxt.read_solver(os.fspath(solver_file)) if is_file else upgrade_solver(solver_file)
    solvers.load_all()
    if param.type not in _registry:
        source = source or (os.fspath(solver_file) if is_file else "<SolverParameter>")
        hint = did_you_mean(param.type, _registry)
        raise SolverError(
            f'solver "{source}": unknown type "{param.type}"{hint}; there are {", ".join(sorted(_registry))}'
        )
    return _registry[param.type](solver_file, backend=backend, source=source, reuse_memory=reuse_memory)
