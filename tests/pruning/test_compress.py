"""Nets through compressed models: every kind of parameter, masks, sizes."""

from pathlib import Path

import numpy as np
import pytest
from hypothesis import example, given, settings
from hypothesis import strategies as st

from protocaffe import TEST, TRAIN, Net
from protocaffe.errors import ParameterError, WeightsError
from protocaffe.io import parse_net, read_caffemodel
from protocaffe.io.compressed import unpack
from protocaffe.pruning import prune_net
from protocaffe.pruning.compress import code_blob, compress_net
from protocaffe.resources import resource_path

G = 'weight_filler { type: "gaussian" std: 1 } bias_filler { type: "gaussian" std: 1 }'
INPUT = 'layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 2 dim: 4 dim: 9 dim: 9 } } }'
SHARED = 'param { name: "w" } param { name: "b" }'
EVERYTHING = f"""
name: "all" {INPUT}
layer {{ name: "conv" type: "Convolution" bottom: "data" top: "conv"
  convolution_param {{ num_output: 8 kernel_size: 3 group: 2 {G} }} }}
layer {{ name: "bn" type: "BatchNorm" bottom: "conv" top: "bn" }}
layer {{ name: "scale" type: "Scale" bottom: "bn" top: "scale" scale_param {{ bias_term: true }} }}
layer {{ name: "deconv" type: "Deconvolution" bottom: "scale" top: "deconv"
  convolution_param {{ num_output: 4 kernel_size: 2 {G} }} }}
layer {{ name: "ip" type: "InnerProduct" bottom: "deconv" top: "ip"
  inner_product_param {{ num_output: 30 transpose: true {G} }} }}
layer {{ name: "a" type: "InnerProduct" bottom: "ip" top: "a" {SHARED} inner_product_param {{ num_output: 30 {G} }} }}
layer {{ name: "c" type: "InnerProduct" bottom: "a" top: "c" {SHARED} inner_product_param {{ num_output: 30 {G} }} }}
layer {{ name: "bare" type: "InnerProduct" bottom: "c" top: "bare"
  inner_product_param {{ num_output: 5 bias_term: false {G} }} }}
"""


def everything(seed=1, phase=TEST):
    net = Net(parse_net(EVERYTHING), phase, seed=seed)
    rng = np.random.default_rng(seed)
    for blob in net.params["bn"]:
        blob.data = rng.random(blob.shape).astype(np.float32) * 1000
    return net


@pytest.mark.parametrize("bits", [0, 1, 4, 8])
@pytest.mark.parametrize("target", ["caffemodel", "h5", "itself"])
def test_every_parameter_comes_back_with_its_mask(tmp_path, bits, target):
    net, other = everything(), everything(2)
    prune_net(net, 0.7)
    path = tmp_path / "a.pcz"
    compress_net(path, net, bits=bits, bias_bits=0)
    if target != "itself":
        unpack(path, tmp_path / f"a.{target}")
        path = tmp_path / f"a.{target}"
    other.copy_from(path)
    for name, blobs in net.params.items():
        for blob, got in zip(blobs, other.params[name], strict=True):
            assert (got.mask is None) == (blob.mask is None), name
            assert got.values.tied == (bits > 0 and blob.prunable)
            if not blob.prunable or not bits:
                assert np.array_equal(got.data, blob.data), name
                continue
            assert np.array_equal(got.mask, blob.mask), name
            left = got.data[got.mask]
            assert len(np.unique(left)) <= 1 << bits
            if bits == 8:
                np.testing.assert_allclose(left, blob.data[blob.mask], atol=np.ptp(left) / 256)
            else:
                assert np.corrcoef(left, blob.data[blob.mask])[0, 1] > 0.75


def test_what_was_compressed_once_stays_as_it_is(tmp_path):
    net, other = everything(), everything(2)
    prune_net(net, 0.5)
    compress_net(tmp_path / "a.pcz", net, bits=4)
    other.copy_from(tmp_path / "a.pcz")
    compress_net(tmp_path / "b.pcz", other, bits=4)
    net.copy_from(tmp_path / "b.pcz")
    for name, blobs in net.params.items():
        if blobs[0].prunable:
            assert np.array_equal(blobs[0].data, other.params[name][0].data), name
    assert (tmp_path / "b.pcz").stat().st_size <= (tmp_path / "a.pcz").stat().st_size + 16


def test_masks_are_in_force_in_training(tmp_path):
    net = everything()
    prune_net(net, 0.9)
    compress_net(tmp_path / "a.pcz", net)
    trained = Net(parse_net(EVERYTHING), TRAIN, weights=str(tmp_path / "a.pcz"))
    assert all(blob.mask is not None and not blob.data[~blob.mask].any() for blob in trained.prunable())


def test_a_net_without_shared_parameters_takes_them_too(tmp_path):
    net = everything()
    compress_net(tmp_path / "a.pcz", net, bits=0)
    apart = Net(parse_net(EVERYTHING.replace(SHARED, "")), TEST)
    apart.copy_from(tmp_path / "a.pcz")
    assert np.array_equal(apart.params["c"][0].data, net.params["a"][0].data)


def test_all_zero_and_empty_parameters(tmp_path):
    net, other = everything(), everything(2)
    for blob in net.learnable_params:
        blob.data[...] = 0
    compress_net(tmp_path / "a.pcz", net)
    other.copy_from(tmp_path / "a.pcz")
    assert not any(blob.data.any() for blob in other.learnable_params)
    assert all(blob.mask is None for blob in other.learnable_params)
    empty = Net(parse_net(INPUT + 'layer { name: "s" type: "Softmax" bottom: "data" top: "s" }'), TEST)
    compress_net(tmp_path / "b.pcz", empty)
    empty.copy_from(tmp_path / "b.pcz")
    assert (tmp_path / "b.pcz").stat().st_size < 100


