"""Whole outputs pruned while training, as the solver file says; families of outputs that go together; small nets."""

import logging

import numpy as np
import pytest

import protocaffe
from protocaffe.backends import get_backend
from protocaffe.errors import ParameterError, SolverError
from protocaffe.io import parse_net, parse_solver
from protocaffe.io.solverstate import read_solverstate, write_solverstate
from protocaffe.pruning import PruningArguments, apply, plan_shrink, prune_by
from protocaffe.pruning.compare import build, largest_difference, random_inputs
from protocaffe.pruning.families import choose_together, families
from protocaffe.pruning.net import prunable_weights
from protocaffe.pruning.schedule import Schedule
from tests.support import pruning_nets as nets
from tests.support.split_backend import SplitBackend

METHODS = ["L1_CHANNELS", "SCALE_CHANNELS", "TAYLOR_CHANNELS"]
STEPS = "sparsity: 0.5 begin_step: 3 end_step: 15 frequency: 6"


def make_solver(pruning, more="", text=nets.NET, rule="Adam", backend=None):
    solver = parse_solver(
        f'type: "{rule}" base_lr: 0.01 momentum: 0.9 weight_decay: 0.01 lr_policy: "fixed" random_seed: 3 '
        f"max_iter: 20 {f'pruning_param {{ {pruning} }}' if pruning else ''} {more}"
    )
    solver.net_param.CopyFrom(parse_net(text))
    return protocaffe.get_solver(solver, backend=backend)


def alive(net):
    """{layer: which outputs have weights left}, of those that have a mask."""
    return {w.name: w.lies.rows(w.mask).any(axis=1) for w in prunable_weights(net) if w.mask is not None}


def everything(solver):
    out = []
    for blob in solver.net.learnable_params:
        out += [blob.data.tobytes(), b"" if blob.mask is None else blob.mask.tobytes()]
    return out + [values.tobytes() for values in solver.masked_history()]


# ------------------------------------------------------------------------------------------------------------ training
@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("method", METHODS)
def test_outputs_go_by_the_schedule_and_whole(method, bias, caplog):
    with caplog.at_level(logging.INFO, "protocaffe"):
        solver = make_solver(f"method: {method} scope: UNIFORM {STEPS} bias: {str(bias).lower()}")
        schedule, seen = Schedule("CUBIC", 3, 15, 6, 0, 0.5), {}
        for i in range(20):
            solver.step(1)
            seen[i] = {name: int(rows.sum()) for name, rows in alive(solver.net).items()}
    assert not seen[2]
    for t in schedule.steps:
        share = schedule.share(schedule.progress(t))
        for name, left in seen[t].items():
            count = {"conv": 6, "turned": 8, "one": 8}[name]
            assert left == count - int(np.ceil(round(share * count, 6)))
    assert seen[19] == {"conv": 3, "turned": 4, "one": 4}  # "out" gives the net's outputs
    assert "these layers stay whole: out" in caplog.text
    assert "Iteration 15, pruned to a sparsity of 0." in caplog.text and ": 11 of 22 outputs are left" in caplog.text
    params, rows = solver.net.params, alive(solver.net)
    for w in prunable_weights(solver.net):
        if w.mask is not None:
            whole = w.lies.rows(w.mask)
            assert np.array_equal(whole, np.repeat(whole[:, :1], whole.shape[1], axis=1))
            assert not w.values[~w.mask].any() and w.values[w.mask].all()
    others = {"conv": [("conv", 1), ("scale", 0), ("scale", 1)], "turned": [("turned", 1), ("scale_turned", 1)],
              "one": [("one", 1), ("scale_one", 0), ("scale_two", 1)]}  # fmt: skip
    for name, blobs in others.items():
        for layer, i in blobs:
            mask = params[layer][i].mask
            assert (mask is not None) == bias
            assert mask is None or (np.array_equal(mask, rows[name]) and not params[layer][i].data[~mask].any())


