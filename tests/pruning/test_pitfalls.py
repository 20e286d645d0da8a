"""What users of other systems hit, where no other file holds the guard; CONTRIBUTING.md lists all of them."""

import numpy as np
import pytest

import protocaffe
from protocaffe.backends import get_backend
from protocaffe.io import parse_net, parse_solver
from protocaffe.pruning import PruningArguments, prunable_weights, prune_by
from protocaffe.pruning.criteria import METHODS
from protocaffe.pruning.report import sparsity_report
from tests.support import pruning_nets as nets
from tests.support.backends import has_gpu
from tests.support.split_backend import SplitBackend
from tests.test_masks import assert_pruned_are_zero, make_solver, prune

STEPS = "sparsity: 0.6 initial_sparsity: 0.3 begin_step: 2 end_step: 10 frequency: 4"
DEVICES = ["split", pytest.param("cuda", marks=pytest.mark.skipif(not has_gpu(), reason="there is no GPU here"))]


def device(name):
    return SplitBackend() if name == "split" else get_backend(name)


def state(solver):
    arena, out = solver.net.arena, []
    for blob in arena.blobs:
        out += [blob.data.tobytes(), b"" if blob.mask is None else blob.mask.tobytes()]
        out.append(arena.piece(arena.master, blob).read().tobytes())
    return out + [values.tobytes() for values in solver.masked_history()]


# ------------------------------------------------------------------------------------- a TEST pass changes the weights
@pytest.mark.parametrize("settings", ["", "mode: SOFT margin: 0", "method: FIRST_ORDER", "method: SECOND_ORDER",
                                      "method: TAYLOR_CHANNELS bias: true", "n: 2 m: 4"])  # fmt: skip
def test_a_run_that_tests_all_the_time_is_the_run_that_never_does(settings):
    steps = STEPS.replace("sparsity: 0.6 initial_sparsity: 0.3", "") if "n: 2" in settings else STEPS
    runs = []
    for tests in ("", "test_iter: 2 test_interval: 1"):
        text = f'type: "Adam" base_lr: 0.01 momentum: 0.9 lr_policy: "fixed" random_seed: 3 max_iter: 14 {tests} '
        param = parse_solver(f"{text} pruning_param {{ {steps} {settings} }}")
        param.net_param.CopyFrom(parse_net(nets.NET))
        runs.append(protocaffe.get_solver(param))
        for _ in range(14):
            runs[-1].step(1)
            if tests:
                runs[-1].test_all()
    assert len(runs[1].test_nets) == 1 and runs[1].test_scores[0]
    assert state(runs[0]) == state(runs[1])


# ------------------------------------------------------------------------------------------------ masks differ per GPU
@pytest.mark.parametrize("name", DEVICES)
@pytest.mark.parametrize("method", [method for method in METHODS if method != "effect-channels"])  # test_effect.py
def test_the_same_weights_get_the_same_masks_on_every_device(method, name):
    """Scores that need no arithmetic, or arithmetic on the host alone: to the bit. Those of gradients round otherwise
    on another device; there the same device always gives the same masks."""
    gradients = method in ("first-order", "second-order", "taylor-channels")
    found = []
    for where in (name, name if gradients else "cpu"):
        backend = device(where)
        net, training = (protocaffe.Net(parse_net(nets.NET), protocaffe.TRAIN, seed=3, backend=backend) for _ in "ab")
        prune_by(net, PruningArguments(method, sparsity=0.7), training, 2, seed=5)
        found.append([None if blob.mask is None else blob.mask.copy() for blob in net.learnable_params])
    assert sum(int((~mask).sum()) for mask in found[0] if mask is not None) > 100
    for a, b in zip(*found, strict=True):
        assert np.array_equal(a, b) if a is not None else b is None


@pytest.mark.parametrize("name", DEVICES)
@pytest.mark.parametrize("mode", ["HARD", "SOFT"])
def test_a_run_gives_the_same_masks_again_on_its_device_and_zeros_under_them(mode, name):
    runs = []
    for _ in range(2):
        param = parse_solver(
            f'type: "Adam" base_lr: 0.01 momentum: 0.9 lr_policy: "fixed" random_seed: 3 max_iter: 14 '
            f"pruning_param {{ {STEPS} mode: {mode} }}"
        )
        param.net_param.CopyFrom(parse_net(nets.NET))
        solver = protocaffe.get_solver(param, backend=device(name))
        solver.step(14)
        runs.append(state(solver))
        assert_pruned_are_zero(solver.net)
    assert runs[0] == runs[1]


# --------------------------------------------------------------------------------- a sparsity test that asserts nothing
@pytest.mark.parametrize("wrong", ["one came back", "minus zero", "nothing is pruned", "no masks"])
def test_the_check_of_pruned_weights_can_fail(wrong):
    solver = make_solver()
    prune(solver.net)
    assert_pruned_are_zero(solver.net)
    blob = solver.net.params["turned"][0]
    place = tuple(np.argwhere(~blob.mask)[0])
    if wrong == "no masks":
        solver.net.drop_masks()
    elif wrong == "nothing is pruned":
        for each in solver.net.prunable():
            each.mask = np.ones(each.shape)
    else:
        blob.data[place] = 1e-30 if wrong == "one came back" else -0.0
    with pytest.raises((AssertionError, TypeError)):
        assert_pruned_are_zero(solver.net)


def test_a_mask_that_does_nothing_shows_in_the_second_figure():
    """Non-zeros are counted from values alone."""
    net = nets.make()
    masked = [w._replace(mask=np.zeros(w.values.shape, bool)) for w in prunable_weights(net)]
    report = sparsity_report(masked, [w.values for w in masked])
    assert report.sparsity == 1 and report.nonzeros == report.parameters
