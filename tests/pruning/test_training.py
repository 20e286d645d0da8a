"""Pruning while training, as the solver file says: how much when, resumed runs, and what must not change."""

from __future__ import annotations

import logging
import math

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from protocaffe.backends import get_backend
from protocaffe.errors import ParameterError
from protocaffe.io import prototxt
from protocaffe.pruning import sparsity_of_net
from protocaffe.pruning.schedule import Schedule
from tests.support.split_backend import SplitBackend
from tests.test_masks import NET, RULES, make_solver

CUBIC = "pruning_param { sparsity: 0.8 begin_step: 2 end_step: 12 frequency: 4 }"


def shares(solver):
    return [round(layer.sparsity, 2) for layer in sparsity_of_net(solver.net).layers]


def state(solver):
    out = [blob.data.copy() for blob in solver.net.learnable_params]
    out += [np.zeros(0) if blob.mask is None else blob.mask.copy() for blob in solver.net.learnable_params]
    return out + [values.copy() for values in solver.masked_history()]


# ------------------------------------------------------------------------------------------------------------ schedules
@given(
    st.sampled_from(["CUBIC", "LINEAR", "ONE_SHOT"]), st.integers(0, 50), st.integers(0, 100), st.integers(1, 30),
    st.floats(0, 0.5), st.floats(0.5, 0.99),
)  # fmt: skip
def test_shares_rise_from_the_first_to_the_last(kind, begin, length, every, first, last):
    schedule = Schedule(kind, begin, begin + length, every, first, last)
    steps = [t for t in range(begin + length + 40) if schedule.progress(t) is not None]
    assert steps == schedule.steps
    values = [schedule.share(schedule.progress(t)) for t in steps]
    assert values == sorted(values) and values[-1] == pytest.approx(last)
    assert len(steps) == 1 or values[0] == pytest.approx(first)


def test_the_cubic_is_zhu_and_guptas():
    schedule = Schedule("CUBIC", 100, 500, 100, 0.2, 0.9)
    got = [schedule.share(schedule.progress(t)) for t in schedule.steps]
    assert got == pytest.approx([0.9 + (0.2 - 0.9) * (1 - k / 4) ** 3 for k in range(5)])


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("frequency: 3", "sparsity must be given"),
        ("sparsity: 1", r"sparsity must be a share in \[0, 1\), got 1"),
        ("sparsity: 0.5 initial_sparsity: -0.1", r"initial_sparsity must be a share in \[0, 1\), got -0.1"),
        ("sparsity: 0.5 initial_sparsity: 0.6", "initial_sparsity 0.6 is more than sparsity 0.5"),
        ("sparsity: 0.5 frequency: 0", "frequency must be at least 1, got 0"),
        ("sparsity: 0.5 begin_step: 9 end_step: 3", "end_step not before it, got 9 and 3"),
        ('sparsity: 0.5 layer { name: "tuned" sparsity: 0.1 }', 'no prunable layer "tuned"; did you mean "turned"'),
        ('sparsity: 0.5 layer { name: "conv" }', 'layer "conv" needs either a sparsity or exclude: true'),
        ('sparsity: 0.5 layer { name: "conv" sparsity: 2 }', r'sparsity of layer "conv" must be a share in \[0, 1\)'),
    ],
)
def test_what_cannot_be_is_refused_with_the_solvers_name(text, message):
    with pytest.raises(ParameterError, match=f'solver "<SolverParameter>": pruning_param: .*{message}'):
        make_solver(more=f"pruning_param {{ {text} }}")


