"""Agreement against hand-made numbers; distillation: targets, masks, frozen parameters, errors."""

import numpy as np
import pytest

from protocaffe import TEST, Net
from protocaffe.errors import DivergedError, NetError, ParameterError, ShapeError
from protocaffe.io import parse_net
from protocaffe.pruning import prune_net
from protocaffe.pruning.batches import Batches, image_input
from protocaffe.pruning.distill import agreement, distill, without_softmax

INPUT = 'layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 4 dim: 1 dim: 6 dim: 6 } } }\n'
BODY = """
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
        convolution_param { num_output: 8 kernel_size: 3 weight_filler { type: "xavier" } } }
layer { name: "bn" type: "BatchNorm" bottom: "conv" top: "conv" }
layer { name: "relu" type: "ReLU" bottom: "conv" top: "conv" }
layer { name: "frozen" type: "InnerProduct" bottom: "conv" top: "frozen" param { lr_mult: 0 } param { lr_mult: 0 }
        inner_product_param { num_output: 20 weight_filler { type: "xavier" } } }
layer { name: "ip" type: "InnerProduct" bottom: "frozen" top: "ip"
        inner_product_param { num_output: 5 weight_filler { type: "gaussian" std: 1 } } }
"""
PROB = 'layer { name: "prob" type: "Softmax" bottom: "ip" top: "prob" include { stage: "deploy" } }\n'


def net(text=INPUT + BODY + PROB):
    made = Net(parse_net(text), TEST, stages=["deploy"], seed=1)
    if "bn" in made.params:
        for blob, value in zip(made.params["bn"], (0.1, 2.0, 1.0), strict=True):
            blob.data = np.full(blob.shape, value)
    return made


def images(n=50):
    return np.random.default_rng(1).normal(size=(n, 1, 6, 6)).astype(np.float32)


def test_agreement_of_known_outputs():
    z0 = np.log([[0.5, 0.25, 0.25], [0.1, 0.8, 0.1]])
    z = np.log([[0.25, 0.5, 0.25], [0.1, 0.8, 0.1]]) + np.array([[3], [-7]])  # a constant changes no probability
    got = agreement(z0, z, 1)
    assert got.images == 2 and got.same == 0.5
    assert got.kl == pytest.approx((0.5 * np.log(2) - 0.25 * np.log(2)) / 2)
    assert got.error == pytest.approx(np.linalg.norm(z - z0) / np.linalg.norm(z0))


def test_agreement_along_other_axes_and_without_verdicts():
    z0 = np.random.default_rng(0).normal(size=(3, 2, 4))
    flipped = z0.copy()
    flipped[0, 0] = -z0[0, 0]
    assert agreement(z0, flipped, 2).same == pytest.approx(5 / 6)
    single = agreement(np.array([[1.0], [2.0]]), np.array([[1.0], [1.0]]))
    assert single.same is None and single.kl is None and single.error == pytest.approx(1 / np.sqrt(5))


def test_the_closing_softmax_goes_and_nothing_else_changes():
    full = net()
    prune_net(full, 0.5)
    bare, axes = without_softmax(full)
    assert axes == {"ip": 1}
    x = images(4)
    full.forward(data=x)
    np.testing.assert_allclose(bare.forward(data=x)["ip"], full.blobs["ip"].data, rtol=1e-5, atol=1e-6)
    assert np.array_equal(bare.params["conv"][0].mask, full.params["conv"][0].mask)
    assert bare.params["conv"][0].values is not full.params["conv"][0].values


def test_a_softmax_beside_another_reader_stays():
    more = 'layer { name: "half" type: "Power" bottom: "ip" top: "half" power_param { scale: 0.5 } }\n'
    _, axes = without_softmax(net(INPUT + BODY + PROB + more))
    assert axes == {"half": None, "prob": None}


