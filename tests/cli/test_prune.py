"""prune: what is printed and written, shares of single layers, errors."""

import numpy as np
import pytest

import protocaffe
from tests.support.backends import has_gpu

MODEL = "models/lenet/deploy.prototxt"


def net(path):
    return protocaffe.Net(MODEL, protocaffe.TEST, weights=str(path))


def test_masks_are_stored_and_match_the_zeros(cli, lenet, trained):
    result = cli("prune", "--model", MODEL, "--weights", trained, "--sparsity", "0.8", "--output", "p.caffemodel")
    assert result.code == 0
    assert "sparsity 80.00%: 344,400 zeros of 430,500 prunable weights" in result.out
    assert "non-zeros 86,680 of 431,080 parameters" in result.out or "non-zeros" in result.out
    before, after = net(trained), net("p.caffemodel")
    for name, blobs in after.params.items():
        weight, bias = blobs
        assert weight.mask is not None
        assert bias.mask is None
        assert np.array_equal(weight.mask, weight.data != 0)
        assert np.array_equal(weight.data[weight.mask], before.params[name][0].data[weight.mask])
        assert np.array_equal(bias.data, before.params[name][1].data)


@pytest.mark.parametrize("command", ["prune", "summary"])
def test_the_device_may_be_named(cli, lenet, trained, command):
    args = (command, "--model", MODEL, "--weights", trained)
    if command == "prune":
        args = (*args, "--sparsity", "0.8", "--output", "p.caffemodel")
    assert cli(*args, "--cpu").code == 0
    on_gpu = cli(*args, "-gpu", "0")
    if has_gpu():
        assert on_gpu.code == 0 and on_gpu.out == cli(*args, "--cpu").out
    else:
        assert on_gpu.code == 1 and on_gpu.err.startswith("error: --gpu 0: no GPU can be used here")


def test_layers_with_shares_of_their_own(cli, lenet, trained):
    result = cli("prune", "--model", MODEL, "--weights", trained, "--sparsity", "0.9", "--scope", "uniform",
                 "--layer", "conv1=0.5", "--layer", "ip2=0", "--output", "p.caffemodel")  # fmt: skip
    assert result.code == 0
    pruned = net("p.caffemodel")
    zeros = {name: int((~blobs[0].mask).sum()) for name, blobs in pruned.params.items() if blobs[0].mask is not None}
    assert zeros["conv1"] == 250
    assert zeros.get("ip2", 0) == 0
    assert zeros["ip1"] == 360000


def test_pruning_goes_on_from_the_masks_that_are_there(cli, lenet, trained):
    cli("prune", "--model", MODEL, "--weights", trained, "--sparsity", 0.5, "--output", "half.caffemodel")
    cli("prune", "--model", MODEL, "--weights", "half.caffemodel", "--sparsity", 0.9, "--output", "more.caffemodel")
    half, more = net("half.caffemodel"), net("more.caffemodel")
    for name in half.params:
        assert not (more.params[name][0].mask & ~half.params[name][0].mask).any()


@pytest.mark.parametrize(
    ("options", "needle"),
    [
        (["--sparsity", "1.5"], "sparsity must be a share in [0, 1), got 1.5"),
        (["--sparsity", "0.9", "--layer", "conv9=0.5"], 'no prunable layer "conv9"'),
        (["--sparsity", "0.9", "--layer", "conv1"], '--layer must be NAME=SHARE such as conv1=0.5, got "conv1"'),
        (["--sparsity", "0.99", "--min-keep", "0.2"], "min_keep"),
    ],
)
def test_errors(cli, lenet, trained, options, needle):
    result = cli("prune", "--model", MODEL, "--weights", trained, "--output", "p.caffemodel", *options)
    assert result.code == 1
    assert result.err.startswith("error: ")
    assert needle in result.err
    assert not (lenet / "p.caffemodel").exists()


