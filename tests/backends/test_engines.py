"""What needs no GPU of convolution engines and math modes: options, precedence, errors, files."""

from __future__ import annotations

import ctypes
import json
from dataclasses import replace

import numpy as np
import pytest

import protocaffe
from protocaffe import backends
from protocaffe.backends import MATHS, Backend, cuda_blas, cuda_dnn, cudnn_library, get_backend
from protocaffe.backends.cpu import CpuBackend
from protocaffe.backends.cuda_dnn import by_rule
from protocaffe.backends.engine_choices import Choices, shape_key
from protocaffe.errors import BackendError, ParameterError
from protocaffe.io import prototxt, schema
from protocaffe.io.hdf5 import read_state, write_state
from protocaffe.io.solverstate import SolverState, read_solverstate, write_solverstate
from protocaffe.layers.convolution import ConvShape
from tests.support.backends import cpu_only
from tests.support.bench import Bench

SHAPE = ConvShape(64, 8, 20, 1, (28, 28), (24, 24), (5, 5), (1, 1), (0, 0), (1, 1))
SOLVER = """
net_param {{
  layer {{ name: "in" type: "Input" top: "x" top: "t" input_param {{ shape {{ dim: 4 dim: 2 dim: 6 dim: 6 }}
           shape {{ dim: 4 dim: 3 dim: 4 dim: 4 }} }} }}
  layer {{ name: "conv" type: "Convolution" bottom: "x" top: "y" convolution_param {{ num_output: 3 kernel_size: 3
           weight_filler {{ type: "xavier" }} }} }}
  layer {{ name: "loss" type: "EuclideanLoss" bottom: "y" bottom: "t" top: "loss" }}
}}
base_lr: 0.1 lr_policy: "fixed" random_seed: 1 snapshot_prefix: "{prefix}" {more}
"""


class TwoMaths(CpuBackend):
    """A CPU that says it knows two ways to multiply, and keeps choices as a GPU does."""

    maths = MATHS

    def __init__(self) -> None:
        super().__init__()
        self.table = Choices()
        self.set: list[str] = []

    def _set_math(self, mode: str) -> None:
        self.set.append(mode)

    @property
    def choices(self) -> dict[str, str]:
        return dict(self.table.used)

    def adopt(self, choices) -> None:
        self.generation += self.table.adopt(choices)


def solver(tmp_path, more: str = "", backend: Backend | None = None):
    param = prototxt.parse_solver(SOLVER.format(prefix=tmp_path / "s", more=more))
    return protocaffe.get_solver(param, backend=backend or TwoMaths())


# ------------------------------------------------------------------------------------------------------------- engine
@pytest.mark.parametrize(
    ("option", "engine"),
    [("", "DEFAULT"), ("engine: CAFFE", "CAFFE"), ("engine: CUDNN", "CUDNN"), ("engine: MKLDNN", "DEFAULT")],
)
@pytest.mark.parametrize("kind", ["Convolution", "Deconvolution"])
def test_the_engine_reaches_the_backend_and_changes_nothing_on_the_cpu(kind, option, engine, cpu):
    text = (
        f'layer {{ type: "{kind}" bottom: "x" top: "y" convolution_param {{ num_output: 2 kernel_size: 3 {option} }} }}'
    )
    bench = Bench(text, {"x": (2, 3, 5, 5)}, cpu)
    assert bench.layer.shape.engine == engine
    for blob in bench.params:
        blob.data[...] = 1
    (y,) = bench.forward([np.ones((2, 3, 5, 5))])
    assert y.max() == 28


@pytest.mark.parametrize(
    ("change", "engine"),
    [
        ({}, "CUDNN"),
        ({"channels": 1}, "CAFFE"),
        ({"kernel": (1, 1)}, "CAFFE"),
        ({"kernel": (1, 1), "out_dims": (7, 7)}, "CUDNN"),
        ({"kernel": (1, 1), "out_dims": (7, 7), "stride": (2, 2)}, "CAFFE"),
        ({"out_dims": (3, 5)}, "CAFFE"),
    ],
)
def test_the_rule_without_measuring(change, engine):
    assert by_rule("forward", replace(SHAPE, **change)) == engine