def test_distillation_gets_nearer_under_the_masks():
    full = net()
    dense, axes = without_softmax(full)
    prune_net(full, 0.3, "uniform")
    student, _ = without_softmax(full)
    masks = [b.mask if b.mask is None else b.mask.copy() for b in student.learnable_params]
    before = [b.data.copy() for b in student.learnable_params]
    batches = Batches(full, images())
    targets = batches.outputs(dense)
    old = agreement(targets["ip"], batches.outputs(student)["ip"], axes["ip"])
    heard = []
    losses = distill(student, targets, batches, 150, rate=1e-2, each=lambda i, loss: heard.append((i, loss)))
    new = agreement(targets["ip"], batches.outputs(student)["ip"], axes["ip"])
    assert heard == list(enumerate(losses, 1)) and len(losses) == 150
    assert new.error < 0.6 * old.error and new.kl < 0.5 * old.kl and new.same > old.same
    assert losses[-1] < 0.4 * losses[0]
    for blob, mask, values in zip(student.learnable_params, masks, before, strict=True):
        frozen = blob.name.startswith(("frozen", "bn"))
        assert np.array_equal(blob.data, values) == frozen, blob.name
        assert mask is None or (np.array_equal(blob.mask, mask) and not blob.data[~mask].any())


def test_the_first_loss_is_the_one_that_is_promised():
    full = net()
    dense, _ = without_softmax(full)
    prune_net(full, 0.7)
    student, _ = without_softmax(full)
    batches = Batches(full, images(16))
    z0, z = batches.outputs(dense), batches.outputs(student)["ip"]
    (loss,) = distill(student, z0, batches, 1)
    assert loss == pytest.approx(np.square(z - z0["ip"]).sum() / np.square(z0["ip"]).sum() / 2, rel=1e-5)


def test_distillation_is_the_same_every_time():
    runs = []
    for _ in range(2):
        full = net()
        dense, _ = without_softmax(full)
        prune_net(full, 0.7)
        batches = Batches(full, images())
        runs.append(distill(full_student := without_softmax(full)[0], batches.outputs(dense), batches, 20, seed=3))
        runs.append(full_student.params["ip"][0].data.copy())
    assert runs[0] == runs[2]
    assert np.array_equal(runs[1], runs[3])


def test_errors_of_distillation():
    full = net()
    batches = Batches(full, images())
    student, _ = without_softmax(full)
    targets = batches.outputs(student)
    with pytest.raises(ParameterError, match="iterations >= 0 and a rate > 0, got 5 and 0"):
        distill(student, targets, batches, 5, 0)
    with pytest.raises(DivergedError, match="the loss is nan in iteration 0"):
        distill(student, {"ip": targets["ip"] * np.nan}, batches, 5)


@pytest.mark.parametrize("n", [1, 16, 17, 50])
def test_outputs_come_once_for_each_image(n):
    full = net()
    x = images(n)
    got = Batches(full, x).outputs(full)["prob"]
    single = np.concatenate([Batches(full, x[i : i + 1]).outputs(full)["prob"] for i in range(n)])
    np.testing.assert_allclose(got, single, rtol=1e-5, atol=1e-7)


def test_nets_that_do_not_take_images():
    with pytest.raises(NetError, match="one Input for images, it has a, b"):
        image_input(net("".join(INPUT.replace('"data"', f'"{name}"') for name in "ab")))
    with pytest.raises(NetError, match=r'input "data" must have shape \(N, C, H, W\), got \(4, 6\)'):
        image_input(net(INPUT.replace("dim: 1 dim: 6 dim: 6", "dim: 6")))
    with pytest.raises(ShapeError, match=r"must have shape \(n, \*\(1, 6, 6\)\), got \(2, 1, 6, 5\)"):
        Batches(net(), np.zeros((2, 1, 6, 5), np.float32))
    outside = INPUT + 'layer { name: "r" type: "Reduction" bottom: "data" top: "r" }'
    with pytest.raises(NetError, match=r'output "r" of shape \(\) has no axis of 16 images'):
        Batches(net(outside), images(16)).outputs(net(outside))