# ------------------------------------------------------------------------------------------------------------- training
def test_the_net_gets_sparser_step_by_step(caplog):
    solver, seen = make_solver(more=CUBIC), []
    with caplog.at_level(logging.INFO, "protocaffe"):
        for _ in range(16):
            solver.step(1)
            seen.append(round(sparsity_of_net(solver.net).sparsity, 3))
    schedule = Schedule("CUBIC", 2, 12, 4, 0, 0.8)
    wanted = [schedule.share(schedule.progress(t)) for t in schedule.steps]
    for t, share in zip(schedule.steps, wanted, strict=True):
        assert seen[t] == pytest.approx(share, abs=0.01)
    assert len(set(seen[3:6])) == 1 and seen[-1] >= 0.8
    said = [line for line in caplog.messages if "pruned to a sparsity of" in line]
    assert len(said) == len(wanted) and said[-1].startswith("Iteration 12, pruned to a sparsity of 0.8")


@pytest.mark.parametrize("rule", RULES)
def test_what_is_pruned_stays_pruned_under_every_rule(rule):
    solver = make_solver(rule, CUBIC)
    solver.step(7)
    pruned = [None if blob.mask is None else ~blob.mask for blob in solver.net.learnable_params]
    solver.step(9)
    for blob, gone in zip(solver.net.learnable_params, pruned, strict=True):
        if gone is not None:
            assert gone.any() and not blob.mask[gone].any()
            assert not np.ascontiguousarray(blob.data[~blob.mask]).view(np.uint32).any()


@pytest.mark.parametrize("stop", [1, 2, 3, 6, 7, 11, 12, 13])
@pytest.mark.parametrize("form", ["BINARYPROTO", "HDF5"])
def test_a_run_stopped_anywhere_goes_on_as_if_it_had_not(stop, form, tmp_path):
    more = f'{CUBIC} snapshot_format: {form} snapshot_prefix: "{tmp_path}/s" average_loss: 3'
    whole = make_solver("Adam", more)
    whole.step(16)
    first = make_solver("Adam", more)
    first.step(stop)
    _, path = first.snapshot()
    again = make_solver("Adam", more)
    again.restore(path)
    again.step(16 - stop)
    for a, b in zip(state(whole), state(again), strict=True):
        assert a.tobytes() == b.tobytes()


def test_one_shot_layers_of_their_own_and_excluded_ones():
    rules = (
        'schedule: ONE_SHOT begin_step: 3 layer { name: "conv" exclude: true } layer { name: "turned" sparsity: 0.5 }'
    )
    solver = make_solver(more=f"pruning_param {{ sparsity: 0.9 {rules} }}")
    solver.step(3)
    assert shares(solver) == [0, 0, 0, 0]
    solver.step(1)
    conv, free, turned, one = shares(solver)
    assert (conv, turned) == (0, 0.5) and free + one > 1.4
    before = state(solver)[len(solver.net.learnable_params) : 2 * len(solver.net.learnable_params)]
    solver.step(5)
    after = state(solver)[len(solver.net.learnable_params) : 2 * len(solver.net.learnable_params)]
    for a, b in zip(before, after, strict=True):
        np.testing.assert_array_equal(a, b)


def test_uniform_scope_and_what_a_layer_keeps():
    solver = make_solver(more="pruning_param { sparsity: 0.75 scope: UNIFORM schedule: ONE_SHOT min_keep: 4 }")
    solver.step(1)
    assert shares(solver) == [0.75] * 4


def test_masks_that_were_there_are_kept_and_count():
    solver = make_solver(more="pruning_param { sparsity: 0.5 schedule: ONE_SHOT }")
    ip = solver.net.params["turned"][0]
    ip.mask = gone = np.arange(ip.count).reshape(ip.shape) % 3 > 0
    solver.step(1)
    assert not ip.mask[~gone].any()
    assert sparsity_of_net(solver.net).sparsity == pytest.approx(0.5, abs=0.01)


def test_the_schedule_ends_at_three_quarters_unless_it_says_so():
    param = prototxt.parse_solver("max_iter: 1000 pruning_param { sparsity: 0.9 }")
    assert Schedule.of(param.pruning_param, 1000).end == 750
    assert "loss" in NET


