"""A training iteration as one sequence of calls, and losses that wait until somebody looks."""

from __future__ import annotations

import logging

import numpy as np
import pytest

from protocaffe import get_solver, solver
from protocaffe.backends import get_backend
from protocaffe.errors import DataError, DivergedError
from protocaffe.io import prototxt
from tests.support.backends import assert_alike
from tests.support.nets import LABEL, LOSS, SMALL
from tests.support.split_backend import SplitBackend


def make(backend=None, net=LABEL + SMALL + LOSS, **settings):
    given = {"base_lr": 0.1, "lr_policy": '"fixed"', "random_seed": 3, "max_iter": 100} | settings
    param = prototxt.parse_solver(" ".join(f"{key}: {value}" for key, value in given.items()))
    param.net_param.CopyFrom(prototxt.parse_net(net))
    made = get_solver(param, backend=backend)
    rng = np.random.default_rng(0)
    made.net.blobs["data"].data = rng.normal(size=(4, 1, 6, 6))
    made.net.blobs["label"].data = [0, 1, 4, 2]
    return made


def weights(made):
    return [blob.data.copy() for blob in made.net.learnable_params]


@pytest.fixture
def looks(monkeypatch):
    """Counts the looks at the device's losses."""
    counted = []
    look = solver.Iteration.look
    monkeypatch.setattr(solver.Iteration, "look", lambda self: counted.append(self.waiting) or look(self))
    return counted


@pytest.mark.parametrize("size", [1, 3])
def test_one_sequence_does_what_the_passes_do(size):
    """Hooks make the solver run the layers apart."""
    joined, apart = make(iter_size=size), make(iter_size=size)
    apart.net.before_forward(lambda name: None)
    for _ in range(5):
        joined.step(1)
        apart.step(1)
        assert_alike(joined.smoothed_loss, apart.smoothed_loss)
        for a, b in zip(weights(joined), weights(apart), strict=True):
            np.testing.assert_allclose(a, b, rtol=1e-5, atol=1e-7)


def test_losses_of_several_tops_are_weighted_and_summed():
    text = LABEL + SMALL + LOSS.replace('top: "loss"', 'top: "loss" loss_weight: 0.3')
    text += 'layer { name: "r" type: "Reduction" bottom: "ip" top: "r" loss_weight: 2 reduction_param { axis: 1 } }'
    made = make(net=text)
    made.step(1)
    blobs = made.net.blobs
    assert made.smoothed_loss == pytest.approx(0.3 * blobs["loss"].data.item() + 2 * blobs["r"].data.sum(), rel=1e-6)
    assert made.smoothed_loss == pytest.approx(made.net.loss(), rel=1e-6)


def test_a_layer_that_works_in_place_on_the_loss():
    half = 'layer { name: "half" type: "Power" bottom: "loss" top: "loss" power_param { scale: 0.5 } }'
    made = make(net=LABEL + SMALL + LOSS + half)
    made.step(1)
    assert made.smoothed_loss == pytest.approx(made.net.loss(), rel=1e-6) and made.smoothed_loss > 0.1


def test_a_layer_that_works_in_place_on_a_blob_with_a_loss_weight_finds_it_in_each_pass():
    """Its backward pass leaves its own gradient there, which is not the next pass's."""
    text = LABEL + SMALL + LOSS + 'layer { name: "c" type: "Convolution" bottom: "pool" top: "c" '
    text += 'convolution_param { num_output: 4 kernel_size: 1 weight_filler { type: "xavier" } } }'
    text += 'layer { name: "clip" type: "ReLU" bottom: "c" top: "c" loss_weight: 0.5 }'
    net, gradients = make(net=text).net, []
    for sign in (1, -1, 1):
        net.blobs["data"].data = sign * np.random.default_rng(1).normal(size=(4, 1, 6, 6))
        net.forward()
        net.clear_param_diffs()
        net.backward()
        gradients.append(net.params["c"][0].diff.copy())
    np.testing.assert_array_equal(gradients[2], gradients[0])
    assert gradients[0].any()


def test_a_net_without_a_loss_has_loss_0():
    made = make(net=LABEL + SMALL)
    made.step(3)
    assert made.smoothed_loss == 0


def test_a_device_is_not_waited_for_at_every_iteration(looks):
    made = make(SplitBackend())
    made.step(250)
    assert [count for count in looks if count] == [100, 100, 50]
    assert 0 < made.smoothed_loss < 1