@pytest.mark.parametrize("stop", [2, 3, 4, 9, 10, 15, 16])
@pytest.mark.parametrize("method", METHODS)
def test_a_run_stopped_anywhere_goes_on_as_if_it_had_not(method, stop, tmp_path):
    form = "HDF5" if stop % 2 else "BINARYPROTO"
    more = f'snapshot_prefix: "{tmp_path}/s" iter_size: 2 snapshot_format: {form}'
    settings = f"method: {method} sparsity: 0.5 begin_step: 3 end_step: 33 frequency: 12 bias: true"
    whole, first, again = (make_solver(settings, more) for _ in range(3))
    whole.step(30)
    first.step(stop)
    again.restore(first.snapshot()[1])
    again.step(30 - stop)
    assert everything(whole) == everything(again)
    assert sum(int((~rows).sum()) for rows in alive(whole.net).values()) >= 8


def test_a_state_with_other_sums_is_refused_and_one_without_starts_anew(tmp_path):
    solver = make_solver(f"method: TAYLOR_CHANNELS {STEPS}", f'snapshot_prefix: "{tmp_path}/s"')
    solver.step(2)
    _, path = solver.snapshot()
    state = read_solverstate(path)
    assert state.resume.summed == 2 and [len(values) // 8 for values in state.resume.taylor] == [6, 8, 8, 3]
    state.resume.taylor[0] = state.resume.taylor[0][:-8]
    write_solverstate(path, state)
    with pytest.raises(SolverError, match="the Taylor scores are not those of this net"):
        solver.restore(path)
    other = make_solver(f"method: L1_CHANNELS {STEPS}", f'snapshot_prefix: "{tmp_path}/t"')
    other.step(2)
    _, path = other.snapshot()
    solver.restore(path)
    assert solver._pruner.channels.summed == 0 and not any(s.any() for s in solver._pruner.channels.sums)


@pytest.mark.parametrize("method", METHODS)
def test_the_outputs_that_go_score_least(method):
    """By hand: L1 norms and gammas as they are at the step, Taylor scores of the first step's ten iterations."""
    solver = make_solver(f"method: {method} sparsity: 0.5 scope: UNIFORM schedule: ONE_SHOT begin_step: 13")
    net, score, seen, held = solver.net, np.zeros(6), [], []
    top = net.top_names["scale"][0]

    def look():
        if method == "L1_CHANNELS":
            score[...] = np.abs(net.params["conv"][0].data).sum(axis=(1, 2, 3))
        elif method == "SCALE_CHANNELS":
            score[...] = np.abs(net.params["scale"][0].data)
        elif solver.iter >= 4:
            score[...] += np.abs(seen[solver.iter].sum(axis=(2, 3))).mean(0)

    net.after_forward(lambda _: held.append(net.blobs[top].data.astype(float)), "scale")
    net.before_backward(lambda _: seen.append(held[-1] * net.blobs[top].diff), "scale")
    solver.add_callback(lambda: None, look)
    solver.step(13)
    if method == "TAYLOR_CHANNELS":
        assert solver._pruner.channels.summed == 9
        np.testing.assert_allclose(solver._pruner.channels.sums[0], score, rtol=1e-10)
    solver.step(1)
    kept = alive(net)["conv"]
    assert len(seen) == 14 and kept.sum() == 3 and score[kept].min() > score[~kept].max()


def test_the_passes_are_watched_only_up_to_a_step():
    solver = make_solver("method: TAYLOR_CHANNELS sparsity: 0.5 begin_step: 15 end_step: 45 frequency: 30")
    watched = []
    solver.add_callback(lambda: None, lambda: watched.append(not solver.net.undivided))
    solver.step(50)
    assert [i for i, yes in enumerate(watched) if yes] == [*range(6, 16), *range(36, 46)]


def test_taylor_scores_are_of_the_iterations_since_the_last_step():
    solver = make_solver("method: TAYLOR_CHANNELS sparsity: 0.5 begin_step: 15 end_step: 23 frequency: 4")
    pruner, summed = solver._pruner.channels, []
    solver.add_callback(lambda: None, lambda: summed.append(pruner.summed))
    solver.step(24)
    assert summed == [0] * 6 + [*range(10)] + [0, 1, 2, 3] * 2  # before the iteration's own is added


@pytest.mark.parametrize("method", METHODS)
def test_a_device_with_memory_of_its_own_prunes_alike(method):
    runs = [
        make_solver(f"method: {method} {STEPS} bias: true", backend=b) for b in (get_backend("cpu"), SplitBackend())
    ]
    for solver in runs:
        solver.step(18)
    assert everything(runs[0]) == everything(runs[1])


def test_outputs_that_are_gone_stay_gone_and_count():
    solver = make_solver("method: L1_CHANNELS sparsity: 0.5 schedule: ONE_SHOT begin_step: 2 scope: UNIFORM")
    conv = solver.net.params["conv"][0]
    mask = np.ones(conv.shape, bool)
    mask[[0, 4]] = False
    mask[1, 0] = False
    conv.mask = mask
    solver.step(5)
    assert not conv.mask[~mask].any() and alive(solver.net)["conv"].sum() == 3


@pytest.mark.parametrize("method", METHODS)
def test_weights_from_files_of_old_caffes_are_pruned_alike(method, tmp_path):
    """Four axes for every parameter."""
    path, runs = nets.write_legacy(tmp_path / "old.caffemodel", nets.make(seed=8)), []
    nets.make(seed=8).save(tmp_path / "new.caffemodel")
    for file in (path, tmp_path / "new.caffemodel"):
        runs.append(make_solver(f"method: {method} {STEPS} bias: true"))
        runs[-1].copy_from(file)
        runs[-1].step(17)
    assert everything(runs[0]) == everything(runs[1])
    assert alive(runs[0].net)


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("method: L1_CHANNELS sparsity: 0.5 mode: SOFT", "mode: SOFT is for single weights: .* L1_CHANNELS"),
        ("method: L1_CHANNELS n: 2 m: 4", "n and m are for single weights, method L1_CHANNELS"),
        ("sparsity: 0.5 bias: true", "bias goes with whole outputs, method MAGNITUDE"),
        ('method: L1_CHANNELS sparsity: 0 layer { name: "turned" exclude: true } layer { name: "conv" exclude: true }',
         "nothing can be pruned: conv, turned, one, out"),
        ('method: L1_CHANNELS sparsity: 0 layer { name: "one" exclude: true } layer { name: "turned" sparsity: 0.2 }',
         '"turned" has a share of its own, but its channels go together'),
    ],
)  # fmt: skip
def test_what_cannot_be_is_refused_at_the_start(text, message):
    with pytest.raises(ParameterError, match=f'solver "<SolverParameter>": pruning_param: .*{message}'):
        make_solver(text)


