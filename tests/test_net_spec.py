"""Nets written in Python: names, in-place layers, arguments to messages, errors; L and P as modules."""

# ruff: noqa: C408 -- dict(...) is how scripts for pycaffe write messages

from __future__ import annotations

import subprocess
import sys

import numpy as np
import pytest

import protocaffe
from protocaffe import NetSpec, to_proto
from protocaffe import layers as L
from protocaffe import params as P
from protocaffe.errors import NetError, ParameterError
from protocaffe.io import prototxt, schema
from protocaffe.net_spec import Function, Top

LENET = """
layer { name: "data" type: "Data" top: "data" top: "label" transform_param { scale: 0.00390625 }
        data_param { source: "train_lmdb" batch_size: 64 backend: LMDB } }
layer { name: "conv1" type: "Convolution" bottom: "data" top: "conv1" param { lr_mult: 1 } param { lr_mult: 2 }
        convolution_param { num_output: 20 kernel_size: 5 weight_filler { type: "xavier" } } }
layer { name: "pool1" type: "Pooling" bottom: "conv1" top: "pool1"
        pooling_param { pool: MAX kernel_size: 2 stride: 2 } }
layer { name: "ip1" type: "InnerProduct" bottom: "pool1" top: "ip1" inner_product_param { num_output: 10 } }
layer { name: "relu1" type: "ReLU" bottom: "ip1" top: "ip1" }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip1" bottom: "label" top: "loss" }
"""


def fresh_python(code: str) -> str:
    return subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout.strip()


def test_a_whole_net_equals_its_prototxt():
    n = NetSpec()
    n.data, n.label = L.Data(
        source="train_lmdb", backend=P.Data.LMDB, batch_size=64, ntop=2, transform_param=dict(scale=1 / 256)
    )
    n.conv1 = L.Convolution(
        n.data,
        kernel_size=5,
        num_output=20,
        weight_filler=dict(type="xavier"),
        param=[dict(lr_mult=1), dict(lr_mult=2)],
    )
    n.pool1 = L.Pooling(n.conv1, kernel_size=2, stride=2, pool=P.Pooling.MAX)
    n.ip1 = L.InnerProduct(n.pool1, num_output=10)
    n.relu1 = L.ReLU(n.ip1, in_place=True)
    n.loss = L.SoftmaxWithLoss(n.relu1, n.label)
    assert n.to_proto() == prototxt.parse_net(LENET)


def test_the_net_runs():
    n = NetSpec()
    n.data = L.Input(shape=[dict(dim=[2, 3])])
    n.ip = L.InnerProduct(n.data, num_output=4, weight_filler=dict(type="constant", value=1))
    n.prob = L.Softmax(n.ip)
    net = protocaffe.Net(n.to_proto(), protocaffe.TEST)
    out = net.forward(data=np.ones((2, 3)))
    np.testing.assert_allclose(out["prob"], 0.25)


# ------------------------------------------------------------------------------------------------------------- names
def test_tops_without_a_name_get_type_and_number():
    data = L.Input(shape=dict(dim=[1, 2]))
    a, b = L.ReLU(data), L.ReLU(data)
    out = L.Eltwise(a, b, operation=P.Eltwise.SUM)
    net = to_proto(out)
    assert [layer.name for layer in net.layer] == ["Input1", "ReLU1", "ReLU2", "Eltwise1"]
    assert list(net.layer[3].bottom) == ["ReLU1", "ReLU2"]
    assert out.to_proto() == net


def test_automatic_names_step_aside():
    n = NetSpec()
    n.ReLU1 = L.Input(shape=dict(dim=[1, 2]))
    n.out = L.TanH(L.ReLU(n.ReLU1))
    assert [layer.name for layer in n.to_proto().layer] == ["ReLU1", "ReLU2", "out"]