@pytest.mark.parametrize("mode", ["HARD", "SOFT"])
@pytest.mark.parametrize("rule", RULES)
def test_until_the_first_step_the_run_is_the_plain_one(rule, mode):
    settings = "sparsity: 0.8 begin_step: 6 end_step: 12 frequency: 3 initial_sparsity: 0.5"
    plain, pruned = make_solver(rule), make_solver(rule, f"pruning_param {{ {settings} mode: {mode} }}")
    for _ in range(2):
        plain.step(3)
        pruned.step(3)
    n = len(plain.net.learnable_params)
    for a, b in zip(state(plain)[:n], state(pruned)[:n], strict=True):
        assert a.tobytes() == b.tobytes()
    pruned.step(1)
    assert sparsity_of_net(pruned.net).sparsity == pytest.approx(0.5, abs=0.01)


# ----------------------------------------------------------------------------------------------------- soft: splicing
SOFT = "pruning_param { sparsity: 0.8 begin_step: 2 end_step: 10 frequency: 2 mode: SOFT margin: 0.05 freeze_step: 14 }"


def masters(solver):
    arena = solver.net.arena
    return [arena.piece(arena.master, blob).read() for blob in solver.net.prunable()]


def zeros_are_plus_zero(solver):
    for blob in solver.net.prunable():
        if blob.mask is not None:
            assert not np.ascontiguousarray(blob.data[~blob.mask]).view(np.uint32).any()
            assert np.array_equal(blob.data[blob.mask] != 0, np.ones(int(blob.mask.sum()), bool))


@pytest.mark.parametrize("rule", RULES)
def test_what_is_pruned_learns_on_behind_its_mask(rule):
    solver = make_solver(rule, SOFT)
    solver.step(5)
    before, pruned = masters(solver), [~blob.mask for blob in solver.net.prunable()]
    solver.step(1)
    zeros_are_plus_zero(solver)
    for old, new, gone in zip(before, masters(solver), pruned, strict=True):
        assert gone.any() and (new[gone] != old[gone]).any() and np.isfinite(new).all()


def test_the_hidden_weights_gradient_is_that_of_the_net_that_is_seen():
    """SGD without momentum or decay: a step of every weight, pruned or not, is the rate times its gradient."""
    solver = make_solver("SGD", SOFT)
    solver.param.momentum = solver.param.weight_decay = 0
    solver.step(5)
    old, working = masters(solver), [blob.data.copy() for blob in solver.net.prunable()]
    twin = make_solver("SGD", "")
    for mine, its in zip(solver.net.learnable_params, twin.net.learnable_params, strict=True):
        its.data[...] = mine.data
    twin.net.clear_param_diffs()
    twin.net.forward()
    twin.net.backward()
    solver.step(1)
    for a, b, seen, blob in zip(old, masters(solver), working, twin.net.prunable(), strict=True):
        assert (seen == 0).any()
        np.testing.assert_allclose(b, a - 0.1 * blob.diff, rtol=1e-5, atol=1e-7)


def test_a_hidden_weight_that_grows_comes_back_with_its_value(caplog):
    solver = make_solver("SGD", SOFT)
    solver.step(7)
    blob = solver.net.params["turned"][0]
    place = tuple(np.argwhere(~blob.mask)[0])
    solver.net.arena.piece(solver.net.arena.master, blob).array[place] = 9.0
    with caplog.at_level(logging.INFO, "protocaffe"):
        solver.step(2)
    assert blob.mask[place] and blob.data[place] == pytest.approx(9.0, abs=0.5)
    assert any("came back" in line and ", 0 came back" not in line for line in caplog.messages)
    zeros_are_plus_zero(solver)


