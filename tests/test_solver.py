"""The training loop: what an iteration does, snapshots, resumes, tests, signals' actions, errors."""

from __future__ import annotations

import logging
import math
from pathlib import Path

import numpy as np
import pytest

import protocaffe
from protocaffe.data.datasets import offline_sample
from protocaffe.errors import BackendError, DataError, DivergedError, ParameterError, SolverError
from protocaffe.io.solverstate import read_solverstate, write_solverstate
from tests.support.backends import cpu_only

NET = """
name: "small"
layer { name: "data" type: "Data" top: "data" top: "label" include { phase: TRAIN }
        transform_param { scale: 0.00390625 mirror: true crop_size: 24 }
        data_param { source: "TRAIN_DB" batch_size: 16 backend: LMDB shuffle: true } }
layer { name: "data" type: "Data" top: "data" top: "label" include { phase: TEST }
        transform_param { scale: 0.00390625 crop_size: 24 }
        data_param { source: "TEST_DB" batch_size: 20 backend: LMDB } }
layer { name: "conv" type: "Convolution" bottom: "data" top: "conv"
        convolution_param { num_output: 4 kernel_size: 5 weight_filler { type: "xavier" } } }
layer { name: "pool" type: "Pooling" bottom: "conv" top: "pool" pooling_param { kernel_size: 2 stride: 2 } }
layer { name: "relu" type: "ReLU" bottom: "pool" top: "pool" }
layer { name: "drop" type: "Dropout" bottom: "pool" top: "pool" dropout_param { dropout_ratio: 0.3 } }
layer { name: "ip" type: "InnerProduct" bottom: "pool" top: "ip"
        inner_product_param { num_output: 10 weight_filler { type: "xavier" } } }
layer { name: "accuracy" type: "Accuracy" bottom: "ip" bottom: "label" top: "accuracy" include { phase: TEST } }
layer { name: "loss" type: "SoftmaxWithLoss" bottom: "ip" bottom: "label" top: "loss" }
"""

RULES = {
    "SGD": "base_lr: 0.02 momentum: 0.9",
    "Nesterov": "base_lr: 0.02 momentum: 0.9",
    "AdaGrad": "base_lr: 0.02",
    "RMSProp": "base_lr: 0.002 rms_decay: 0.9",
    "AdaDelta": "base_lr: 1 momentum: 0.9 delta: 1e-6",
    "Adam": "base_lr: 0.002 momentum: 0.9",
}


@pytest.fixture(scope="module")
def lmdbs(tmp_path_factory):
    return offline_sample(tmp_path_factory.mktemp("sample"))


@pytest.fixture
def solver_file(lmdbs, tmp_path):
    """Writes a solver file and returns its path."""

    def write(more: str = "", rule: str = "SGD", net: str = NET) -> Path:
        text = net.replace("TRAIN_DB", str(lmdbs["train"])).replace("TEST_DB", str(lmdbs["test"]))
        (tmp_path / "net.prototxt").write_text(text)
        path = tmp_path / "solver.prototxt"
        path.write_text(
            f'net: "{tmp_path}/net.prototxt" type: "{rule}" {RULES[rule]} weight_decay: 0.0005 average_loss: 3 '
            f'random_seed: 11 snapshot_prefix: "{tmp_path}/snap" max_iter: 12 '
            + ('lr_policy: "inv" gamma: 0.01 power: 0.75 ' if "lr_policy" not in more else "")
            + more
        )
        return path

    return write


@pytest.fixture
def make(solver_file):
    """Makes solvers, and closes them in the end."""
    made = []

    def build(*args, **kwargs):
        made.append(protocaffe.get_solver(solver_file(*args, **kwargs)))
        return made[-1]

    yield build
    for solver in made:
        solver.close()


def everything(solver) -> list[np.ndarray]:
    arrays = [blob.data for blobs in solver.net.params.values() for blob in blobs]
    return [*(a.copy() for a in arrays), *(h.copy() for h in solver.masked_history())]


def assert_same_bits(first, second) -> None:
    for a, b in zip(first, second, strict=True):
        np.testing.assert_array_equal(a.view(np.uint32), b.view(np.uint32))