def test_several_tops():
    data = L.Data(ntop=3)
    assert isinstance(data, tuple) and [(t.fn, t.n) for t in data] == [(data[0].fn, i) for i in range(3)]
    n = NetSpec()
    n.image, n.label = data[0], data[2]
    (layer,) = n.to_proto().layer
    assert layer.name == "image"
    assert list(layer.top) == ["image", "Data1", "label"]


def test_the_last_name_of_a_top_counts():
    n = NetSpec()
    n.a = n.b = L.Input()
    assert [layer.name for layer in n.to_proto().layer] == ["b"]


def test_in_place_layers_have_their_own_name_and_the_blob_of_their_bottom():
    n = NetSpec()
    n.data = L.Input()
    n.relu = L.ReLU(n.data, in_place=True)
    n.drop = L.Dropout(n.relu, in_place=True)
    n.out = L.TanH(n.drop)
    net = n.to_proto()
    assert [(x.name, list(x.bottom), list(x.top)) for x in net.layer[1:]] == [
        ("relu", ["data"], ["data"]),
        ("drop", ["data"], ["data"]),
        ("out", ["data"], ["out"]),
    ]


def test_layers_without_tops():
    n = NetSpec()
    n.data = L.Input()
    n.silence = L.Silence(n.data, ntop=0)
    assert isinstance(n.silence, Function)
    layer = n.to_proto().layer[1]
    assert (layer.name, list(layer.bottom), list(layer.top)) == ("silence", ["data"], [])
    assert to_proto(L.Silence(n.data, ntop=0)).layer[1].name == "Silence1"


def test_layers_stand_after_those_they_need():
    n = NetSpec()
    hidden = L.Input(name="given")
    n.late = L.ReLU(L.TanH(hidden))
    n.side = L.Sigmoid(hidden)
    assert [layer.name for layer in n.to_proto().layer] == ["given", "TanH1", "late", "side"]


def test_a_net_of_ten_thousand_layers():
    top = L.Input()
    for _ in range(10_000):
        top = L.ReLU(top)
    assert len(to_proto(top).layer) == 10_001


# -------------------------------------------------------------------------------------------------- NetSpec as holder
def test_attributes_and_items_are_the_same():
    n = NetSpec()
    n["conv1/3x3"] = L.Input()
    n.relu = L.ReLU(n["conv1/3x3"])
    assert n["relu"] is n.relu and "relu" in n and "relu" in dir(n) and list(n.tops) == ["conv1/3x3", "relu"]
    del n.relu
    del n["conv1/3x3"]
    assert not n.tops and len(n.to_proto().layer) == 0
    with pytest.raises(KeyError):
        n["relu"]


def test_missing_tops_are_attribute_errors_that_help():
    n = NetSpec()
    n.conv1 = L.Input()
    assert not hasattr(n, "pool1")
    with pytest.raises(AttributeError, match='no top "conv2"; did you mean "conv1"'):
        n.conv2  # noqa: B018
    with pytest.raises(AttributeError, match='no top "conv2"'):
        del n.conv2


def test_only_tops_can_be_named():
    n = NetSpec()
    with pytest.raises(ParameterError, match='"both" must be a top of a layer, got a tuple of 2 tops'):
        n.both = L.Data(ntop=2)
    with pytest.raises(ParameterError, match="got int 3"):
        n.x = 3
    with pytest.raises(ParameterError, match=r'NetSpec has "tops" itself: name the top with n\["tops"\]'):
        n.tops = L.Input()


# ---------------------------------------------------------------------------------------------------------- arguments
def assert_message(made, text):
    fn = made.fn if isinstance(made, Top) else made
    assert fn.message() == prototxt.parse_message(text, "LayerParameter")


