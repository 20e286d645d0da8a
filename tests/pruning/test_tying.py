"""Code books in fine-tuning: weights that share a value go on sharing it, to the bit, through snapshots too."""

import numpy as np
import pytest

from protocaffe import TEST, Net, get_solver
from protocaffe.errors import ParameterError
from protocaffe.io import parse_solver
from protocaffe.pruning import prune_net
from protocaffe.pruning.compress import compress_net
from protocaffe.pruning.tying import keep_code_books

NET = """
net_param {{
  layer {{ name: "data" type: "DummyData" top: "data" top: "label" dummy_data_param {{
    shape {{ dim: 8 dim: 13 }} shape {{ dim: 8 dim: 3 }}
    data_filler {{ type: "gaussian" std: 1 }} data_filler {{ type: "gaussian" std: 1 }} }} }}
  layer {{ name: "ip1" type: "InnerProduct" bottom: "data" top: "ip1"
    inner_product_param {{ num_output: 21 weight_filler {{ type: "xavier" }} }} }}
  layer {{ name: "relu" type: "ReLU" bottom: "ip1" top: "ip1" }}
  layer {{ name: "ip2" type: "InnerProduct" bottom: "ip1" top: "ip2"
    inner_product_param {{ num_output: 3 weight_filler {{ type: "xavier" }} }} }}
  layer {{ name: "loss" type: "EuclideanLoss" bottom: "ip2" bottom: "label" top: "loss" }}
}}
type: "{}" base_lr: 0.01 lr_policy: "fixed" max_iter: 100 {} {} snapshot_prefix: "{}" random_seed: 3
"""
RULES = {"SGD": "momentum: 0.9", "Nesterov": "momentum: 0.9", "AdaGrad": "", "RMSProp": "rms_decay: 0.9",
         "AdaDelta": "momentum: 0.9", "Adam": "momentum: 0.9 momentum2: 0.99"}  # fmt: skip


def solver_of(folder, rule="SGD", more=""):
    rule_options = RULES[rule]
    return get_solver(parse_solver(NET.format(rule, rule_options, more, folder / "s")))


@pytest.fixture
def packed(tmp_path):
    solver = solver_of(tmp_path)
    prune_net(solver.net, 0.4)
    compress_net(tmp_path / "a.pcz", solver.net, bits=3)
    return tmp_path / "a.pcz"


def groups(net):
    """For each parameter with a book which weights are equal: the place of the first one that is."""
    out = {}
    for name, blobs in net.params.items():
        _, first, code = np.unique(blobs[0].data, return_index=True, return_inverse=True)
        out[name] = first[code.ravel()]
    return out


@pytest.mark.parametrize("rule", RULES)
def test_weights_of_a_value_stay_equal_to_the_bit(tmp_path, packed, rule):
    solver = solver_of(tmp_path, rule, "iter_size: 2 weight_decay: 0.01 clip_gradients: 3")
    solver.copy_from(packed)
    before, values = groups(solver.net), solver.net.params["ip1"][0].data.copy()
    assert len(keep_code_books(solver)) == 2
    solver.step(20)
    after = groups(solver.net)
    for name, first in before.items():
        assert np.array_equal(first, after[name])
    assert 2 < len(np.unique(values)) <= 9
    assert not np.allclose(values, solver.net.params["ip1"][0].data)


def test_a_group_takes_the_mean_step_of_its_weights(tmp_path, packed):
    solver, free = solver_of(tmp_path, "SGD"), solver_of(tmp_path, "SGD")
    for each in (solver, free):
        each.copy_from(packed)
    keep_code_books(solver)
    first = groups(solver.net)["ip1"].reshape(solver.net.params["ip1"][0].shape)
    solver.step(1)
    free.step(1)
    tied, alone = (s.net.params["ip1"][0].data for s in (solver, free))
    for place in np.unique(first[tied != 0]):
        group = first == place
        np.testing.assert_allclose(tied[group], alone[group].mean(), rtol=1e-5)
    assert len(np.unique(alone)) > 20


def test_a_run_that_goes_on_from_a_snapshot_keeps_the_books(tmp_path, packed):
    whole = solver_of(tmp_path)
    whole.copy_from(packed)
    keep_code_books(whole)
    whole.step(5)
    _, state = whole.snapshot()
    whole.step(5)
    resumed = solver_of(tmp_path)
    resumed.restore(state)
    assert len(keep_code_books(resumed)) == 2
    resumed.step(5)
    for a, b in zip(whole.net.learnable_params, resumed.net.learnable_params, strict=True):
        assert a.data.tobytes() == b.data.tobytes()


@pytest.mark.parametrize("suffix", ["caffemodel", "caffemodel.h5"])
def test_files_remember_that_values_are_shared(tmp_path, packed, suffix):
    solver = solver_of(tmp_path)
    solver.copy_from(packed)
    solver.net.save(tmp_path / f"a.{suffix}")
    other = solver_of(tmp_path)
    other.copy_from(tmp_path / f"a.{suffix}")
    assert [blob.values.tied for blob in other.net.learnable_params] == [True, False, True, False]
    other.net.params["ip1"][0].data += np.random.default_rng(1).normal(size=(21, 13))  # no book any more: 273 values
    assert len(keep_code_books(other)) == 1
    assert not other.net.params["ip1"][0].values.tied


def test_what_is_pruned_later_leaves_its_group(tmp_path, packed):
    solver, alone = solver_of(tmp_path), solver_of(tmp_path)
    for each in (solver, alone):
        each.copy_from(packed)
    keep_code_books(solver)
    for each in (solver, alone):
        prune_net(each.net, 0.7)
    keep_code_books(alone)
    solver.step(3)
    alone.step(3)
    for a, b in zip(solver.net.learnable_params, alone.net.learnable_params, strict=True):
        assert np.array_equal(a.data, b.data)
        assert a.mask is None or not a.data[~a.mask].any()


def test_weights_without_books_train_as_ever(tmp_path):
    solver = solver_of(tmp_path)
    assert keep_code_books(solver) == []
    assert isinstance(solver.net, Net) and solver.net.phase != TEST


PRUNING = "pruning_param {{ sparsity: 0.7 initial_sparsity: 0.5 begin_step: 2 end_step: 8 frequency: 3 mode: {} }}"


def test_a_solver_file_prunes_tied_weights_and_a_resumed_run_is_the_same(tmp_path, packed):
    more = PRUNING.format("HARD")
    whole, first, again = (solver_of(tmp_path, more=more) for _ in range(3))
    for each in (whole, first):
        each.copy_from(packed)
        keep_code_books(each)
    whole.step(12)
    first.step(6)
    again.restore(first.snapshot()[1])
    keep_code_books(again)
    again.step(6)
    for a, b in zip(whole.net.learnable_params, again.net.learnable_params, strict=True):
        assert a.data.tobytes() == b.data.tobytes()
    for blob in whole.net.prunable():
        assert blob.mask.mean() < 0.35 and not blob.data[~blob.mask].any()
        assert len(np.unique(blob.data)) <= 9


def test_weights_that_may_come_back_have_no_place_in_a_book(tmp_path, packed):
    solver = solver_of(tmp_path, more=PRUNING.format("SOFT"))
    assert keep_code_books(solver) == []  # its own weights are from none
    solver.copy_from(packed)
    with pytest.raises(ParameterError, match=r'"<SolverParameter>": pruning_param: mode: SOFT lets weights come back'):
        keep_code_books(solver)