def test_scale_needs_a_scale_and_taylor_gradients_at_the_start():
    without = nets.NET.replace(nets.scale("scale", "conv"), "")
    with pytest.raises(ParameterError, match=r'layer "conv" \(Convolution\) has no Scale'):
        make_solver(f"method: SCALE_CHANNELS {STEPS}", text=without)
    fixed = nets.NET.replace('name: "conv" type', 'name: "conv" param { lr_mult: 0 } type')
    with pytest.raises(ParameterError, match='TAYLOR_CHANNELS needs gradients, but layer "conv" gets none'):
        make_solver(f"method: TAYLOR_CHANNELS {STEPS}", text=fixed)


def test_classes_are_pruned_where_they_have_a_share_of_their_own():
    solver = make_solver(f'method: L1_CHANNELS {STEPS} layer {{ name: "out" sparsity: 0.34 }}')
    solver.step(18)
    assert alive(solver.net)["out"].sum() == 1


# ------------------------------------------------------------------------------------------------------------ families
G = 'weight_filler { type: "xavier" } bias_filler { type: "gaussian" std: 0.1 }'


def conv(name, bottom, outputs, more=""):
    options = f"num_output: {outputs} kernel_size: 3 pad: 1 {more} {G}"
    return f'layer {{ name: "{name}" type: "Convolution" bottom: "{bottom}" top: "{name}" convolution_param {{ {options} }} }}\n'  # noqa: E501


def block(name, bottom, outputs):
    """Convolution, BatchNorm, Scale."""
    return (
        conv(name, bottom, outputs, "bias_term: false")
        + f'layer {{ name: "bn_{name}" type: "BatchNorm" bottom: "{name}" top: "{name}" }}\n'
        + nets.scale(f"scale_{name}", name)
    )


def joined(kind, name, bottoms, more=""):
    names = " ".join(f'bottom: "{b}"' for b in bottoms)
    return f'layer {{ name: "{name}" type: "{kind}" {names} top: "{name}" {more} }}\n'


