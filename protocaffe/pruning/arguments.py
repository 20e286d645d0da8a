"""A PruningParameter, checked, as arguments of the functions that choose masks."""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np

from protocaffe.errors import ParameterError, did_you_mean
from protocaffe.pruning.choice import Weights, choose_masks
from protocaffe.pruning.n_of_m import n_of_m_masks


@dataclass(frozen=True)
class PruningArguments:
    """What a PruningParameter asks for; ``method`` and ``scope`` in the command line's spelling.

    ``sparsity`` is None where there is n:m; ``bias`` is for methods that prune whole outputs. `dataclasses.replace`
    changes shares for a step of a schedule.
    """

    method: str = "magnitude"
    scope: str = "global"
    sparsity: float | None = None
    layer_sparsity: dict[str, float] = field(default_factory=dict)
    min_keep: float | None = None
    exclude: tuple[str, ...] = ()
    n: int = 0
    m: int = 0
    bias: bool = False

    @property
    def whole_outputs(self) -> bool:
        """Whether it prunes whole outputs (channels)."""
        return self.method.endswith("-channels")

    @property
    def needs_gradients(self) -> bool:
        """Whether the scores are made of gradients."""
        return self.method in ("first-order", "second-order", "taylor-channels")

    def masks(self, weights: Sequence[Weights], scores: Sequence[np.ndarray]) -> list[np.ndarray]:
        """Masks by these scores: `n_of_m_masks` or `choose_masks`."""
        if self.m:
            return n_of_m_masks(weights, scores, self.n, self.m, self.exclude)
        share = self.sparsity or 0.0
        return choose_masks(weights, scores, share, self.scope, self.layer_sparsity, self.min_keep, self.exclude)


def pruning_arguments(param: Any, layers: Sequence[str], who: str = "pruning_param") -> PruningArguments:
    """Read a PruningParameter for a net whose prunable layers are ``layers``; the schedule is not looked at.

    Raises ParameterError, which begins with ``who``, for what is missing, impossible or has no effect beside another
    field.

    >>> from protocaffe.io import schema
    >>> param = schema.PruningParameter(sparsity=0.9, scope=2)
    >>> param.layer.add(name="ip2", exclude=True) and None
    >>> arguments = pruning_arguments(param, ["ip1", "ip2"])
    >>> arguments.scope, arguments.sparsity, arguments.exclude
    ('erk', 0.9, ('ip2',))
    """

    def fail(text: str) -> Any:
        raise ParameterError(f"{who}: {text}")

    def share(value: float, name: str) -> float:
        if not 0 <= value < 1:
            fail(f"{name} must be a share in [0, 1), got {value:g}")
        return decimal(value)

    own: dict[str, float] = {}
    exclude: list[str] = []
    for entry in param.layer:
        name = entry.name
        if not entry.HasField("name"):
            fail("layer needs a name")
        if name not in layers:
            hint = did_you_mean(name, layers) or f"; prunable are {', '.join(layers) or 'none'}"
            fail(f'no prunable layer "{name}"{hint}')
        if name in own or name in exclude:
            fail(f'layer "{name}" is given twice')
        if entry.exclude == entry.HasField("sparsity"):
            fail(f'layer "{name}" needs either a sparsity or exclude: true')
        if entry.exclude:
            exclude.append(name)
        else:
            own[name] = share(entry.sparsity, f'the sparsity of layer "{name}"')
    min_keep = decimal(param.min_keep) if param.HasField("min_keep") else None
    if min_keep is not None and not 0 <= min_keep < np.inf:
        fail(f"min_keep must be a share or a number of weights, got {min_keep:g}")
    method, scope = (
        name.lower().replace("_", "-") for name in (param.Method.Name(param.method), param.Scope.Name(param.scope))
    )
    named: dict[str, Any] = {
        "method": method, "scope": scope, "layer_sparsity": own, "min_keep": min_keep, "exclude": tuple(exclude),
        "bias": param.bias,
    }  # fmt: skip
    whole = method.endswith("-channels")
    if param.bias and not whole:
        fail(f"bias goes with whole outputs, method {param.Method.Name(param.method)} prunes single weights")
    if whole and (param.HasField("n") or param.HasField("m")):
        fail(f"n and m are for single weights, method {param.Method.Name(param.method)} prunes whole outputs")
    if param.HasField("n") or param.HasField("m"):
        if not (param.HasField("n") and param.HasField("m")):
            fail("n and m must be given together: of every m weights n are kept")
        if not 1 <= param.n < param.m:
            fail(f"n must be at least 1 and less than m, got n {param.n} and m {param.m}")
        for name in ("sparsity", "initial_sparsity", "scope", "min_keep"):
            if param.HasField(name):
                fail(f"n and m fix what every layer keeps: {name} cannot be given beside them")
        if own:
            fail(f'n and m fix what every layer keeps: layer "{next(iter(own))}" cannot have a sparsity of its own')
        return PruningArguments(**named, n=param.n, m=param.m)
    if not param.HasField("sparsity"):
        fail("sparsity must be given: the share of weights that are to go (or n and m)")
    share(param.initial_sparsity, "initial_sparsity")
    return PruningArguments(**named, sparsity=share(param.sparsity, "sparsity"))


def decimal(value: float) -> float:
    """The shortest number that a float field of a message stands for: its 0.1 is 0.10000000149, of a million one more.

    >>> decimal(float(np.float32(0.1)))
    0.1
    """
    return float(str(np.float32(value)))
