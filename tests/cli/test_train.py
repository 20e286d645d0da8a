"""train, test, finetune on LeNet and the sample: results, Caffe's log lines, snapshots, signals."""

import os
import re
import signal
from pathlib import Path

import numpy as np
import pytest

import protocaffe
from protocaffe.cli.session import Job, open_solver
from protocaffe.cli.signals import signals
from tests.cli.conftest import write_solver

MODEL = "models/lenet/train_val.prototxt"
PREFIX = re.compile(r"[IWE]\d{4} \d\d:\d\d:\d\d\.\d{6} +\d+ \w+\.cpp:\d+\] ")


def weights(path):
    net = protocaffe.Net(MODEL, protocaffe.TEST, weights=str(path))
    found = {(name, i): blob.data.copy() for name, blobs in net.params.items() for i, blob in enumerate(blobs)}
    net.close()
    return found


def equal(a, b):
    return all(np.array_equal(a[key], b[key]) for key in a)


def test_training_prints_caffes_log_lines(cli, lenet):
    result = cli("train", "-solver=s.prototxt")
    assert result.code == 0, result.err
    lines = result.err.splitlines()
    assert all(PREFIX.match(line) for line in lines)
    text = [PREFIX.sub("", line) for line in lines]
    assert "Solving LeNet" in text
    assert "Learning Rate Policy: fixed" in text
    assert "Iteration 0, Testing net (#0)" in text
    assert any(re.fullmatch(r"Iteration 5 \(\S+ iter/s, \S+s/5 iters\), loss = \d\S*", line) for line in text)
    assert "Iteration 5, lr = 0.02" in text
    assert any(re.match(r"    Train net output #0: loss = \d\S* \(\* 1 = \d\S* loss\)$", line) for line in text)
    assert any(re.match(r"    Test net output #0: accuracy = 0\.\d+$", line) for line in text)
    assert "Snapshotting to binary proto file s_iter_10.caffemodel" in text
    assert "Optimization Done." in text
    assert (lenet / "s_iter_10.caffemodel").is_file()
    assert (lenet / "s_iter_10.solverstate").is_file()


def test_caffes_parse_log_expressions_find_the_numbers(cli, lenet):
    err = cli("train", "-solver", "s.prototxt").err
    iterations = re.findall(r"Iteration (\d+)", err)
    assert {"0", "5", "10"} <= set(iterations)
    assert re.findall(r"Train net output #(\d+): (\S+) = ([\.\deE+-]+)", err)
    assert re.findall(r"Test net output #(\d+): (\S+) = ([\.\deE+-]+)", err)
    assert re.findall(r"lr = ([-+]?[0-9]*\.?[0-9]+([eE]?[-+]?[0-9]+)?)", err)


def test_a_run_in_two_parts_is_the_run_in_one(cli, lenet):
    assert cli("train", "--solver", "s.prototxt").code == 0
    whole = weights("s_iter_10.caffemodel")
    assert cli("train", "--solver", "s.prototxt", "--iterations", 4).code == 0
    assert cli("train", "--solver", "s.prototxt", "--snapshot", "s_iter_4.solverstate").code == 0
    assert equal(whole, weights("s_iter_10.caffemodel"))


def test_training_starts_from_weights(cli, lenet, trained):
    start = weights(trained)
    result = cli("train", "--solver", "s.prototxt", "--weights", trained, "--iterations", 0)
    assert result.code == 0
    assert equal(start, weights("s_iter_0.caffemodel"))


def test_snapshot_and_weights_exclude_each_other(cli, lenet):
    result = cli("train", "--solver", "s.prototxt", "--snapshot", "a", "--weights", "b")
    assert (result.code, result.err.count("\n")) == (1, 1)
    assert "--snapshot and --weights exclude each other" in result.err


def test_test_averages_the_outputs(cli, lenet, trained):
    result = cli("test", "-model", MODEL, "-weights", trained, "-iterations=3")
    assert result.code == 0
    net = protocaffe.Net(MODEL, protocaffe.TEST, weights=str(trained))
    outputs = [{name: float(value) for name, value in net.forward().items()} for _ in range(3)]
    net.close()
    accuracy = np.mean([o["accuracy"] for o in outputs])
    assert f"accuracy = {accuracy:.6g}" in result.out.splitlines()
    text = [PREFIX.sub("", line) for line in result.err.splitlines()]
    assert f"Batch 2, accuracy = {outputs[2]['accuracy']:.6g}" in text
    assert f"accuracy = {accuracy:.6g}" in text
    assert any(line.startswith("Loss: ") for line in text)


def test_prune_and_finetune_keep_the_zeros(cli, lenet, trained):
    pruned = cli("prune", "--model", MODEL, "--weights", trained, "--sparsity", 0.9, "--output", "p.caffemodel")
    assert pruned.code == 0, pruned.err
    assert "sparsity 90.00%: 387,450 zeros of 430,500 prunable weights" in pruned.out
    tuned = cli("finetune", "--solver", "s.prototxt", "--weights", "p.caffemodel", "--base-lr", 0.01, "--iterations", 6,
                "--output", "t.caffemodel")  # fmt: skip
    assert tuned.code == 0, tuned.err
    assert "fine-tuning starts at learning rate 0.01 (--base-lr; policy fixed over 6 iterations)" in tuned.out
    assert "masks keep 387,450 of 430,500 prunable weights at zero (90.00%)" in tuned.out
    assert "sparsity 90.00%: 387,450 zeros of 430,500 prunable weights" in tuned.out
    before, after = weights("p.caffemodel"), weights("t.caffemodel")
    for key in (("conv1", 0), ("conv2", 0), ("ip1", 0), ("ip2", 0)):
        assert not after[key][before[key] == 0].any()
        assert (after[key] != before[key]).any()


