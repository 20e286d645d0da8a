"""Convolution engines on the GPU: cuDNN against im2col and GEMM and against windows and einsum in float64."""

from __future__ import annotations

import json
from dataclasses import replace
from itertools import islice

import numpy as np
import pytest

import protocaffe
from protocaffe.backends import get_backend
from protocaffe.backends.cuda_graph import Segment
from protocaffe.backends.engine_choices import CAFFE
from protocaffe.errors import BackendError
from protocaffe.io import prototxt
from protocaffe.layers.convolution import ConvShape
from tests.support import oracles
from tests.support.backends import has_gpu
from tests.support.bench import Bench

pytestmark = pytest.mark.skipif(not has_gpu(), reason="there is no GPU here")

#: images, channels, outputs, input, kernel, stride, pad, dilation, group
GRID = {
    "plain": (4, 8, 16, (12, 12), (3, 3), (1, 1), (0, 0), (1, 1), 1),
    "pad": (8, 64, 64, (24, 24), (3, 3), (1, 1), (1, 1), (1, 1), 1),
    "stride": (8, 32, 48, (13, 15), (3, 3), (2, 2), (1, 1), (1, 1), 1),
    "dilation": (4, 8, 12, (17, 19), (3, 3), (1, 1), (2, 2), (2, 2), 1),
    "group": (4, 8, 12, (11, 9), (3, 3), (1, 1), (1, 1), (1, 1), 4),
    "depthwise": (4, 16, 16, (10, 10), (3, 3), (1, 1), (1, 1), (1, 1), 16),
    "pointwise": (4, 32, 24, (9, 7), (1, 1), (1, 1), (0, 0), (1, 1), 1),
    "pointwise_stride": (4, 32, 24, (9, 7), (1, 1), (2, 2), (0, 0), (1, 1), 1),
    "7x7": (4, 3, 16, (32, 32), (7, 7), (2, 2), (3, 3), (1, 1), 1),
    "one_channel": (8, 1, 20, (28, 28), (5, 5), (1, 1), (0, 0), (1, 1), 1),
    "odd": (3, 5, 7, (11, 13), (3, 5), (2, 1), (1, 2), (1, 1), 1),
    "one_axis": (4, 6, 8, (31,), (5,), (2,), (2,), (1,), 2),
    "three_axes": (2, 4, 6, (5, 9, 7), (2, 3, 3), (1, 2, 1), (0, 1, 1), (1, 1, 1), 1),
    "ragged": (5, 3, 4, (10, 10), (3, 3), (3, 3), (0, 0), (1, 1), 1),
}
#: of the largest value wanted
TOLERANCE = {"fp32": 2e-5, "tf32": 4e-3}


def conv_shape(case: str, engine: str = "DEFAULT", **changes: object) -> ConvShape:
    n, c, f, size, kernel, stride, pad, dilation, group = GRID[case]
    out = tuple(
        (s + 2 * p - d * (k - 1) - 1) // t + 1
        for s, k, t, p, d in zip(size, kernel, stride, pad, dilation, strict=True)
    )
    fields = {"images": n, "channels": c, "num_output": f, "group": group, "in_dims": size, "out_dims": out,
              "kernel": kernel, "stride": stride, "pad": pad, "dilation": dilation, "engine": engine}  # fmt: skip
    return ConvShape(**(fields | changes))


