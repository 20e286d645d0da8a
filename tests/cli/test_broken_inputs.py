"""Broken inputs: each ends with exit code 1 and one line that names the file, layer and blob; never a traceback."""

import pytest

from tests.cli.conftest import write_solver

INPUT = 'layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 2 dim: 3 dim: 8 dim: 8 } } }\n'
CONV = 'layer {{ name: "conv" type: "Convolution" bottom: "{}" top: "conv" convolution_param {{ {} }} }}\n'
SHARED = (
    'layer {{ name: "{0}" type: "Convolution" bottom: "data" top: "{0}" param {{ name: "w" }} '
    "convolution_param {{ num_output: 3 kernel_size: {1} }} }}"
)

NETS = {
    "a brace is missing": ('name: "x"\nlayer { name: "a"\n', ["net.prototxt:2:"]),
    "a field has a typo": (
        INPUT + CONV.format("data", "num_ouput: 3"),
        ["net.prototxt:2:", "num_ouput", '"num_output"'],
    ),
    "a value has the wrong type": (CONV.format("data", "num_output: many"), ["net.prototxt:1:"]),
    "an unknown layer type": (INPUT.replace("Input", "Imput"), ['"data"', '"Imput"', 'did you mean "Input"']),
    "a bottom that nobody makes": (
        INPUT + CONV.format("dada", "num_output: 3 kernel_size: 3"),
        ['"conv"', '"dada"', '"data"'],
    ),
    "two layers make one blob": (INPUT + INPUT.replace('name: "data"', 'name: "again"'), ['"again"', '"data"']),
    "a kernel larger than its input": (
        INPUT + CONV.format("data", "num_output: 3 kernel_size: 9"),
        ['"conv" (Convolution)'],
    ),
    "no kernel size": (INPUT + CONV.format("data", "num_output: 3"), ['"conv" (Convolution)', "kernel"]),
    "no outputs": (INPUT + CONV.format("data", "num_output: 0 kernel_size: 3"), ['"conv" (Convolution)', "num_output"]),
    "groups that do not divide the channels": (
        INPUT + CONV.format("data", "num_output: 4 kernel_size: 3 group: 2"),
        ['"conv" (Convolution)', "group"],
    ),
    "a database that is not there": (
        'layer { name: "d" type: "Data" top: "x" data_param { source: "no/where" backend: LMDB batch_size: 2 } }',
        ['"d" (Data)', "no/where"],
    ),
    "an empty file": ("", ["net.prototxt", "no layers"]),
    "only comments": ("# nothing\n", ["net.prototxt", "no layers"]),
    "a string that is no UTF-8": (b'name: "\xff\xfe"\n' + INPUT.encode(), ["net.prototxt"]),
    "a binary file": (b"\0\1\2", ["net.prototxt", "binary"]),
    "messages nested without end": ("layer { " * 5000, ["net.prototxt"]),
    "a field given twice": (INPUT.replace('type: "Input"', 'type: "Input" type: "Input"'), ["net.prototxt:1", "type"]),
    "old and new layers": (INPUT + 'layers { name: "r" type: RELU bottom: "data" top: "r" }', ["net.prototxt"]),
    "a shape of 2^64 values": (
        INPUT.replace("dim: 8 dim: 8", "dim: 4294967296 dim: 4294967296"),
        ['"data" (Input)', 'blob "data"', "4294967296"],
    ),
    "a negative extent": (INPUT.replace("dim: 3", "dim: -3"), ['"data" (Input)', 'blob "data"', "-3"]),
    "more weights than the machine can hold": (
        INPUT + CONV.format("data", "num_output: 4294967295 kernel_size: 8"),
        ['"conv" (Convolution)', "MiB"],
    ),
    "a negative kernel": (INPUT + CONV.format("data", "num_output: 3 kernel_size: -3"), ["net.prototxt:2:"]),
    "a stride of 0": (
        INPUT + CONV.format("data", "num_output: 3 kernel_size: 3 stride: 0"),
        ['"conv" (Convolution)', "stride"],
    ),
    "a padding that overflows": (
        INPUT + CONV.format("data", "num_output: 3 kernel_size: 3 pad: 4294967295"),
        ['"conv" (Convolution)'],
    ),
    "a group that does not divide the outputs": (
        INPUT + CONV.format("data", "num_output: 4 kernel_size: 3 group: 3"),
        ['"conv" (Convolution)', "group"],
    ),
    "an unknown filler": (
        INPUT + CONV.format("data", 'num_output: 3 kernel_size: 3 weight_filler { type: "xavir" }'),
        ['"conv" (Convolution)', "xavir", "xavier"],
    ),
    "layers in a circle": (
        'layer { name: "a" type: "ReLU" bottom: "y" top: "x" } layer { name: "b" type: "ReLU" bottom: "x" top: "y" }',
        ['"a" (ReLU)', 'bottom "y"'],
    ),
    "a layer that feeds itself": (
        'layer { name: "a" type: "ReLU" bottom: "x" top: "x" }',
        ['"a" (ReLU)', 'bottom "x"'],
    ),
    "in place where that cannot be": (
        INPUT + CONV.format("data", "num_output: 3 kernel_size: 1").replace('top: "conv"', 'top: "data"'),
        ['"conv" (Convolution)', "in place"],
    ),
    "too many bottoms": (
        INPUT + 'layer { name: "r" type: "ReLU" bottom: "data" bottom: "data" top: "r" }',
        ['"r" (ReLU)', "1 bottom", "got 2"],
    ),
    "a top too few": (INPUT + 'layer { name: "r" type: "ReLU" bottom: "data" }', ['"r" (ReLU)', "1 top"]),
    "labels of another number": (
        INPUT
        + INPUT.replace('"data"', '"label"').replace("dim: 2 dim: 3", "dim: 1 dim: 1")
        + 'layer { name: "loss" type: "SoftmaxWithLoss" bottom: "data" bottom: "label" top: "loss" }',
        ['"loss" (SoftmaxWithLoss)', 'bottom "label"', "128", "64"],
    ),
    "a shared parameter of another shape": (
        INPUT + SHARED.format("one", 3) + SHARED.format("two", 2),
        ['"two" (Convolution)', '"w"'],
    ),
    "loss weights of another number": (
        INPUT + 'layer { name: "r" type: "ReLU" bottom: "data" top: "r" loss_weight: 1 loss_weight: 2 }',
        ['"r" (ReLU)', "loss_weight"],
    ),
    "an axis out of range": (
        INPUT + 'layer { name: "f" type: "Flatten" bottom: "data" top: "f" flatten_param { axis: 7 } }',
        ['"f" (Flatten)', "7"],
    ),
}