def test_keys_tell_steps_and_shapes_apart():
    keys = {
        shape_key(step, shape, bias, relu)
        for step in ("forward", "backward_data")
        for bias in (False, True)
        for relu in (False, True)
        for shape in (SHAPE, ConvShape(64, 8, 20, 1, (28, 28), (24, 24), (5, 5), (1, 1), (0, 0), (1, 1), True))
    }
    assert len(keys) == 8


def test_without_cudnn_the_error_names_the_package(monkeypatch, tmp_path):
    monkeypatch.setattr(cudnn_library, "candidates", lambda: [str(tmp_path / "libcudnn.so.9")])
    with pytest.raises(BackendError, match=r"cuDNN 9 is not there .*pip install nvidia-cudnn-cu13"):
        cudnn_library.Library()


def test_the_systems_loader_is_asked_last():
    assert cudnn_library.candidates()[-1] == "libcudnn.so.9"


# -------------------------------------------------------------------------------------------------------------- table
@pytest.fixture
def folder(tmp_path, monkeypatch):
    monkeypatch.setenv("PROTOCAFFE_CACHE", str(tmp_path / "cache"))
    monkeypatch.setenv("PROTOCAFFE_TUNE", "1")
    return tmp_path / "cache"


def test_choices_are_found_by_the_next_process(folder):
    first, other = Choices(), Choices()
    assert first.find("a") is None and other.find("a") is None
    first.add("a", "CAFFE")
    other.add("b", "CUDNN 17 2=3")
    assert {k: Choices().find(k) for k in "abc"} == {"a": "CAFFE", "b": "CUDNN 17 2=3", "c": None}
    assert first.used == {}, "a choice that is known is not yet used"
    assert [path.name for path in folder.iterdir()] == ["engines.json"]


def test_without_tuning_nothing_that_was_measured_counts(folder, monkeypatch):
    Choices().add("a", "CAFFE")
    monkeypatch.setenv("PROTOCAFFE_TUNE", "0")
    choices = Choices()
    assert choices.find("a") is None
    choices.adopt({"a": "CUDNN 1"})
    assert choices.find("a") == "CUDNN 1", "a resumed run goes on as it began"


@pytest.mark.parametrize(
    "content", ["", "{", "[]", "[" * 200000, '{"format": 1}', '{"format": 1, "choices": 3}', "\xff"]
)
def test_a_damaged_file_costs_a_warning(folder, content, caplog):
    folder.mkdir()
    (folder / "engines.json").write_text(content, encoding="latin-1")
    choices = Choices()
    assert choices.find("a") is None
    assert "is damaged" in caplog.text
    choices.add("a", "CAFFE")
    assert json.loads((folder / "engines.json").read_text())["choices"] == {"a": "CAFFE"}


def test_a_file_of_a_later_format_is_not_read(folder):
    folder.mkdir()
    (folder / "engines.json").write_text('{"format": 2, "choices": {"a": "CAFFE"}}')
    assert Choices().find("a") is None


def test_a_folder_that_cannot_be_written_to_costs_nothing_else(tmp_path, monkeypatch):
    (tmp_path / "file").write_text("")
    monkeypatch.setenv("PROTOCAFFE_CACHE", str(tmp_path / "file"))
    monkeypatch.setenv("PROTOCAFFE_TUNE", "1")
    choices = Choices()
    choices.add("a", "CAFFE")
    assert choices.find("a") == "CAFFE"


def test_adopted_choices_come_first_and_tell_what_changes(folder):
    choices = Choices()
    choices.add("a", "CAFFE")
    choices.use("a", "CAFFE")
    assert not choices.adopt({"a": "CAFFE", "b": "CUDNN 1"})
    assert choices.adopt({"a": "CUDNN 2"})
    assert choices.find("a") == "CUDNN 2"
    assert Choices().find("a") == "CAFFE", "a state's choices do not go to the file"


# -------------------------------------------------------------------------------------------------------------- states
@pytest.mark.parametrize(("write", "read"), [(write_solverstate, read_solverstate), (write_state, read_state)])
def test_a_state_keeps_choices(tmp_path, write, read):
    resume = schema.ResumeState(math="tf32")
    resume.engine.add(key="forward", choice="CUDNN 17 2=3")
    write(tmp_path / "s", SolverState(3, "m", 0, [], resume))
    got = read(tmp_path / "s").resume
    assert (got.math, [(e.key, e.choice) for e in got.engine]) == ("tf32", [("forward", "CUDNN 17 2=3")])