def relu(name):
    return f'layer {{ name: "relu_{name}" type: "ReLU" bottom: "{name}" top: "{name}" }}\n'


RESIDUAL = (
    nets.DATA + block("first", "data", 8) + relu("first") + block("a", "first", 8) + relu("a") + block("b", "a", 8)
    + joined("Eltwise", "sum", ["first", "b"]) + relu("sum") + block("c", "sum", 12) + relu("c")
    + 'layer { name: "out" type: "InnerProduct" bottom: "c" top: "out" inner_product_param { num_output: 3 '
    + f"{G} }} }}\n{nets.LOSS}"
)  # fmt: skip


def names_of(text):
    return [family.names for family in families(nets.make(text))]


def test_outputs_that_are_added_or_shared_are_families():
    assert names_of(RESIDUAL) == [("first", "b"), ("a",), ("c",), ("out",)]
    assert names_of(nets.NET) == [("conv",), ("turned", "one"), ("out",)]  # "two" reads "one", by its weights
    mixed = nets.DATA + conv("a", "data", 4) + conv("b", "data", 2) + conv("c", "data", 6)
    mixed += joined("Concat", "ab", "ab") + joined("Eltwise", "s", ["ab", "c"])
    (family,) = families(nets.make(mixed))
    assert family.names == ("a", "b", "c") and family.size == 6
    assert [channels.tolist() for channels in family.channels] == [[0, 1, 2, 3], [4, 5], [0, 1, 2, 3, 4, 5]]
    other = nets.DATA + conv("a", "data", 4) + joined("Eltwise", "s", ["a", "data"])
    assert names_of(other) == [("a",)]


def test_a_family_is_chosen_once():
    net = nets.make(RESIDUAL)
    found, weights = families(net), prunable_weights(net)
    scores = [np.arange(1.0, 9), np.full(8, 50.0), np.array([8.0, 1, 1, 1, 1, 1, 1, 9]), np.arange(100.0, 112),
              np.ones(3)]  # fmt: skip
    first, a, b, c, out = choose_together(found, weights, scores, 0.25, "uniform", exclude=("out",))
    assert first.tolist() == b.tolist() == [True, False, False] + [True] * 5  # means 4.5, 1.5, 2, 2.5 ...
    assert a.tolist() == [False, False] + [True] * 6 and c.tolist() == [False] * 3 + [True] * 9 and out.all()
    # of 28 channels, those of the family once, half go: all of the family's but the one that stays
    kept = choose_together(found, weights, scores, 0.5, "global", min_keep=1, exclude=("out",))
    assert [int(k.sum()) for k in kept] == [1, 1, 1, 12, 3]
    kept = choose_together(found, weights, scores, 0.25, "uniform", {"b": 0.5}, exclude=("out", "a"))
    assert [int(k.sum()) for k in kept] == [4, 8, 4, 9, 3]
    with pytest.raises(ParameterError, match=r"they need one share: first 0\.1, b 0\.2"):
        choose_together(found, weights, scores, 0.5, layer_sparsity={"b": 0.2, "first": 0.1})


#: the outputs of "a" and "b", added up, are the net's
ADDED = (
    nets.DATA + conv("h", "data", 6) + conv("a", "h", 4) + conv("b", "h", 4) + joined("Eltwise", "sum", "ab")
    + 'layer { name: "loss" type: "EuclideanLoss" bottom: "sum" bottom: "sum" top: "loss" }'
)  # fmt: skip


def layers(**shares):
    """As pruning_param names them; a share of None: excluded."""
    return " ".join(f'layer {{ name: "{name}" {"exclude: true" if share is None else f"sparsity: {share}"} }}'
                    for name, share in shares.items())  # fmt: skip


