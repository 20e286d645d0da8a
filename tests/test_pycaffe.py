"""What scripts for pycaffe find: module functions, whole data sets at once, shared weights, the timer."""

from __future__ import annotations

import logging
import time

import numpy as np
import pytest

import protocaffe
from protocaffe import TEST, TRAIN, Net, NetSpec
from protocaffe import layers as L
from protocaffe.errors import BackendError, NetError, ParameterError, ShapeError, SolverError
from protocaffe.io import schema


def proto(loss: bool = False, batch: int = 4):
    n = NetSpec()
    n.data = L.Input(shape={"dim": [batch, 3]})
    if loss:
        n.label = L.Input(shape={"dim": [batch]})
    n.ip = L.InnerProduct(n.data, num_output=2, weight_filler={"type": "xavier"})
    if loss:
        n.loss = L.SoftmaxWithLoss(n.ip, n.label)
    else:
        n.prob = L.Softmax(n.ip)
    return n.to_proto()


def solver(**kwargs):
    param = schema.SolverParameter(net_param=proto(loss=True), base_lr=0.1, lr_policy="fixed", **kwargs)
    made = protocaffe.get_solver(param)
    made.net.blobs["data"].data = np.random.default_rng(0).normal(size=(4, 3))
    return made


def items(n: int) -> np.ndarray:
    return np.random.default_rng(1).normal(size=(n, 3)).astype(np.float32)


# ----------------------------------------------------------------------------------------------- whole sets of items
@pytest.mark.parametrize("n", [1, 4, 8, 11])
def test_forward_all(n):
    net = Net(proto(), TEST, seed=1)
    out = net.forward_all(["ip"], data=items(n))
    one = Net(proto(batch=1), TEST, seed=1)
    want = np.concatenate([one.forward(["ip"], data=x[None])["ip"].copy() for x in items(n)])
    assert out["prob"].shape == (n, 2)
    np.testing.assert_allclose(out["ip"], want, rtol=1e-5, atol=1e-6)


def test_forward_all_of_losses():
    net = Net(proto(loss=True), TEST, seed=1)
    out = net.forward_all(["ip"], data=items(8), label=np.zeros(8))
    assert out["loss"].shape == (2,) and out["ip"].shape == (8, 2)


