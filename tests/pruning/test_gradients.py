"""Scores from gradients against brute force in float64, and what they must leave alone."""

import numpy as np
import pytest

import protocaffe
from protocaffe.errors import DivergedError, ParameterError
from protocaffe.io import parse_net, parse_solver
from protocaffe.pruning import net_scores, prunable_weights
from protocaffe.pruning.gradients import gradient_moments
from protocaffe.pruning.net import users_of_weights
from protocaffe.pruning.taylor import taylor_channels
from tests.support import feeds
from tests.support import pruning_nets as nets

BATCHES = 3


def derivative(function, x, step=1e-5):
    """Central differences of ``function()`` by each element of ``x``."""
    out = np.zeros(x.shape)
    for i in np.ndindex(x.shape):
        kept = x[i]
        x[i] = kept + step
        up = function()
        x[i] = kept - step
        out[i] = (up - function()) / (2 * step)
        x[i] = kept
    return out


@pytest.fixture(scope="module")
def slopes():
    """For each batch the gradient of the loss by each prunable parameter, from the formula alone."""
    p = nets.parameters(nets.make())
    return [
        {name: derivative(lambda b=batch: nets.loss(p, *b), p[name][0]) for name in nets.PRUNABLE}
        for batch in nets.batches(BATCHES)
    ]


def test_the_formula_is_the_nets_loss():
    net = nets.make()
    net.run_forward()
    p = nets.parameters(net)
    assert nets.loss(p, *nets.batches(1)[0]) == pytest.approx(net.loss(), rel=1e-5)


def test_first_order_is_the_weight_times_the_mean_gradient(slopes):
    net = nets.make()
    scores, loss = net_scores(net, "first-order", net, BATCHES)
    p = nets.parameters(net)
    assert loss == pytest.approx(np.mean([nets.loss(p, *b) for b in nets.batches(BATCHES)]), rel=1e-5)
    for w, score in zip(prunable_weights(net), scores, strict=True):
        want = np.abs(p[w.name][0] * np.mean([s[w.name] for s in slopes], axis=0))
        np.testing.assert_allclose(score, want, rtol=1e-3, atol=1e-5 * want.max())
        assert score.dtype == np.float64 and want.max() > 0


def test_second_order_is_half_the_squared_weight_times_the_mean_squared_gradient(slopes):
    net = nets.make()
    scores, _ = net_scores(net, "second-order", net, BATCHES)
    p = nets.parameters(net)
    for w, score in zip(prunable_weights(net), scores, strict=True):
        want = p[w.name][0] ** 2 * np.mean([s[w.name] ** 2 for s in slopes], axis=0) / 2
        np.testing.assert_allclose(score, want, rtol=2e-3, atol=1e-6 * want.max())
        assert want.max() > 0


def test_taylor_is_the_loss_by_a_gate_on_each_channel():
    """d loss / d (gate on a channel of an image) is the sum over pixels of a g."""
    net = nets.make()
    scores, _ = taylor_channels(net, BATCHES)
    p = nets.parameters(net)
    outputs = {"conv": ["conv"], "turned": ["turned"], "one": ["one", "two"], "out": ["out"]}
    for w, score in zip(prunable_weights(net), scores, strict=True):
        want = np.zeros(score.shape)
        for batch in nets.batches(BATCHES):
            for layer in outputs[w.name]:  # both users of the shared weight
                gates = {layer: np.ones((5, score.size))}
                slope = derivative(lambda b=batch, g=gates: nets.loss(p, *b, g), gates[layer])
                want += np.abs(slope).mean(axis=0) / BATCHES
        np.testing.assert_allclose(score, want / np.sqrt((want**2).sum()), rtol=1e-3, atol=1e-5)


def test_gradients_of_pruned_weights_score_nothing():
    net = nets.make()
    keep = np.random.default_rng(0).random((54, 8)) < 0.5
    net.params["turned"][0].mask = keep
    for method in ("first-order", "second-order"):
        score = net_scores(net, method, net, 2)[0][1]
        assert not score[~keep].any() and score[keep].any()


NOISY = 'layer { name: "drop" type: "Dropout" bottom: "turned" top: "turned" }\nlayer { name: "one"'


def noisy_solver(net):
    param = parse_solver('base_lr: 0.01 momentum: 0.9 lr_policy: "fixed" random_seed: 3 snapshot_after_train: false')
    param.net_param.CopyFrom(parse_net(net))
    return protocaffe.get_solver(param)