def test_the_margin_keeps_masks_from_flickering():
    changes = {}
    for margin in (0.0, 3.0):
        solver, last = make_solver("Adam", SOFT.replace("margin: 0.05", f"margin: {margin}")), None
        solver.step(11)
        for _ in range(3):
            masks = np.concatenate([blob.mask.ravel() for blob in solver.net.prunable()])
            changes[margin] = changes.get(margin, 0) + (0 if last is None else int((masks & ~last).sum()))
            last = masks.copy()
            solver.step(2 if solver.iter < 14 else 0)
    assert changes[3.0] <= changes[0.0]


@pytest.mark.parametrize(
    ("text", "told"),
    [
        ("end_step: 15", False),
        ("end_step: 16", True),
        ("mode: SOFT end_step: 10 freeze_step: 15", False),
        ("mode: SOFT end_step: 10 freeze_step: 16", True),
    ],
)
def test_a_run_that_ends_before_its_last_step_says_so(text, told, caplog):
    make_solver("SGD", f"max_iter: 16 pruning_param {{ sparsity: 0.5 {text} }}")
    assert ("the run ends at iteration 16, before its last step at 16" in caplog.text) is told


@pytest.mark.parametrize("regrow", [0, 0.1, 1])
def test_only_a_share_of_each_layer_comes_back_at_once(regrow):
    solver = make_solver("SGD", SOFT.replace("margin: 0.05", f"margin: 0 regrow: {regrow}"))
    solver.step(9)  # the next iteration's step finds many that have grown behind their masks
    arena = solver.net.arena
    old = [blob.mask.copy() for blob in solver.net.prunable()]
    for blob, keep in zip(solver.net.prunable(), old, strict=True):
        hidden = arena.piece(arena.master, blob).array
        hidden[~keep] = 10 + np.arange((~keep).sum())
    solver.step(2)
    back = [int((blob.mask & ~keep).sum()) for blob, keep in zip(solver.net.prunable(), old, strict=True)]
    most = [math.ceil(regrow * int(keep.sum())) for keep in old]
    assert all(count <= limit for count, limit in zip(back, most, strict=True))
    assert (sum(back) > 0) == (regrow > 0)
    for blob, keep, count in zip(solver.net.prunable(), old, back, strict=True):  # the largest of each come first
        rank = np.flatnonzero((blob.mask & ~keep)[~keep])
        assert rank.tolist() == list(range((~keep).sum() - count, (~keep).sum()))


@pytest.mark.parametrize("text", ["sparsity: 0.95", "sparsity: 0.6 min_keep: 0.9", "n: 2 m: 4"])
def test_what_was_pruned_before_does_not_all_come_back_with_soft_masks(text, caplog):
    solver = make_solver("SGD", f"pruning_param {{ {text} mode: SOFT begin_step: 1 frequency: 3 freeze_step: 14 }}")
    rng = np.random.default_rng(2)
    for blob in solver.net.prunable():
        blob.mask = rng.random(blob.shape) > 0.8
    for _ in range(15):
        old = [blob.mask.copy() for blob in solver.net.prunable()]
        with caplog.at_level(logging.INFO, "protocaffe"):
            solver.step(1)
        for blob, keep in zip(solver.net.prunable(), old, strict=True):
            assert int((blob.mask & ~keep).sum()) <= math.ceil(0.02 * int(keep.sum()))
    left = sum(int(blob.mask.sum()) for blob in solver.net.prunable())
    line = [line for line in caplog.messages if "weights are left" in line][-1]
    assert f": {left} of " in line


def test_soft_pruning_leaves_the_mask_of_an_excluded_layer_alone():
    solver = make_solver("SGD", SOFT.replace("mode", 'layer { name: "turned" exclude: true } mode'))
    blob = solver.net.params["turned"][0]
    keep = np.random.default_rng(2).random(blob.shape) > 0.5
    blob.mask = keep
    solver.step(16)
    assert np.array_equal(blob.mask, keep) and not blob.data[~keep].any()


