"""A layer from outside of the package: its own parameter message, its own kernels, compiled on first use."""

from __future__ import annotations

import pytest

from protocaffe import Layer, Net, get_solver, register
from protocaffe.backends.cpu import CpuBackend
from protocaffe.errors import KernelError, NetError, ParameterError, ParseError
from protocaffe.io import prototxt, schema
from tests.support.check_layer import check_error, check_layer
from tests.support.probe import KERNELS

FIELDS = {"factor_filler": ("FillerParameter", None), "shift": ("float", 0.5), "tags": ("repeated string", None)}


@register("MyScale", parameter={"my_param": FIELDS})
class MyScale(Layer):
    """y = factor x^2 + shift, with a learnable factor."""

    exact_bottoms = 1
    exact_tops = 1
    kernels = (str(KERNELS / "my_scale.cu"),)

    def setup(self, bottom, top):
        p = self.param.my_param
        if p.shift < 0:
            self.fail(ParameterError, f"shift must be at least 0, got {p.shift}")
        self.shift = p.shift
        self.add_param((1,), p.factor_filler)

    def reshape(self, bottom, top):
        top[0].reshape(bottom[0].shape)

    def forward(self, bottom, top):
        args = (bottom[0].data_mem, self.blobs[0].data_mem, self.shift, top[0].data_mem)
        self.ops.launch("my_scale_forward", bottom[0].count, *args)

    def backward(self, top, propagate_down, bottom):
        x, dy = bottom[0].data_mem, top[0].diff_mem
        if self.param_propagate_down[0]:
            self.ops.launch_rows("my_scale_gradient", 1, bottom[0].count, x, dy, self.blobs[0].diff_mem)
        if propagate_down[0]:
            args = (x, self.blobs[0].data_mem, dy, bottom[0].diff_mem)
            self.ops.launch("my_scale_backward", bottom[0].count, *args)


@pytest.fixture(scope="module", autouse=True)
def cache(tmp_path_factory):
    """Compiled kernels go to a folder of this module."""
    folder = tmp_path_factory.mktemp("cache")
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("PROTOCAFFE_CACHE", str(folder))
        yield folder


def layer(options):
    return f'layer {{ type: "MyScale" bottom: "x" top: "y" my_param {{ {options} }} }}'


@pytest.mark.parametrize("shift", [0.5, 2.0])
def test_it_passes_check_layer(shift):
    def reference(x, factor):
        return factor[0] * x**2 + shift

    options = "" if shift == 0.5 else f"shift: {shift}"
    check_layer(layer(options), {"x": (3, 4)}, reference, large={"x": (200, 150)})


def test_a_prototxt_may_write_its_parameters():
    text = layer('shift: 2 tags: "a" tags: "b" factor_filler { type: "constant" value: 7 }')
    (param,) = prototxt.parse_net(text).layer
    assert param.my_param.shift == 2 and list(param.my_param.tags) == ["a", "b"]
    assert prototxt.to_text(prototxt.parse_net(text)).count("my_param {") == 1
    again = schema.LayerParameter()
    again.ParseFromString(param.SerializeToString())
    assert again == param and schema.LayerParameter().my_param.shift == 0.5


def test_errors():
    check_error(ParameterError, "shift must be at least 0, got -1", layer("shift: -1"), {"x": (2,)})
    with pytest.raises(ParseError, match=r"x\.prototxt:1:\d+: .*shft"):
        prototxt.parse_net(layer("shft: 1"), "x.prototxt")
    with pytest.raises(NetError, match='"MyScale" is already registered'):
        register("MyScale")(type("Other", (Layer,), {"__module__": "elsewhere"}))
    with pytest.raises(NetError, match=r'unknown layer type "MyScael".*did you mean "MyScale"'):
        Net(prototxt.parse_net('layer { name: "a" type: "MyScael" }'))


def test_a_net_with_it_trains(tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    (tmp_path / "net.prototxt").write_text("""
        layer { name: "in" type: "DummyData" top: "x" top: "label" dummy_data_param { shape { dim: 4 dim: 3 }
                shape { dim: 4 } data_filler { type: "constant" value: 1 } data_filler { type: "constant" value: 2 } } }
        layer { name: "mine" type: "MyScale" bottom: "x" top: "y"
                my_param { factor_filler { type: "constant" value: 1 } } }
        layer { name: "ip" type: "InnerProduct" bottom: "y" top: "z"
                inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }
        layer { name: "loss" type: "SoftmaxWithLoss" bottom: "z" bottom: "label" top: "loss" }""")
    (tmp_path / "solver.prototxt").write_text('net: "net.prototxt" base_lr: 0.1 lr_policy: "fixed" random_seed: 1')
    solver = get_solver("solver.prototxt")
    solver.step(1)
    first = float(solver.net.blobs["loss"].data)
    solver.step(10)
    assert solver.net.params["mine"][0].data[0] != 1 and float(solver.net.blobs["loss"].data) < first / 2
    solver.net.save("trained.caffemodel")
    other = Net(prototxt.read_net("net.prototxt"), 0, weights="trained.caffemodel")
    assert (other.params["mine"][0].data == solver.net.params["mine"][0].data).all()


def test_kernels_are_compiled_once(cache, monkeypatch, tmp_path):
    CpuBackend().load_kernels(KERNELS / "my_scale.cu")
    libraries = sorted((cache / "kernels").glob("my_scale-f32-*.so"))
    assert len(libraries) == 1
    monkeypatch.setenv("CXX", str(tmp_path / "no-compiler"))
    monkeypatch.setenv("PATH", "")
    CpuBackend().load_kernels(KERNELS / "my_scale.cu")  # from the cache
    assert sorted((cache / "kernels").glob("my_scale-f32-*.so")) == libraries
    changed = tmp_path / "my_scale.cu"
    changed.write_text((KERNELS / "my_scale.cu").read_text() + "\n// changed")
    with pytest.raises(KernelError, match=r"my_scale\.cu: compiling the kernels needs a C\+\+ compiler"):
        CpuBackend().load_kernels(changed)
