"""Every method on a net with a grouped convolution, a transposed inner product and a shared weight, from old files."""

import numpy as np
import pytest

import protocaffe
from protocaffe.cli.prune import METHODS as OFFERED
from protocaffe.io import parse_net
from protocaffe.pruning import PruningArguments, Weights, prunable_weights, prune_by
from protocaffe.pruning.criteria import CHANNEL_METHODS, METHODS
from protocaffe.pruning.scores import random_scores
from tests.support import pruning_nets as nets

SCOPES = ["global", "uniform", "erk"]
#: those that a training net will do for; tests of effect-channels, which needs images, are in test_effect.py
TRAINABLE = [method for method in METHODS if method != "effect-channels"]


def pruned(method, scope="uniform", masks=None, **more):
    net = nets.make()
    for name, mask in (masks or {}).items():
        net.params[name][0].mask = mask
    training = nets.make()
    for name, mask in (masks or {}).items():
        training.params[name][0].mask = mask
    arguments = PruningArguments(method, **({"scope": scope, "sparsity": 0.5} | more))
    return net, prune_by(net, arguments, training, 2, seed=5)


def rows(net, name):
    """The mask with a row for each output."""
    mask = net.params[name][0].mask
    return mask.T if name == "turned" else mask.reshape(len(mask), -1)


def test_the_command_line_offers_all():
    assert OFFERED == METHODS


@pytest.mark.parametrize("scope", SCOPES)
@pytest.mark.parametrize("method", TRAINABLE)
def test_methods_and_scopes(method, scope, tmp_path):
    net, result = pruned(method, scope)
    dense = nets.make()
    total = zeros = 0
    for name, shape in nets.PRUNABLE.items():
        mask, values = net.params[name][0].mask, net.params[name][0].data
        if name == "out" and method in CHANNEL_METHODS:
            assert mask is None
            continue
        if mask is None:  # held whole by ERK
            assert scope == "erk"
            mask = np.ones(shape, bool)
        assert mask.shape == shape and mask.any()
        assert not values[~mask].any() and np.array_equal(values[mask], dense.params[name][0].data[mask])
        total, zeros = total + mask.size, zeros + int((~mask).sum())
        if method in CHANNEL_METHODS and net.params[name][0].mask is not None:
            whole = rows(net, name)
            assert np.array_equal(whole, np.repeat(whole[:, :1], whole.shape[1], axis=1))
            if scope == "uniform":
                assert whole[:, 0].sum() == len(whole) // 2
    assert zeros > 0
    if method not in CHANNEL_METHODS:
        assert 0.5 * total <= zeros <= 0.5 * total + 4
        assert result.report.zeros == zeros
    assert np.array_equal(net.params["one"][0].mask, net.params["two"][0].mask)
    net.save(tmp_path / "net.caffemodel")
    again = protocaffe.Net(parse_net(nets.NET), protocaffe.TEST, weights=str(tmp_path / "net.caffemodel"))
    for name in nets.PRUNABLE:
        mask = net.params[name][0].mask
        assert mask is None or np.array_equal(again.params[name][0].mask, mask)


@pytest.mark.parametrize("method", TRAINABLE)
def test_masks_that_are_there_are_never_taken_back(method):
    rng = np.random.default_rng(0)
    masks = {name: rng.random(shape) < 0.8 for name, shape in nets.PRUNABLE.items() if name != "one"}
    masks["conv"][2] = False
    net, _ = pruned(method, masks=masks)
    for name, mask in masks.items():
        assert not (net.params[name][0].mask & ~mask).any()
        assert net.params[name][0].mask.any()


@pytest.mark.parametrize("method", TRAINABLE)
def test_weights_from_files_of_old_caffes_are_pruned_alike(method, tmp_path):
    """Four axes for every parameter: what counts is how the layer declares it."""
    path = nets.write_legacy(tmp_path / "old.caffemodel", nets.make())
    net, training = nets.make(seed=99), nets.make()
    net.copy_from(path)
    prune_by(net, PruningArguments(method, "erk", 0.6), training, 2, seed=5)
    reference, _ = pruned(method, "erk", sparsity=0.6)
    for name in nets.PRUNABLE:
        mask, want = net.params[name][0].mask, reference.params[name][0].mask
        assert (mask is None and want is None) or np.array_equal(mask, want)


@pytest.mark.parametrize("method", ["l1-channels", "magnitude"])
def test_a_blob_that_was_given_four_axes_keeps_its_outputs(method):
    net = nets.make()
    net.params["turned"][0].reshape(1, 1, 54, 8)
    more = {"n": 2, "m": 4, "sparsity": None} if method == "magnitude" else {}
    arguments = PruningArguments(method, **({"scope": "uniform", "sparsity": 0.5} | more))
    prune_by(net, arguments)
    reference, _ = pruned(method, **more)
    assert np.array_equal(net.params["turned"][0].mask[0, 0], reference.params["turned"][0].mask)


@pytest.mark.parametrize("method", ["magnitude", "random", "first-order", "second-order"])
def test_n_of_m_runs_along_the_inputs(method):
    net, _ = pruned(method, sparsity=None, n=2, m=4)
    for name, inputs in {"conv": 18, "turned": 54, "one": 8, "out": 8}.items():
        whole = rows(net, name)
        assert whole.shape[1] == inputs
        blocks = inputs // 4
        assert (whole[:, : 4 * blocks].reshape(len(whole), blocks, 4).sum(axis=2) == 2).all()
        assert (whole[:, 4 * blocks :].sum(axis=1) == (inputs - 4 * blocks) // 2).all()


@pytest.mark.parametrize("method", TRAINABLE)
def test_excluded_layers_get_no_mask(method):
    net, result = pruned(method, exclude=("turned",))
    assert net.params["turned"][0].mask is None
    assert net.params["conv"][0].mask is not None and "turned" not in result.channels


def test_random_is_a_matter_of_seed_name_and_place_alone():
    """The same on every machine: draws from Philox, whose words are fixed."""
    a, b = Weights("conv1", np.zeros((2, 3), np.float32)), Weights("ip1", np.zeros(6))
    first, second = random_scores([a, b], 7)
    assert first.shape == (2, 3) and ((first >= 0) & (first < 1)).all()
    assert np.array_equal(random_scores([b, a], 7)[1], first)  # whatever else is in the net
    assert not np.array_equal(first.ravel(), second)
    assert not np.array_equal(random_scores([a], 8)[0], first)
    # (word >> 11) / 2^53 of Philox under the first 16 bytes of blake2b("7\\0pruning\\0conv1")
    assert first.ravel()[:3].tolist() == [0.7662286750335617, 0.3485416328747841, 0.06638036432890249]


def test_with_one_seed_more_sparsity_prunes_more_of_the_same():
    half, _ = pruned("random")
    most, _ = pruned("random", sparsity=0.8)
    for name in nets.PRUNABLE:
        assert not (most.params[name][0].mask & ~half.params[name][0].mask).any()


@pytest.mark.parametrize("method", TRAINABLE)
def test_the_same_again(method):
    one, two = pruned(method)[0], pruned(method)[0]
    for a, b in zip(prunable_weights(one), prunable_weights(two), strict=True):
        assert np.array_equal(a.alive, b.alive)
