"""Random nets with random pruned channels: shrunk ones compute the same."""

from __future__ import annotations

import numpy as np
from hypothesis import HealthCheck, given, note, settings
from hypothesis import strategies as st

from protocaffe.pruning import apply, plan_shrink
from protocaffe.pruning.compare import build, largest_difference, random_inputs
from tests.support.shrinking import WEIGHTED, conv, data, filters, ip, layer, masked, prune_channels

POINTWISE = {
    "ReLU": "", "TanH": "", "PReLU": "", "Dropout": "", "BatchNorm": "", "Scale": "scale_param { bias_term: true }",
    "Bias": "", "ELU": "", "Power": "power_param { scale: 0.5 shift: 0.1 }",
    "LRN": "lrn_param { norm_region: WITHIN_CHANNEL }",
}  # fmt: skip


class Draft:
    """A net that grows: blobs of 4 axes (name, channels, extent)."""

    def __init__(self, draw) -> None:
        self.draw, self.count = draw, 0
        self.text = data(2, 4, 6, 6)
        self.blobs = [("data", 4, 6)]

    def add(self, kind: str, bottoms, channels: int, extent: int, options: str = "", top=None) -> None:
        self.count += 1
        name = f"x{self.count}"
        self.text += layer(kind, name, bottoms, options)
        self.blobs.append((name, channels, extent))

    def grow(self) -> None:
        """Add one random layer."""
        pick = self.draw
        name, channels, extent = self.blobs[pick(st.integers(max(0, len(self.blobs) - 4), len(self.blobs) - 1))]
        step = pick(
            st.sampled_from(["conv", "conv", "conv", "group", "deconv", "point", "point", "pool", "join", "cut"])
        )
        if step in ("conv", "group", "deconv"):
            group = 1
            if step == "group" or (step == "deconv" and pick(st.booleans())):
                group = pick(st.sampled_from([g for g in (1, 2, 3, channels) if channels % g == 0]))
            outputs = group * pick(st.integers(1, 6 if group == 1 else 2))
            kernel, pad = pick(st.sampled_from([(1, 0), (3, 1), (3, 0), (2, 0), (1, 1)]))
            if step == "deconv":
                pad = 0
            after = extent + kernel - 1 if step == "deconv" else extent + 2 * pad - kernel + 1
            if not 1 <= after <= 8:
                return
            bias = "" if pick(st.booleans()) else "bias_term: false"
            options = f"num_output: {outputs} kernel_size: {kernel} pad: {pad} group: {group} {bias}"
            kind = "Deconvolution" if step == "deconv" else "Convolution"
            self.add(kind, name, outputs, after, f"convolution_param {{ {options} }}")
        elif step == "point":
            kind = pick(st.sampled_from(sorted(POINTWISE)))
            self.add(kind, name, channels, extent, POINTWISE[kind])
        elif step == "pool" and extent >= 3:
            how, pad = pick(st.sampled_from(["MAX", "AVE"])), pick(st.integers(0, 1))
            self.add("Pooling", name, channels, extent + 2 * pad - 2,
                     f"pooling_param {{ pool: {how} kernel_size: 3 pad: {pad} }}")  # fmt: skip
        elif step == "join":
            self.join(name, channels, extent)
        elif step == "cut" and channels > 1:
            point = pick(st.integers(1, channels - 1))
            self.count += 1
            tops = [f"x{self.count}", f"x{self.count}b"]
            self.text += layer("Slice", tops[0], name, f"slice_param {{ slice_point: {point} }}", tops)
            self.blobs += [(tops[0], point, extent), (tops[1], channels - point, extent)]

    def join(self, name: str, channels: int, extent: int) -> None:
        alike = [b for b in self.blobs if b[2] == extent and b[0] != name]
        same = [b for b in alike if b[1] == channels]
        if same and self.draw(st.booleans()):
            how = self.draw(st.sampled_from(["SUM", "SUM", "PROD", "MAX"]))
            other = self.draw(st.sampled_from(same))
            self.add("Eltwise", [name, other[0]], channels, extent, f"eltwise_param {{ operation: {how} }}")
        elif alike:
            other = self.draw(st.sampled_from(alike))
            self.add("Concat", [name, other[0]], channels + other[1], extent)

    def finish(self) -> str:
        """The last blob, and a random earlier one, into inner products; what else is loose is an output."""
        ends = dict.fromkeys([self.blobs[-1][0], self.draw(st.sampled_from(self.blobs))[0]])
        for i, end in enumerate(ends):
            transpose = "transpose: true" if self.draw(st.booleans()) else ""
            if self.draw(st.booleans()):
                self.text += layer("Flatten", f"f{i}", end)
                end = f"f{i}"
            self.text += (
                ip(f"h{i}", end, 5, transpose) + layer("ReLU", f"hr{i}", f"h{i}") + ip(f"o{i}", f"hr{i}", 3, transpose)
            )
        read = {b for line in self.text.splitlines() for b in line.split('bottom: "')[1:]}
        loose = [b[0] for b in self.blobs if not any(r.startswith(b[0] + '"') for r in read)]
        return self.text + "".join(layer("Silence", f"quiet_{b}", b).replace(f'top: "quiet_{b}"', "") for b in loose)