def test_a_resumed_solver_uses_the_choices_and_warns_of_other_maths(tmp_path, folder, monkeypatch, caplog):
    monkeypatch.setattr(backends, "math", None)
    first = solver(tmp_path, "math: TF32")
    first.backend.table.use("a", "CUDNN 1")
    first.step(1)
    _, state = first.snapshot()
    again = solver(tmp_path)
    again.step(1)
    again.backend.table.use("a", "CAFFE")
    before = again.net._forward_plan
    again.restore(state)
    assert again.backend.table.find("a") == "CUDNN 1"
    assert "written in tf32; going on in fp32" in caplog.text
    again.step(1)
    assert again.net._forward_plan is not before, "a plan with another engine is recorded anew"


def test_the_cpu_writes_no_choices(tmp_path):
    one = solver(tmp_path, backend=get_backend("cpu"))
    one.step(1)
    resume = read_solverstate(one.snapshot()[1]).resume
    assert not resume.engine and not resume.HasField("math")


# -------------------------------------------------------------------------------------------------------------- maths
def test_a_solver_files_math(tmp_path, monkeypatch):
    monkeypatch.setattr(backends, "math", None)
    assert solver(tmp_path).backend.math == "fp32"
    assert solver(tmp_path, "math: TF32").backend.math == "tf32"
    assert solver(tmp_path, "math: TF32", get_backend("cpu")).backend.math == "fp32"


def test_set_math_comes_before_the_file(tmp_path, monkeypatch):
    monkeypatch.setattr(backends, "math", None)
    monkeypatch.setattr(backends, "_made", made := [TwoMaths(), get_backend("cpu")])
    protocaffe.set_math("tf32")
    assert [b.math for b in made] == ["tf32", "fp32"]
    assert solver(tmp_path, "math: FP32", made[0]).backend.math == "tf32"


@pytest.mark.parametrize("mode", ["fp16", "", None])
def test_an_unknown_mode(mode, monkeypatch):
    monkeypatch.setattr(backends, "math", None)
    with pytest.raises(ParameterError, match='set_math: the mode must be "fp32" or "tf32", got'):
        protocaffe.set_math(mode)
    assert backends.math is None


def test_a_backend_refuses_maths_that_it_has_not(cpu):
    with pytest.raises(BackendError, match='the maths of cpu in float32 must be "fp32", got "tf32"'):
        cpu.math = "tf32"


def test_another_mode_drops_recorded_plans(tmp_path):
    backend = TwoMaths()
    net = solver(tmp_path, backend=backend).net
    net.forward()
    net.backward()
    plans = net._forward_plan, net._backward_plan
    backend.math = "fp32"
    net.forward()
    assert net._forward_plan is plans[0], "the mode is the same"
    backend.math = "tf32"
    assert backend.set == ["tf32"]
    net.backward()
    assert net._forward_plan is not plans[0] and net._backward_plan is not plans[1]


# ----------------------------------------------------------------------------------------- a device that a test plays
class Room:
    """What a device gives: it must not be asked for its address first while a graph is captured."""

    def __init__(self, device, at):
        self.device, self.at = device, at

    @property
    def address(self):
        assert not self.device.capturing
        return self.at


class Device:
    capturing = False

    def __init__(self):
        self.given = []

    def allocate(self, size):
        self.given.append((size, Room(self, 4096 * (1 + len(self.given)))))
        return self.given[-1][1]


class Plays:
    """The library, a graph and a plan of 100 bytes of scratch memory in one."""

    pointer = None
    workspace = 100

    def __init__(self):
        self.descriptor, self.packs, self.runs = self, [], 0

    def call(self, *args):
        self.runs += 1

    def pack(self, ids, pointers, workspace):
        self.packs.append(workspace)
        return self


def test_a_plan_keeps_the_scratch_memory_that_it_first_ran_with():
    """A larger piece that nobody has used yet would be taken while a graph is captured."""
    device, plays = Device(), Plays()
    workspace = cuda_dnn.Workspace(device)
    run = cuda_dnn._Run(plays, None, plays, plays, {}, workspace)
    run()
    workspace.reserve(5000)
    device.capturing = True
    run()
    assert plays.packs == [4096] and plays.runs == 2