@pytest.mark.parametrize("snapshots", ["BINARYPROTO", "HDF5"])
@pytest.mark.parametrize("rule", RULES)
def test_a_resumed_run_is_bit_identical(make, rule, snapshots):
    """Masks, histories, dropout, shuffled and mirrored data, the rate's steps, smoothed loss, test batches."""
    more = (
        f'snapshot_format: {snapshots} test_iter: 2 test_interval: 4 lr_policy: "step" gamma: 0.5 stepsize: 4 '
        "iter_size: 2 clip_gradients: 3"
    )
    whole = make(more, rule)
    whole.step(5)
    blob = whole.net.params["ip"][0]
    blob.mask = np.random.default_rng(0).random(blob.shape) > 0.5
    _, state = whole.snapshot()
    assert state.endswith(".h5") == (snapshots == "HDF5")
    whole.step(5)
    resumed = make(more.replace("random_seed: 11", "random_seed: 99"), rule)
    resumed.restore(state)
    assert resumed.iter == 5
    resumed.step(5)
    assert_same_bits(everything(whole), everything(resumed))
    np.testing.assert_array_equal(whole.net.params["ip"][0].mask, resumed.net.params["ip"][0].mask)
    assert (whole.smoothed_loss, whole.lr, whole.current_step) == (
        resumed.smoothed_loss,
        resumed.lr,
        resumed.current_step,
    )
    assert whole.test_scores == resumed.test_scores


@pytest.mark.parametrize("steps", [1, 4])
def test_the_smoothed_loss_goes_on_where_it_was(make, steps):
    whole = make()
    whole.step(steps)
    _, state = whole.snapshot()
    resumed = make()
    resumed.step(1)  # a loss of its own, which must not stay in the window
    resumed.restore(state)
    whole.step(1)
    resumed.step(1)
    assert whole.smoothed_loss == resumed.smoothed_loss
    assert whole.smoothed_loss != whole.net.loss()


def test_steps_of_the_rate_that_were_taken_stay_taken(make):
    """multistep counts its steps: a resumed run starts from the count in the state, not from 0."""
    more = 'lr_policy: "multistep" gamma: 0.5 stepvalue: 2 stepvalue: 4'
    whole = make(more)
    whole.step(3)
    assert whole.current_step == 1
    _, path = whole.snapshot()
    resumed = make(more)
    resumed.restore(path)
    assert resumed.current_step == 1
    whole.step(1)
    resumed.step(1)
    assert resumed.lr == whole.lr == pytest.approx(0.01)
    resumed.step(1)
    assert (resumed.lr, resumed.current_step) == (pytest.approx(0.005), 2)


def test_a_run_without_a_seed_of_its_own_resumes_with_the_one_it_drew(make, solver_file):
    path = solver_file()
    path.write_text(path.read_text().replace("random_seed: 11", ""))
    whole = protocaffe.get_solver(path)
    whole.step(3)
    _, state = whole.snapshot()
    whole.step(3)
    resumed = protocaffe.get_solver(path)
    assert resumed.seed != whole.seed
    resumed.restore(state)
    resumed.step(3)
    assert_same_bits(everything(whole), everything(resumed))
    whole.close()
    resumed.close()


def test_the_same_seed_repeats_a_run_and_another_does_not(make, solver_file):
    first, second = make(), make()
    first.step(3)
    second.step(3)
    assert_same_bits(everything(first), everything(second))
    path = solver_file()
    path.write_text(path.read_text().replace("random_seed: 11", "random_seed: 12"))
    third = protocaffe.get_solver(path)
    third.step(3)
    assert any((a != b).any() for a, b in zip(everything(first), everything(third), strict=True))
    third.close()


@cpu_only
def test_results_do_not_depend_on_the_number_of_threads(make):
    runs = []
    for threads in (1, 2, 3):
        solver = make("clip_gradients: 1")
        before, solver.backend.threads = solver.backend.threads, threads
        solver.step(3)
        solver.backend.threads = before
        runs.append(everything(solver))
    assert_same_bits(runs[0], runs[1])
    assert_same_bits(runs[0], runs[2])


def test_it_learns_and_tests(make):
    plain = NET.replace("mirror: true", "").replace("dropout_ratio: 0.3", "dropout_ratio: 0.1")
    solver = make("test_iter: 25 test_interval: 1000 test_initialization: false", net=plain)
    solver.step(150)
    scores = solver.test(0)
    assert scores["accuracy"] > 0.85
    assert solver.test_scores[0] is scores


def test_solve_logs_what_caffe_logs(make, caplog, tmp_path):
    solver = make("test_iter: 2 test_interval: 6 display: 6 snapshot: 8")
    with caplog.at_level(logging.INFO, "protocaffe.solver"):
        solver.solve()
    text = [r.getMessage() for r in caplog.records if r.name == "protocaffe.solver"]
    for wanted in (
        "Solving small", "Learning Rate Policy: inv", "Iteration 0, Testing net (#0)", "Iteration 6, Testing net (#0)",
        "Iteration 12, Testing net (#0)", "Iteration 0, lr = 0.02", "Optimization Done.",
        f"Snapshotting to binary proto file {tmp_path}/snap_iter_8.caffemodel",
        f"Snapshotting solver state to binary proto file {tmp_path}/snap_iter_12.solverstate",
    ):  # fmt: skip
        assert wanted in text
    assert any(line.startswith("Iteration 6 (") and "iters), loss = " in line for line in text)
    assert any(line.startswith("    Train net output #0: loss = ") and line.endswith(" loss)") for line in text)
    assert any(line.startswith("    Test net output #0: accuracy = ") for line in text)
    assert sum("Snapshotting to" in line for line in text) == 2


