"""check_layer: everything that a new layer type has to stand, in one call."""

from __future__ import annotations

from collections.abc import Callable, Mapping, Sequence
from itertools import pairwise
from typing import Any

import numpy as np
import pytest

from protocaffe.errors import NetError, ProtocaffeError
from protocaffe.io import prototxt
from protocaffe.net import Net

from . import backends
from .bench import Bench, layer_param

Shapes = Mapping[str, Sequence[int]]
#: |got - wanted| <= atol + rtol max|wanted|
TOLERANCE = {"float32": (1e-5, 1e-6), "float64": (1e-11, 1e-12)}
STEP = 1e-4  # of central differences, in double
GAP = 0.05  # smallest distance from a kink, and half that between values that must not tie
SAMPLED = 40  # elements of an array whose derivative is taken one by one


def check_layer(
    text: str,
    shapes: Shapes,
    reference: Callable[..., Any],
    gradient: Callable[..., Sequence[Any]] | None = None,
    *,
    kinks: Sequence[float] | str = (),
    inputs: Mapping[str, Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]] | None = None,
    params: Sequence[np.ndarray] | None = None,
    reshaped: Shapes | str | None = "batch",
    large: Shapes | None = None,
    passive_tops: Sequence[str] = (),
    phase: int = 0,
    backend: str | None = None,
    tolerance: Mapping[str, tuple[float, float]] | None = None,
    seed: int = 0,
) -> None:
    """Check a layer type on every backend that is present (or on ``backend``).

    Parameters
    ----------
    text : the layer as a prototxt has it, ``layer { type: "ReLU" bottom: "x" top: "y" }``
    shapes : of the bottoms, by name, in order; small, since derivatives are taken element by element
    reference : ``reference(*bottoms, *parameters) -> top or tuple of tops``, plain float64 NumPy
    gradient : ``gradient(arrays, top_diffs) -> gradients`` of the bottoms and parameters, None for those without;
        where it is not given the reference is differentiated numerically
    kinks : values near which the function is not smooth, or "ties" where equal inputs are (max pooling)
    inputs : for bottoms that are no random numbers, such as labels: ``draw(rng, shape) -> values``
    params : values of the parameters; random unless given
    reshaped : shapes for a second pass; one more along axis 0 unless given, None for no such pass
    large : shapes big enough for several threads, for the check that their number changes no bit
    passive_tops : tops whose diffs the layer ignores

    Checked are the forward pass; the gradients, against ``gradient`` and against central differences of the layer's own
    double build; that bottoms' diffs are written over and parameters' diffs added to; that what needs no gradient is
    left alone; that a second run and any number of threads give the same bits; other shapes; in-place use where the
    type allows it, and its refusal where not; the layer as part of a net.
    """
    for name in [backend] if backend else backends.present():
        check = _Check(name, text, reference, gradient, kinks, inputs or {}, phase, seed, tolerance or TOLERANCE)
        check.passive = set(passive_tops)
        check.given_params = params
        check.run(shapes)
        if reshaped is not None:
            check.other_shapes(_one_more(shapes) if isinstance(reshaped, str) else reshaped)
        check.in_place(shapes)
        check.in_net(shapes)
        if large is not None and hasattr(check.backend, "threads"):
            check.threads(large)


def check_error(
    error: type[ProtocaffeError], match: str, text: str, shapes: Shapes, inputs: Sequence[Any] = (), **more: Any
) -> None:
    """Check that the layer refuses to be built (with ``inputs``: to run), naming itself and its type."""
    param = layer_param(text)
    with pytest.raises(error, match=match) as caught:
        bench = Bench(text, shapes, backends.backend("cpu"), **more)
        bench.forward([np.asarray(v) for v in inputs])
    assert type(caught.value) is error
    assert str(caught.value).startswith(f'layer "{param.name}" ({param.type}): '), caught.value