def test_finetune_leaves_the_first_trainings_snapshots_and_train_writes_an_output(cli, lenet):
    first = cli("train", "--solver", "s.prototxt", "--iterations", 2, "--output", "dense.caffemodel.h5")
    assert first.code == 0, first.err
    (model,) = lenet.glob("*_iter_2.caffemodel")
    content = model.read_bytes()
    assert equal(weights(model), weights("dense.caffemodel.h5"))
    tuned = cli("finetune", "--solver", "s.prototxt", "--weights", model, "--iterations", 2)
    assert tuned.code == 0, tuned.err
    assert f"{model} has no masks: every weight trains ('protocaffe prune' makes masks)" in tuned.out
    assert model.read_bytes() == content
    assert [p.name for p in lenet.glob("*_finetuned_iter_2.*")]


def test_weights_of_another_net_end_a_test(cli, lenet, trained):
    text = Path(MODEL).read_text()
    for name in ("conv1", "conv2", "ip1", "ip2"):
        text = text.replace(f'name: "{name}"', f'name: "other_{name}"')
    Path("other.prototxt").write_text(text)
    for command in (("test", "--model", "other.prototxt", "--iterations", 1),
                    ("prune", "--model", "other.prototxt", "--output", "p.caffemodel", "--sparsity", 0.5)):  # fmt: skip
        result = cli(*command, "--weights", trained)
        assert result.code == 1
        assert (
            "holds weights for none of the net's layers (other_conv1, other_conv2, other_ip1, other_ip2)" in result.err
        )
        assert "Traceback" not in result.err


def test_finetune_says_that_the_rate_comes_from_the_solver_file(cli, lenet, trained):
    out = cli("finetune", "--solver", "s.prototxt", "--weights", trained, "--iterations", 1).out
    assert "starts at learning rate 0.02 (base_lr of s.prototxt; policy fixed over 1 iterations)" in out
    assert f"{trained} has no masks: every weight trains" in out


def test_zeros_without_masks_are_named_kept_on_request_and_masks_dropped_on_request(cli, lenet, trained):
    net = protocaffe.Net(MODEL, protocaffe.TEST, weights=str(trained))
    net.params["ip1"][0].data[:, 100:] = 0
    net.save("zeros.caffemodel")
    net.close()
    run = ("finetune", "--solver", "s.prototxt", "--weights", "zeros.caffemodel", "--iterations", "3", "--output")
    plain = cli(*run, "plain.caffemodel")
    assert "--mask-from-zeros" in plain.err
    assert weights("plain.caffemodel")[("ip1", 0)][:, 100:].any()
    assert cli(*run, "masked.caffemodel", "--mask-from-zeros").code == 0
    assert not weights("masked.caffemodel")[("ip1", 0)][:, 100:].any()
    again = ("finetune", "--solver", "s.prototxt", "--weights", "masked.caffemodel", "--iterations", "3", "--output")
    assert cli(*again, "still.caffemodel").code == 0
    assert not weights("still.caffemodel")[("ip1", 0)][:, 100:].any()
    assert cli(*again, "free.caffemodel", "--drop-masks").code == 0
    assert weights("free.caffemodel")[("ip1", 0)][:, 100:].any()


def test_finetune_stops_at_nan_and_names_the_first_bad_layer(cli, lenet, trained):
    result = cli("finetune", "--solver", "s.prototxt", "--weights", trained, "--base-lr", 1e30)
    assert result.code == 1
    last = result.err.splitlines()[-1]
    assert last.startswith("error: ")
    assert 'first bad: layer "conv2" (Convolution)' in last
    assert "Traceback" not in result.err


@pytest.mark.parametrize("effect", ["stop", "snapshot", "none"])
def test_signals_have_the_effect_that_is_asked_for(lenet, effect):
    write_solver(lenet / "s.prototxt", test_interval=1000, test_initialization="false")
    solver = open_solver(Job("s.prototxt", iterations=6))
    with signals(solver, sigint=effect):
        solver.add_callback(lambda: os.kill(os.getpid(), signal.SIGINT) if solver.iter == 2 else None, lambda: None)
        solver.solve()
    solver.close()
    assert solver.iter == (3 if effect == "stop" else 6)
    assert (lenet / "s_iter_3.caffemodel").is_file() == (effect != "none")
    assert signal.getsignal(signal.SIGINT) is signal.default_int_handler


def test_hangup_makes_a_snapshot_and_training_goes_on(lenet):
    solver = open_solver(Job("s.prototxt", iterations=4))
    with signals(solver):
        solver.add_callback(lambda: os.kill(os.getpid(), signal.SIGHUP) if solver.iter == 1 else None, lambda: None)
        solver.solve()
    solver.close()
    assert solver.iter == 4
    assert (lenet / "s_iter_2.solverstate").is_file()