@pytest.mark.parametrize(("more", "expected"), [("snapshot_after_train: false", 0), ("snapshot: 6", 2), ("", 1)])
def test_snapshots_are_taken_when_asked_for(make, tmp_path, more, expected):
    make(more).solve()
    assert len(list(tmp_path.glob("snap_iter_*.solverstate"))) == expected


def test_stop_and_snapshot_actions(make, tmp_path, caplog):
    solver = make()
    answers = iter([None, "snapshot", None, "stop"])
    solver.action = lambda: next(answers)
    with caplog.at_level(logging.INFO, "protocaffe.solver"):
        solver.solve()
    assert solver.iter == 4
    names = sorted(p.name for p in tmp_path.glob("*.solverstate"))
    assert names == ["snap_iter_2.solverstate", "snap_iter_4.solverstate"]  # stop writes the after-train snapshot
    assert "Optimization stopped early." in caplog.text


def test_debug_info_logs_what_caffe_logs(make, caplog):
    solver = make("debug_info: true display: 2")
    with caplog.at_level(logging.INFO, "protocaffe.net"):
        solver.step(2)
    lines = [line for r in caplog.records if (line := r.getMessage()).startswith("    [")]
    assert sum(line.startswith("    [Forward] Layer ip, top blob ip data: ") for line in lines) == 1
    assert sum(line.startswith("    [Backward] Layer ip, param blob 0 diff: ") for line in lines) == 1
    assert sum(line.startswith("    [Update] Layer conv, param 1 data: ") for line in lines) == 1
    assert not any("[Backward] Layer data" in line for line in lines)


def test_an_unwritable_snapshot_folder_is_found_before_training(make, tmp_path):
    solver = make()
    solver.param.snapshot_prefix = str(tmp_path / "net.prototxt" / "snap")
    with pytest.raises(SolverError, match="cannot write snapshots to"):
        solver.solve()
    assert solver.iter == 0


def test_weights_reach_layers_that_only_the_test_net_has(make, tmp_path):
    extra = (
        NET
        + """
    layer { name: "extra" type: "InnerProduct" bottom: "ip" top: "extra" include { phase: TEST }
            inner_product_param { num_output: 3 weight_filler { type: "xavier" } } }
    """
    )
    first = make("test_iter: 1 test_interval: 5", net=extra)
    first.test_nets[0].params["extra"][0].data[...] = 7
    first.test_nets[0].save(tmp_path / "w.caffemodel")
    second = make(f'test_iter: 1 test_interval: 5 weights: "{tmp_path}/w.caffemodel"', net=extra)
    assert (second.test_nets[0].params["extra"][0].data == 7).all()
    np.testing.assert_array_equal(second.net.params["ip"][0].data, first.net.params["ip"][0].data)


def test_callbacks_see_the_gradients_before_the_update(make):
    solver = make()
    seen = []
    solver.add_callback(
        lambda: seen.append("start"), lambda: seen.append(float(np.abs(solver.net.params["ip"][0].diff).max()))
    )
    solver.step(2)
    assert seen[0] == seen[2] == "start"
    assert seen[1] > 0 and seen[3] > 0


def test_the_folder_of_a_moved_snapshot_is_searched(make, tmp_path):
    solver = make()
    solver.step(1)
    solver.snapshot()
    (tmp_path / "moved").mkdir()
    for path in tmp_path.glob("snap_iter_1.*"):
        path.rename(tmp_path / "moved" / path.name)
    other = make()
    other.restore(tmp_path / "moved" / "snap_iter_1.solverstate")
    assert_same_bits(everything(solver), everything(other))
    (tmp_path / "moved" / "snap_iter_1.caffemodel").unlink()
    with pytest.raises(SolverError, match="its weights are neither at"):
        other.restore(tmp_path / "moved" / "snap_iter_1.solverstate")


def test_a_state_of_another_net_or_rule_is_refused_before_anything_changes(make, tmp_path):
    solver = make(rule="Adam")
    solver.step(1)
    _, path = solver.snapshot()
    other = make()
    before = everything(other)
    with pytest.raises(SolverError, match="state of a solver of type Adam, this one is SGD"):
        other.restore(path)
    with pytest.raises(SolverError, match="state of a solver of type Adam, this one is AdaDelta"):
        make(rule="AdaDelta").restore(path)
    state = read_solverstate(path)
    state.resume = None
    state.history = [h[..., :1] if i == 2 else h for i, h in enumerate(state.history[:4])]
    write_solverstate(tmp_path / "bad.solverstate", state)
    state.history = state.history[:3]
    write_solverstate(tmp_path / "short.solverstate", state)
    with pytest.raises(SolverError, match="needs 4 history blobs, the state holds 3"):
        other.restore(tmp_path / "short.solverstate")
    with pytest.raises(SolverError, match=r"history blob 2 must have shape \(10, 400\)|history blob 2 must have shape"):
        other.restore(tmp_path / "bad.solverstate")
    assert_same_bits(before, everything(other))