def test_of_equal_ones_the_last_come_back_and_the_share_is_the_decimal_one():
    solver = make_solver("SGD", SOFT.replace("margin: 0.05", "regrow: 0.1"))
    alive = np.arange(200) < 100
    back = solver._pruner._may_return(alive, np.ones(200, np.float32))
    assert np.flatnonzero(back).tolist() == list(range(190, 200))


def test_frozen_masks_stay_and_what_is_pruned_is_gone(caplog):
    solver = make_solver("SGD", SOFT)
    with caplog.at_level(logging.INFO, "protocaffe"):
        solver.step(15)
    assert not solver.net.arena.soft and any("masks are frozen" in line for line in caplog.messages)
    masks = [blob.mask.copy() for blob in solver.net.prunable()]
    assert sparsity_of_net(solver.net).sparsity == pytest.approx(0.8, abs=0.01)
    solver.step(6)
    for blob, mask in zip(solver.net.prunable(), masks, strict=True):
        np.testing.assert_array_equal(blob.mask, mask)
        assert not blob.diff[~mask].any()
    zeros_are_plus_zero(solver)


@pytest.mark.parametrize("stop", [1, 2, 3, 6, 9, 11, 13, 14, 15, 16])
@pytest.mark.parametrize("form", ["BINARYPROTO", "HDF5"])
def test_a_soft_run_stopped_anywhere_goes_on_as_if_it_had_not(stop, form, tmp_path):
    more = f'{SOFT} snapshot_format: {form} snapshot_prefix: "{tmp_path}/s"'
    whole, first, again = (make_solver("Adam", more) for _ in range(3))
    whole.step(18)
    first.step(stop)
    _, path = first.snapshot()
    zeros_are_plus_zero(first)
    again.restore(path)
    again.step(18 - stop)
    for a, b in zip([*state(whole), *masters(whole)], [*state(again), *masters(again)], strict=True):
        assert a.tobytes() == b.tobytes()


def test_a_solver_that_has_run_goes_back_to_a_state(tmp_path):
    more = f'{SOFT} snapshot_prefix: "{tmp_path}/s"'
    solver = make_solver("Adam", more)
    solver.step(6)
    _, path = solver.snapshot()
    solver.step(4)
    wanted = [*state(solver), *masters(solver)]
    for further in (3, 6):  # soft still, then frozen
        solver.step(further)
        solver.restore(path)
        solver.step(4)
        for a, b in zip(wanted, [*state(solver), *masters(solver)], strict=True):
            assert a.tobytes() == b.tobytes()


def test_a_state_of_another_net_is_refused(tmp_path):
    from protocaffe.errors import SolverError
    from protocaffe.io.solverstate import read_solverstate, write_solverstate

    solver = make_solver("SGD", f'{SOFT} snapshot_prefix: "{tmp_path}/s"')
    solver.step(5)
    _, path = solver.snapshot()
    damaged = read_solverstate(path)
    damaged.resume.master[0] = damaged.resume.master[0][:-4]
    write_solverstate(path, damaged)
    with pytest.raises(SolverError, match="the weights behind its masks are not those of this net"):
        solver.restore(path)


def test_a_test_pass_and_a_snapshot_change_nothing(tmp_path):
    solver = make_solver("Adam", f'{SOFT} snapshot_prefix: "{tmp_path}/s"')
    solver.step(7)
    before = [*state(solver), *masters(solver)]
    solver.net.forward()
    solver.snapshot()
    for a, b in zip(before, [*state(solver), *masters(solver)], strict=True):
        assert a.tobytes() == b.tobytes()