TRAIN_VAL = "models/lenet/train_val.prototxt"
GRADIENTS = ["first-order", "second-order", "taylor-channels"]


def prune(cli, weights, *options, model=TRAIN_VAL, output="p.caffemodel"):
    return cli("prune", "--model", model, "--weights", weights, "--output", output, *options)


@pytest.mark.parametrize("method", ["magnitude", "random", "first-order", "second-order"])
def test_methods_for_weights(cli, lenet, trained, method):
    result = prune(cli, trained, "--method", method, "--sparsity", "0.8")
    assert result.code == 0, result.err
    assert "sparsity 80.00%: 344,400 zeros of 430,500 prunable weights" in result.out
    assert (f"{method}: 10 batches of the TRAIN phase, mean loss " in result.out) == (method in GRADIENTS)
    assert ("seed 0" in result.out) == (method != "magnitude")
    before, after = net(trained), net("p.caffemodel")
    for name, (weight, bias) in after.params.items():
        assert np.array_equal(weight.data, np.where(weight.mask, before.params[name][0].data, 0))
        assert np.array_equal(bias.data, before.params[name][1].data)  # scoring has not trained


@pytest.mark.parametrize("method", ["l1-channels", "taylor-channels"])
def test_methods_for_channels(cli, lenet, trained, method):
    result = prune(cli, trained, "--method", method, "--sparsity", "0.5", "--scope", "uniform", "--bias")
    assert result.code == 0, result.err
    assert "the net's outputs stay whole: ip2" in result.out
    assert "conv1: 10 of 20 outputs are left\nconv2: 25 of 50 outputs are left\nip1: 250 of 500 outputs" in result.out
    pruned = net("p.caffemodel")
    for name in ("conv1", "conv2", "ip1"):
        weight, bias = pruned.params[name]
        whole = weight.mask.reshape(len(weight.mask), -1)
        assert (whole == whole[:, :1]).all() and np.array_equal(whole[:, 0], bias.mask)
        assert not weight.data[~weight.mask].any() and not bias.data[~bias.mask].any()
    assert pruned.params["ip2"][0].mask is None


def test_scale_channels_on_a_residual_net(cli, lenet):
    model = "models/resnet18_fashion_mnist/deploy.prototxt"
    dense = protocaffe.Net(model, protocaffe.TEST, seed=1)
    rng = np.random.default_rng(0)
    for name, blobs in dense.params.items():
        if dense.layer_dict[name].type == "Scale":
            blobs[0].data = rng.uniform(0.1, 1, blobs[0].shape)
    dense.save("r.caffemodel")
    options = ["--method", "scale-channels", "--sparsity", "0.3"]
    result = prune(cli, "r.caffemodel", *options, model=model)
    assert 'layer "res3a_branch1" (Convolution) has no Scale' in result.err  # short cuts have none here
    for block in (3, 4, 5):
        options += ["--exclude", f"res{block}a_branch1"]
    result = prune(cli, "r.caffemodel", *options, model=model)
    assert result.code == 0, result.err
    pruned = protocaffe.Net(model, protocaffe.TEST, weights="p.caffemodel")
    gammas = []
    for name in ("conv1", "res2a_branch2a"):
        gamma = dense.params["scale" + name.removeprefix("conv").removeprefix("res")][0].data
        alive = pruned.params[name][0].mask.any(axis=(1, 2, 3))
        assert 0 < alive.sum() < len(alive)
        gammas.append((gamma[~alive].max(), gamma[alive].min()))
    assert max(g[0] for g in gammas) <= min(g[1] for g in gammas)  # one threshold for all layers