def test_a_diverging_run_stops_and_names_the_first_bad_layer(make):
    solver = make()
    solver.step(1)
    solver.net.params["ip"][0].data[0, 0] = np.nan
    with pytest.raises(DivergedError, match=r'iteration 1; first bad: layer "ip" \(InnerProduct\): parameter'):
        solver.step(2)


def test_a_failed_snapshot_leaves_the_older_one_whole(make, tmp_path, monkeypatch):
    solver = make()
    solver.step(1)
    model, state = solver.snapshot()
    old = Path(model).read_bytes(), Path(state).read_bytes()

    def full(*_):
        raise OSError(28, "No space left on device")

    monkeypatch.setattr("os.fsync", full)
    with pytest.raises(
        SolverError, match=r"cannot write the snapshot \".*snap_iter_1.caffemodel\": No space left on device$"
    ):
        solver.snapshot()
    assert (Path(model).read_bytes(), Path(state).read_bytes()) == old
    assert not [
        p for p in tmp_path.iterdir() if "snap_iter_1" in p.name and p.suffix not in (".caffemodel", ".solverstate")
    ]


@pytest.mark.parametrize(
    ("more", "error", "message"),
    [
        ("test_iter: 0 test_interval: 1", ParameterError, "test_iter must be at least 1, got \\[0\\]"),
        ('lr_policy: "stairs"', ParameterError, 'solver.prototxt": unknown lr_policy "stairs"'),
        ("iter_size: 0", ParameterError, "iter_size must be at least 1, got 0"),
        ('regularization_type: "L3"', ParameterError, 'must be "L1" or "L2", got "L3"'),
        ("test_iter: 2", SolverError, "test_interval must be given"),
        ('test_net: "a" test_net: "b" test_iter: 1 test_interval: 1', SolverError, "test_iter must be given for each"),
        ('train_net: "x.prototxt"', SolverError, "give exactly one of net, net_param"),
        ('lr_policy: "fixed" display: -1', ParameterError, "display must not be negative"),
    ],
)
def test_solvers_that_cannot_run_say_why(make, more, error, message):
    with pytest.raises(error, match=message):
        make(more)


@pytest.mark.parametrize(
    ("rule", "more", "message"),
    [
        ("AdaGrad", "momentum: 0.9", "momentum cannot be used with AdaGrad"),
        ("RMSProp", "momentum: 0.9", "momentum cannot be used with RMSProp"),
        ("RMSProp", "", "rms_decay must be"),
        ("Adam", "momentum2: 1", "below 1"),
    ],
)
def test_rules_refuse_what_they_cannot_use(solver_file, rule, more, message):
    path = solver_file(more, rule)
    if not more:
        path.write_text(path.read_text().replace("rms_decay: 0.9", "rms_decay: 1.5"))
    with pytest.raises(ParameterError, match=message):
        protocaffe.get_solver(path)


def test_unknown_type_gets_a_suggestion(solver_file):
    path = solver_file()
    path.write_text(path.read_text().replace('type: "SGD"', 'type: "RMSprop"'))
    with pytest.raises(SolverError, match='unknown type "RMSprop"; did you mean "RMSProp"'):
        protocaffe.get_solver(path)


@cpu_only
def test_a_solver_that_asks_for_a_gpu_is_not_run_on_the_cpu_silently(solver_file, monkeypatch):
    path = solver_file("solver_mode: GPU")
    with pytest.raises(BackendError, match=r"solver_mode: GPU, but .* --cpu"):
        protocaffe.get_solver(path)
    monkeypatch.setattr("protocaffe.backends.cpu_chosen", False)
    protocaffe.set_mode_cpu()
    protocaffe.get_solver(path).close()


def test_missing_data_names_file_and_layer(solver_file):
    path = solver_file(net=NET.replace("TRAIN_DB", "/nowhere/at/all"))
    with pytest.raises(DataError, match=r'layer "data" \(Data\).*"?/nowhere/at/all'):
        protocaffe.get_solver(path)


def test_solver_classes_are_pycaffes(solver_file):
    solver = protocaffe.RMSPropSolver(solver_file(rule="RMSProp"))
    solver.step(1)
    assert solver.iter == 1 and solver.param.type == "RMSProp"
    assert math.isclose(solver.lr, 0.002, rel_tol=1e-6)
    solver.close()