@st.composite
def nets(draw):
    draft = Draft(draw)
    draft.text += conv("x0", "data", 6)
    draft.blobs.append(("x0", 6, 4))
    for _ in range(draw(st.integers(2, 10))):
        draft.grow()
    return draft.finish()


def scrub(made, rng, share, quiet) -> None:
    """Prune random filters; ``quiet``: the share of their biases that become 0 or negative; and lone weights."""
    for one in made.layers:
        if one.type not in WEIGHTED:
            continue
        count = filters(one).shape[0]
        pruned = np.flatnonzero(rng.random(count) < share)
        prune_channels(one, pruned.tolist())
        mask = one.blobs[0].mask & (rng.random(one.blobs[0].shape) > 0.1)
        one.blobs[0].mask = mask
        if len(one.blobs) > 1:
            bias = one.blobs[1].data
            for c in pruned:
                if rng.random() < quiet:
                    bias[c] = -abs(bias[c]) * (rng.random() < 0.5)


@settings(max_examples=150, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True)
@given(nets(), st.integers(0, 1000), st.sampled_from([0.2, 0.5, 0.8]), st.sampled_from([0, 0.5, 1]))
def test_random_nets(text, seed, share, quiet):
    note(text)
    made = masked(text, {}, seed)
    scrub(made, np.random.default_rng(seed), share, quiet)
    plan = plan_shrink(made.param, made.layer_weights(), backend=made.backend)
    small, weights = apply(plan)
    after = build(small, weights, made.backend)
    inputs = random_inputs(made, seed)
    values = made.forward(**inputs)
    if all(np.isfinite(v).all() for v in values.values()):
        assert largest_difference(made, after, inputs) < 1e-9
    for change in plan.layers:
        assert 1 <= change.outputs[1] <= change.outputs[0] and change.stay <= change.pruned
    assert sum(s.count for s in plan.stays) == sum(c.stay for c in plan.layers)
    again = plan_shrink(small, weights, backend=made.backend)
    assert largest_difference(after, build(*apply(again), made.backend), inputs) < 1e-9


def test_a_random_net_loses_channels():
    """The strategy makes nets that shrink: the test above does not hold by doing nothing."""
    removed = []

    @settings(max_examples=30, deadline=None, suppress_health_check=list(HealthCheck), derandomize=True, database=None)
    @given(nets(), st.integers(0, 1000))
    def count(text, seed):
        made = masked(text, {}, seed)
        scrub(made, np.random.default_rng(seed), 0.5, 0.5)
        removed.append(plan_shrink(made.param, made.layer_weights(), backend=made.backend).removed)

    count()
    assert np.mean(removed) > 3
