"""``--images FOLDER`` of prune and shrink: reconstruction, distillation and agreement, from images without labels."""

from __future__ import annotations

from pathlib import Path
from typing import TYPE_CHECKING, Any

import click
import numpy as np

from protocaffe.cli.common import stdout_table
from protocaffe.cli.progress import bar
from protocaffe.errors import DataError, ParameterError

if TYPE_CHECKING:
    from collections.abc import Mapping

    from protocaffe.io.image_folder import Preprocessing
    from protocaffe.net import Net
    from protocaffe.pruning.distill import Agreement

#: of the images, the part on which agreement is measured and nothing else
HELD_OUT = 5
_OPTIONS = (
    click.option("--images", metavar="FOLDER", help="Unlabelled images: measure on them how far the pruned net agrees "
                 "with the original, and for --reconstruct and --distill. The model must be a deploy prototxt."),
    click.option("--held-out", metavar="FOLDER", help="Measure on these images, and fit to all of --images. Default: a "
                 "fifth of --images is held out."),
    click.option("--reconstruct", is_flag=True,
                 help="Refit each pruned layer's weights to the original's outputs on the images (least squares)."),
    click.option("--distill", type=click.IntRange(min=0), default=0, metavar="N",
                 help="Then train N iterations towards the original's outputs on the images."),
    click.option("--distill-at", multiple=True, metavar="BLOB",
                 help="With --distill: towards this blob inside the original, too; it must have kept its shape."),
    click.option("--recalibrate-images", is_flag=True,
                 help="Estimate BatchNorm statistics anew on the images (after --reconstruct, before --distill)."),
    click.option("--max-images", type=click.IntRange(min=HELD_OUT), default=256, show_default=True,
                 help="Read so many images of a folder at most."),
    click.option("--ridge", type=click.FloatRange(min=0, min_open=True),
                 help="With --reconstruct: how firmly weights are held where images say little of them. Default: 0.1."),
    click.option("--distill-rate", type=click.FloatRange(min=0, min_open=True),
                 help="With --distill: the first learning rate, of Adam. Default: 0.001."),
    click.option("--resize", metavar="H,W", help="Resize images to this and cut the input's size out of the centre. "
                 "Default: resize to the input's size."),
    click.option("--swap", "--channel-swap", "swap", metavar="LIST",
                 help="Order of the images' channels, read as R, G, B. Default: 2,1,0 for three channels."),
    click.option("--raw-scale", type=float, default=255.0, show_default=True,
                 help="Multiply images' values, 0 to 1, by this before the mean is subtracted."),
    click.option("--mean", metavar="B,G,R|FILE", help="Subtract this: a value for each channel as the net has them, or "
                 "a mean image (.binaryproto, .npy)."),
    click.option("--scale", type=float, default=1.0, show_default=True, help="Multiply by this after the mean."),
)  # fmt: skip
_NAMES = ("images", "held_out", "reconstruct", "distill", "distill_at", "recalibrate_images", "max_images", "ridge",
          "distill_rate", "resize", "swap", "raw_scale", "mean", "scale")  # fmt: skip
_NEED_IMAGES = ("held_out", "reconstruct", "distill", "distill_at", "recalibrate_images", "ridge", "distill_rate",
                "resize", "swap", "mean")  # fmt: skip


def options(command: Any) -> Any:
    """The options of this file, for a click command; `take` gets their values out of its keyword arguments."""
    for option in reversed(_OPTIONS):
        command = option(command)
    return command


def take(kwargs: dict[str, Any]) -> dict[str, Any]:
    """Take the options' values out of ``kwargs``. Raises ParameterError for those that need others."""
    given = {name: kwargs.pop(name) for name in _NAMES}
    if given["images"] is None:
        for name in _NEED_IMAGES:
            if given[name]:
                raise ParameterError(f"--{name.replace('_', '-')} needs --images: a folder of images without labels")
    return given


def numbers(text: str, flag: str, kind: Any, what: str) -> list[Any]:
    """Read ``104,117,123``.

    >>> numbers("2,1,0", "--swap", int, "...")
    [2, 1, 0]
    """
    try:
        return [kind(part) for part in text.split(",")]
    except ValueError:
        raise ParameterError(f'{flag} must be {what}, got "{text}"') from None


def read_mean(text: str) -> np.ndarray:
    """The mean as --mean gives it: numbers, or a file."""
    if text.endswith(".npy"):
        try:
            return np.asarray(np.load(text), np.float32)
        except ValueError as error:
            raise DataError(f'"{text}" is no array that NumPy reads: {error}') from error
    if Path(text).suffix == ".binaryproto" or Path(text).is_file():
        from protocaffe.io import read_mean as read_file

        return np.asarray(read_file(text))
    return np.array(numbers(text, "--mean", float, "numbers such as 104,117,123, or a file"), np.float32)