class Steps:
    """The three steps at one shape, on values that are drawn once."""

    def __init__(self, cuda, shape: ConvShape, seed: int = 0) -> None:
        from protocaffe.memory import Slot
        from protocaffe.plan import Recorder

        self.cuda, self.shape = cuda, shape
        rng = np.random.default_rng(seed)
        s = shape
        sizes = {"x": (s.images, s.channels, *s.in_dims), "w": (s.num_output, s.channels // s.group, *s.kernel),
                 "b": (s.num_output,), "dy": (s.images, s.num_output, *s.out_dims)}  # fmt: skip
        self.values = {name: rng.standard_normal(size) for name, size in sizes.items()}
        self.start = {"w": rng.standard_normal(sizes["w"]), "b": rng.standard_normal(sizes["b"])}
        m = {name: cuda.from_array(value.astype(cuda.real)) for name, value in self.values.items()}
        self.y, self.dx = cuda.empty(sizes["dy"]), cuda.empty(sizes["x"])
        self.dw, self.db = cuda.empty(sizes["w"]), cuda.empty(sizes["b"])
        self.memory = m
        self._slot, self._recorder = Slot(cuda, cuda.real), Recorder
        self.steps = {
            "forward": (m["x"], m["w"], m["b"], self.y),
            "backward_data": (m["dy"], m["w"], self.dx),
            "backward_weights": (m["x"], m["dy"], self.dw, self.db),
        }

    def record(self, step: str, relu: bool = False) -> list:
        ops = self._recorder(self.cuda, "", self._slot)
        ops._conv(step, self.shape, self.steps[step], relu)
        return [call.run for call in ops.calls]

    def run(self, step: str, relu: bool = False, calls: list | None = None) -> list[np.ndarray]:
        """Results; gradients of parameters are added to what `start` holds."""
        calls = calls or self.record(step, relu)
        self.dw.assign(self.start["w"])
        self.db.assign(self.start["b"])
        self.cuda.replay(calls)
        return [m.read() for m in {"forward": (self.y,), "backward_data": (self.dx,)}.get(step, (self.dw, self.db))]

    def wanted(self, step: str, relu: bool = False) -> list[np.ndarray]:
        s, v = (
            self.shape,
            {name: value.astype(self.cuda.real).astype(np.float64) for name, value in self.values.items()},
        )
        options = {"stride": s.stride, "pad": s.pad, "dilation": s.dilation, "group": s.group}
        if step == "forward":
            y = oracles.convolution(v["x"], v["w"], v["b"], **options)
            return [np.maximum(y, 0) if relu else y]
        dx, dw, db = oracles.convolution_gradient([v["x"], v["w"], v["b"]], [v["dy"]], **options)
        return [dx] if step == "backward_data" else [dw + self.start["w"], db + self.start["b"]]


@pytest.fixture(autouse=True)
def small_ones_too(monkeypatch):
    """Small convolutions are as good as large ones for tests, and no products are tried beside."""
    monkeypatch.setattr("protocaffe.backends.cuda_dnn.SMALL", 0)
    monkeypatch.setattr("protocaffe.backends.cuda_blas._WORTH_TRYING", 1 << 62)


def renew(monkeypatch, backend):
    """Give the GPU a table of choices as a new process has it."""
    from protocaffe.backends.cuda_dnn import Convolutions
    from protocaffe.backends.engine_choices import Choices

    choices = Choices()
    monkeypatch.setattr(backend, "_choices", choices)
    monkeypatch.setattr(backend, "_convolutions", Convolutions(backend, choices))


@pytest.fixture
def cuda(tmp_path, monkeypatch):
    """The GPU in float, with a table of choices of its own."""
    monkeypatch.setenv("PROTOCAFFE_CACHE", str(tmp_path))
    backend = get_backend("cuda")
    renew(monkeypatch, backend)
    monkeypatch.setenv("PROTOCAFFE_TUNE", "1")
    if backend._convolutions.library is None:
        pytest.skip("cuDNN is not there")
    before = backend.math
    backend.math = "fp32"
    yield backend
    backend.math = before


def close(got: np.ndarray, wanted: np.ndarray, tolerance: float) -> None:
    np.testing.assert_allclose(got, wanted, atol=tolerance * max(1.0, np.abs(wanted).max()), rtol=0)


@pytest.fixture
def few_plans(monkeypatch):
    """Measure the likeliest three plans of each graph: test_every_plan_gives_the_same_and_repeats takes all."""
    from protocaffe.backends.cudnn_graph import ConvGraph

    plans = ConvGraph.plans
    monkeypatch.setattr(ConvGraph, "plans", lambda *args: islice(plans(*args), 3))


@pytest.mark.parametrize("math", TOLERANCE)
@pytest.mark.parametrize("step", ["forward", "backward_data", "backward_weights"])
@pytest.mark.parametrize("case", GRID)
def test_engines_against_the_oracle(cuda, few_plans, case, step, math):
    cuda.math = math
    wanted = Steps(cuda, conv_shape(case)).wanted(step)
    for engine in ("CUDNN", "CAFFE", "DEFAULT"):
        steps = Steps(cuda, conv_shape(case, engine))
        for relu in (False, True) if step == "forward" else (False,):
            calls = steps.record(step, relu)
            first = steps.run(step, relu, calls)
            for got, plain in zip(first, wanted, strict=True):
                close(got, np.maximum(plain, 0) if relu else plain, TOLERANCE[math])
            for again, once in zip(steps.run(step, relu, calls), first, strict=True):
                assert np.array_equal(again, once)


@pytest.mark.parametrize("math", TOLERANCE)
@pytest.mark.parametrize("step", ["forward", "backward_data", "backward_weights"])
@pytest.mark.parametrize("case", ["pad", "stride", "group", "one_axis", "three_axes"])
def test_every_plan_gives_the_same_and_repeats(cuda, case, step, math):
    from protocaffe.backends.cuda_dnn import _Trial

    cuda.math = math
    steps = Steps(cuda, conv_shape(case, "CUDNN"))
    wanted = steps.wanted(step, step == "forward")
    trial = _Trial(cuda._convolutions, step, steps.shape, steps.steps[step], step == "forward")
    names = list(trial.candidates(False))
    assert names and CAFFE not in names
    print(case, step, math, names)
    for name in names:
        call = trial.bind(name, steps.steps[step])
        runs = [steps.run(step, calls=[call]) for _ in range(3)]
        for got, right in zip(runs[0], wanted, strict=True):
            close(got, right, TOLERANCE[math])
        for other in runs[1:]:
            assert all(np.array_equal(a, b) for a, b in zip(other, runs[0], strict=True)), name


def test_captured_in_a_graph_and_with_a_larger_workspace_later(cuda):
    small, large = (Steps(cuda, conv_shape(case, "CUDNN")) for case in ("plain", "pad"))
    calls = {step: small.record(step) for step in small.steps}
    graphs = {step: Segment(cuda.device, calls[step]) for step in calls}
    eager = {step: small.run(step, calls=calls[step]) for step in calls}
    for step in large.steps:
        large.run(step)
    for _ in range(3):
        for step, graph in graphs.items():
            got = small.run(step, calls=[graph])
            assert all(np.array_equal(a, b) for a, b in zip(got, eager[step], strict=True))
    assert all(graph._graph is not None for graph in graphs.values())


def test_choices_are_kept_in_the_file(cuda, tmp_path, monkeypatch):
    from protocaffe.backends.cuda_dnn import _Trial

    Steps(cuda, conv_shape("pad")).record("forward")
    kept = json.loads((tmp_path / "engines.json").read_text())["choices"]
    assert len(kept) == 1 and cuda.choices == kept
    monkeypatch.setattr(_Trial, "measure", lambda self: pytest.fail("measured again"))
    renew(monkeypatch, cuda)
    Steps(cuda, conv_shape("pad")).record("forward")
    assert cuda.choices == kept


def test_a_choice_that_names_no_plan_is_measured_again(cuda, tmp_path, monkeypatch):
    steps = Steps(cuda, conv_shape("pad"))
    steps.record("forward")
    (key,) = cuda.choices
    for rubbish in ("CUDNN 99999 1=2", "CUDNN", "CUDNN what", "NOBODY"):
        (tmp_path / "engines.json").write_text(json.dumps({"format": 1, "choices": {key: rubbish}}))
        renew(monkeypatch, cuda)
        (got,) = steps.run("forward")
        close(got, steps.wanted("forward")[0], 2e-5)
        assert cuda.choices[key] != rubbish
        assert json.loads((tmp_path / "engines.json").read_text())["choices"] == cuda.choices


def test_without_tuning_the_rule_decides_and_no_file_is_written(cuda, tmp_path, monkeypatch):
    monkeypatch.setenv("PROTOCAFFE_TUNE", "0")
    for case, engine in (("pad", "CUDNN"), ("pointwise_stride", CAFFE)):
        steps = Steps(cuda, conv_shape(case))
        for step in steps.steps:
            for got, wanted in zip(steps.run(step), steps.wanted(step), strict=True):
                close(got, wanted, 2e-5)
        assert {choice.split()[0] for key, choice in cuda.choices.items() if f"kernel {GRID[case][4][0]}" in key} == {
            engine
        }
    assert not (tmp_path / "engines.json").exists()


def test_measuring_leaves_the_gradients_alone(cuda):
    steps = Steps(cuda, conv_shape("pad"))
    for memory in (steps.dw, steps.db, steps.y, steps.dx):
        memory.assign(7)
    cuda.flush()
    for step in steps.steps:
        steps.record(step)
    assert len(cuda.choices) == 3
    for memory in (steps.dw, steps.db, steps.y, steps.dx):
        memory.storage._host_epoch = -1  # read what is on the device
        assert (memory.read() == 7).all()


def test_without_cudnn(cuda, monkeypatch, caplog):
    from protocaffe.backends import cuda_dnn

    def missing():
        raise BackendError("cuDNN 9 is not there: pip install nvidia-cudnn-cu13")

    monkeypatch.setattr(cuda_dnn, "load", missing)
    renew(monkeypatch, cuda)
    for _ in range(2):
        steps = Steps(cuda, conv_shape("pad"))
        close(steps.run("forward")[0], steps.wanted("forward")[0], 2e-5)
    assert caplog.text.count("computed by im2col and GEMM: cuDNN 9 is not there: pip install nvidia-cudnn-cu13") == 1
    with pytest.raises(BackendError, match="engine: CUDNN: cuDNN 9 is not there"):
        Steps(cuda, conv_shape("pad", "CUDNN")).record("forward")


def test_what_cudnn_cannot_do(cuda):
    four = ConvShape(1, 2, 2, 1, (3, 2, 3, 2), (2, 1, 2, 1), (2,) * 4, (1,) * 4, (0,) * 4, (1,) * 4)
    assert Steps(cuda, four).run("forward")[0].shape == (1, 2, 2, 1, 2, 1)
    with pytest.raises(BackendError, match="engine: CUDNN takes 1 to 3 spatial axes, got 4"):
        Steps(cuda, replace(four, engine="CUDNN")).record("forward")
    assert Steps(cuda, replace(conv_shape("pad", "CUDNN"), images=0)).run("forward")[0].shape[0] == 0


@pytest.mark.parametrize("step", ["forward", "backward_data", "backward_weights"])
@pytest.mark.parametrize("case", ["pad", "stride", "group", "one_axis", "three_axes"])
def test_doubles(case, step):
    steps = Steps(get_backend("cuda", "float64"), conv_shape(case, "CUDNN"))
    for got, wanted in zip(steps.run(step), steps.wanted(step), strict=True):
        close(got, wanted, 1e-12)


@pytest.mark.parametrize("engine", ["DEFAULT", "CAFFE", "CUDNN"])
@pytest.mark.parametrize("kind", ["Convolution", "Deconvolution"])
def test_layers_by_each_engine_agree_with_the_cpu(cuda, kind, engine):
    text = (
        f'layer {{ type: "{kind}" bottom: "x" top: "y" convolution_param {{ num_output: 6 kernel_size: 3 stride: 2 '
        f"pad: 1 group: 2 engine: {engine} }} }}"
    )
    results = []
    for backend in (get_backend("cpu"), cuda):
        rng = np.random.default_rng(0)
        bench = Bench(text, {"x": (4, 8, 9, 7)}, backend)
        for blob in bench.params:
            blob.data[...] = rng.standard_normal(blob.shape)
        tops = bench.forward([rng.standard_normal((4, 8, 9, 7))])
        before = [rng.standard_normal(blob.shape) for blob in bench.params]
        diffs = bench.backward([rng.standard_normal(t.shape) for t in tops], [True], before=before)
        results.append([*tops, *diffs[0], *diffs[1]])
    for got, wanted in zip(results[1], results[0], strict=True):
        close(got, wanted, 2e-5)


SOLVER = """
net_param {{
  layer {{ name: "in" type: "DummyData" top: "x" top: "t" dummy_data_param {{
           shape {{ dim: 16 dim: 8 dim: 12 dim: 12 }} shape {{ dim: 16 dim: 4 }}
           data_filler {{ type: "gaussian" }} data_filler {{ type: "gaussian" }} }} }}
  layer {{ name: "conv1" type: "Convolution" bottom: "x" top: "c1" convolution_param {{ num_output: 16 kernel_size: 3
           pad: 1 weight_filler {{ type: "xavier" }} }} }}
  layer {{ name: "relu1" type: "ReLU" bottom: "c1" top: "c1" }}
  layer {{ name: "conv2" type: "Convolution" bottom: "c1" top: "c2" convolution_param {{ num_output: 8 kernel_size: 3
           stride: 2 weight_filler {{ type: "xavier" }} }} }}
  layer {{ name: "ip" type: "InnerProduct" bottom: "c2" top: "y" inner_product_param {{ num_output: 4
           weight_filler {{ type: "xavier" }} }} }}
  layer {{ name: "loss" type: "EuclideanLoss" bottom: "y" bottom: "t" top: "loss" }}
}}
base_lr: 0.01 momentum: 0.9 lr_policy: "fixed" random_seed: 1 snapshot_prefix: "{prefix}"
"""


def favour(monkeypatch, wins):
    """Measure, and let what ``wins`` says come out first, however the times are on this GPU."""
    from protocaffe.backends.cuda_timing import fastest

    def measured(device, makers):
        times = fastest(device, makers, hopeless=1e9)
        return {name: us if wins(name) else 1e9 * us for name, us in times.items()}

    monkeypatch.setattr("protocaffe.backends.cuda_dnn.fastest", measured)


@pytest.mark.parametrize("math", ["fp32", "tf32"])
def test_a_resumed_run_is_bit_identical_where_other_engines_would_be_chosen(cuda, tmp_path, monkeypatch, math):
    cuda.math = math
    of_caffe = (CAFFE, "together")

    def make():
        return protocaffe.get_solver(prototxt.parse_solver(SOLVER.format(prefix=tmp_path / "s")), backend=cuda)

    def weights(solver):
        return [blob.data.copy() for blob in solver.net.learnable_params]

    favour(monkeypatch, lambda name: name not in of_caffe)
    straight = make()
    straight.step(4)
    _, state = straight.snapshot()
    chosen = cuda.choices
    straight.step(4)
    # another start, at which everything is measured otherwise
    (tmp_path / "engines.json").unlink()
    renew(monkeypatch, cuda)
    favour(monkeypatch, lambda name: name in of_caffe)
    resumed = make()
    resumed.step(1)
    measured = cuda.choices
    assert chosen and measured.keys() == chosen.keys(), (chosen, measured)
    assert all(choice in of_caffe for choice in measured.values()), measured
    assert not any(choice in of_caffe for choice in chosen.values()), chosen
    resumed.restore(state)
    resumed.step(4)
    assert cuda.choices == chosen
    assert all(np.array_equal(a, b) for a, b in zip(weights(resumed), weights(straight), strict=True))


def test_another_mode_after_capture_takes_effect(cuda):
    steps = protocaffe.get_solver(prototxt.parse_solver(SOLVER.format(prefix="s")), backend=cuda)
    net = steps.net
    outs = {}
    for mode in ("fp32", "tf32", "fp32"):
        cuda.math = mode
        for _ in range(3):  # by calls, captured, replayed
            net.forward(start="conv1")
        got = net.blobs["y"].data.copy()
        assert mode not in outs or np.array_equal(outs[mode], got)
        outs[mode] = got
    assert 0 < np.abs(outs["fp32"] - outs["tf32"]).max() < 0.1 * np.abs(outs["fp32"]).max()