def labels(classes: int, *extra: int) -> Callable[[np.random.Generator, tuple[int, ...]], np.ndarray]:
    """``draw`` for labels 0 to classes - 1; with ``extra``, some of these too."""
    pool = [*range(classes), *extra]
    return lambda rng, shape: rng.choice(pool, shape).astype(np.float64)


def _one_more(shapes: Shapes) -> dict[str, tuple[int, ...]]:
    return {name: (shape[0] + 1, *shape[1:]) for name, shape in shapes.items()}


def _draw(rng: np.random.Generator, shape: Sequence[int], kinks: Sequence[float] | str) -> np.ndarray:
    """Random values that float32 holds exactly, away from kinks."""
    shape = tuple(shape)
    if isinstance(kinks, str):
        count = int(np.prod(shape))
        x = (rng.permutation(count).reshape(shape) - count // 2) * (GAP / 2)
    else:
        x = rng.standard_normal(shape)
        for kink in kinks:
            near = np.abs(x - kink) < GAP
            x = np.where(near, kink + np.where(x < kink, -GAP, GAP) + (x - kink), x)
        for a, b in pairwise(sorted(kinks)):
            assert b - a > 4 * GAP, "kinks lie too close to each other"
    return x.astype(np.float32).astype(np.float64)


def numeric_gradient(f: Callable[[], float], x: np.ndarray, where: Sequence[tuple[int, ...]]) -> np.ndarray:
    """Central differences of ``f`` at the elements ``where`` of ``x``, which is changed in passing."""
    out = np.empty(len(where))
    for i, at in enumerate(where):
        old = x[at]
        x[at] = old + STEP
        above = f()
        x[at] = old - STEP
        out[i] = (above - f()) / (2 * STEP)
        x[at] = old
    return out


def _tuple(values: Any) -> tuple[np.ndarray, ...]:
    return tuple(values) if isinstance(values, (tuple, list)) else (values,)


class _Check:
    def __init__(
        self, name: str, text: str, reference: Any, gradient: Any, kinks: Any, inputs: Any, phase: int, seed: int,
        tolerance: Any,
    ) -> None:  # fmt: skip
        self.name, self.text, self.phase = name, text, phase
        self.backend = backends.backend(name)
        self.reference, self.given_gradient = reference, gradient
        self.kinks, self.inputs = kinks, inputs
        self.rtol, self.atol = tolerance[self.backend.real.name]
        # A reference that is differentiated numerically is good to about nine digits.
        self.loose = (0.0, 0.0) if gradient is not None else (max(self.rtol, 1e-7), max(self.atol, 1e-8))
        self.rng = np.random.default_rng(seed)
        self.passive: set[str] = set()
        self.given_params: Sequence[np.ndarray] | None = None

    # ------------------------------------------------------------------------------------------------------- helpers
    def close(self, got: Any, wanted: Any, what: str, rtol: float = 0.0, atol: float = 0.0) -> None:
        got, wanted = np.asarray(got, np.float64), np.asarray(wanted, np.float64)
        where = f"{self.name}: {what}"
        assert got.shape == wanted.shape, f"{where}: shape {got.shape}, wanted {wanted.shape}"
        if not wanted.size:
            return
        allowed = (atol or self.atol) + (rtol or self.rtol) * float(np.abs(wanted).max())
        wrong = ~(np.abs(got - wanted) <= allowed)
        if wrong.any():
            at = tuple(int(i) for i in np.argwhere(wrong)[0])
            raise AssertionError(
                f"{where}: {wrong.sum()} of {wrong.size} are off by more than {allowed:.2g}; "
                f"first {list(at)}: got {got[at]!r}, wanted {wanted[at]!r}"
            )

    def same(self, got: Sequence[np.ndarray], wanted: Sequence[np.ndarray], what: str) -> None:
        for i, (a, b) in enumerate(zip(got, wanted, strict=True)):
            assert a.tobytes() == b.tobytes(), f"{self.name}: {what} ({i}) differs in some bits"

    def bench(self, shapes: Shapes, inplace: bool = False) -> Bench:
        bench = Bench(self.text, shapes, self.backend, self.phase, inplace=inplace)
        for i, blob in enumerate(bench.params):
            given = None if self.given_params is None else self.given_params[i]
            blob.data[...] = _draw(self.rng, blob.shape, ()) if given is None else given
        return bench

    def draw(self, bench: Bench) -> list[np.ndarray]:
        return [
            self.inputs[b.name](self.rng, b.shape) if b.name in self.inputs else _draw(self.rng, b.shape, self.kinks)
            for b in bench.bottom
        ]

    def wanted(self, bench: Bench, values: list[np.ndarray]) -> tuple[np.ndarray, ...]:
        params = [blob.data.astype(np.float64) for blob in bench.params]
        return _tuple(self.reference(*values, *params))

    def gradient(self, bench: Bench, values: list[np.ndarray], top_diffs: list[np.ndarray]) -> list[Any]:
        arrays = [v.copy() for v in values] + [blob.data.astype(np.float64) for blob in bench.params]
        if self.given_gradient is not None:
            return list(self.given_gradient(tuple(arrays), tuple(top_diffs)))
        active = [blob.name not in self.passive for blob in bench.top]

        def value() -> float:
            tops = _tuple(self.reference(*arrays))
            return float(sum(np.sum(t * d) for t, d, a in zip(tops, top_diffs, active, strict=True) if a))

        wanted = [*self.down(bench), *(True for _ in bench.params)]
        return [
            numeric_gradient(value, a, list(np.ndindex(a.shape))).reshape(a.shape) if want else None
            for a, want in zip(arrays, wanted, strict=True)
        ]

    @staticmethod
    def down(bench: Bench) -> list[bool]:
        return [bench.layer.allow_force_backward(i) for i in range(len(bench.bottom))]

    # -------------------------------------------------------------------------------------------------------- checks
    def run(self, shapes: Shapes) -> None:
        """All that needs one set of shapes."""
        bench = self.bench(shapes)
        self.values, self.bench_run = self.draw(bench), bench
        self.pass_through(bench, self.values, "")
        if any(self.down(bench)) or bench.params:
            self.partial(bench)
            if self.name in backends.CHECK_BUILDS:
                self.numeric(bench)
        for i, down in enumerate(self.down(bench)):
            if not down:
                with pytest.raises(ProtocaffeError):
                    bench.backward(self.top_diffs, [j == i for j in range(len(bench.bottom))], before=self.before)

    def pass_through(self, bench: Bench, values: list[np.ndarray], what: str) -> None:
        """Forward and backward against reference and gradient; twice, with the same bits."""
        for blob in bench.top:
            if not any(blob.values.data is b.values.data for b in (*bench.bottom, *bench.params)):
                blob.data[...] = np.nan
        tops = bench.forward(values)
        inplace = any(t is b for t in bench.top for b in bench.bottom)
        for blob, got, want in zip(bench.top, tops, self.wanted(bench, values), strict=True):
            self.close(got, want, f'top "{blob.name}"{what}')
        self.same(bench.forward(values), tops, f"a second forward pass{what}")
        if not inplace:
            self.same([b.data for b in bench.bottom], [v.astype(self.backend.real) for v in values], "a bottom")
        self.tops = tops
        self.top_diffs = [_draw(self.rng, t.shape, ()) for t in tops]
        self.before = [_draw(self.rng, blob.shape, ()) for blob in bench.params]
        down = self.down(bench)
        if not any(down) and not bench.params:
            self.grads: tuple[list[np.ndarray], list[np.ndarray]] = ([], [])
            return
        self.grads = bench.backward(self.top_diffs, down, before=self.before)
        wanted = self.gradient(bench, values, self.top_diffs)
        self.compare(bench, wanted, what)
        if inplace:
            bench.forward(values)
        bench.layer.reshape(bench.bottom, bench.top)  # to the shapes it has, which must lose nothing
        again = bench.backward(self.top_diffs, down, before=self.before)
        self.same([*again[0], *again[1]], [*self.grads[0], *self.grads[1]], f"a second backward pass{what}")

    def compare(self, bench: Bench, wanted: list[Any], what: str) -> None:
        count = len(bench.bottom)
        for blob, got, want, down in zip(bench.bottom, self.grads[0], wanted[:count], self.down(bench), strict=True):
            if down:
                self.close(got, want, f'diff of bottom "{blob.name}"{what}', *self.loose)
        for blob, got, want, old in zip(bench.params, self.grads[1], wanted[count:], self.before, strict=True):
            what_was = f'diff of parameter "{blob.name}" added to what was there{what}'
            self.close(got, want + old, what_was, *self.loose)

    def partial(self, bench: Bench) -> None:
        """What needs no gradient keeps its diff, and the rest does not notice."""
        down = self.down(bench)
        full, every = [*self.grads[0], *self.grads[1]], [*down, *(True for _ in bench.params)]
        names = [*(f'bottom "{b.name}"' for b in bench.bottom), *(f'parameter "{b.name}"' for b in bench.params)]
        untouched = [np.full(b.shape, 7, self.backend.real) for b in bench.bottom]
        untouched += [np.asarray(values, self.backend.real) for values in self.before]
        for skip, name in enumerate(names):
            shared = skip < len(down) and any(bench.bottom[skip].values.diff is t.values.diff for t in bench.top)
            if not every[skip] or shared:
                continue
            some = [want and i != skip for i, want in enumerate(every)]
            diffs = bench.backward(self.top_diffs, some[: len(down)], some[len(down) :], 7, self.before)
            got = [*diffs[0], *diffs[1]]
            self.same([got[skip]], [untouched[skip]], f"the diff of {name}, which is not wanted,")
            for i, want in enumerate(some):
                if want:
                    self.close(got[i], full[i], f"the diff of {names[i]} with that of {name} not wanted")

    def numeric(self, bench: Bench) -> None:
        """The layer's gradients against central differences of its own forward pass in double."""
        active = [blob.name not in self.passive for blob in bench.top]
        arrays = [v.copy() for v in self.values]
        params = [blob.data.copy() for blob in bench.params]

        def value() -> float:
            for blob, values in zip(bench.params, params, strict=True):
                if not blob.statistic:
                    blob.data[...] = values
            tops = bench.forward(arrays)
            return float(sum(np.sum(t * d) for t, d, a in zip(tops, self.top_diffs, active, strict=True) if a))

        checked = [(a, g, b.name) for a, g, b, want in zip(arrays, self.grads[0], bench.bottom, self.down(bench),
                                                           strict=True) if want]  # fmt: skip
        checked += [(a, g - old, b.name) for a, g, old, b in zip(params, self.grads[1], self.before, bench.params,
                                                                 strict=True) if not b.statistic]  # fmt: skip
        for x, grad, name in checked:
            every = list(np.ndindex(x.shape))
            some = [every[i] for i in sorted(self.rng.permutation(len(every))[:SAMPLED])]
            got = np.array([grad[at] for at in some])
            scale = float(np.abs(grad).max(initial=1.0))
            self.close(got, numeric_gradient(value, x, some), f'numeric gradient of "{name}"', 1e-12, 1e-7 * scale)
            self.directional(value, x, grad, name)
        bench.forward(self.values)

    def directional(self, value: Callable[[], float], x: np.ndarray, grad: np.ndarray, name: str) -> None:
        """All elements at once, along a random direction."""
        direction, old = self.rng.uniform(-1, 1, x.shape), x.copy()
        x[...] = old + STEP * direction
        above = value()
        x[...] = old - STEP * direction
        numeric = (above - value()) / (2 * STEP)
        x[...] = old
        wanted = float(np.sum(grad * direction))
        scale = float(np.abs(grad * direction).sum())
        self.close(wanted, numeric, f'directional derivative along "{name}"', 1e-12, 1e-6 * scale + 1e-8)

    def other_shapes(self, shapes: Shapes) -> None:
        """Other shapes, and back: the first ones give the first bits."""
        bench, values = self.bench_run, self.values
        first = bench.forward(values)
        original = {blob.name: blob.shape for blob in bench.bottom}
        bench.reshape(shapes)
        self.pass_through(bench, self.draw(bench), f" at {dict(shapes)}")
        bench.reshape(original)
        self.same(bench.forward(values), first, "the first shapes again")

    def in_place(self, shapes: Shapes) -> None:
        """In place, where the type allows it; elsewhere a net refuses it."""
        layer = self.bench_run.layer
        if len(self.bench_run.bottom) != 1 or len(self.bench_run.top) != 1:
            return
        if layer.inplace_ok:
            bench = self.bench(shapes, inplace=True)
            for blob, other in zip(bench.params, self.bench_run.params, strict=True):
                blob.data[...] = other.data
            self.pass_through(bench, self.draw(bench), " in place")
            return
        param = layer_param(self.text)
        param.top[0] = param.bottom[0]
        with pytest.raises(NetError, match=r"cannot work in place"):
            self.net(shapes, param)

    def net(self, shapes: Shapes, param: Any) -> Net:
        text = "".join(
            f'layer {{ name: "in_{name}" type: "Input" top: "{name}" input_param {{ shape {{ '
            f"{' '.join(f'dim: {d}' for d in shape)} }} }} }}\n"
            for name, shape in shapes.items()
        )
        net = prototxt.parse_net(f"force_backward: true\n{text}")
        net.layer.append(param)
        return Net(net, self.phase, backend=self.backend, seed=1)

    def in_net(self, shapes: Shapes) -> None:
        """The layer as part of a net."""
        net = self.net(shapes, layer_param(self.text))
        layer = net.layers[-1]
        for blob, values in zip(layer.blobs, self.bench_run.params, strict=True):
            blob.data[...] = values.data
        net.forward(**{b.name: v for b, v in zip(self.bench_run.bottom, self.values, strict=True)})
        for name, want in zip(net.top_names[layer.name], self.wanted(self.bench_run, self.values), strict=True):
            self.close(net.blobs[name].data, want, f'top "{name}" in a net')
        if not any(self.down(self.bench_run)):
            return
        diffs = [_draw(self.rng, blob.shape, ()) for blob in self.bench_run.top]
        net.clear_param_diffs()
        net.backward(**dict(zip(net.top_names[layer.name], diffs, strict=True)))
        wanted = self.gradient(self.bench_run, self.values, diffs)
        for blob, want, down in zip(self.bench_run.bottom, wanted, self.down(self.bench_run), strict=False):
            if down:
                self.close(net.blobs[blob.name].diff, want, f'diff of bottom "{blob.name}" in a net', *self.loose)
        for blob, want in zip(layer.blobs, wanted[len(self.bench_run.bottom) :], strict=True):
            self.close(blob.diff, want, f'diff of parameter "{blob.name}" in a net', *self.loose)

    def threads(self, shapes: Shapes) -> None:
        """The number of threads changes no bit."""
        bench, before = self.bench(shapes), self.backend.threads
        values, down = self.draw(bench), self.down(bench)
        results = []
        try:
            for count in (1, 2, 3):
                self.backend.threads = count
                tops = bench.forward(values)
                diffs = [_draw(np.random.default_rng(1), t.shape, ()) for t in tops]
                old = [np.ones(blob.shape) for blob in bench.params]
                grads = bench.backward(diffs, down, before=old) if any(down) or old else ([], [])
                results.append([*tops, *(g for g, d in zip(grads[0], down, strict=False) if d), *grads[1]])
        finally:
            self.backend.threads = before
        for count, result in zip((2, 3), results[1:], strict=True):
            self.same(result, results[0], f"a result with {count} threads instead of 1")
