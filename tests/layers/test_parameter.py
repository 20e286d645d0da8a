"""Parameter: a learnt bottom."""

import numpy as np

import protocaffe
from protocaffe.errors import ParameterError
from protocaffe.io import parse_net, parse_solver
from tests.support.check_layer import check_error, check_layer

TEXT = 'layer { type: "Parameter" top: "y" parameter_param { shape { dim: 3 dim: 4 } } }'


def test_parameter():
    check_layer(TEXT, {}, lambda w: w, lambda arrays, diffs: [diffs[0]])
    check_error(ParameterError, "shape must be given", 'layer { type: "Parameter" top: "y" }', {})


def test_it_learns_with_iter_size_and_test_nets_see_it():
    """A scale that is a learnt bottom moves as a learnt scale of the layer's own."""
    text = """
    layer { name: "in" type: "Input" top: "x" top: "z" input_param { shape { dim: 4 dim: 3 } shape { dim: 4 dim: 3 } } }
    PARAMETER
    layer { name: "s" type: "Scale" bottom: "x" BOTTOM top: "y" scale_param { filler { value: 0 } } }
    layer { name: "loss" type: "EuclideanLoss" bottom: "y" bottom: "z" top: "loss" }
    """
    bottom = 'layer { name: "g" type: "Parameter" top: "g" parameter_param { shape { dim: 3 } } }'
    results = []
    for net in (text.replace("PARAMETER", bottom).replace("BOTTOM", 'bottom: "g"'),
                text.replace("PARAMETER", "").replace("BOTTOM", "")):  # fmt: skip
        param = parse_solver(
            'base_lr: 0.1 lr_policy: "fixed" momentum: 0.9 iter_size: 2 test_iter: 1 test_interval: 100 '
            "test_initialization: false"
        )
        param.net_param.CopyFrom(parse_net(net))
        solver = protocaffe.get_solver(param)
        rng = np.random.default_rng(0)
        for name in ("x", "z"):
            values = rng.standard_normal((4, 3))
            for n in (solver.net, solver.test_nets[0]):
                n.blobs[name].data = values
        solver.step(5)
        solver.test_nets[0].forward()
        blob = solver.net.params["g" if "g" in solver.net.params else "s"][0]
        results.append((blob.data.copy(), solver.test_nets[0].blobs["y"].data.copy()))
        np.testing.assert_allclose(results[-1][1], solver.net.blobs["x"].data * blob.data, rtol=1e-6)
        assert not blob.prunable
    for a, b in zip(*results, strict=True):
        np.testing.assert_array_equal(a, b)


def test_shared_values_are_seen_by_a_pass_that_begins_behind_it():
    text = TEXT.replace("layer {", 'layer { name: "p"')
    text += 'layer { name: "sum" type: "Reduction" bottom: "y" top: "sum" reduction_param { operation: MEAN } }'
    for warm in (False, True):
        owner, user = protocaffe.Net(parse_net(text)), protocaffe.Net(parse_net(text))
        if warm:
            user.forward()
        owner.params["p"][0].data[...] = 7
        user.share_with(owner)
        assert user.forward(start="sum")["sum"] == 7
