"""Python layers: pycaffe's methods, learning, shapes that change, errors of the user's."""

import numpy as np
import pytest

import protocaffe
from protocaffe.errors import NetError, ShapeError
from protocaffe.io import parse_net, parse_solver
from tests.support.split_backend import SplitBackend

MODULE = '''
import numpy as np
import protocaffe as caffe


class Cube(caffe.Layer):
    """y = x^3 + param_str"""

    def setup(self, bottom, top):
        self.plus = float(self.param_str or 0)
        self.reshaped = 0

    def reshape(self, bottom, top):
        self.reshaped += 1
        top[0].reshape(*bottom[0].shape)

    def forward(self, bottom, top):
        top[0].data[...] = bottom[0].data ** 3 + self.plus

    def backward(self, top, propagate_down, bottom):
        if propagate_down[0]:
            bottom[0].diff[...] = 3 * bottom[0].data ** 2 * top[0].diff


class Weight(caffe.Layer):
    def setup(self, bottom, top):
        self.blobs.add_blob(3)
        self.blobs[0].data[...] = 1

    def reshape(self, bottom, top):
        top[0].reshape(*bottom[0].shape)

    def forward(self, bottom, top):
        top[0].data[...] = bottom[0].data * self.blobs[0].data

    def backward(self, top, propagate_down, bottom):
        self.blobs[0].diff[...] += (top[0].diff * bottom[0].data).sum(0)
        bottom[0].diff[...] = top[0].diff * self.blobs[0].data


class Rows(caffe.Layer):
    """The rows whose first value is above 0: how many is known only when it runs."""

    def setup(self, bottom, top):
        pass

    def reshape(self, bottom, top):
        top[0].reshape(1, bottom[0].shape[1])

    def forward(self, bottom, top):
        self.kept = bottom[0].data[:, 0] > 0
        rows = bottom[0].data[self.kept]
        top[0].reshape(*rows.shape)
        top[0].data[...] = rows

    def backward(self, top, propagate_down, bottom):
        bottom[0].diff[...] = 0
        bottom[0].diff[self.kept] = top[0].diff


class Counter(caffe.Layer):
    """A source: 2, 3, 2, 3, ... rows that hold the number of the pass"""

    def setup(self, bottom, top):
        self.passes = 0

    def reshape(self, bottom, top):
        top[0].reshape(2 + self.passes % 2, 3)

    def forward(self, bottom, top):
        top[0].data[...] = self.passes
        self.passes += 1


class Broken(caffe.Layer):
    def setup(self, bottom, top):
        if self.param_str == "setup":
            raise RuntimeError("no luck")

    def reshape(self, bottom, top):
        top[0].reshape(*bottom[0].shape)
        if self.param_str == "reshape":
            top[0].reshape(-1)

    def forward(self, bottom, top):
        if self.param_str == "forward":
            {}["key"]

    def backward(self, top, propagate_down, bottom):
        raise ValueError("in backward")


class NoLayer:
    pass
'''


@pytest.fixture(autouse=True)
def modules(tmp_path, monkeypatch):
    (tmp_path / "my_python_layers.py").write_text(MODULE)
    (tmp_path / "my_broken_module.py").write_text("1 / 0")
    monkeypatch.syspath_prepend(tmp_path)


def layer(name, param_str="", module="my_python_layers", bottom="x", more=""):
    param = f'module: "{module}" layer: "{name}" param_str: "{param_str}"'
    return f'layer {{ name: "L" type: "Python" bottom: "{bottom}" top: "y" {more} python_param {{ {param} }} }}'


def build(text, shape=(4, 3), head="force_backward: true ", backend=None):
    dims = " ".join(f"dim: {d}" for d in shape)
    return protocaffe.Net(
        parse_net(f'{head} layer {{ name: "in" type: "Input" top: "x" input_param {{ shape {{ {dims} }} }} }} {text}'),
        0,
        backend=backend,
    )


def test_forward_backward_and_param_str():
    net = build(layer("Cube", "2.5"))
    x = np.random.default_rng(0).standard_normal((4, 3))
    np.testing.assert_allclose(net.forward(x=x)["y"], x**3 + 2.5, rtol=1e-5)
    dy = np.ones((4, 3)) * 2
    np.testing.assert_allclose(net.backward(y=dy)["x"], 6 * x**2, rtol=1e-5)
    net.blobs["x"].reshape(5, 3)
    assert net.forward()["y"].shape == (5, 3)
    assert net.layers[-1].inner.phase == protocaffe.TRAIN


def test_reshape_is_called_before_each_forward_pass():
    net = build(layer("Cube"))
    net.forward()
    before = net.layers[-1].inner.reshaped
    net.forward()
    assert net.layers[-1].inner.reshaped == before + 1


