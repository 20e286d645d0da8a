"""protocaffe: Caffe for today's machines, with pruning at its heart.

The names are pycaffe's: ``Net``, ``get_solver``, ``SGDSolver`` and its siblings, ``TRAIN``, ``TEST``. Everything is
loaded when it is first used, so ``import protocaffe`` is quick.
"""

from __future__ import annotations

import importlib
from typing import TYPE_CHECKING, Any

__version__ = "0.1.0"

TRAIN, TEST = 0, 1

_WHERE = {
    "net": ["Net"],
    "blob": ["Blob"],
    "layer": ["Layer", "register", "layer_types"],
    "solver": ["Solver", "get_solver"],
    "solvers": ["AdaDeltaSolver", "AdaGradSolver", "AdamSolver", "NesterovSolver", "RMSPropSolver", "SGDSolver"],
    "backends": ["get_backend", "set_math"],
    "net_spec": ["NetSpec", "to_proto"],
    "pycaffe": [
        "Timer", "has_nccl", "init_log", "log", "set_device", "set_multiprocess", "set_random_seed",
        "set_solver_count", "set_solver_rank", "solver_count", "solver_rank",
    ],
    "errors": [
        "BackendError", "DataError", "DivergedError", "FileFormatError", "KernelError", "NetError", "ParameterError",
        "ParseError", "ProtocaffeError", "ShapeError", "SolverError", "WeightsError",
    ],
}  # fmt: skip
_MODULE = {name: module for module, names in _WHERE.items() for name in names}
_SUBMODULES = ("errors", "io", "layers", "net_spec", "params", "proto", "pruning")

__all__ = ["TEST", "TRAIN", "__version__", *_MODULE, *_SUBMODULES]

if TYPE_CHECKING:
    from .backends import get_backend as get_backend
    from .backends import set_math as set_math
    from .blob import Blob as Blob
    from .layer import Layer as Layer
    from .layer import layer_types as layer_types
    from .layer import register as register
    from .net import Net as Net
    from .net_spec import NetSpec as NetSpec
    from .net_spec import to_proto as to_proto
    from .pycaffe import Timer as Timer
    from .pycaffe import init_log as init_log
    from .pycaffe import set_device as set_device
    from .pycaffe import set_random_seed as set_random_seed
    from .solver import Solver as Solver
    from .solver import get_solver as get_solver


def __getattr__(name: str) -> Any:
    if name in _MODULE:
        value = getattr(importlib.import_module(f".{_MODULE[name]}", __name__), name)
        globals()[name] = value
        return value
    if name in _SUBMODULES:
        return importlib.import_module(f".{name}", __name__)
    raise AttributeError(f"module {__name__!r} has no attribute {name!r}")


def __dir__() -> list[str]:
    return sorted({*globals(), *__all__})


def layer_type_list() -> list[str]:
    """Names of all layer types (pycaffe's name)."""
    from .layer import layer_types

    return sorted(layer_types())


def set_mode_cpu() -> None:
    """Compute on the CPU, whatever a solver file's ``solver_mode`` says."""
    from . import backends

    backends.cpu_chosen, backends.gpu_chosen = True, False


def set_mode_gpu() -> None:
    """Compute on the GPU (see `set_device`) with all that is made from now on without a backend of its own.

    Raises BackendError where no GPU can be used.
    """
    from . import backends

    backends.get_backend("cuda")
    backends.cpu_chosen, backends.gpu_chosen = False, True
