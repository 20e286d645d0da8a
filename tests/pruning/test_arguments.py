"""PruningParameter to arguments: what it means, and every way in which it cannot be."""

import numpy as np
import pytest
from google.protobuf import text_format

from protocaffe.errors import ParameterError
from protocaffe.io import schema
from protocaffe.pruning import PruningArguments, Weights, choose_masks, n_of_m_masks, pruning_arguments

LAYERS = ["conv1", "conv2", "ip1"]


def read(text):
    return pruning_arguments(text_format.Parse(text, schema.PruningParameter()), LAYERS)


def test_defaults():
    assert read("sparsity: 0.9") == PruningArguments("magnitude", "global", 0.9)


def test_everything():
    got = read(
        'method: SECOND_ORDER scope: ERK sparsity: 0.95 min_keep: 10 layer { name: "conv1" sparsity: 0.1 } '
        'layer { name: "ip1" exclude: true }'
    )
    assert got == PruningArguments("second-order", "erk", 0.95, {"conv1": 0.1}, 10, ("ip1",))
    assert got.needs_gradients
    assert [read(f"method: {m} sparsity: 0").needs_gradients for m in ("MAGNITUDE", "RANDOM", "FIRST_ORDER")] == [
        False, False, True,
    ]  # fmt: skip


def test_n_of_m():
    assert read('n: 2 m: 4 layer { name: "conv1" exclude: true }') == PruningArguments(exclude=("conv1",), n=2, m=4)


def test_floats_are_the_decimals_that_stand_in_the_file():
    """0.1 as a float is 0.10000000149: of a million weights one more would go."""
    w = [Weights("conv1", np.arange(1_000_000, dtype=np.float32))]
    (mask,) = read("sparsity: 0.1").masks(w, [w[0].values])
    assert int((~mask).sum()) == 100_000


def test_masks_are_those_of_the_functions():
    rng = np.random.default_rng(0)
    w = [Weights(n, rng.standard_normal((6, 8)).astype(np.float32)) for n in LAYERS]
    scores = [rng.random((6, 8)) for _ in LAYERS]
    got = read('scope: ERK sparsity: 0.5 min_keep: 3 layer { name: "conv1" sparsity: 0.25 }').masks(w, scores)
    assert all(map(np.array_equal, got, choose_masks(w, scores, 0.5, "erk", {"conv1": 0.25}, 3)))
    got = read('n: 1 m: 4 layer { name: "conv2" exclude: true }').masks(w, scores)
    assert all(map(np.array_equal, got, n_of_m_masks(w, scores, 1, 4, ["conv2"])))


@pytest.mark.parametrize(
    ("text", "message"),
    [
        ("", r"sparsity must be given: the share of weights that are to go \(or n and m\)"),
        ("sparsity: 1", r"sparsity must be a share in \[0, 1\), got 1"),
        ("sparsity: -0.5", "sparsity must be a share .* got -0.5"),
        ("sparsity: nan", "sparsity must be a share .* got nan"),
        ("sparsity: 0.5 initial_sparsity: 1.5", "initial_sparsity must be a share .* got 1.5"),
        ('sparsity: 0.5 layer { name: "conv1" sparsity: 1.5 }', 'the sparsity of layer "conv1" must be .* got 1.5'),
        ('sparsity: 0.5 layer { name: "conv3" sparsity: 0.5 }', 'no prunable layer "conv3"; did you mean "conv'),
        ('sparsity: 0.5 layer { name: "x" exclude: true }', 'no prunable layer "x"; prunable are conv1, conv2, ip1'),
        ("sparsity: 0.5 layer { exclude: true }", "layer needs a name"),
        ('sparsity: 0.5 layer { name: "ip1" }', 'layer "ip1" needs either a sparsity or exclude: true'),
        ('sparsity: 0.5 layer { name: "ip1" exclude: true sparsity: 0.5 }', "needs either a sparsity or exclude"),
        ('sparsity: 0.5 layer { name: "ip1" exclude: true } layer { name: "ip1" sparsity: 0 }', '"ip1" is given twice'),
        ("sparsity: 0.5 min_keep: -1", "min_keep must be a share or a number of weights, got -1"),
        ("n: 2", "n and m must be given together"),
        ("m: 4 sparsity: 0.5", "n and m must be given together"),
        ("n: 4 m: 4", "n must be at least 1 and less than m, got n 4 and m 4"),
        ("n: 0 m: 4", "got n 0 and m 4"),
        ("n: 2 m: 4 sparsity: 0.5", "sparsity cannot be given beside them"),
        ("n: 2 m: 4 initial_sparsity: 0.5", "initial_sparsity cannot be given beside them"),
        ("n: 2 m: 4 scope: UNIFORM", "scope cannot be given beside them"),
        ("n: 2 m: 4 min_keep: 1", "min_keep cannot be given beside them"),
        ('n: 2 m: 4 layer { name: "ip1" sparsity: 0.5 }', 'layer "ip1" cannot have a sparsity of its own'),
    ],
)
def test_what_cannot_be(text, message):
    with pytest.raises(ParameterError, match=f"^pruning_param: .*{message}"):
        read(text)