@pytest.mark.parametrize(
    "top, text",
    [
        (lambda: L.Pooling(pool="AVE"), 'type: "Pooling" pooling_param { pool: AVE }'),
        (lambda: L.ReLU(relu_param={}), 'type: "ReLU" relu_param { }'),
        (
            lambda: L.Convolution(kernel_size=(3, 5), pad=np.array([1, 2])),
            'type: "Convolution" convolution_param { pad: 1 pad: 2 kernel_size: 3 kernel_size: 5 }',
        ),
        (lambda: L.InnerProduct(num_output=np.int64(7)), 'type: "InnerProduct" inner_product_param { num_output: 7 }'),
        (
            lambda: L.Convolution(weight_filler=schema.FillerParameter(type="msra")),
            'type: "Convolution" convolution_param { weight_filler { type: "msra" } }',
        ),
        (
            lambda: L.Scale(bias_term=True, filler=dict(value=2), axis=0),
            'type: "Scale" scale_param { axis: 0 filler { value: 2 } bias_term: true }',
        ),
        (lambda: L.Deconvolution(num_output=2), 'type: "Deconvolution" convolution_param { num_output: 2 }'),
        (
            lambda: L.Deconvolution(convolution_param=dict(num_output=2, kernel_size=[4])),
            'type: "Deconvolution" convolution_param { num_output: 2 kernel_size: 4 }',
        ),
        (lambda: L.Normalize(across_spatial=False), 'type: "Normalize" norm_param { across_spatial: false }'),
        (lambda: L.HingeLoss(norm="L2"), 'type: "HingeLoss" hinge_loss_param { norm: L2 }'),
        (
            lambda: L.SoftmaxWithLoss(axis=1, ignore_label=255, normalization=P.Loss.VALID, loss_weight=0.5),
            'type: "SoftmaxWithLoss" loss_weight: 0.5 loss_param { ignore_label: 255 normalization: VALID } '
            "softmax_param { axis: 1 }",
        ),
        (
            lambda: L.Python(module="m", layer="l", param_str="{}"),
            'type: "Python" python_param { module: "m" layer: "l" param_str: "{}" }',
        ),
        (
            lambda: L.Data(ntop=0, top=["data", "label"], include=dict(phase=protocaffe.TEST)),
            'type: "Data" top: "data" top: "label" include { phase: TEST }',
        ),
        (
            lambda: L.DummyData(shape=[dict(dim=[1, 2]), dict(dim=[1])], ntop=2)[1],
            'type: "DummyData" dummy_data_param { shape { dim: 1 dim: 2 } shape { dim: 1 } }',
        ),
        (
            lambda: L.ReLU(param=dict(name="w", lr_mult=0), propagate_down=[True], name="r", phase="TEST"),
            'name: "r" type: "ReLU" param { name: "w" lr_mult: 0 } phase: TEST propagate_down: true',
        ),
        (lambda: L.OfAnotherFork(), 'type: "OfAnotherFork"'),
    ],
)
def test_arguments_become_fields(top, text):
    assert_message(top(), text)


@pytest.mark.parametrize(
    "call, message",
    [
        (
            lambda: L.Convolution(kernel_sise=3),
            r'L\.Convolution: unknown argument "kernel_sise"; did you mean "kernel_size"',
        ),
        (lambda: L.Convolutoin(num_output=3), 'unknown argument "num_output" .the type is unknown; did you mean "Conv'),
        (lambda: L.ReLU(inplace=True), 'did you mean "in_place"'),
        (
            lambda: L.Convolution(weight_filler=dict(typ="xavier")),
            'L.Convolution: weight_filler: FillerParameter has no field "typ"; did you mean "type"',
        ),
        (lambda: L.Convolution(weight_filler="xavier"), "must be a dict with fields of FillerParameter, got 'xavier'"),
        (lambda: L.Convolution(num_output=[1, 2]), r"num_output must be a single value, got \[1, 2\]"),
        (lambda: L.Convolution(num_output="10"), "num_output must be an integer of 0 or more, got '10'"),
        (lambda: L.Convolution(num_output=-1), "num_output must be an integer of 0 or more, got -1"),
        (lambda: L.Convolution(kernel_size=[3, "x"]), "kernel_size must be an integer of 0 or more, got 'x'"),
        (lambda: L.InnerProduct(num_output=None), "num_output must be an integer of 0 or more, got None"),
        (lambda: L.Pooling(pool="MAXX"), 'pool: PoolMethod has no value "MAXX"; did you mean "MAX"'),
        (lambda: L.Pooling(pool="q"), 'has no value "q"; it is one of MAX, AVE, STOCHASTIC'),
        (lambda: L.Pooling(pool=77), "pool must be an enum value, got 77"),
        (lambda: L.Data(ntop=-1), "ntop must be an integer of 0 or more, got -1"),
        (lambda: L.ReLU(in_place=True), "in_place needs an input for each of its 1 tops, got 0"),
        (lambda: L.ReLU("data"), "L.ReLU: input 0 must be a top of another layer, got str 'data'"),
        (lambda: L.ReLU(L.Data(ntop=2)), "input 0 must be .* got a tuple of 2 tops: name each"),
        (lambda: L.ReLU(L.Silence(ntop=0)), "input 0 must be .* got a layer without tops"),
    ],
)
def test_bad_arguments(call, message):
    with pytest.raises(ParameterError, match=message):
        call()