def test_its_parameters_learn_are_saved_and_resume(tmp_path):
    def make():
        param = parse_solver(f'base_lr: 0.1 lr_policy: "fixed" momentum: 0.9 snapshot_prefix: "{tmp_path}/s"')
        text = (
            'layer { name: "in" type: "Input" top: "x" top: "z" '
            "input_param { shape { dim: 4 dim: 3 } shape { dim: 4 dim: 3 } } }"
            + layer("Weight")
            + 'layer { name: "loss" type: "EuclideanLoss" bottom: "y" bottom: "z" top: "loss" }'
        )
        param.net_param.CopyFrom(parse_net(text))
        solver = protocaffe.get_solver(param)
        rng = np.random.default_rng(0)
        solver.net.blobs["x"].data = rng.standard_normal((4, 3))
        solver.net.blobs["z"].data = 2 * solver.net.blobs["x"].data
        return solver

    solver = make()
    solver.step(3)
    _, state = solver.snapshot()
    solver.step(40)
    np.testing.assert_allclose(solver.net.params["L"][0].data, 2, atol=0.2)
    again = make()
    again.restore(state)
    again.step(40)
    np.testing.assert_array_equal(again.net.params["L"][0].data, solver.net.params["L"][0].data)


def test_a_top_whose_shape_depends_on_the_data():
    text = layer("Rows") + 'layer { name: "s" type: "Softmax" bottom: "y" top: "s" }'
    text += layer("Cube", bottom="s").replace('"L"', '"again"').replace('"y"', '"c"')
    net = build(text, head="")
    for count in (2, 4, 0, 3):
        x = np.arange(12.0).reshape(4, 3) + 1
        x[count:, 0] = -1
        out = net.forward(x=x)["c"]
        e = np.exp(x[:count] - x[:count].max(1, keepdims=True))
        assert out.shape == (count, 3)
        np.testing.assert_allclose(out, (e / e.sum(1, keepdims=True)) ** 3, rtol=1e-5)
        assert net.blobs["s"].shape == (count, 3)


@pytest.mark.parametrize("backend", [None, SplitBackend()], ids=["cpu", "split"])
def test_gradients_through_a_top_whose_shape_depends_on_the_data(backend):
    text = layer("Rows") + layer("Weight", bottom="y").replace('"L"', '"w"').replace('top: "y"', 'top: "z"')
    text += 'layer { name: "t" type: "TanH" bottom: "z" top: "t" }'
    net = build(text, backend=backend)
    net.params["w"][0].data = [0.5, 1, 2]
    rng = np.random.default_rng(0)
    for count in (2, 4, 0, 3):
        x = rng.uniform(0.1, 1, (4, 3))
        x[count:, 0] *= -1
        dt = rng.standard_normal((count, 3))
        net.forward(x=x)
        net.clear_param_diffs()
        dx = net.backward(t=dt)["x"]
        dz = dt * (1 - np.tanh(x[:count] * [0.5, 1, 2]) ** 2)
        np.testing.assert_allclose(dx, np.concatenate([dz * [0.5, 1, 2], np.zeros((4 - count, 3))]), atol=1e-6)
        np.testing.assert_allclose(net.params["w"][0].diff, (dz * x[:count]).sum(0), atol=1e-6)


def test_a_source_whose_batches_differ_in_size():
    source = layer("Counter").replace('bottom: "x"', "")
    net = protocaffe.Net(parse_net(source + 'layer { name: "t" type: "TanH" bottom: "y" top: "t" }'), 0)
    for k in range(4):
        np.testing.assert_allclose(net.forward()["t"], np.full((2 + k % 2, 3), np.tanh(k)), rtol=1e-6)


def test_hooks_and_parts_of_the_net_meet_it_too():
    net = build(layer("Rows") + 'layer { name: "s" type: "Softmax" bottom: "y" top: "s" }', head="")
    seen = []
    handle = net.after_forward(lambda name: seen.append((name, net.blobs["y"].shape)))
    x = np.ones((4, 3))
    assert net.forward(x=x)["s"].shape == (4, 3)
    assert ("s", (4, 3)) in seen
    handle.remove()
    net.blobs["x"].data[0] = -1
    assert net.forward(start="L")["s"].shape == (3, 3)


@pytest.mark.parametrize(
    ("name", "param_str", "module", "error", "match"),
    [
        ("Cube", "", "", NetError, 'must give a module and a layer, got "" and "Cube"'),
        ("Cube", "", "no_such_module", NetError, '"no_such_module" cannot be imported: ModuleNotFoundError'),
        ("Cube", "", "my_broken_module", NetError, "cannot be imported: ZeroDivisionError"),
        ("Missing", "", "my_python_layers", NetError, 'class "Missing" that derives from protocaffe.Layer, got none'),
        ("NoLayer", "", "my_python_layers", NetError, "got <class"),
        ("Cube", "x", "my_python_layers", NetError, "my_python_layers.Cube.setup raised ValueError: could not convert"),
        ("Broken", "setup", "my_python_layers", NetError, "Broken.setup raised RuntimeError: no luck"),
        ("Broken", "reshape", "my_python_layers", ShapeError, 'blob "y": extents must be 0 or more'),
    ],
)
def test_errors_when_the_net_is_built(name, param_str, module, error, match):
    with pytest.raises(error, match=rf'layer "L" \(Python\): .*{match}'):
        build(layer(name, param_str, module))


def test_errors_when_it_runs():
    with pytest.raises(NetError, match=r'layer "L" \(Python\): .*Broken.forward raised KeyError'):
        build(layer("Broken", "forward")).forward()
    net = build(layer("Broken"))
    net.forward()
    with pytest.raises(NetError, match=r"Broken.backward raised ValueError: in backward"):
        net.backward()
