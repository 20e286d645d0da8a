"""A solver's snapshots: the weights and the state, so that a resumed run goes on bit-identically."""

from __future__ import annotations

import logging
import os
import tempfile
from collections.abc import Callable
from pathlib import Path
from typing import TYPE_CHECKING, Any

import numpy as np

from .errors import SolverError
from .memory import Memory

if TYPE_CHECKING:
    from .backends import Backend
    from .iteration import Iteration
    from .memory import Storage
    from .net import Net
    from .pruning.training import Pruner

logger = logging.getLogger("protocaffe.solver")


class Snapshots:
    """The part of Solver that deals with files."""

    net: Net
    test_nets: list[Net]
    backend: Backend
    param: Any
    source: str
    seed: int
    iter: int
    current_step: int
    history: list[Memory]
    _losses: Any
    _iteration: Iteration
    _look: Callable[[], None]
    _pruner: Pruner | None

    def snapshot_name(self, extension: str) -> str:
        """``<prefix>_iter_<N><extension>``; without a prefix, or with a folder as one, the solver's name serves."""
        prefix = self.param.snapshot_prefix
        stem = Path(self.source).stem if self.source and not self.source.startswith("<") else "solver"
        if not prefix:
            prefix = os.fspath(Path(self.source).with_suffix("")) if not self.source.startswith("<") else stem
        elif os.path.isdir(prefix):
            prefix = os.path.join(prefix, stem)
        return f"{prefix}_iter_{self.iter}{extension}"

    @property
    def _hdf5(self) -> bool:
        return self.param.SnapshotFormat.Name(self.param.snapshot_format) == "HDF5"

    def check_snapshot_folder(self) -> None:
        """Raise SolverError now, and not after hours, if the folder for snapshots cannot be written to.

        With HDF5, WeightsError for layer names that it cannot store.
        """
        if self._hdf5:
            from .io.hdf5 import check_names

            check_names((layer.name, len(layer.blobs)) for layer in self.net.layers)
        folder = os.path.dirname(os.path.abspath(self.snapshot_name(".caffemodel")))
        try:
            os.makedirs(folder, exist_ok=True)
            with tempfile.TemporaryFile(dir=folder):
                pass
        except OSError as error:
            raise SolverError(
                f'solver "{self.source}": cannot write snapshots to "{folder}": {error.strerror}'
            ) from error

    def snapshot(self) -> tuple[str, str]:
        """Write weights and state; returns their paths. An older snapshot is untouched if writing fails."""
        from .io import schema
        from .io.files import make_folders
        from .io.hdf5 import write_state
        from .io.solverstate import SolverState, write_solverstate

        self._look()
        history = self.masked_history()
        kind, end, write = ("HDF5", ".h5", write_state) if self._hdf5 else ("binary proto", "", write_solverstate)
        model, path = self.snapshot_name(f".caffemodel{end}"), self.snapshot_name(f".solverstate{end}")
        try:
            make_folders(Path(os.path.abspath(model)).parent)
            logger.info("Snapshotting to %s file %s", kind, model)
            self.net.save(model, write_diff=self.param.snapshot_diff)
            resume = schema.ResumeState(seed=self.seed, forward_count=int(self.net.forward_count.array[0]))
            resume.type = self.param.type
            resume.loss_window.extend(self._losses)
            if len(self.backend.maths) > 1:
                resume.math = self.backend.math
            for key, choice in self.backend.choices.items():
                resume.engine.add(key=key, choice=choice)
            if self.net.arena.soft:
                resume.master.extend(self._packed(self.net.arena.master))
            if self._pruner is not None and self._pruner.squares is not None:
                resume.squares.extend(self._packed(self._pruner.squares.storage))
                resume.summed = self._pruner.summed
            if self._pruner is not None and self._pruner.channels is not None:
                resume.taylor.extend(self._pruner.channels.packed())
                resume.summed = self._pruner.channels.summed
            for index, net in enumerate((self.net, *self.test_nets)):
                for layer in net._sources():
                    resume.source.add(net=index, layer=layer.name, position=layer.position())
            logger.info("Snapshotting solver state to %s file %s", kind, path)
            write(path, SolverState(self.iter, model, self.current_step, history, resume))
        except OSError as error:
            name, why = error.filename or model, error.strerror or error
            raise SolverError(f'solver "{self.source}": cannot write the snapshot "{name}": {why}') from error
        return model, path

    def masked_history(self) -> list[np.ndarray]:
        """For each kind of history and each parameter its values, 0 where pruned for good: what a solver state holds.

        Statistics have none, but a place (of zeros), as in Caffe's states.
        """
        places = {id(b.values): o for b, o in zip(self.net.arena.blobs, self.net.arena.offsets, strict=True)}
        out = []
        for kind in self.history:
            for blob in self.net.learnable_params:
                if blob.statistic:
                    out.append(np.zeros(blob.shape, self.backend.real))
                    continue
                values = Memory(kind.storage, blob.shape, kind.offset + places[id(blob.values)]).array
                keep = blob.mask
                if keep is not None and not self.net.arena.soft:
                    values[~keep] = 0
                out.append(values)
        return out

    def restore(self, path: str | os.PathLike) -> None:
        """Go on from a solver state: weights and masks, history, iteration; data positions where the state has them.

        Raises SolverError for a state of another net or rule (as far as it tells: Caffe's own states do not), and
        FileFormatError for a damaged one.
        """
        from .io.hdf5 import is_hdf5, read_state
        from .io.solverstate import read_solverstate

        path = os.fspath(path)
        logger.info("Restoring previous solver status from %s", path)
        state = read_state(path) if is_hdf5(path) else read_solverstate(path)
        written_by = state.resume.type if state.resume is not None else ""
        if written_by and written_by != self.param.type:
            raise SolverError(f'"{path}" is the state of a solver of type {written_by}, this one is {self.param.type}')
        history = self._match_history(path, state.history)
        if state.learned_net:
            # the masks that the snapshot has, and no more
            self.net.copy_from(self._find_weights(path, state.learned_net), keep_masks=False)
        self._restore_pruning(path, state.resume)
        for memory, values in history:
            memory.array[...] = values
        self.iter, self.current_step = state.iter, state.current_step
        self._iteration.look()
        self._losses.clear()
        if state.resume is not None:
            self._resume(state.resume)

    def _match_history(self, path: str, stored: list[np.ndarray]) -> list[tuple[Memory, np.ndarray]]:
        arena, blobs = self.net.arena, self.net.learnable_params
        places = {id(blob.values): offset for blob, offset in zip(arena.blobs, arena.offsets, strict=True)}
        want = [
            # statistics have a place in a state, but no history
            self.backend.empty(blob.shape)
            if blob.statistic
            else Memory(kind.storage, blob.shape, kind.offset + places[id(blob.values)])
            for kind in self.history
            for blob in blobs
        ]
        if len(stored) != len(want):
            raise SolverError(
                f'"{path}": this solver ({self.param.type}, {len(blobs)} parameters) needs {len(want)} '
                f"history blobs, the state holds {len(stored)}"
            )
        pairs = []
        for i, (memory, values) in enumerate(zip(want, stored, strict=True)):
            if memory.count != values.size:
                raise SolverError(f'"{path}": history blob {i} must have shape {memory.shape}, got {values.shape}')
            pairs.append((memory, values.reshape(memory.shape)))
        return pairs

    @staticmethod
    def _find_weights(path: str, learned_net: str) -> str:
        beside = os.path.join(os.path.dirname(path), os.path.basename(learned_net))
        found = next((p for p in (learned_net, beside) if os.path.isfile(p)), None)
        if found is None:
            raise SolverError(f'"{path}": its weights are neither at "{learned_net}" nor at "{beside}"')
        return found

    def _packed(self, storage: Storage) -> list[bytes]:
        """Each learnable parameter's piece of a storage of the arena's size."""
        arena = self.net.arena
        return [arena.piece(storage, blob).read().astype("<f4").tobytes() for blob in arena.blobs]

    def _unpack(self, path: str, stored: Any, storage: Storage, what: str) -> None:
        arena = self.net.arena
        if [len(values) for values in stored] != [4 * blob.count for blob in arena.blobs]:
            raise SolverError(f'"{path}": {what} are not those of this net')
        for blob, values in zip(arena.blobs, stored, strict=True):
            arena.piece(storage, blob).array[...] = np.frombuffer(values, "<f4").reshape(blob.shape)

    def _restore_pruning(self, path: str, resume: Any) -> None:
        """What lay behind the masks in a state of soft pruning, and what second-order pruning had gathered."""
        arena = self.net.arena
        if arena.soft:
            arena.harden()
        if resume is not None and resume.master:
            arena.soften()
            self._unpack(path, resume.master, arena.master, "the weights behind its masks")
        if self._pruner is not None and self._pruner.squares is not None:
            squares = self._pruner.squares
            squares.assign(np.zeros(arena.size))
            self._pruner.summed = 0
            if resume is not None and resume.squares:
                self._unpack(path, resume.squares, squares.storage, "the squared gradients")
                self._pruner.summed = resume.summed
        channels = self._pruner.channels if self._pruner is not None else None
        stored, summed = (resume.taylor, resume.summed) if resume is not None else ((), 0)
        if channels is not None and not channels.unpack(stored, summed):
            raise SolverError(f'"{path}": the Taylor scores are not those of this net')

    def _resume(self, resume: Any) -> None:
        self.seed = int(resume.seed)
        nets = (self.net, *self.test_nets)
        for net in nets:
            net.reseed(self.seed)
        self.net.forward_count.array[0] = resume.forward_count
        self._losses.extend(resume.loss_window)
        if resume.math in self.backend.maths and resume.math != self.backend.math:
            logger.warning(
                "The state was written in %s; going on in %s, not to the bit as before", resume.math, self.backend.math
            )
        self.backend.adopt({engine.key: engine.choice for engine in resume.engine})
        layers = {(i, layer.name): layer for i, net in enumerate(nets) for layer in net._sources()}
        for source in resume.source:
            if (source.net, source.layer) in layers:
                layers[source.net, source.layer].seek(source.position)
