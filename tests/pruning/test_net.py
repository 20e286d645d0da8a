"""The adapter between nets and the pruning functions."""

import numpy as np

from protocaffe import TEST, Net
from protocaffe.io import parse_net
from protocaffe.pruning import all_parameters, prunable_weights, prune_net, set_masks, sparsity_of_net

DATA = 'layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 2 dim: 12 } } }\n'


def ip(name, bottom, shared="", outputs=12):
    names = f'param {{ name: "{shared}w" }} param {{ name: "{shared}b" }}' if shared else ""
    filler = 'weight_filler { type: "gaussian" std: 1 } bias_filler { type: "constant" value: 1 }'
    return (
        f'layer {{ name: "{name}" type: "InnerProduct" bottom: "{bottom}" top: "{name}" {names} '
        f"inner_product_param {{ num_output: {outputs} {filler} }} }}\n"
    )


def test_shared_parameters_come_once_and_biases_not_at_all():
    net = Net(parse_net(DATA + ip("a", "data", "s") + ip("b", "a", "s") + ip("c", "b", outputs=3)), TEST, seed=1)
    weights = prunable_weights(net)
    assert [(w.name, w.values.shape) for w in weights] == [("a", (12, 12)), ("c", (3, 12))]
    assert sum(p.size for p in all_parameters(net)) == 144 + 12 + 36 + 3


def test_pruning_a_net_sets_masks_that_its_shared_layers_see():
    net = Net(parse_net(DATA + ip("a", "data", "s") + ip("b", "a", "s") + ip("c", "b", outputs=3)), TEST, seed=1)
    report = prune_net(net, 0.5)
    assert report.zeros == 90
    assert report.parameters == 195
    assert report.nonzeros == 195 - 90
    assert np.array_equal(net.params["a"][0].mask, net.params["b"][0].mask)
    assert np.array_equal(net.params["a"][0].mask, net.params["a"][0].data != 0)
    assert net.params["a"][1].mask is None
    assert sparsity_of_net(net) == report


def test_masks_go_back_in_the_order_in_which_weights_came():
    net = Net(parse_net(DATA + ip("a", "data") + ip("b", "a", outputs=5)), TEST, seed=1)
    rng = np.random.default_rng(0)
    masks = [rng.random(w.values.shape) < 0.5 for w in prunable_weights(net)]
    set_masks(net, masks)
    for w, mask in zip(prunable_weights(net), masks, strict=True):
        assert np.array_equal(w.mask, mask)
        assert not w.values[~mask].any()