def preprocessing(given: dict[str, Any]) -> Preprocessing:
    """What the options say of images."""
    from protocaffe.io.image_folder import Preprocessing

    size = None
    if given["resize"]:
        values = numbers(given["resize"], "--resize", int, "a height and a width such as 256,256")
        if len(values) > 2 or min(values) < 1:
            raise ParameterError(f'--resize must be a height and a width such as 256,256, got "{given["resize"]}"')
        size = (values[0], values[-1])
    swap = numbers(given["swap"], "--swap", int, "channels such as 2,1,0") if given["swap"] else None
    mean = read_mean(given["mean"]) if given["mean"] else None
    return Preprocessing(size, swap, given["raw_scale"], mean, given["scale"])


class Unlabelled:
    """The original net and the images; made before a net is pruned, `finish` is called after.

    ``seed``: of the choice of images, of reconstruction and of distillation. Raises DataError for too few images.
    """

    def __init__(self, net: Net, given: dict[str, Any], seed: int = 0) -> None:
        from protocaffe.pruning.batches import Batches
        from protocaffe.pruning.distill import without_softmax

        self.given, self.seed = given, seed
        images = self._read(net, given["images"])
        if given["held_out"] is None:
            order = np.random.default_rng(seed).permutation(len(images))
            held = len(images) // HELD_OUT
            self.held, self.used = Batches(net, images[order[:held]]), Batches(net, images[order[held:]])
        else:
            self.held, self.used = Batches(net, self._read(net, given["held_out"])), Batches(net, images)
        self.dense, self.axes = without_softmax(net)
        self.teacher, _ = without_softmax(net, given["distill_at"])
        self.original = self.held.outputs(self.dense)
        self.rows: list[tuple[str, dict[str, Agreement]]] = []

    def _read(self, net: Net, folder: str) -> np.ndarray:
        from protocaffe.io.image_folder import list_images, read_images
        from protocaffe.pruning.batches import image_input

        steps, shape = preprocessing(self.given), net.blobs[image_input(net)].shape
        paths = list_images(folder, self.given["max_images"], self.seed)
        if len(paths) < HELD_OUT:
            raise DataError(f'"{folder}" holds {len(paths)} images: at least {HELD_OUT} are needed')
        with bar("images", len(paths)) as update:
            return read_images(paths, shape, steps, update)

    def finish(self, net: Net, kept: Mapping[str, np.ndarray] | None = None) -> None:
        """Reconstruct, recalibrate and distil a pruned net (or one that has been shrunk, with its `ShrinkPlan.kept`) as
        asked for, and print how far it agrees with the original."""
        from protocaffe.pruning.distill import without_softmax
        from protocaffe.pruning.least_squares import RIDGE
        from protocaffe.pruning.recalibrate import recalibrate
        from protocaffe.pruning.reconstruct import reconstruct

        given = self.given
        student, _ = without_softmax(net)
        self._measure("pruned", student)
        if given["reconstruct"]:
            ridge = RIDGE if given["ridge"] is None else given["ridge"]
            for done in reconstruct(student, self.dense, self.used, ridge, self.seed, kept):
                click.echo(done.line())
            self._measure("+ reconstruction", student)
        if given["recalibrate_images"]:
            count = -(-self.used.count // self.used.size)
            weights = recalibrate(student.param, student.layer_weights(), count, net.backend, images=self.used)
            student.copy_weights(weights)
            self._measure("+ recalibration", student)
        if given["distill"]:
            self._distill(student)
        net.copy_weights(student.layer_weights())
        self._print()

    def _distill(self, student: Net) -> None:
        from protocaffe.pruning.distill import LEARNING_RATE, distill, without_softmax

        given = self.given
        rate = LEARNING_RATE if given["distill_rate"] is None else given["distill_rate"]
        pupil, _ = without_softmax(student, given["distill_at"])
        targets = self.used.outputs(self.teacher)
        with bar("distillation", given["distill"]) as update:
            losses = distill(pupil, targets, self.used, given["distill"], rate, self.seed,
                             lambda done, loss: update(done, f"loss {loss:.3g}"))  # fmt: skip
        click.echo(f"distillation: {len(losses)} iterations, loss {losses[0]:.3g} -> {losses[-1]:.3g}")
        if np.median(losses[-10:]) > losses[0]:
            click.echo("distillation: the loss has grown; the weights stay as they were: try a lower --distill-rate")
        else:
            student.copy_weights(pupil.layer_weights())
            self._measure("+ distillation", student)

    def _measure(self, what: str, student: Net) -> None:
        from protocaffe.pruning.distill import agreement

        got = self.held.outputs(student)
        self.rows.append((what, {n: agreement(z, got[n], self.axes[n]) for n, z in self.original.items()}))

    def _print(self) -> None:
        title = f"agreement with the original on {self.held.count} images that nothing was fitted to"
        columns = [("", "left"), ("output", "left"), ("same verdict", "right"), ("mean KL", "right"),
                   ("relative error", "right")]  # fmt: skip
        with stdout_table(title, columns) as table:
            for what, found in self.rows:
                for name, a in found.items():
                    same = "" if a.same is None else f"{a.same:.2%}"
                    table.add_row(what, name, same, "" if a.kl is None else f"{a.kl:.4f}", f"{a.error:.4f}")


def begin(net: Net, given: dict[str, Any]) -> Unlabelled | None:
    """Before pruning: the work that --images asks for, None without it."""
    return None if given["images"] is None else Unlabelled(net, given)