def test_values_that_are_not_finite_stay_floats(tmp_path):
    net, other = everything(), everything(2)
    net.params["ip"][0].data[0, 0] = np.nan
    compress_net(tmp_path / "a.pcz", net, bits=3)
    other.copy_from(tmp_path / "a.pcz")
    assert np.array_equal(other.params["ip"][0].data, net.params["ip"][0].data, equal_nan=True)
    assert len(np.unique(other.params["bare"][0].data)) <= 8


def test_layers_with_bits_of_their_own_and_biases(tmp_path):
    net, other = everything(), everything(2)
    compress_net(tmp_path / "a.pcz", net, bits=2, layer_bits={"conv": 0, "ip": 6}, bias_bits=5)
    other.copy_from(tmp_path / "a.pcz")
    assert np.array_equal(other.params["conv"][0].data, net.params["conv"][0].data)
    assert 16 < len(np.unique(other.params["ip"][0].data)) <= 64
    assert len(np.unique(other.params["a"][0].data)) <= 4
    bias, was = other.params["ip"][1].data, net.params["ip"][1].data
    step = np.abs(was).max() / 15
    np.testing.assert_allclose(bias, was, atol=step * 0.51)
    np.testing.assert_allclose(bias / step, np.rint(bias / step), atol=1e-4)
    assert np.array_equal(other.params["scale"][1].data, net.params["scale"][1].data)


@pytest.mark.parametrize(
    ("options", "complaint"),
    [
        ({"bits": 9}, "bits must be from 0 to 8, got 9"),
        ({"layer_bits": {"ip": -1}}, "bits of ip must be from 0 to 8, got -1"),
        ({"layer_bits": {"conb": 3}}, 'no layer "conb" with weights for a code book; did you mean "conv"'),
        ({"layer_bits": {"bn": 3}}, 'no layer "bn" with weights'),
    ],
)
def test_impossible_bits(tmp_path, options, complaint):
    with pytest.raises(ParameterError, match=complaint):
        compress_net(tmp_path / "a.pcz", everything(), **options)
    assert not (tmp_path / "a.pcz").exists()


def test_weights_of_another_shape_are_refused(tmp_path):
    compress_net(tmp_path / "a.pcz", everything())
    other = Net(parse_net(EVERYTHING.replace("num_output: 5", "num_output: 6")), TEST)
    with pytest.raises(WeightsError, match=r"a\.pcz.*bare.*must have shape \(6, 30\), got \(5, 30\)"):
        other.copy_from(tmp_path / "a.pcz")


@settings(max_examples=40, deadline=None)
@example(outputs=12, inputs=12, bits=8, sparsity=0.0, scale=1e-30, masked=False)  # a book does not pay
@given(outputs=st.integers(1, 12), inputs=st.integers(1, 12), bits=st.integers(0, 8), sparsity=st.floats(0, 0.99),
       scale=st.sampled_from([1e-30, 1e-6, 1.0, 1e6]), masked=st.booleans())  # fmt: skip
def test_it_is_never_larger_than_the_caffemodel(tmp_path_factory, outputs, inputs, bits, sparsity, scale, masked):
    text = f"""layer {{ name: "d" type: "Input" top: "d" input_param {{ shape {{ dim: 1 dim: {inputs} }} }} }}
      layer {{ name: "i" type: "InnerProduct" bottom: "d" top: "i"
        inner_product_param {{ num_output: {outputs} {G} }} }}"""
    net = Net(parse_net(text), TEST, seed=outputs)
    weights = net.params["i"][0]
    weights.data *= scale
    keep = np.random.default_rng(inputs).random(weights.shape) >= sparsity
    weights.data *= keep
    if masked:
        weights.mask = keep
    folder = tmp_path_factory.mktemp("sizes")
    sizes = compress_net(folder / "a.pcz", net, bits=bits)
    net.save(folder / "a.caffemodel")
    assert (folder / "a.pcz").stat().st_size == sizes.total < (folder / "a.caffemodel").stat().st_size


def test_a_book_that_halves_would_spoil_is_in_singles():
    values = np.repeat(np.float32([1e-9, 2e-9, 7e9]), 20)
    assert np.array_equal(code_blob(values, None, 2).book, np.unique(values))


def test_the_published_sparse_lenet(tmp_path):
    """Dynamic Network Surgery's file, 108 times fewer non-zeros: what its compressed size is, and what is lost."""
    import gzip

    with gzip.open(Path(__file__).parents[1] / "trained" / "dns_lenet5_sparse.caffemodel.gz") as packed:
        (tmp_path / "dns.caffemodel").write_bytes(packed.read())
    net = Net(resource_path("models") / "lenet" / "deploy.prototxt", TEST, weights=str(tmp_path / "dns.caffemodel"))
    net.masks_from_zeros()
    totals = {bits: compress_net(tmp_path / f"{bits}.pcz", net, bits=bits).total for bits in (3, 4, 5, 6)}
    assert totals[3] < 3200 and totals[4] < 3600 and totals[5] < 4000 and totals[6] < 4600
    unpack(tmp_path / "5.pcz", tmp_path / "5.caffemodel")
    stored = {layer.name: layer for layer in read_caffemodel(tmp_path / "5.caffemodel")}
    for name, (weights, _) in net.params.items():
        got = stored[name].blobs[0]
        assert np.array_equal(got != 0, weights.mask)
        assert np.sqrt(np.mean((got - weights.data) ** 2)) < 0.05 * np.std(weights.data[weights.mask]), name