def test_channels_of_a_residual_net_that_go_together_can_go(cli, lenet):
    model = "models/resnet18_fashion_mnist/deploy.prototxt"
    dense, rng = protocaffe.Net(model, protocaffe.TEST, seed=1), np.random.default_rng(0)
    for name, blobs in dense.params.items():
        if blobs[0].prunable:
            blobs[0].data = rng.normal(0, (2 * len(blobs[0].data) / blobs[0].count) ** 0.5, blobs[0].shape)
        elif dense.layer_dict[name].type == "Scale":
            blobs[0].data = rng.uniform(0.5, 1, blobs[0].shape)
    dense.save("r.caffemodel")
    options = ["--method", "l1-channels", "--scope", "uniform", "--sparsity", "0.5", "--bias", "--together"]
    result = prune(cli, "r.caffemodel", *options, model=model)
    assert result.code == 0, result.err
    small = cli("shrink", "--model", model, "--weights", "p.caffemodel", "--output-model", "small.prototxt", "--output",
                "small.caffemodel")  # fmt: skip
    assert small.code == 0, small.err
    assert "removed 2,400 channels; of 2,400 pruned ones 0 stay" in small.out


def test_n_of_m_and_erk(cli, lenet, trained):
    assert prune(cli, trained, "--nm", "2:4", "--exclude", "conv1").code == 0
    pruned = net("p.caffemodel")
    assert pruned.params["conv1"][0].mask is None
    for name in ("conv2", "ip1", "ip2"):
        assert (pruned.params[name][0].mask.reshape(-1, 4).sum(axis=1) == 2).all()
    result = prune(cli, trained, "--scope", "erk", "--sparsity", "0.9")
    assert result.code == 0
    # e of 430,500 weights: conv1 and ip2 stay whole, of the others (43050 - 5500) / (80 + 1300) (extents) are left
    pruned = net("p.caffemodel")
    each = (43050 - 5500) / (80 + 1300)
    left = {name: int((blobs[0].data != 0).sum()) for name, blobs in pruned.params.items()}
    assert left == {"conv1": 500, "conv2": int(each * 80), "ip1": int(each * 1300), "ip2": 5000}


def test_seeds(cli, lenet, trained):
    for seed, output in ((1, "a"), (1, "b"), (2, "c")):
        options = ("--method", "random", "--sparsity", "0.5", "--seed", seed)
        assert f"random: seed {seed}" in prune(cli, trained, *options, output=f"{output}.caffemodel").out
    a, b, c = (net(f"{n}.caffemodel").params["conv2"][0].mask for n in "abc")
    assert np.array_equal(a, b) and not np.array_equal(a, c)


@pytest.mark.parametrize("method", ["magnitude", "first-order", "l1-channels"])
def test_hdf5_weights_are_pruned_as_the_others(cli, lenet, trained, method):
    """In and out."""
    net(trained).save("dense.caffemodel.h5")
    options = ("--method", method, "--sparsity", "0.7")
    assert prune(cli, trained, *options, output="a.caffemodel").code == 0
    assert prune(cli, "dense.caffemodel.h5", *options, output="b.caffemodel.h5").code == 0
    a, b = net("a.caffemodel"), net("b.caffemodel.h5")
    for name, blobs in a.params.items():
        mask = blobs[0].mask
        assert np.array_equal(blobs[0].data, b.params[name][0].data)
        assert (mask is None and b.params[name][0].mask is None) or np.array_equal(mask, b.params[name][0].mask)
    assert any(blobs[0].mask is not None and not blobs[0].mask.all() for blobs in a.params.values())


def test_batches_may_be_chosen_and_masks_dropped(cli, lenet, trained):
    prune(cli, trained, "--sparsity", "0.9", output="most.caffemodel")
    options = ("--method", "first-order", "--sparsity", "0.5", "--batches", "2")
    kept = prune(cli, "most.caffemodel", *options)
    assert "first-order: 2 batches" in kept.out and "sparsity 90.00%" in kept.out
    dropped = prune(cli, "most.caffemodel", *options, "--drop-masks")
    assert dropped.code == 0
    masks = [blobs[0].mask for blobs in net("p.caffemodel").params.values()]
    assert sum(int((~mask).sum()) for mask in masks if mask is not None) == 215250  # half, not 90 %