@pytest.mark.parametrize("data", ["dummy", "database"])
@pytest.mark.parametrize("method", ["first-order", "taylor-channels"])
def test_scoring_while_training_leaves_no_trace(method, data, tmp_path):
    """BatchNorm's statistics, dropout's draws, shuffled data: a run that was looked at ends as one that was not."""
    text = nets.NET.replace('layer { name: "one"', NOISY)
    assert "drop" in text
    if data == "database":
        source = feeds.write_items(tmp_path / "db", feeds.random_items(37, (4, 5, 5)))
        target = 'layer { name: "target" type: "DummyData" top: "target" dummy_data_param { shape { dim: 5 dim: 3 }'
        target += ' data_filler { type: "gaussian" std: 1 } } }'
        text = text.replace(
            nets.DATA, feeds.data_layer(source, 5, "shuffle: true", "scale: 0.01", label=False) + target
        )
    ends = []
    for looked_at in (False, True):
        solver = noisy_solver(text)
        solver.step(3)
        if looked_at:
            before = [blob.data.copy() for blob in solver.net.learnable_params]
            diffs = [blob.diff.copy() for blob in solver.net.learnable_params]
            net_scores(solver.net, method, solver.net, 4)
            for blob, values, diff in zip(solver.net.learnable_params, before, diffs, strict=True):
                assert np.array_equal(blob.data, values), blob.name
                assert np.array_equal(blob.diff, diff) or blob.statistic
        solver.step(3)
        ends.append([blob.data.copy() for blob in solver.net.learnable_params])
        solver.close()
    for without, with_ in zip(*ends, strict=True):
        assert np.array_equal(without, with_)


def test_hooks_of_taylor_come_off_again_also_after_an_error():
    net = nets.make()
    taylor_channels(net, 1)
    assert net.undivided
    net.params["turned"][0].data[0, 0] = np.inf
    with pytest.raises(DivergedError, match=r"the loss is .*first bad"):
        taylor_channels(net, 1)
    assert net.undivided


def test_scores_are_the_same_each_time():
    first = net_scores(nets.make(), "taylor-channels", nets.make(), 2)[0]
    again = net_scores(nets.make(), "taylor-channels", nets.make(), 2)[0]
    assert all(np.array_equal(a, b) for a, b in zip(first, again, strict=True))


FROZEN = nets.NET.replace('name: "turned" type', 'name: "turned" param { lr_mult: 0 } type')
INPUT = """
layer { name: "data" type: "Input" top: "data" top: "target"
  input_param { shape { dim: 5 dim: 4 dim: 5 dim: 5 } shape { dim: 5 dim: 3 } } }
"""


@pytest.mark.parametrize(
    ("text", "message"),
    [
        (FROZEN, 'layer "turned" gets none'),
        (nets.DATA + nets.BODY, "has no loss in the TRAIN phase"),
        (INPUT + nets.BODY + nets.LOSS, "reads none in the TRAIN phase: its inputs data, target"),
    ],
)
@pytest.mark.parametrize("method", ["first-order", "taylor-channels"])
def test_nets_without_gradients_are_refused(text, message, method):
    net = nets.make(text)
    with pytest.raises(ParameterError, match=message):
        net_scores(net, method, net, 1)


def test_a_frozen_layer_may_be_excluded():
    net = nets.make(FROZEN)
    scores, _ = net_scores(net, "first-order", net, 1, exclude=["turned"])
    assert scores[0].any() and not scores[1].any()


def test_without_a_training_net_or_with_another():
    net = nets.make()
    with pytest.raises(ParameterError, match="first-order needs a net of the TRAIN phase"):
        net_scores(net, "first-order")
    other = nets.make(nets.NET.replace('"turned"', '"renamed"'))
    with pytest.raises(ParameterError, match='has no layer "turned"'):
        net_scores(net, "second-order", other, 1)
    with pytest.raises(ParameterError, match="batches must be at least 1, got 0"):
        gradient_moments(net, 0)


def test_shared_weights_of_a_net_that_shares_with_another_come_once():
    net, test_net = nets.make(), nets.make()
    test_net.share_with(net)
    assert [w.name for w in prunable_weights(test_net)] == list(nets.PRUNABLE)
    assert [[user.wire.layer.name for user in users] for users in users_of_weights(test_net)] == [
        ["conv"], ["turned"], ["one", "two"], ["out"],
    ]  # fmt: skip
