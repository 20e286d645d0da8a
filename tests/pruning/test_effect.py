"""Scores from images without labels: against the change of the outputs, signs, what is left as it was, errors."""

import numpy as np
import pytest

from protocaffe import TEST, Net
from protocaffe.errors import NetError, ParameterError
from protocaffe.io import parse_net
from protocaffe.pruning import PruningArguments, prune_by
from protocaffe.pruning.batches import Batches
from protocaffe.pruning.distill import without_softmax
from protocaffe.pruning.effect import effect_channels

FILL = 'weight_filler { type: "gaussian" std: 0.4 } bias_filler { type: "gaussian" std: 0.2 }'
NET = f"""
layer {{ name: "data" type: "Input" top: "data" input_param {{ shape {{ dim: 2 dim: 2 dim: 6 dim: 5 }} }} }}
layer {{ name: "conv" type: "Convolution" bottom: "data" top: "conv"
        convolution_param {{ num_output: 6 group: 2 kernel_size: 3 {FILL} }} }}
layer {{ name: "bn" type: "BatchNorm" bottom: "conv" top: "conv" }}
layer {{ name: "scale" type: "Scale" bottom: "conv" top: "conv" scale_param {{ bias_term: true
        filler {{ type: "uniform" min: 0.3 max: 2 }} bias_filler {{ type: "gaussian" std: 0.3 }} }} }}
layer {{ name: "relu" type: "ReLU" bottom: "conv" top: "conv" }}
layer {{ name: "ip" type: "InnerProduct" bottom: "conv" top: "ip"
        inner_product_param {{ num_output: OUTPUTS {FILL} }} }}
"""
PROB = 'layer { name: "prob" type: "Softmax" bottom: "ip" top: "prob" }\n'


def made(outputs=1, more=""):
    net = Net(parse_net(NET.replace("OUTPUTS", str(outputs)) + more), TEST, seed=4)
    for blob, value in zip(net.params["bn"], (0.1, 2.0, 1.0), strict=True):
        blob.data = np.full(blob.shape, value)
    return net


def images(n=40):
    return np.random.default_rng(2).normal(size=(n, 2, 6, 5)).astype(np.float32)


def change_without(net, batches, channel):
    """Mean squared change of the output if a channel (behind its Scale) becomes 0, over the outputs' mean square."""
    z0 = batches.outputs(without_softmax(net)[0])["ip"].astype(np.float64)
    without, _ = without_softmax(net)
    without.params["scale"][0].data[channel] = 0
    without.params["scale"][1].data[channel] = 0
    z = batches.outputs(without)["ip"]
    return np.square(z - z0).sum(1).mean() / np.square(z0).sum(1).mean()


@pytest.mark.parametrize("more", ["", PROB])
def test_behind_a_piecewise_linear_net_the_score_is_the_change(more):
    net = made(more=more)
    batches = Batches(net, images(48))  # whole batches
    conv, _ = effect_channels(net, batches)
    wanted = [change_without(net, batches, c) for c in range(6)]
    np.testing.assert_allclose(conv, wanted, rtol=1e-4)


def test_signs_give_the_sum_over_outputs_in_the_mean():
    net = made(outputs=3)
    batches = Batches(net, images(64))
    draws = [effect_channels(net, batches, seed=seed)[0] for seed in range(40)]
    wanted = [change_without(net, batches, c) for c in range(6)]
    np.testing.assert_allclose(np.mean(draws, 0), wanted, rtol=0.1)
    assert not np.array_equal(draws[0], draws[1])
    assert np.array_equal(draws[0], effect_channels(net, batches, seed=0)[0])


def test_the_net_stays_as_it_was_and_the_lowest_go():
    net = made(outputs=3, more=PROB)
    before = [blob.data.copy() for blob in net.learnable_params]
    batches = Batches(net, images())
    scores = effect_channels(net, batches, seed=7)[0]
    assert all(np.array_equal(a, b.data) for a, b in zip(before, net.learnable_params, strict=True))
    result = prune_by(net, PruningArguments("effect-channels", "uniform", 0.5), seed=7, images=batches)
    left = net.params["conv"][0].mask.any(axis=(1, 2, 3))
    assert result.channels == {"conv": (3, 6)} and result.held == ("ip",)
    assert scores[left].min() > scores[~left].max()


def test_it_needs_images_and_blobs_inside_must_exist():
    with pytest.raises(ParameterError, match="effect-channels needs images"):
        prune_by(made(), PruningArguments("effect-channels", "uniform", 0.5))
    with pytest.raises(NetError, match='has no blob "nothing" to distil at'):
        without_softmax(made(), ["nothing"])
