"""Grouped convolutions, transposed inner products, shared parameters and blobs of four axes, as old Caffes wrote them,
through pruning while training, compressing and shrinking. test_methods.py has the same for the command's methods."""

import numpy as np
import pytest

import protocaffe
from protocaffe.io import parse_net, parse_solver, read_caffemodel
from protocaffe.io.caffemodel import write_caffemodel
from protocaffe.io.compressed import unpack
from protocaffe.pruning import apply, channel_masks, plan_shrink, prunable_weights, prune_net, set_masks
from protocaffe.pruning.compare import build, largest_difference, random_inputs
from protocaffe.pruning.compress import compress_net
from protocaffe.pruning.net import own_parameters
from tests.support import pruning_nets as nets

STEPS = "begin_step: 2 end_step: 10 frequency: 4"
SHARE = f"{STEPS} initial_sparsity: 0.2 sparsity: 0.6"
SETTINGS = {
    "magnitude": SHARE,
    "uniform": f"{SHARE} scope: UNIFORM",
    "erk": f"{SHARE} scope: ERK",
    "random": f"{SHARE} method: RANDOM",
    "first-order": f"{SHARE} method: FIRST_ORDER",
    "second-order": f"{SHARE} method: SECOND_ORDER",
    "2:4": f"{STEPS} n: 2 m: 4",
    "1:3 of first-order": f"{STEPS} n: 1 m: 3 method: FIRST_ORDER",
    "soft": f"{SHARE} mode: SOFT margin: 0 freeze_step: 13",
    "soft first-order": f"{SHARE} mode: SOFT margin: 0 method: FIRST_ORDER freeze_step: 13",
    "soft second-order": f"{SHARE} mode: SOFT margin: 0 method: SECOND_ORDER freeze_step: 13",
    "soft 2:4": f"{STEPS} n: 2 m: 4 mode: SOFT margin: 0 freeze_step: 13",
    "l1-channels": f"{SHARE} method: L1_CHANNELS",
    "scale-channels": f"{SHARE} method: SCALE_CHANNELS bias: true",
    "taylor-channels": f"{SHARE} method: TAYLOR_CHANNELS",
}


def solver_of(settings, weights=None):
    param = parse_solver(
        'type: "Adam" base_lr: 0.01 momentum: 0.9 weight_decay: 0.01 lr_policy: "fixed" random_seed: 3 max_iter: 16 '
        f"pruning_param {{ {settings} }}"
    )
    param.net_param.CopyFrom(parse_net(nets.NET))
    solver = protocaffe.get_solver(param)
    if weights is not None:
        solver.copy_from(weights)
    return solver


def state(solver):
    arena, out = solver.net.arena, []
    for blob in arena.blobs:
        out += [blob.data.tobytes(), b"" if blob.mask is None else blob.mask.tobytes()]
        out.append(arena.piece(arena.master, blob).read().tobytes())
    return out + [values.tobytes() for values in solver.masked_history()]


def four_axes(path, net, text):
    """The net's weights and masks with four axes each."""
    weights = net.layer_weights()
    for layer in weights:
        wide = [(1,) * (4 - values.ndim) + values.shape for values in layer.blobs]
        layer.blobs = [values.reshape(shape) for values, shape in zip(layer.blobs, wide, strict=True)]
        layer.masks = [m if m is None else m.reshape(s) for m, s in zip(layer.masks, wide, strict=True)]
    write_caffemodel(path, parse_net(text), weights)
    return path


# ------------------------------------------------------------------------------------------------------ while training
@pytest.mark.parametrize("name", SETTINGS)
def test_training_prunes_every_kind(name):
    """What a row (an output's weights) is, the layer says: columns of the transposed weight."""
    solver = solver_of(SETTINGS[name])
    for _ in range(16):
        solver.step(1)
        params = solver.net.params
        mask = params["one"][0].mask
        assert mask is None or np.array_equal(mask, params["two"][0].mask)
        assert np.array_equal(params["one"][0].data, params["two"][0].data)
    weights = {w.name: w for w in prunable_weights(solver.net)}
    for w in weights.values():
        if w.mask is None:
            assert (name, w.name) in {("l1-channels", "out"), ("scale-channels", "out"), ("taylor-channels", "out")}
            continue
        rows = w.lies.rows(w.mask)
        assert rows.shape == {"conv": (6, 18), "turned": (8, 54), "one": (8, 8), "out": (3, 8)}[w.name]
        assert not w.values[~w.mask].any() and rows.sum() > 0
        if ":" in name:
            n, m = (2, 4) if "2:4" in name else (1, 3)
            whole = rows.shape[1] // m * m
            assert (rows[:, :whole].reshape(len(rows), -1, m).sum(2) == n).all()
        if "channels" in name:
            assert np.array_equal(rows, np.repeat(rows[:, :1], rows.shape[1], axis=1))
        if name == "uniform":
            assert (~rows).sum() == np.ceil(round(0.6 * rows.size, 6))
    gone = sum(int((~w.mask).sum()) for w in weights.values() if w.mask is not None)
    total = sum(w.values.size for w in weights.values())
    if ":" not in name and "channels" not in name:
        assert gone == pytest.approx(0.6 * total, abs=12)  # ERK may hold a small layer whole; rounding of each layer
    if "channels" in name:  # turned and one go together, see families.py: of 6 + 8 channels 9 go, and 1 stays
        dead = {w.name: (~w.lies.rows(w.mask)[:, 0]).sum() for w in weights.values() if w.mask is not None}
        assert dead.get("conv", 0) + dead.get("turned", 0) == 9 and dead.get("turned", 0) == dead.get("one", 0)