@pytest.mark.parametrize("at", [4096, 4096 + 4, 4096 + 16, 4096 + 60])
def test_algorithms_for_products_are_tried_where_the_result_lies_alike(at, monkeypatch):
    tried, device = [], Device()
    blas = object.__new__(cuda_blas.Blas)
    blas._device, blas._real, blas._choices = device, np.dtype(np.float32), Choices()
    blas._lt = type("Lt", (), {"cuBLASLtError": ValueError})
    monkeypatch.setattr(blas._choices, "add", lambda key, choice: None)

    def fastest(device, makers, errors):
        for make in makers.values():
            make()
        return {"LT 0": 1.0}

    monkeypatch.setattr(cuda_blas, "fastest", fastest)
    product = type("Product", (), {"count": 1, "call": lambda self, *args: tried.append(args[-1])})()
    scalars = np.ones(2, np.float32)
    assert blas._fastest("key", lambda where: tried.append(where[2]), product, scalars, (1, 2, at), 10) == 0
    ((size, room),) = device.given
    assert [place % 256 for place in tried] == [at % 256] * 2 and all(
        room.at <= p <= room.at + size - 40 for p in tried
    )
    monkeypatch.setattr(cuda_blas, "fastest", lambda *args, **kwargs: {})
    assert blas._fastest("key", lambda where: None, product, scalars, (1, 2, at), 10) == -1


class Lt:
    """Plays cuBLASLt: algorithms are 64 bytes whose first tells their number and whose last that they are whole."""

    class cuBLASLtError(Exception):
        pass

    matmul_heuristic_result_dtype = np.dtype(
        [("algo", [("data_", "<u8", (8,))]), ("workspace_size", "<u8"), ("rest", "<i4", (6,))]
    )
    WHOLE, ROOM = 0xA5, 1 << 20

    def __init__(self):
        self.searches, self.checks, self.room = 0, 0, self.ROOM

    def __getattr__(self, name):
        if name.endswith("Attribute"):
            return type(name, (), {"__getattr__": lambda self, flag: flag})()
        return lambda *args: 1  # descriptors

    def matmul_algo_get_heuristic(self, *args):
        self.searches += 1
        most, place, found = args[-3:]
        results = np.zeros(most, self.matmul_heuristic_result_dtype)
        results["algo"]["data_"][:, 0] = np.arange(most) + 100
        results["algo"]["data_"][:, 7] = self.WHOLE
        ctypes.memmove(place, results.ctypes.data, results.nbytes)
        ctypes.memmove(found, np.array([3], np.int32).ctypes.data, 4)

    def matmul_algo_check(self, *args):
        self.checks += 1
        algorithm = (ctypes.c_uint64 * 8).from_address(args[-2])
        if algorithm[7] != self.WHOLE:
            raise self.cuBLASLtError("not supported")
        result = np.zeros(1, self.matmul_heuristic_result_dtype)
        result["workspace_size"] = self.room
        ctypes.memmove(args[-1], result.ctypes.data, result.nbytes)

    def matmul(self, *args):
        return (ctypes.c_uint64 * 8).from_address(args[-4])[0] - 100


@pytest.fixture
def products(folder, monkeypatch):
    """Makes the `bind` of products of a new process; its cuBLASLt comes with it."""
    trials = []

    def fastest(device, makers, errors):
        trials.append(list(makers))
        return {name: 1.0 + (name != "LT 2") for name in makers}

    monkeypatch.setattr(cuda_blas, "fastest", fastest)
    device = Device()
    device.gpu = type("Gpu", (), {"name": lambda self: "G"})()
    device.stream = type("Stream", (), {"handle": 0})()

    def start():
        blas = object.__new__(cuda_blas.Blas)
        blas._device, blas._real, blas._choices, blas._lt, blas._lt_handle = device, np.dtype("f4"), Choices(), Lt(), 0
        blas._cublas = type("Cublas", (), {"get_version": lambda self, handle: 13})()
        blas._handle, blas._workspace, blas.math = 0, Room(device, 4096), "fp32"
        blas._gemm = blas._batched = lambda *args: "cuBLAS"

        def bind():
            args = (np.ones(2, np.float32), (False, False), (64, 64, 64), (64, 64, 64), (0, 0, 0), 1, (256, 512, 768))
            return blas._chosen(*args)()

        return blas, bind

    return start, trials


def test_an_algorithm_is_searched_for_once_and_kept_with_its_number(products, folder):
    start, trials = products
    first, bind = start()
    assert bind() == bind() == 2 and first._lt.searches == 1 and first._lt.checks == 1
    later, bind = start()
    assert bind() == 2 and (later._lt.searches, later._lt.checks) == (0, 1)
    assert trials == [["CUBLAS", "LT 0", "LT 1", "LT 2"]]
    assert first._choices.used == later._choices.used and list(later._choices.used.values()) == ["LT 2"]


