"""Which outputs of a net are accuracies, and who shows them."""

from __future__ import annotations

from types import SimpleNamespace

import numpy as np

from protocaffe.cli import progress
from protocaffe.layer import Layer, layer_types, register
from protocaffe.scoring import accuracies
from tests.support.nets import LABEL, LOSS, SMALL, make


def accuracy(tops: str, more: str = "") -> str:
    return f'layer {{ name: "{tops}" type: "Accuracy" bottom: "ip" bottom: "label" {tops_of(tops)} {more} }}\n'


def tops_of(names: str) -> str:
    return " ".join(f'top: "{name}"' for name in names.split())


def test_the_layers_type_decides_not_the_name():
    loss = LOSS.replace('top: "loss"', 'top: "stop_accident"')
    assert accuracies(make(LABEL + SMALL + loss)) == []
    five = accuracy("five", "accuracy_param { top_k: 5 }")
    net = make(LABEL + SMALL + accuracy("right") + loss + five + accuracy("whole classes"))
    assert accuracies(net) == [name for name in net.outputs if name in ("right", "five", "whole")]
    assert len(accuracies(net)) == 3 and "classes" in net.outputs


def test_two_layers_of_one_name_are_both_accuracies():
    five = accuracy("five", "accuracy_param { top_k: 5 }").replace('name: "five"', 'name: "right"')
    assert accuracies(make(LABEL + SMALL + accuracy("right") + five)) == ["five", "right"]


class Half(Layer):
    """A layer of one's own."""

    is_accuracy = True

    def reshape(self, bottom, top):
        for blob in top:
            blob.reshape(())

    def forward(self, bottom, top):
        pass


def test_layers_of_ones_own_may_be_accuracies(monkeypatch):
    monkeypatch.setattr("protocaffe.layer._registry", dict(layer_types()))
    register("Half")(Half)
    register("NoTop")(type("NoTop", (Half,), {}))
    own = 'layer { name: "own" type: "Half" bottom: "ip" top: "half" top: "other" }'
    none = 'layer { name: "none" type: "NoTop" bottom: "ip" }'
    assert accuracies(make(SMALL + own + none)) == ["half"]
    python = f'type: "Python" python_param {{ module: "{__name__}" layer: "Half" }}'
    assert accuracies(make(SMALL + f'layer {{ name: "p" bottom: "ip" top: "half" {python} }}')) == ["half"]
    monkeypatch.setattr(Half, "is_accuracy", False)
    assert accuracies(make(SMALL + own)) == []


def test_what_is_no_output_is_none():
    silence = 'layer { name: "quiet" type: "Silence" bottom: "right" }'
    assert accuracies(make(LABEL + SMALL + accuracy("right") + silence)) == []


def test_the_bar_shows_those_of_the_last_test():
    nets = [make(LABEL + SMALL + LOSS + accuracy(name)) for name in ("right", "other")]
    solver = SimpleNamespace(test_nets=nets, test_scores=[{"right": np.array(0.5), "loss": np.array(2.0)}, {}])
    assert progress.scores(solver) == ["right 0.5000"]