@pytest.mark.parametrize("name", SETTINGS)
def test_training_prunes_weights_of_old_files_alike(name, tmp_path):
    net = nets.make(seed=8)
    prune_net(net, 0.1)
    net.save(tmp_path / "new.caffemodel")
    four_axes(tmp_path / "old.caffemodel", net, nets.NET)
    assert {b.ndim for w in read_caffemodel(tmp_path / "old.caffemodel") for b in w.blobs} == {4}
    runs = [solver_of(SETTINGS[name], tmp_path / f"{which}.caffemodel") for which in ("old", "new")]
    for solver in runs:
        solver.step(12)
    assert state(runs[0]) == state(runs[1])
    assert not np.array_equal(runs[0].net.params["turned"][0].mask, net.params["turned"][0].mask)


# --------------------------------------------------------------------------------------------------------- small files
@pytest.mark.parametrize("bits", [0, 4])
def test_old_files_are_compressed_to_the_same_bytes(bits, tmp_path):
    net, packed = nets.make(), []
    prune_net(net, 0.6)
    net.save(tmp_path / "new.caffemodel")
    four_axes(tmp_path / "old.caffemodel", net, nets.NET)
    for which in ("new", "old"):
        other = nets.make(seed=9)
        other.copy_from(tmp_path / f"{which}.caffemodel")
        compress_net(tmp_path / which, other, bits=bits, bias_bits=bits)
        packed.append((tmp_path / which).read_bytes())
    assert packed[0] == packed[1]
    unpack(tmp_path / "old", tmp_path / "again.caffemodel")
    again = nets.make(seed=10)
    again.copy_from(tmp_path / "again.caffemodel")
    assert np.array_equal(again.params["two"][0].data, again.params["one"][0].data)
    for (name, blobs), (_, got) in zip(own_parameters(net), own_parameters(again), strict=True):
        for a, b in zip(blobs, got, strict=True):
            assert (a.mask is None) == (b.mask is None), name
            assert a.mask is None or np.array_equal(a.mask, b.mask), name
            assert bits or np.array_equal(a.data, b.data), name
        books = [b for b in got if b.prunable]
        assert not bits or all(len(np.unique(b.data[b.mask])) <= 16 for b in books)


# -------------------------------------------------------------------------------------------------------------- shrink
DEPLOY = nets.NET.replace(
    nets.DATA,
    'layer { name: "data" type: "Input" top: "data" input_param { shape { dim: 5 dim: 4 dim: 5 dim: 5 } } }\n',
).replace(nets.LOSS, "")


def test_old_files_shrink_alike(tmp_path):
    """A group loses as many channels as the other; turned's and the shared layers' outputs go together."""
    net = protocaffe.Net(parse_net(DEPLOY), protocaffe.TEST, seed=3, backend=protocaffe.get_backend("cpu", "float64"))
    weights = prunable_weights(net)
    gone = {"conv": [1, 5], "turned": [0, 3], "one": [0, 3], "out": []}
    kept = [~np.isin(np.arange(w.lies.outputs), gone[w.name]) for w in weights]
    set_masks(net, channel_masks(weights, kept))
    net.params["bn"][1].data = 1
    net.params["bn"][2].data = 1
    for name in ("scale", "scale_turned", "scale_one", "scale_two"):
        for blob in net.params[name]:
            blob.data[gone[{"scale": "conv", "scale_turned": "turned"}.get(name, "one")]] = 0
    for name in ("turned", "one"):
        net.params[name][1].data[gone[name]] = 0
    net.save(tmp_path / "new.caffemodel")
    four_axes(tmp_path / "old.caffemodel", net, DEPLOY)
    small = []
    for which in ("new", "old"):
        plan = plan_shrink(parse_net(DEPLOY), read_caffemodel(tmp_path / f"{which}.caffemodel"), backend=net.backend)
        outputs = {c.name: c.outputs for c in plan.layers}
        assert outputs == {"conv": (6, 4), "turned": (8, 6), "one": (8, 6), "two": (8, 6), "out": (3, 3)}
        small.append(build(*apply(plan), net.backend))
        assert small[-1].params["turned"][0].shape == (36, 6) and small[-1].params["conv"][0].shape == (4, 2, 3, 3)
        assert largest_difference(net, small[-1], random_inputs(net, 0)) < 1e-6
    for a, b in zip(small[0].learnable_params, small[1].learnable_params, strict=True):
        assert np.array_equal(a.data, b.data)
