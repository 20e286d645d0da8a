"""Which layers a state keeps, and where Split layers go: the structures that Caffe built."""

from __future__ import annotations

import json
from pathlib import Path

import pytest

from protocaffe.errors import NetError
from protocaffe.io.prototxt import parse_message, parse_net
from protocaffe.passes import file_state, filter_net, insert_splits, solver_state

GOLDENS = Path(__file__).resolve().parents[1] / "goldens"
CASES = json.loads((GOLDENS / "cases.json").read_text())["cases"]
RULES = [(c, e) for c in CASES if c["kind"] == "rules" for e in c["expect"]]
NETS = [(c, c) for c in CASES if c["kind"] == "net"]


@pytest.mark.parametrize(("case", "expect"), RULES + NETS)
def test_goldens(case, expect):
    net = parse_net(case["prototxt"])
    before = net.SerializeToString()
    state = file_state(net, expect["phase"], expect.get("level", 0), expect.get("stages", []))
    filtered = filter_net(net, *state)
    kept = filtered.SerializeToString()
    built = insert_splits(filtered)
    assert [layer.name for layer in built.layer] == expect["layer_names"]
    assert [layer.type for layer in built.layer] == expect["layer_types"]
    assert {layer.name: list(layer.bottom) for layer in built.layer} == expect["bottoms"]
    # "(automatic)" is the top that the Net itself gives a loss layer without one.
    tops = {name: [t for t in tops if t != "(automatic)"] for name, tops in expect["tops"].items()}
    assert {layer.name: list(layer.top) for layer in built.layer} == tops
    assert net.SerializeToString() == before and filtered.SerializeToString() == kept, "an argument has changed"
    assert insert_splits(built) == built


def names(text, *state):
    return [layer.name for layer in filter_net(parse_net(text), *state).layer]


def test_state_of_the_file_is_the_default():
    text = 'state { phase: TRAIN level: 2 stage: "x" }'
    text += 'layer { name: "a" include { phase: TRAIN min_level: 2 stage: "x" } }'
    assert names(text) == ["a"]
    assert names(text, "TEST") == names(text, None, 1) == names(text, None, None, []) == []
    net = filter_net(parse_net(text), 1, 3, ["y"])
    assert (net.state.phase, net.state.level, list(net.state.stage)) == (1, 3, ["y"])


def test_exclude_and_include():
    text = 'layer { name: "a" exclude { phase: TEST } } layer { name: "b" include { max_level: 1 not_stage: "s" } }'
    assert names(text, "train", 0, []) == ["a", "b"]
    assert names(text, 1, 1, []) == ["b"]
    assert names(text, 0, 2, ["s"]) == ["a"]


def test_both_kinds_of_rules_are_refused():
    with pytest.raises(NetError, match=r'layer "p" \(Power\)'):
        names('layer { name: "p" type: "Power" include { phase: TEST } exclude { stage: "x" } }', 0)


@pytest.mark.parametrize("phase", ["VALIDATE", 2])
def test_unknown_phase(phase):
    with pytest.raises(NetError, match=str(phase)):
        names("", phase)


def test_states_of_files_and_solvers():
    net = parse_net('state { level: 3 stage: "f" }')
    assert file_state(net, "TEST", 1, ["c"]) == (1, 1, ["f", "c"])
    own = parse_message('level: 5 stage: "s"', "NetState")
    assert solver_state(net, 0) == (0, 3, ["f"])
    assert solver_state(net, 0, own) == (0, 5, ["f", "s"])
    assert solver_state(parse_net("state { phase: TEST }"), "TRAIN") == (1, 0, [])


def test_a_loss_that_is_also_read():
    net = insert_splits(
        parse_net(
            'layer { name: "i" type: "Input" top: "x" }'
            'layer { name: "l" type: "Reduction" bottom: "x" top: "l" loss_weight: 2 }'
            'layer { name: "s" type: "Silence" bottom: "l" }'
        )
    )
    assert [layer.name for layer in net.layer] == ["i", "l", "l_l_0_split", "s"]
    assert list(net.layer[1].loss_weight) == [] and list(net.layer[2].loss_weight) == [2, 0]
    assert list(net.layer[2].top) == ["l_l_0_split_0", "l_l_0_split_1"] and net.layer[3].bottom[0] == "l_l_0_split_1"


def test_in_place_layers_start_a_new_version_of_a_blob():
    net = insert_splits(
        parse_net(
            'layer { name: "i" type: "Input" top: "x" } layer { name: "r" type: "ReLU" bottom: "x" top: "x" }'
            'layer { name: "a" bottom: "x" top: "a" } layer { name: "b" bottom: "x" top: "b" }'
        )
    )
    assert [layer.name for layer in net.layer] == ["i", "r", "x_r_0_split", "a", "b"]


@pytest.mark.parametrize(
    ("text", "said"),
    [
        (
            'layer { name: "b" type: "ReLU" bottom: "dat" }',
            r'layer "b" \(ReLU\): unknown bottom "dat"; did you mean "data"',
        ),
        ('layer { name: "b" type: "ReLU" bottom: "y" } layer { top: "y" }', "a layer after it makes it"),
    ],
)
def test_unknown_bottoms(text, said):
    with pytest.raises(NetError, match=said):
        insert_splits(parse_net('layer { name: "d" top: "data" }' + text))