@pytest.mark.parametrize(
    ("options", "needle"),
    [
        ([], "--sparsity (the share that is to go), --nm or --dead must be given"),
        (["--nm", "2:4", "--sparsity", "0.5"], "--sparsity cannot be given beside it"),
        (["--nm", "2:4", "--scope", "uniform"], "--scope cannot be given beside it"),
        (["--nm", "2:4", "--layer", "conv1=0.5"], "--layer cannot be given beside it"),
        (["--nm", "2:4", "--min-keep", "1"], "--min-keep cannot be given beside it"),
        (["--nm", "4:2"], '--nm must be N:M with 1 <= N < M, such as 2:4, got "4:2"'),
        (["--nm", "two"], 'got "two"'),
        (["--nm", "2:4", "--method", "l1-channels"], "n:m is for single weights"),
        (["--sparsity", "0.5", "--exclude", "conv3"], 'no prunable layer "conv3"; did you mean'),
        (["--sparsity", "0.5", "--exclude", "ip1", "--layer", "ip1=0.5"], '"ip1" is excluded and has a share'),
        (["--sparsity", "0.5", "--batches", "3"], "--batches is for the methods with gradients"),
        (["--sparsity", "0.5", "--seed", "3"], "--seed is for what is random"),
        (["--sparsity", "0.5", "--together"], "--together is for the methods that prune whole outputs"),
        (["--sparsity", "0.5", "--bias"], "--bias is for the methods that prune whole outputs"),
        (["--sparsity", "0.5", "--method", "scale-channels"], '"conv1" (Convolution) has no Scale'),
        (["--sparsity", "1.5", "--method", "l1-channels"], "sparsity must be a share in [0, 1), got 1.5"),
    ],
)
def test_errors_of_methods_in_one_line(cli, lenet, trained, options, needle):
    result = prune(cli, trained, *options)
    assert result.code == 1
    assert result.err.startswith("error: ") and result.err.count("\n") == 1
    assert needle in result.err
    assert not (lenet / "p.caffemodel").exists()


@pytest.mark.parametrize("method", GRADIENTS)
def test_gradients_need_data_and_a_loss(cli, lenet, trained, method):
    result = prune(cli, trained, "--method", method, "--sparsity", "0.5", model=MODEL)
    assert result.code == 1
    assert result.err == f'error: {method} needs gradients, but "{MODEL}" has no loss in the TRAIN phase\n'


def test_what_the_outputs_do_not_depend_on_goes_too(cli, lenet, trained):
    args = ("prune", "--model", MODEL, "--weights", trained, "--output", "p.caffemodel")
    result = cli(*args, "--sparsity", "0.995", "--dead")
    assert result.code == 0
    assert "parameters that the outputs did not depend on were masked" in result.out
    cleared = int(result.out.split("dead: ")[1].split()[0].replace(",", ""))
    assert cleared > 0
    pruned = net("p.caffemodel")
    biases = [blobs[1] for blobs in pruned.params.values() if blobs[1].mask is not None]
    assert biases and not any(bias.data[~bias.mask].any() for bias in biases)
    again = cli("prune", "--model", MODEL, "--weights", "p.caffemodel", "--dead", "--output", "q.caffemodel")
    assert again.code == 0 and "dead: 0 parameters" in again.out
    for name, blobs in net("q.caffemodel").params.items():
        assert all(np.array_equal(a.data, b.data) for a, b in zip(blobs, pruned.params[name], strict=True))


@pytest.mark.parametrize("option", [("--scope", "uniform"), ("--layer", "ip1=0.5"), ("--method", "random")])
def test_a_criterion_needs_a_sparsity_beside_dead(cli, lenet, trained, option):
    result = cli("prune", "--model", MODEL, "--weights", trained, "--dead", *option, "--output", "p.caffemodel")
    assert result.code == 1 and result.err == f"error: {option[0]} needs --sparsity or --nm\n"