@pytest.mark.parametrize("kept", ["", "00", "no hex", "00" * 64, "00" * 128, None])
def test_an_algorithm_that_is_none_is_searched_for_and_kept_anew(products, folder, kept):
    start, trials = products
    start()[1]()
    path = folder / "engines.json"
    content = json.loads(path.read_text())
    (name,) = [name for name, choice in content["choices"].items() if len(choice) == 128]
    right = content["choices"].pop(name)
    if kept is not None:
        content["choices"][name] = kept
    path.write_text(json.dumps(content))
    blas, bind = start()
    assert bind() == 2 and blas._lt.searches == 1 and len(trials) == 1
    assert json.loads(path.read_text())["choices"][name] == right


def test_an_algorithm_that_wants_more_room_is_not_taken(products):
    start, _ = products
    start()[1]()
    blas, bind = start()
    blas._lt.room = 1 << 40
    assert bind() == 2 and blas._lt.searches == 1


@pytest.mark.parametrize("choice", ["LT", "LT what", "LT 99", "LT " + "9" * 5000, "LT -1", "NOBODY"])
def test_a_choice_that_names_no_algorithm_is_measured_again(products, folder, choice):
    start, trials = products
    start()[1]()
    path = folder / "engines.json"
    content = json.loads(path.read_text())
    (name,) = [name for name, known in content["choices"].items() if known == "LT 2"]
    content["choices"][name] = choice
    path.write_text(json.dumps(content))
    _, bind = start()
    assert bind() == 2 and len(trials) == 2
    assert json.loads(path.read_text())["choices"][name] == "LT 2"


def test_a_states_number_is_searched_for_where_nothing_is_measured(products, monkeypatch):
    start, trials = products
    first, bind = start()
    bind()
    state = dict.fromkeys(first._choices.used, "LT 1")
    monkeypatch.setenv("PROTOCAFFE_TUNE", "0")
    blas, bind = start()
    assert bind() == "cuBLAS"
    blas._choices.adopt(state)
    assert bind() == 1 and blas._lt.searches == 1 and len(trials) == 1


@pytest.mark.parametrize("tune", ["0", "1"])
@pytest.mark.parametrize("measured", [False, True])
def test_a_states_algorithms_do_not_reach_the_library(products, folder, monkeypatch, tune, measured):
    start, _ = products
    first, bind = start()
    bind()
    (key,) = first._choices.used
    monkeypatch.setenv("PROTOCAFFE_TUNE", tune)
    if not measured:
        (folder / "engines.json").unlink()
    foreign = np.array([105, *[0] * 6, Lt.WHOLE], "<u8").tobytes().hex()  # it would pass the check
    blas, bind = start()
    blas._choices.adopt({key: "LT 1"} | {f"{key}: LT {number}": foreign for number in range(8)})
    checked = []
    check = blas._lt.matmul_algo_check

    def noted(*args):
        checked.append((ctypes.c_uint64 * 8).from_address(args[-2])[0])
        check(*args)

    blas._lt.matmul_algo_check = noted
    assert bind() == bind() == 1 and 105 not in checked
    assert foreign not in Choices()._read().values()


# ------------------------------------------------------------------------------------------------------ command line
def test_the_commands_know_the_modes():
    from protocaffe.cli.common import MATHS as known

    assert known == MATHS


@cpu_only
def test_math_on_the_command_line(tmp_path, monkeypatch):
    from protocaffe.cli import common

    monkeypatch.setattr(backends, "math", None)
    monkeypatch.setattr(backends, "_made", [])
    made = TwoMaths()
    monkeypatch.setattr(backends, "get_backend", lambda name: made if name == "cuda:1" else get_backend(name))
    assert common.wanted_backend(False, "1") is made and backends.math is None
    assert common.wanted_backend(False, "1", "tf32") is made and backends.math == "tf32"
    monkeypatch.setattr(backends, "math", None)
    assert common.wanted_backend(True, None, "fp32").name == "cpu" and backends.math is None
    with pytest.raises(ParameterError, match=r"--math tf32 is for a GPU \(--gpu\); the CPU multiplies in fp32"):
        common.wanted_backend(False, None, "tf32")
