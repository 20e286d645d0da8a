"""What all sub-commands share: Caffe's spelling of flags, errors in one line, options that recur."""

from __future__ import annotations

import re
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, TypeVar

import click

from protocaffe.errors import BackendError, ParameterError, ProtocaffeError

if TYPE_CHECKING:
    from protocaffe.backends import Backend
    from protocaffe.net import Net

F = TypeVar("F", bound=Callable[..., Any])
MATHS = ("fp32", "tf32")


def caffe_flags(args: list[str], names: set[str]) -> list[str]:
    """Turn Caffe's (gflags') spelling into ours: one dash or two, underscores, ``true`` and ``false`` after ``=``.

    Only options that the command has (``names``, without dashes) are touched, and nothing after ``--``.

    >>> caffe_flags(["-solver=s.prototxt", "-gpu", "0", "--sigint_effect=none"], {"solver", "gpu", "sigint-effect"})
    ['--solver=s.prototxt', '--gpu', '0', '--sigint-effect=none']
    """
    end = args.index("--") if "--" in args else len(args)
    return [_caffe_flag(arg, names) for arg in args[:end]] + args[end:]


def _caffe_flag(arg: str, names: set[str]) -> str:
    match = re.fullmatch(r"--?([A-Za-z][\w-]+)(=.*)?", arg, re.DOTALL)
    if not match or match[1].replace("_", "-") not in names:
        return arg
    return f"--{match[1].replace('_', '-')}{match[2] or ''}"


class CaffeCommand(click.Command):
    """A command that reads Caffe's flags, and ends on an expected error with one line and exit code 1."""

    def __init__(self, *args: Any, **kwargs: Any) -> None:
        super().__init__(*args, **kwargs)
        self.params.append(click.Option(["--debug"], is_flag=True, expose_value=False, callback=_remember_debug,
                                        help="Show the whole traceback of an error."))  # fmt: skip

    def parse_args(self, ctx: click.Context, args: list[str]) -> list[str]:
        names = {opt[2:] for p in self.params for opt in (*p.opts, *p.secondary_opts) if opt.startswith("--")}
        return super().parse_args(ctx, caffe_flags(args, names))

    def invoke(self, ctx: click.Context) -> Any:
        _begin_to_open_gpu(ctx.params)
        try:
            return super().invoke(ctx)
        except BrokenPipeError:
            raise
        except (ProtocaffeError, OSError) as error:
            if ctx.meta.get("protocaffe.debug"):
                raise
            click.echo(f"error: {describe(error)}", err=True)
            ctx.exit(1)
        except MemoryError as error:
            if ctx.meta.get("protocaffe.debug"):
                raise
            click.echo(f"error: not enough memory: {describe(error)}", err=True)
            ctx.exit(1)


def _begin_to_open_gpu(params: dict[str, Any]) -> None:
    """While the command imports what it needs: `wanted_backend` then finds the GPU open, or tells why it is not."""
    gpu = params.get("gpu") or ""
    if params.get("cpu") is False and gpu:
        from protocaffe.backends import head_start

        number = head_start.gpu_number(gpu)
        if number >= 0:
            head_start.begin(number)


def _remember_debug(ctx: click.Context, param: click.Parameter, value: bool) -> None:
    ctx.meta["protocaffe.debug"] = value


def describe(error: Exception) -> str:
    """An error in one line: an OSError as "path: reason", any other as its own text."""
    if isinstance(error, OSError) and error.strerror and error.filename:
        text = f"{error.filename}: {error.strerror}"
    else:
        text = " ".join(str(error).split("\n")) or type(error).__name__
    return text.encode("utf-8", "backslashreplace").decode()  # bytes of a file or its name that are no UTF-8


def device_options(command: F) -> F:
    """Add ``--cpu``, ``--gpu`` and ``--math``."""
    math = click.option("--math", type=click.Choice(MATHS), help="How the GPU multiplies floats, whatever the solver "
                        "file says: fp32, or on tensor cores tf32 (the default).")  # fmt: skip
    gpu = click.option("--gpu", metavar="ID", help="Run on this GPU, as Caffe's -gpu, whatever the solver file says.")
    cpu = click.option("--cpu", is_flag=True, help="Run on the CPU, whatever the solver file says.")
    return cpu(gpu(math(command)))


def state_options(command: F) -> F:
    """Add ``--level`` and ``--stage``, which choose layers by their include and exclude rules."""
    stage = click.option("--stage", default="", help="Caffe's net state: stages, separated by commas.")
    level = click.option("--level", type=int, default=0, help="Caffe's net state: level.")
    return level(stage(command))


def mask_options(command: F) -> F:
    """Add ``--mask-from-zeros`` and ``--drop-masks``."""
    drop = click.option("--drop-masks", is_flag=True, help="Forget the masks that are stored with the weights.")
    make = click.option("--mask-from-zeros", is_flag=True, help="Weights that are zero get a mask and stay zero.")
    return make(drop(command))


def wanted_backend(cpu: bool, gpu: str | None, math: str | None = None, source: str = "--gpu") -> Backend:
    """The device that ``--cpu``, ``--gpu`` and ``--math`` ask for; ``source`` names who asked for the GPU in errors.

    Raises BackendError where there is no such GPU (never the CPU in its place), ParameterError for flags that exclude
    each other.
    """
    from protocaffe.backends import get_backend, head_start, set_math

    if gpu is None or cpu:
        if gpu is not None:
            raise ParameterError("--cpu and --gpu exclude each other")
        if math not in (None, "fp32"):
            raise ParameterError(f"--math {math} is for a GPU (--gpu); the CPU multiplies in fp32")
        return get_backend("cpu")
    if not gpu.isdecimal():
        raise BackendError(f'{source} must be the id of one GPU, got "{gpu}": training on several is not available')
    if head_start.gpu_number(gpu) < 0:
        raise BackendError(f"{source} must be the id of one GPU, got a number of {len(gpu)} digits")
    try:
        backend = get_backend(f"cuda:{gpu}")
    except BackendError as error:
        raise BackendError(f"{source} {gpu}: {error}") from error
    if math is not None:
        set_math(math)
    return backend


def apply_masks(net: Net, mask_from_zeros: bool, drop_masks: bool) -> None:
    """Do what the two mask options ask for, after the weights were loaded."""
    if mask_from_zeros and drop_masks:
        raise ParameterError("--mask-from-zeros and --drop-masks exclude each other")
    if drop_masks:
        net.drop_masks()
    if mask_from_zeros:
        net.masks_from_zeros()


def layer_shares(pairs: tuple[str, ...]) -> dict[str, float]:
    """Read ``--layer conv1=0.5 --layer ip1=0.95``."""
    shares = {}
    for pair in pairs:
        name, _, share = pair.rpartition("=")
        try:
            shares[name] = float(share)
        except ValueError:
            name = ""
        if not name:
            raise ParameterError(f'--layer must be NAME=SHARE such as conv1=0.5, got "{pair}"')
    return shares


@contextmanager
def stdout_table(title: str, columns: list[tuple[str, str]]) -> Iterator[Any]:
    """A rich table on standard output: add rows inside the ``with``; ``columns`` are (heading, "left" or "right")."""
    from rich import box
    from rich.console import Console
    from rich.table import Table

    table = Table(title=title, title_justify="left", box=box.SIMPLE_HEAD)
    for heading, justify in columns:
        table.add_column(heading, justify="right" if justify == "right" else "left", overflow="fold")
    yield table
    # A pipe has no width: what reads it wants whole lines.
    Console(width=None if sys.stdout.isatty() else 200).print(table)
