"""Opening nets and solvers as the command line asks for them: files, devices, weights, masks."""

from __future__ import annotations

from dataclasses import dataclass
from pathlib import Path
from typing import TYPE_CHECKING, Any

from protocaffe.cli.common import apply_masks, wanted_backend
from protocaffe.errors import ParameterError, SolverError

if TYPE_CHECKING:
    from protocaffe.backends import Backend
    from protocaffe.net import Net
    from protocaffe.solver import Solver


def split(names: str | None) -> list[str]:
    """Caffe's lists, separated by commas.

    >>> split("a.caffemodel,b.caffemodel"), split("")
    (['a.caffemodel', 'b.caffemodel'], [])
    """
    return [name.strip() for name in (names or "").split(",") if name.strip()]


def open_net(
    model: str,
    phase: str,
    weights: str | None = None,
    level: int = 0,
    stage: str = "",
    cpu: bool = False,
    gpu: str | None = None,
    math: str | None = None,
    reuse_memory: bool = False,
    seed: int | None = None,
) -> Net:
    """A net from a prototxt, with weights from files separated by commas."""
    from protocaffe import TEST, TRAIN
    from protocaffe.net import Net

    value = TRAIN if phase.upper() == "TRAIN" else TEST
    backend = wanted_backend(cpu, gpu, math)
    stages = split(stage)
    net = Net(model, value, level=level, stages=stages, backend=backend, seed=seed, reuse_memory=reuse_memory)
    for path in split(weights):
        net.copy_from(path)
    return net


@dataclass
class Job:
    """What ``train`` and ``finetune`` were asked for."""

    solver: str
    weights: str | None = None
    snapshot: str | None = None
    iterations: int | None = None
    base_lr: float | None = None
    cpu: bool = False
    gpu: str | None = None
    math: str | None = None
    level: int = 0
    stage: str = ""
    mask_from_zeros: bool = False
    drop_masks: bool = False
    output: str | None = None
    #: put behind the snapshots' prefix, so that they do not replace those of the first training
    suffix: str = ""


def solver_parameter(job: Job) -> Any:
    """The solver file, with what the command line changes in it."""
    from protocaffe.io import read_solver

    parameter = read_solver(job.solver)
    if job.iterations is not None:
        parameter.max_iter = job.iterations
    if job.base_lr is not None:
        parameter.base_lr = job.base_lr
    if job.weights:
        parameter.ClearField("weights")
    if job.level:
        parameter.train_state.level = job.level
    parameter.train_state.stage.extend(split(job.stage))
    prefix = Path(parameter.snapshot_prefix)
    if not parameter.snapshot_prefix:
        parameter.snapshot_prefix = str(Path(job.solver).with_suffix(""))
    elif prefix.is_dir():
        parameter.snapshot_prefix = str(prefix / Path(job.solver).stem)
    parameter.snapshot_prefix += job.suffix
    return parameter


def solver_backend(job: Job, parameter: Any) -> Backend:
    """The device: what the command line says, else a ``solver_mode`` that stands in the file, else the CPU."""
    in_file = parameter.HasField("solver_mode") and parameter.solver_mode == parameter.GPU
    if in_file and not job.cpu and job.gpu is None:
        source = f"{job.solver}: solver_mode: GPU, device_id"
        return wanted_backend(False, str(parameter.device_id), job.math, source)
    return wanted_backend(job.cpu, job.gpu, job.math)


def _field_of(parameter: Any, path: Any) -> str:
    """The field of a solver file that names this net, if one does."""
    names = [(f, [getattr(parameter, f)]) for f in ("net", "train_net")] + [("test_net", parameter.test_net)]
    return next((field for field, paths in names if path in paths), "")


def open_solver(job: Job) -> Solver:
    """A solver with its weights or snapshot loaded and its masks as asked for."""
    from protocaffe.pruning.tying import keep_code_books
    from protocaffe.solver import get_solver

    if job.snapshot and job.weights:
        raise ParameterError("--snapshot and --weights exclude each other: a snapshot brings its weights along")
    if job.snapshot and job.snapshot.endswith((".caffemodel", ".caffemodel.h5")):
        raise ParameterError(
            f'--snapshot takes a solver state (.solverstate), "{job.snapshot}" holds weights: to start from them, give '
            "--weights; to go on with a run, the .solverstate beside it"
        )
    parameter = solver_parameter(job)
    backend = solver_backend(job, parameter)
    try:
        solver = get_solver(parameter, backend=backend, source=job.solver, reuse_memory=True)
    except OSError as error:
        field = _field_of(parameter, error.filename)
        if not field:
            raise
        raise SolverError(
            f'"{job.solver}": {field}: "{error.filename}": {error.strerror}; its path is taken from the folder in '
            f"which protocaffe is started, {Path.cwd()}"
        ) from error
    for path in split(job.weights):
        solver.copy_from(path)
    if job.snapshot:
        solver.restore(job.snapshot)
    apply_masks(solver.net, job.mask_from_zeros, job.drop_masks)
    keep_code_books(solver)
    return solver
