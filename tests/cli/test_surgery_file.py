"""The published LeNet-5 of Dynamic Network Surgery (tests/trained), tuned further, pruned further and made small."""

import gzip
import re
from pathlib import Path

import numpy as np
import pytest

from protocaffe.io import read_caffemodel

FILE = Path(__file__).parents[1] / "trained" / "dns_lenet5_sparse.caffemodel.gz"
MODEL, TRAIN_VAL = "models/lenet/deploy.prototxt", "models/lenet/train_val.prototxt"
#: its weights that are not zero; 430,500 are prunable
LEFT = {"conv1": 72, "conv2": 770, "ip1": 2920, "ip2": 215}
SOLVER = (
    f'net: "{TRAIN_VAL}" test_iter: 5 test_interval: 100 momentum: 0.9 weight_decay: 0.0005 max_iter: 12 '
    'lr_policy: "fixed" random_seed: 7 snapshot: 6 snapshot_prefix: "s" '
)


@pytest.fixture
def published(lenet):
    """{layer: weights} of the file, which lies in the current folder as dns.caffemodel."""
    (lenet / "dns.caffemodel").write_bytes(gzip.decompress(FILE.read_bytes()))
    return {layer.name: layer.blobs[0] for layer in read_caffemodel("dns.caffemodel") if layer.blobs}


def tune(cli, weights, *options, more="", rate=0.001, output="tuned.caffemodel"):
    Path("solver.prototxt").write_text(f"{SOLVER} base_lr: {rate} {more}")
    result = cli("finetune", "--solver", "solver.prototxt", "--weights", weights, "--output", output, *options)
    assert result.code == 0, result.err
    return result


def stored(path):
    """{layer: weights and mask}; every pruned weight is +0."""
    out = {layer.name: (layer.blobs[0], layer.masks[0]) for layer in read_caffemodel(path) if layer.blobs}
    for values, mask in out.values():
        assert not np.ascontiguousarray(values[~mask]).view(np.uint32).any()
    return out


def accuracy(cli, weights):
    result = cli("test", "--model", TRAIN_VAL, "--weights", weights, "--iterations", 10)
    assert result.code == 0, result.err
    return float(re.findall(r"^.*accuracy = ([\d.]+)", result.out + result.err, re.M)[-1])


def test_the_file_is_the_one_that_was_published(cli, published):
    assert {name: int(np.count_nonzero(values)) for name, values in published.items()} == LEFT
    assert accuracy(cli, "dns.caffemodel") > 0.97


def test_it_is_tuned_without_reviving_a_weight(cli, published):
    result = tune(cli, "dns.caffemodel", "--mask-from-zeros")
    assert "masks keep 426,523 of 430,500 prunable weights at zero" in result.out
    tune(cli, "tuned.caffemodel", output="more.caffemodel")  # its masks are in the file by now
    for path in ("tuned.caffemodel", "more.caffemodel", "s_finetuned_iter_6.caffemodel"):
        for name, (values, mask) in stored(path).items():
            assert np.array_equal(mask, published[name] != 0)
            assert (values[mask] != published[name][mask]).mean() > 0.9  # they do learn
        assert accuracy(cli, path) > 0.97


def test_without_masks_the_zeros_are_spoken_of_and_come_back(cli, published):
    """What --mask-from-zeros is for."""
    result = tune(cli, "dns.caffemodel")
    assert "--mask-from-zeros" in result.err + result.out and "has no masks" in result.out
    now = {layer.name: layer.blobs[0] for layer in read_caffemodel("tuned.caffemodel") if layer.blobs}
    assert np.count_nonzero(now["ip1"]) > 5 * LEFT["ip1"]


@pytest.mark.parametrize("method", ["magnitude", "second-order"])
def test_it_is_pruned_further(cli, published, method):
    tune(cli, "dns.caffemodel", "--mask-from-zeros")
    options = ("--method", method, "--sparsity", "0.993", "--output", "p.caffemodel")
    for weights in ("dns.caffemodel", "tuned.caffemodel")[method != "magnitude" :]:  # zeros have the least magnitude
        result = cli("prune", "--model", TRAIN_VAL, "--weights", weights, *options)
        assert result.code == 0, result.err
        pruned = stored("p.caffemodel")
        assert sum(int(mask.sum()) for _, mask in pruned.values()) == 430500 - 427487
        for name, (values, mask) in pruned.items():
            assert not (mask & (published[name] == 0)).any() and 0 < mask.sum() <= LEFT[name]
            assert values[mask].all()
    assert accuracy(cli, "p.caffemodel") > 0.9


def test_a_solver_file_prunes_it_further(cli, published):
    tune(cli, "dns.caffemodel", "--mask-from-zeros", more="pruning_param { sparsity: 0.993 initial_sparsity: 0.99 "
         "begin_step: 2 end_step: 8 frequency: 3 }")  # fmt: skip
    halfway, end = stored("s_finetuned_iter_6.caffemodel"), stored("tuned.caffemodel")
    assert sum(int(mask.sum()) for _, mask in end.values()) == 430500 - 427487
    for name, (_, mask) in end.items():
        assert not (mask & ~halfway[name][1]).any() and not (halfway[name][1] & (published[name] == 0)).any()
    assert accuracy(cli, "tuned.caffemodel") > 0.9


def test_surgery_goes_on_with_soft_masks(cli, published):
    """Weights may come back, as they did when it was made, but not before the first step, and the share holds."""
    settings = "mode: SOFT margin: 0 begin_step: 7 end_step: 9 frequency: 1 freeze_step: 11"
    pruning = f"pruning_param {{ sparsity: 0.99 {settings} }}"
    tune(cli, "dns.caffemodel", "--mask-from-zeros", more=pruning, rate=0.05)
    before, end = stored("s_finetuned_iter_6.caffemodel"), stored("tuned.caffemodel")
    for name, values in published.items():
        assert np.array_equal(before[name][1], values != 0)
    assert sum(int(mask.sum()) for _, mask in end.values()) == 430500 - 426195
    came_back = sum(int((mask & (published[name] == 0)).sum()) for name, (_, mask) in end.items())
    assert came_back >= 4305 - sum(LEFT.values())
    assert accuracy(cli, "tuned.caffemodel") > 0.9


def test_a_small_file_of_it_is_tuned_further(cli, published):
    tune(cli, "dns.caffemodel", "--mask-from-zeros")
    packed = cli("compress", "--model", MODEL, "--weights", "tuned.caffemodel", "--output", "a.pcz", "--bits", "6")
    assert packed.code == 0, packed.err
    assert Path("a.pcz").stat().st_size < 10000
    tune(cli, "a.pcz", output="b.caffemodel")
    for name, (values, mask) in stored("b.caffemodel").items():
        assert np.array_equal(mask, published[name] != 0)
        assert len(np.unique(values[mask])) <= 64
    Path("solver.prototxt").write_text(f"{SOLVER} base_lr: 0.001 pruning_param {{ sparsity: 0.995 mode: SOFT }}")
    refused = cli("finetune", "--solver", "solver.prototxt", "--weights", "a.pcz", "--output", "c.caffemodel")
    assert refused.code == 1 and not Path("c.caffemodel").exists()
    assert 'solver "solver.prototxt": pruning_param: mode: SOFT lets weights come back' in refused.err