def test_steps_one_by_one_do_not_wait_either(looks):
    made = make(SplitBackend())
    for _ in range(150):
        made.step(1)
    assert [count for count in looks if count] == [100]
    assert made.smoothed_loss < 1 and [count for count in looks if count] == [100, 50]


def test_a_displayed_loss_is_the_mean_of_all_since(looks, caplog):
    plain = make(get_backend("cpu"), average_loss=4)
    one_by_one = []
    for _ in range(9):
        plain.step(1)
        one_by_one.append(plain.net.loss())
    looks.clear()
    made = make(SplitBackend(), average_loss=4, display=8)
    with caplog.at_level(logging.INFO, "protocaffe"):
        made.step(9)
    assert [count for count in looks if count] == [1, 8]
    shown = [line.rsplit(" = ", 1)[1] for line in caplog.messages if "iters), loss = " in line]
    assert [float(text) for text in shown] == pytest.approx([one_by_one[0], np.mean(one_by_one[5:9])], rel=1e-4)


def test_a_loss_that_is_not_finite_is_told_with_its_iteration():
    made = make(SplitBackend(), base_lr=1e30)
    with pytest.raises(DivergedError, match=r"the loss is (nan|inf) at iteration 1; first bad"):
        made.step(50)


def test_weights_stay_as_the_bad_loss_found_them_and_training_can_go_on():
    """However late it is noticed: no update follows a loss that is not finite."""
    made = make(SplitBackend())
    made.step(2)
    good = made.net.params["ip"][0].data.copy()
    made.net.params["ip"][0].data[0, 0] = np.nan
    with pytest.raises(DivergedError, match=r"loss is nan at iteration 2; first bad: layer "):
        made.step(50)
    bad = made.net.params["ip"][0].data.copy()
    assert np.isnan(bad[0, 0])
    np.testing.assert_array_equal(bad.ravel()[1:], good.ravel()[1:])
    made.net.params["ip"][0].data = good
    made.step(2)
    assert np.isfinite(made.smoothed_loss) and not np.array_equal(made.net.params["ip"][0].data, good)


def test_a_bad_label_is_told_at_the_next_look():
    made = make(SplitBackend())
    made.step(1)
    made.net.blobs["label"].data = [0, 1, 9, 2]
    with pytest.raises(DataError, match="label 9 is out of range"):
        made.step(3)


def test_no_snapshot_holds_what_a_bad_loss_left(tmp_path):
    made = make(SplitBackend(), base_lr=1e30, snapshot=5, snapshot_prefix=f'"{tmp_path}/s"')
    with pytest.raises(DivergedError):
        made.step(5)
    assert list(tmp_path.iterdir()) == []


def test_masked_weights_have_no_gradient_in_either_way():
    made = make()
    ip = made.net.params["ip"][0]
    ip.mask = np.arange(ip.count).reshape(ip.shape) % 3 == 0
    made.step(2)
    assert not ip.diff[~ip.mask].any() and ip.diff[ip.mask].any() and not ip.data[~ip.mask].any()


def test_callbacks_see_the_loss_of_their_iteration():
    made, seen = make(SplitBackend()), []
    made.add_callback(lambda: None, lambda: seen.append(made.smoothed_loss))
    made.step(3)
    assert len(set(seen)) == 3 and seen[-1] == made.smoothed_loss


def test_the_log_says_when_the_layers_are_run_one_by_one(caplog):
    made = make(SplitBackend(), display=4, debug_info="true")
    with caplog.at_level(logging.INFO, "protocaffe"):
        made.step(6)
    said = [line for line in caplog.messages if "from here on" in line]
    assert [line[: line.index(":")] for line in said] == [f"Iteration {i}" for i in (0, 1, 4, 5)]
    assert "layer by layer (debug_info" in said[0] and "as one sequence" in said[1]


@pytest.mark.parametrize("backend", [None, SplitBackend], ids=["cpu", "split"])
def test_an_iteration_that_was_cut_short_does_not_shift_the_losses(backend):
    """It has begun a place of its own on the device."""
    made = make(backend and backend(), iter_size=2)
    made.step(1)
    passes = []

    def second_fails(name):
        passes.append(name)
        if len(passes) == 2:
            raise KeyboardInterrupt

    hook = made.net.before_forward(second_fails, "data")
    with pytest.raises(KeyboardInterrupt):
        made.step(1)
    hook.remove()
    for _ in range(3):
        made.step(1)
        assert made.smoothed_loss == pytest.approx(made.net.loss(), rel=1e-6)
