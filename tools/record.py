"""Make the records of records/: train a recipe of models/ for each seed, store the net compressed, score that.

    protocaffe data mnist --border 1; protocaffe data mnist --border 2; protocaffe data fashion-mnist
    python tools/record.py lenet_108x [--seeds 1 2 3] [--gpu] [--records records] [--work FOLDER]

For each seed: the dense net that it is compared with (or begins from), trained by its own solver file and kept in the
work folder; the sparse net, as its solver file says, or with channels taken out; what the outputs do not depend on
cleared away; one compressed file (BatchNorm statistics averaged anew for it), read back and scored on the test set; and
a JSON file with what it is worth, which ``protocaffe verify records`` checks.
"""

from __future__ import annotations

import argparse
import datetime
import hashlib
import json
import subprocess
import time
from dataclasses import dataclass
from pathlib import Path
from typing import Any

import protocaffe
from protocaffe.io import atomic_write, prototxt, to_text
from protocaffe.pruning import (
    PruningArguments,
    apply,
    clear_dead,
    edit_net,
    plan_shrink,
    prune_by,
    recalibrate,
    sparsity_of_net,
)
from protocaffe.pruning.compress import compress_net

BATCHES = 20


@dataclass(frozen=True)
class Recipe:
    """Solver files below models/: of the sparse net, of the dense one; what the first begins from.

    ``begins`` is "dense", the name of another recipe (its record of the same seed), or empty: from the start.
    ``channels`` is the share of the channels inside the residual blocks that is taken out before training.
    """

    sparse: str
    dense: str
    begins: str = ""
    channels: float = 0.0
    bits: int = 5


RESNET = "resnet18_fashion_mnist"
RECIPES = {
    "lenet_108x": Recipe("lenet/sparse_108x_solver", "lenet/dense_shifted_solver"),
    "lenet_180x": Recipe("lenet/sparse_180x_solver", "lenet/dense_shifted_solver", "lenet_108x"),
    "lenet_300x": Recipe("lenet/sparse_300x_solver", "lenet/dense_shifted_solver", "lenet_108x"),
    "lenet_300_100_80x": Recipe("lenet_300_100/sparse_80x_solver", "lenet_300_100/solver"),
    "mnist_cnn_95": Recipe("mnist_cnn/sparse_95_solver", "mnist_cnn/solver"),
    "mnist_cnn_99": Recipe("mnist_cnn/sparse_99_solver", "mnist_cnn/solver"),
    "resnet18_90": Recipe(f"{RESNET}/sparse_90_solver", f"{RESNET}/solver", "dense"),
    "resnet18_98": Recipe(f"{RESNET}/sparse_98_solver", f"{RESNET}/solver", "dense"),
    "resnet18_half_macs": Recipe(f"{RESNET}/small_solver", f"{RESNET}/solver", "dense", 0.53),
    "resnet18_quarter_macs": Recipe(f"{RESNET}/small_solver", f"{RESNET}/solver", "dense", 0.79),
}