@pytest.mark.parametrize(
    ("text", "shares", "stays"), [(ADDED, {"a": 0.5}, "b"), (RESIDUAL, {"b": 0.5, "first": None}, "first")]
)
def test_a_share_is_refused_where_others_of_the_family_stay_whole(text, shares, stays):
    message = f"has a share of its own, but .* layers that stay whole: {stays} "
    own = {name: share for name, share in shares.items() if share is not None}
    arguments = PruningArguments("l1-channels", "uniform", 0.5, own, exclude=tuple(shares.keys() - own.keys()))
    with pytest.raises(ParameterError, match=f"^pruning: .*{message}"):
        prune_by(nets.make(text), arguments, together=True)
    with pytest.raises(ParameterError, match=f"pruning_param: .*{message}"):
        make_solver(f"method: L1_CHANNELS {STEPS} {layers(**shares)}", text=text)
    prune_by(nets.make(text), arguments)  # alone each layer may have its own


def test_every_output_layer_of_a_family_needs_a_share():
    net = nets.make(ADDED)
    arguments = PruningArguments("l1-channels", "uniform", 0.5, {"a": 0.25, "b": 0.25})
    result = prune_by(net, arguments, together=True)
    assert result.held == () and result.channels == {"h": (3, 6), "a": (3, 4), "b": (3, 4)}
    solver = make_solver(f"method: L1_CHANNELS scope: UNIFORM {STEPS} {layers(a=0.25, b=0.25)}", text=ADDED)
    assert solver._pruner.channels.exclude == ()


@pytest.mark.parametrize(
    ("more", "message"),
    [
        (layers(first=0.5, b=0.6), r"they need one share: first 0\.5, b 0\.6"),
        ("scope: UNIFORM min_keep: 6", 'layer "first" cannot reach a sparsity of 0.5: min_keep holds 6 of 8'),
        ("min_keep: 0.75", "the net cannot reach a sparsity of 0.5"),
    ],
)
@pytest.mark.parametrize("method", METHODS)
def test_shares_that_a_later_step_could_not_reach_are_refused_at_the_start(method, more, message):
    with pytest.raises(ParameterError, match=message):
        make_solver(f"method: {method} {STEPS} {more}", text=RESIDUAL)


# -------------------------------------------------------------------------------------------------------------- shrink
@pytest.mark.parametrize("method", METHODS)
def test_a_residual_net_pruned_in_training_becomes_small(method):
    solver = make_solver(f"method: {method} scope: UNIFORM bias: true {STEPS}", text=RESIDUAL, rule="SGD")
    solver.step(20)
    backend = get_backend("cpu", "float64")
    deploy = RESIDUAL.replace(nets.DATA, 'layer { name: "data" type: "Input" top: "data" input_param { shape '
                              "{ dim: 5 dim: 4 dim: 5 dim: 5 } } }").replace(nets.LOSS, "")  # fmt: skip
    before = protocaffe.Net(parse_net(deploy), protocaffe.TEST, backend=backend)
    before.copy_weights(solver.net.layer_weights(), keep_masks=False)
    plan = plan_shrink(parse_net(deploy), before.layer_weights(), backend=backend)
    assert {c.name: c.outputs for c in plan.layers} == {
        "first": (8, 4), "a": (8, 4), "b": (8, 4), "c": (12, 6), "out": (3, 3),
    }  # fmt: skip
    after = build(*apply(plan), before.backend)
    assert largest_difference(before, after, random_inputs(before, 0)) < 1e-5


@pytest.mark.parametrize("method", ["l1-channels", "taylor-channels"])
def test_the_command_chooses_together_if_asked(method):
    rows = {}
    for together in (False, True):
        net = nets.make(RESIDUAL)
        arguments = PruningArguments(method, "uniform", 0.5)
        result = prune_by(net, arguments, nets.make(RESIDUAL), 2, together=together)
        assert result.held == ("out",) and result.channels == {"first": (4, 8), "a": (4, 8), "b": (4, 8), "c": (6, 12)}
        rows[together] = alive(net)
    assert np.array_equal(rows[True]["first"], rows[True]["b"])
    assert not np.array_equal(rows[False]["first"], rows[False]["b"])
    assert prune_by(nets.make(RESIDUAL), PruningArguments(method, sparsity=0.5, exclude=("b", "c")),
                    nets.make(RESIDUAL), 2, together=True).held == ("first", "out")  # fmt: skip
    with pytest.raises(ParameterError, match="what goes together are whole outputs, magnitude prunes single weights"):
        prune_by(nets.make(RESIDUAL), PruningArguments(sparsity=0.5), together=True)