def test_a_device_with_memory_of_its_own_prunes_alike():
    import protocaffe

    runs = []
    for backend in (get_backend("cpu"), SplitBackend()):
        param = prototxt.parse_solver(f'type: "Adam" {RULES["Adam"]} lr_policy: "fixed" random_seed: 3 {SOFT}')
        param.net_param.CopyFrom(prototxt.parse_net(NET))
        solver = protocaffe.get_solver(param, backend=backend)
        rng = np.random.default_rng(5)
        solver.net.blobs["data"].data = rng.standard_normal((6, 2, 7, 7))
        solver.net.blobs["label"].data = rng.integers(0, 9, 6)
        solver.step(18)
        runs.append(state(solver))
    for a, b in zip(*runs, strict=True):
        np.testing.assert_array_equal(a, b)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("freeze_step: 5", "freeze_step is for mode: SOFT"),
        ("margin: 0.1", "margin is for mode: SOFT"),
        ("mode: HARD regrow: 0.02", "regrow is for mode: SOFT"),
        ("mode: SOFT begin_step: 2 end_step: 9 freeze_step: 5", "freeze_step must not be before end_step 9, got 5"),
        ("mode: SOFT margin: -1", "margin must be from 0 to 10, got -1"),
        ("mode: SOFT regrow: 1.5", "regrow must be from 0 to 1, got 1.5"),
    ],
)
def test_soft_settings_that_cannot_be(text, message):
    with pytest.raises(ParameterError, match=message):
        make_solver(more=f"pruning_param {{ sparsity: 0.5 {text} }}")


# ------------------------------------------------------------------------------------------------------------ methods
METHODS = {
    "random": "method: RANDOM sparsity: 0.7",
    "first-order": "method: FIRST_ORDER sparsity: 0.7",
    "second-order": "method: SECOND_ORDER sparsity: 0.7",
    "second-order, soft": "method: SECOND_ORDER sparsity: 0.7 mode: SOFT freeze_step: 12",
    "erk": "scope: ERK sparsity: 0.7",
    "2:4": "n: 2 m: 4",
}


@pytest.mark.parametrize("stop", [1, 4, 5, 9, 12, 13])
@pytest.mark.parametrize("name", METHODS)
def test_every_method_goes_on_exactly(name, stop, tmp_path):
    more = (
        f'pruning_param {{ {METHODS[name]} begin_step: 4 end_step: 10 frequency: 3 }} snapshot_prefix: "{tmp_path}/s"'
    )
    whole, first, again = (make_solver("Adam", more) for _ in range(3))
    whole.step(15)
    first.step(stop)
    again.restore(first.snapshot()[1])
    again.step(15 - stop)
    for a, b in zip(state(whole), state(again), strict=True):
        assert a.tobytes() == b.tobytes()
    wanted = 0.5 if name == "2:4" else 0.7
    assert sparsity_of_net(whole.net).sparsity == pytest.approx(wanted, abs=0.03)


@pytest.mark.parametrize("method", ["FIRST_ORDER", "SECOND_ORDER"])
def test_the_weights_that_go_are_those_whose_loss_is_least(method):
    """By hand: the scores of the iteration (and of the ones before it) in float64, all weights in one ranking."""
    more = f"pruning_param {{ method: {method} sparsity: 0.4 schedule: ONE_SHOT begin_step: 2 min_keep: 1 }}"
    solver, squares = make_solver("SGD", more), 0.0
    seen: dict[str, np.ndarray] = {}

    def look():
        nonlocal squares
        blobs = solver.net.prunable()
        seen["w"] = np.concatenate([blob.data.ravel().astype(np.float64) for blob in blobs])
        seen["g"] = np.concatenate([blob.diff.ravel().astype(np.float64) for blob in blobs])
        squares = squares + seen["g"] ** 2

    solver.add_callback(lambda: None, look)
    solver.step(3)
    scores = np.abs(seen["w"] * seen["g"]) if method == "FIRST_ORDER" else seen["w"] ** 2 * squares
    pruned = np.concatenate([(blob.data == 0).ravel() for blob in solver.net.prunable()])
    assert pruned.mean() == pytest.approx(0.4, abs=0.001)
    assert scores[pruned].max() <= scores[~pruned].min() * (1 + 1e-5)
