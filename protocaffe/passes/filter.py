"""Drop the layers whose rules (`include`, `exclude`) leave them out of a net's state."""

from __future__ import annotations

from collections.abc import Iterable
from typing import Any

from ..errors import NetError

_PHASES = {"TRAIN": 0, "TEST": 1}


def filter_net(
    net: Any, phase: int | str | None = None, level: int | None = None, stages: Iterable[str] | None = None
) -> Any:
    """A copy of a net with only the layers that belong to a state, which becomes the copy's ``state``.

    A layer with ``include`` rules stays if the state meets one of them, one with ``exclude`` rules if it meets none.
    A rule is met if all its conditions are: phase, min_level <= level <= max_level, every ``stage`` set, no
    ``not_stage`` set.

    Parameters
    ----------
    phase : 0 or "TRAIN", 1 or "TEST"
    phase, level, stages : of the state; what is None comes from the net's own ``state``

    Raises
    ------
    NetError : a layer has both include and exclude rules, or the phase is unknown
    """
    out = type(net)()
    out.CopyFrom(net)
    del out.layer[:]
    if phase is not None:
        out.state.phase = _phase(phase)
    if level is not None:
        out.state.level = level
    if stages is not None:
        del out.state.stage[:]
        out.state.stage.extend(stages)
    for layer in net.layer:
        if layer.include and layer.exclude:
            raise NetError(
                f'layer "{layer.name}" ({layer.type}): has include and exclude rules, only one kind may be given'
            )
        if layer.include:
            stays = any(_meets(out.state, rule) for rule in layer.include)
        else:
            stays = not any(_meets(out.state, rule) for rule in layer.exclude)
        if stays:
            out.layer.add().CopyFrom(layer)
    return out


def _phase(phase: int | str) -> int:
    if isinstance(phase, str):
        if phase.upper() not in _PHASES:
            raise NetError(f'unknown phase "{phase}", expected TRAIN or TEST')
        return _PHASES[phase.upper()]
    if phase not in (0, 1):
        raise NetError(f"unknown phase {phase}, expected 0 (TRAIN) or 1 (TEST)")
    return int(phase)


def _meets(state: Any, rule: Any) -> bool:
    if rule.HasField("phase") and rule.phase != state.phase:
        return False
    if rule.HasField("min_level") and state.level < rule.min_level:
        return False
    if rule.HasField("max_level") and state.level > rule.max_level:
        return False
    stages = set(state.stage)
    return stages.issuperset(rule.stage) and stages.isdisjoint(rule.not_stage)


def file_state(net: Any, phase: int | str, level: int = 0, stages: Iterable[str] = ()) -> tuple[int, int, list[str]]:
    """The state of a net that is built from a file: (phase, level, stages) for `filter_net`.

    As in Caffe phase and level are the caller's, even if the file has a ``state``; stages are the file's and the
    caller's.
    """
    return _phase(phase), level, [*net.state.stage, *stages]


def solver_state(net: Any, phase: int | str, state: Any = None) -> tuple[int, int, list[str]]:
    """The state of a solver's net: (phase, level, stages) for `filter_net`.

    As in Caffe the net's own ``state`` overrides the phase, and the solver's ``train_state`` or ``test_state``
    (`state`) overrides both; stages add up.
    """
    merged = type(net)().state
    merged.phase = _phase(phase)
    merged.MergeFrom(net.state)
    if state is not None:
        merged.MergeFrom(state)
    return merged.phase, merged.level, list(merged.stage)