def test_arguments_may_be_changed_until_the_net_is_made():
    top = L.InnerProduct(L.Input(), num_output=2)
    top.fn.params["num_output"] = 5
    assert to_proto(top).layer[1].inner_product_param.num_output == 5


def test_a_type_from_outside_brings_its_own_argument():
    schema.add_layer_parameter("spec_test_param", {"alpha": ("float", 1.0)})
    assert_message(L.SpecTest(alpha=2), 'type: "SpecTest" spec_test_param { alpha: 2 }')
    assert_message(L.Other(spec_test_param=dict(alpha=2)), 'type: "Other" spec_test_param { alpha: 2 }')


def test_unknown_types_are_an_error_of_the_net():
    with pytest.raises(NetError, match='unknown layer type "Relu"'):
        protocaffe.Net(to_proto(L.Relu(L.Input(shape=dict(dim=[1])))), protocaffe.TEST)


# ------------------------------------------------------------------------------------------------------------ modules
def test_modules_are_not_shadowed():
    code = (
        "from protocaffe import layers as L\n"
        "assert L.convolution.__name__ == 'protocaffe.layers.convolution'\n"
        "from protocaffe.layers import pooling\n"
        "import protocaffe.layers.relu as relu\n"
        "assert pooling.Pooling and relu.ReLU\n"
        "assert not hasattr(L, 'no_such_module') and not hasattr(L, '_private')\n"
        "print(L.Convolution.__name__, 'Convolution' in dir(L))"
    )
    assert fresh_python(code) == "Convolution True"


def test_layer_functions_say_what_they_take():
    assert L.Pooling.__name__ == "Pooling"
    assert "kernel_size" in L.Pooling.__doc__ and "ntop" in L.Pooling.__doc__


def test_params():
    assert (P.Pooling.MAX, P.Pooling.STOCHASTIC, P.Eltwise.PROD, P.LRN.WITHIN_CHANNEL) == (0, 2, 0, 1)
    assert dir(P.Data) == ["AUTO", "DEVICE", "HOST", "LEVELDB", "LMDB", "NONE"]
    assert "Pooling" in dir(P)
    with pytest.raises(AttributeError, match='PoolingParameter has no enum value "MAXIMUM"'):
        P.Pooling.MAXIMUM  # noqa: B018
    with pytest.raises(AttributeError, match='no message "PoolinParameter"; did you mean "Pooling"'):
        P.Poolin  # noqa: B018


def test_importing_the_package_loads_no_protobuf_and_no_numpy():
    code = (
        "import sys, protocaffe; from protocaffe import layers\n"
        "print([m for m in sys.modules if m.split('.')[0] in ('google', 'numpy', 'PIL')])"
    )
    assert fresh_python(code) == "[]"