def test_forward_backward_all():
    param = proto()
    param.force_backward = True
    net, one = Net(param, TRAIN, seed=1), Net(param, TRAIN, seed=1)
    x, top = items(6), np.random.default_rng(2).normal(size=(6, 2)).astype(np.float32)
    outs, diffs = net.forward_backward_all(["ip"], ["ip"], data=x, prob=top)
    one.blobs["data"].reshape(6, 3)
    want = one.forward(["ip"], data=x)
    np.testing.assert_allclose(outs["prob"], want["prob"], rtol=1e-5)
    np.testing.assert_allclose(outs["ip"], want["ip"], rtol=1e-5, atol=1e-6)
    want = one.backward(["ip"], prob=top)
    assert set(diffs) == {"data", "ip"}
    np.testing.assert_allclose(diffs["data"], want["data"], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(diffs["ip"], want["ip"], rtol=1e-4, atol=1e-6)
    np.testing.assert_allclose(net.params["ip"][0].diff, one.params["ip"][0].diff, rtol=1e-4, atol=1e-5)


def test_what_does_not_fit():
    net = Net(proto(), TEST)
    with pytest.raises(NetError, match='no input "dta"'):
        net.forward_all(dta=items(2))
    with pytest.raises(ShapeError, match="forward_all: needs at least one item"):
        net.forward_all()
    with pytest.raises(ShapeError, match=r"same number of items, got {'data': 2, 'prob': 3}"):
        net.forward_backward_all(data=items(2), prob=np.zeros((3, 2)))
    with pytest.raises(NetError, match=r'"pro" is no input and no output .*; did you mean "prob"'):
        net.forward_backward_all(data=items(2), pro=np.zeros((2, 2)))


# -------------------------------------------------------------------------------------------------------------- seeds
def test_set_random_seed_serves_nets_without_a_seed_of_their_own():
    try:
        protocaffe.set_random_seed(5)
        weights = [Net(proto(), TEST, seed=s).params["ip"][0].data for s in (None, -1, 5, 6)]
        assert (weights[0] == weights[1]).all() and (weights[0] == weights[2]).all()
        assert (weights[0] != weights[3]).any()
        assert solver().seed == 5 and solver(random_seed=9).seed == 9
    finally:
        protocaffe.set_random_seed(-1)
    assert (Net(proto(), TEST).params["ip"][0].data != weights[0]).any()


# ------------------------------------------------------------------------------------------------------------ solvers
def test_share_weights():
    made = solver(random_seed=1)
    other = Net(proto(), TEST, seed=2)
    made.share_weights(other)
    made.step(3)
    np.testing.assert_array_equal(other.params["ip"][0].data, made.net.params["ip"][0].data)
    x = items(4)
    np.testing.assert_array_equal(other.forward(["ip"], data=x)["ip"], made.net.forward(["ip"], data=x)["ip"])


@pytest.mark.parametrize("steps_before", [0, 1])
def test_a_solver_does_not_train_the_parameters_of_another_net(steps_before):
    made = solver(random_seed=1)
    made.step(steps_before)
    made.net.share_with(Net(proto(), TRAIN))
    with pytest.raises(
        SolverError, match=r'layer "ip" .* uses another net.s parameters.*: net\.share_with\(solver\.net'
    ):
        made.step(1)


def test_solver_attributes():
    made = solver(random_seed=1, max_iter=4, display=0)
    seen = []
    made.add_callback(lambda: seen.append(("start", made.iter)), lambda: seen.append(("gradients", made.iter)))
    made.step(2)
    assert (made.iter, made.param.max_iter, made.test_nets) == (2, 4, [])
    assert made.lr == pytest.approx(0.1)
    assert seen == [("start", 0), ("gradients", 0), ("start", 1), ("gradients", 1)]


# ------------------------------------------------------------------------------------------------------- the rest
def test_modules_and_lists():
    import protocaffe as caffe

    assert {"Convolution", "ReLU", "Data"} <= set(caffe.layer_type_list())
    assert caffe.proto.caffe_pb2.NetParameter(name="n").name == "n"
    assert caffe.proto.caffe_pb2.TEST == caffe.TEST == 1
    assert caffe.io.array_to_datum and caffe.io.Transformer and caffe.net_spec.NetSpec is caffe.NetSpec
    assert set(caffe.__all__) <= set(dir(caffe))
    for name in caffe.__all__:
        assert getattr(caffe, name) is not None


def test_devices(monkeypatch):
    monkeypatch.setattr("protocaffe.backends.cpu_chosen", False)  # set_mode_cpu is for good
    protocaffe.set_mode_cpu()
    protocaffe.set_device("cpu")
    protocaffe.set_device(-1)
    protocaffe.set_solver_count(1)
    protocaffe.set_solver_rank(0)
    protocaffe.set_multiprocess(False)
    assert (protocaffe.solver_count(), protocaffe.solver_rank(), protocaffe.has_nccl()) == (1, 0, False)
    for call in (
        lambda: protocaffe.set_solver_count(2),
        lambda: protocaffe.set_solver_rank(1),
        lambda: protocaffe.set_multiprocess(True),
    ):
        with pytest.raises(BackendError, match="this version of protocaffe"):
            call()


def test_the_log(capsys):
    root = logging.getLogger("protocaffe")
    level = root.level
    try:
        protocaffe.init_log()
        protocaffe.init_log()
        protocaffe.log("hello")
        assert capsys.readouterr().err.count("] hello\n") == 1
        protocaffe.init_log(2)
        protocaffe.log("again")
        assert capsys.readouterr().err == ""
        with pytest.raises(ParameterError, match="level must be 0"):
            protocaffe.init_log(7)
    finally:
        protocaffe.init_log(0, stderr=False)
        root.setLevel(level)
    assert not root.handlers


def test_the_timer():
    timer = protocaffe.Timer()
    assert timer.ms == 0
    timer.start()
    time.sleep(0.002)
    running = timer.ms
    timer.stop()
    assert 0 < running <= timer.ms == timer.ms < 1000