def solver_param(path: str, seed: int, shorten: int, net: Any = None) -> Any:
    """A solver file's parameters with a seed, without tests, snapshots and lines on the way; all its iterations
    divided by ``shorten``."""
    param = prototxt.read_solver(f"models/{path}.prototxt")
    param.max_iter = max(1, param.max_iter // shorten)
    for field, value in param.pruning_param.ListFields():
        if field.name in ("begin_step", "end_step", "freeze_step", "frequency"):
            setattr(param.pruning_param, field.name, max(int(field.name == "frequency"), value // shorten))
    param.random_seed, param.display, param.snapshot = seed, 0, 0
    param.test_interval, param.test_initialization = param.max_iter + 1, False
    if net is not None:
        param.ClearField("net")
        param.net_param.CopyFrom(net)
    return param


def trained(param: Any, weights: Any = None) -> Any:
    """The solver at its end; it began from ``weights``."""
    solver = protocaffe.get_solver(param)
    if weights is not None:
        solver.net.copy_weights(weights)
    solver.step(param.max_iter - solver.iter)
    return solver


def errors_of(model: str | Any, weights: Any, param: Any) -> tuple[int, int]:
    """Wrong answers on the test data of a model, and of how many."""
    from protocaffe.cli.sensitivity import accuracy_of

    net = protocaffe.Net(model, protocaffe.TEST)
    net.copy_from(weights) if isinstance(weights, str | Path) else net.copy_weights(weights)
    items = param.test_iter[0] * next(iter(net.blobs.values())).shape[0]
    wrong = round((1 - accuracy_of(net, param.test_iter[0])) * items)
    net.close()
    return wrong, items


def dense_weights(recipe: Recipe, seed: int, shorten: int, work: Path) -> Path:
    """The dense net's weights, trained unless the work folder has those of the same solver and net."""
    param = solver_param(recipe.dense, seed, shorten)
    text = (to_text(param) + to_text(prototxt.read_net(param.net))).encode()
    path = work / f"{recipe.dense.replace('/', '_')}_seed{seed}_{hashlib.sha256(text).hexdigest()[:12]}.caffemodel"
    if not path.exists():
        solver = trained(param)
        solver.net.save(path)
        solver.close()
    return path


def without_channels(param: Any, weights: Path, share: float) -> tuple[Any, Any]:
    """The net with so many channels fewer inside its residual blocks (Taylor scores), and its weights."""
    full = prototxt.read_net(param.net)
    net = protocaffe.Net(full, protocaffe.TRAIN, seed=0)
    net.copy_from(weights)
    weighted = [layer.name for layer in net.layers if any(blob.prunable for blob in layer.blobs)]
    rest = tuple(name for name in weighted if not (name.startswith("res") and name.endswith("_branch2a")))
    prune_by(net, PruningArguments("taylor-channels", "uniform", share, exclude=rest), net, BATCHES, 0, True)
    plan = plan_shrink(full, net.layer_weights(), backend=net.backend)
    _, small = apply(plan)
    net.close()
    return edit_net(plan, full), small


def make(name: str, seed: int, records: Path, work: Path, commit: str, shorten: int = 1) -> dict[str, Any]:
    """One record: files, and the JSON's content."""
    recipe, start = RECIPES[name], time.perf_counter()
    if recipe.begins in RECIPES:
        before = json.loads((records / f"{recipe.begins}_seed{seed}.json").read_text())
        begins, dense_errors = records / before["weights"], before["dense_errors"]
    else:
        begins, dense_param = dense_weights(recipe, seed, shorten, work), solver_param(recipe.dense, seed, shorten)
        dense_errors, _ = errors_of(dense_param.net, begins, dense_param)
    param, stem = solver_param(recipe.sparse, seed, shorten), f"{name}_seed{seed}"
    model: str = param.net
    whole = parameters_of(model)
    begin = None
    if recipe.channels:
        net, begin = without_channels(param, begins, recipe.channels)
        model = f"{records.name}/{name}.prototxt"
        with atomic_write(records / f"{name}.prototxt") as file:
            file.write(to_text(net).encode())
        param = solver_param(recipe.sparse, seed, shorten, net)
    else:
        net = prototxt.read_net(model)
        if recipe.begins:
            begin = protocaffe.Net(model, protocaffe.TEST, weights=str(begins)).layer_weights()
    solver = trained(param, begin)
    solver.net.save(work / f"{stem}_trained.caffemodel")
    clear_dead(solver.net)
    float_errors, _ = errors_of(net, solver.net.layer_weights(), param)
    path = records / f"{stem}.pcz"
    compress_net(path, solver.net, net, recipe.bits)
    recalibrated = renew_statistics(path, net, recipe.bits)
    device = solver.backend.name
    solver.close()
    wrong, items = errors_of(net, path, param)
    check = protocaffe.Net(net, protocaffe.TEST)
    check.copy_from(path)
    report = sparsity_of_net(check)
    record = {
        "model": model, "weights": path.name, "iterations": param.test_iter[0], "items": items, "errors": wrong,
        "nonzeros": report.nonzeros, "parameters": report.parameters, "zeros": report.zeros,
        "prunable": report.prunable, "bytes": path.stat().st_size, "dense_errors": dense_errors, "seed": seed,
        "commit": commit,
        "solver": f"models/{recipe.sparse}.prototxt", "dense_solver": f"models/{recipe.dense}.prototxt",
        "dense_parameters": whole, "errors_before_sharing": float_errors, "bits": recipe.bits,
        "recalibrated": recalibrated,
        "shorten": shorten, "device": device, "date": datetime.date.today().isoformat(),
        "seconds": round(time.perf_counter() - start),
    }  # fmt: skip
    check.close()
    with atomic_write(records / f"{stem}.json") as file:
        file.write((json.dumps(record, indent=1) + "\n").encode())
    return record


def renew_statistics(path: Path, net: Any, bits: int) -> bool:
    """Average BatchNorm statistics anew now that weights share values; whether the net has any."""
    if not any(layer.type == "BatchNorm" for layer in net.layer):
        return False
    stored = protocaffe.Net(net, protocaffe.TEST, weights=str(path))
    stored.copy_weights(recalibrate(net, stored.layer_weights(), BATCHES, stored.backend))
    compress_net(path, stored, net, bits)
    stored.close()
    return True


def parameters_of(model: str) -> int:
    """How many parameters a net has."""
    net = protocaffe.Net(model, protocaffe.TEST)
    count = sparsity_of_net(net).parameters
    net.close()
    return count


def head() -> str:
    """The commit that is checked out, with "+" where files of the package, the kernels or models/ differ from it."""

    def git(*args: str) -> str:
        return subprocess.run(["git", *args], capture_output=True, text=True, check=True).stdout.strip()

    changed = git("status", "--porcelain", "--", "protocaffe", "kernels", "proto", "models", "tools")
    return git("rev-parse", "HEAD") + ("+" if changed else "")


def main() -> None:
    """Make each record that is asked for, and print what it is worth."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("recipes", nargs="+", choices=RECIPES)
    parser.add_argument("--seeds", type=int, nargs="+", default=[1, 2, 3])
    parser.add_argument("--gpu", action="store_true")
    parser.add_argument("--records", type=Path, default=Path("records"))
    parser.add_argument("--work", type=Path, default=Path("records/work"), help="for the nets that are not compressed")
    parser.add_argument("--shorten", type=int, default=1, metavar="N", help="divide all iterations by N, to try it out")
    parser.add_argument("--commit", help="where there is no git: the commit that runs")
    args = parser.parse_args()
    if args.shorten > 1 and args.records == parser.get_default("records"):
        parser.error("--shorten is to try things out: --records must name another folder")
    if args.gpu:
        protocaffe.set_mode_gpu()
    commit = args.commit or head()
    for folder in (args.records, args.work):
        folder.mkdir(parents=True, exist_ok=True)
    for name in args.recipes:
        for seed in args.seeds:
            r = make(name, seed, args.records, args.work, commit, args.shorten)
            whole, left = r["dense_parameters"], r["nonzeros"]
            errors = f"{r['errors']} errors of {r['items']}, {r['errors_before_sharing']} before weights were shared"
            size = f"non-zeros {left} of {whole} ({whole / left:.1f}x), {r['bytes']} bytes"
            print(f"{name} seed {seed}: {errors}, dense {r['dense_errors']}; {size}; {r['seconds']} s", flush=True)


if __name__ == "__main__":
    main()