def one_line(result, *needles):
    assert result.code == 1, result
    assert "Traceback" not in result.err
    lines = [line for line in result.err.splitlines() if line.startswith("error: ")]
    assert len(lines) == 1
    for needle in needles:
        assert needle in lines[0], lines[0]


@pytest.mark.parametrize("what", NETS)
def test_broken_net(cli, tmp_path, monkeypatch, what):
    text, needles = NETS[what]
    (tmp_path / "net.prototxt").write_bytes(text if isinstance(text, bytes) else text.encode())
    monkeypatch.chdir(tmp_path)
    one_line(cli("summary", "--model", "net.prototxt"), *needles)


def truncated(content):
    return content[: len(content) // 2]


@pytest.mark.parametrize(
    ("change", "needles"),
    [
        (truncated, ["bad.caffemodel"]),
        (lambda content: b"", ["bad.caffemodel", "empty"]),
        (lambda content: b'name: "LeNet"\n' * 30, ["bad.caffemodel", "text"]),
        (lambda content: content[:2000] + b"\xff" * 40 + content[2040:4000], ["bad.caffemodel"]),
    ],
    ids=["truncated", "empty", "text", "damaged"],
)
def test_broken_weights(cli, lenet, trained, change, needles):
    (lenet / "bad.caffemodel").write_bytes(change(trained.read_bytes()))
    one_line(cli("summary", "--model", "models/lenet/deploy.prototxt", "--weights", "bad.caffemodel"), *needles)


def test_weights_of_another_shape(cli, lenet, trained):
    model = lenet / "models/lenet/deploy.prototxt"
    model.write_text(model.read_text().replace("num_output: 50\n", "num_output: 49\n"))
    result = cli("summary", "--model", model, "--weights", trained)
    one_line(result, str(trained), '"conv2" (Convolution)', "(49, 20, 5, 5)", "(50, 20, 5, 5)")


@pytest.mark.parametrize(
    ("changes", "needles"),
    [
        ({"net": None, "test_iter": None, "test_interval": None}, ["net"]),
        ({"net": "nowhere.prototxt"}, ['"s.prototxt": net: "nowhere.prototxt": No such file', "folder in which"]),
        ({"net": None, "train_net": "nowhere", "test_iter": None, "test_interval": None}, ['train_net: "nowhere": No']),
        ({"net": "models"}, ['"s.prototxt": net: "models": Is a directory']),
        ({"type": "RMSprop"}, ["RMSprop", '"RMSProp"']),
        ({"lr_policy": "steps"}, ["steps"]),
        ({"solver_mode": "GPU"}, ["s.prototxt", "solver_mode", "--cpu"]),
        ({"base_lrr": 0.1}, ["s.prototxt:", "base_lrr", '"base_lr"']),
        ({"iter_size": 0}, ["iter_size"]),
        ({"max_iter": -1}, ["max_iter"]),
        ({"test_iter": 0}, ["test_iter"]),
        ({"regularization_type": "L3"}, ["regularization_type", "L3"]),
        ({"snapshot_prefix": "s.prototxt/x"}, ["s.prototxt", "cannot write snapshots"]),
        ({"snapshot_prefix": "/proc/x/y"}, ["/proc/x", "cannot write snapshots"]),
        ({"base_lr": 1e30, "max_iter": 20}, ["s.prototxt", "the loss is", "iteration", "first bad: layer"]),
    ],
    ids=[
        "no net",
        "no such net",
        "no such train_net",
        "a folder as net",
        "type",
        "policy",
        "GPU",
        "typo",
        "iter_size",
        "max_iter",
        "test_iter",
        "regularization",
        "prefix below a file",
        "prefix in proc",
        "diverges",
    ],
)
def test_broken_solver(cli, lenet, changes, needles):
    write_solver(lenet / "s.prototxt", **changes)
    one_line(cli("train", "--solver", "s.prototxt"), *needles)


def test_a_gpu_solver_runs_on_the_cpu_when_told_to(cli, lenet):
    write_solver(lenet / "s.prototxt", solver_mode="GPU", max_iter=1, test_iter=None, test_interval=None)
    assert cli("train", "--solver", "s.prototxt", "--cpu").code == 0


def test_state_of_another_solver(cli, lenet):
    write_solver(lenet / "s.prototxt", max_iter=1, test_iter=None, test_interval=None)
    assert cli("train", "--solver", "s.prototxt").code == 0
    write_solver(lenet / "s.prototxt", max_iter=2, test_iter=None, test_interval=None, type="Adam", momentum2=0.999)
    result = cli("train", "--solver", "s.prototxt", "--snapshot", "s_iter_1.solverstate")
    one_line(result, "s_iter_1.solverstate", "Adam")


def test_weights_as_a_snapshot(cli, lenet, trained):
    for name in ("w.caffemodel", "w.caffemodel.h5"):
        one_line(cli("train", "--solver", "s.prototxt", "--snapshot", name), f'"{name}" holds weights', "--weights")


def test_damaged_state(cli, lenet):
    write_solver(lenet / "s.prototxt", max_iter=1, test_iter=None, test_interval=None)
    assert cli("train", "--solver", "s.prototxt").code == 0
    state = lenet / "s_iter_1.solverstate"
    state.write_bytes(truncated(state.read_bytes()))
    one_line(cli("train", "--solver", "s.prototxt", "--snapshot", state.name), "s_iter_1.solverstate")
