"""A way to run commands in this process, and a folder with LeNet's files and the small sample of MNIST."""

import shutil
from pathlib import Path
from typing import NamedTuple

import pytest

from protocaffe.cli import main
from protocaffe.resources import resource_path


class Result(NamedTuple):
    """What a command ended with and printed."""

    code: int
    out: str
    err: str


@pytest.fixture
def cli(capsys):
    """``cli("train", "-solver", "s.prototxt")`` -> Result."""

    def run(*args):
        capsys.readouterr()
        with pytest.raises(SystemExit) as ended:
            main([str(arg) for arg in args])
        return Result(ended.value.code or 0, *capsys.readouterr())

    return run


@pytest.fixture(scope="session")
def sample(tmp_path_factory) -> Path:
    """The folder with the LMDBs of the sample, written once."""
    from protocaffe.data.datasets import offline_sample

    folder = tmp_path_factory.mktemp("mnist")
    offline_sample(folder)
    return folder


@pytest.fixture
def lenet(tmp_path, monkeypatch, sample) -> Path:
    """The current directory: data/mnist, models/, and a solver file ``s.prototxt`` for short runs."""
    (tmp_path / "data").mkdir()
    (tmp_path / "data" / "mnist").symlink_to(sample)
    shutil.copytree(resource_path("models"), tmp_path / "models", ignore=shutil.ignore_patterns("*.caffemodel*"))
    monkeypatch.chdir(tmp_path)
    write_solver(tmp_path / "s.prototxt")
    return tmp_path


@pytest.fixture(scope="session")
def trained(tmp_path_factory, sample) -> Path:
    """Weights of LeNet after ten iterations."""
    from protocaffe import get_solver
    from protocaffe.io import parse_solver, read_net

    net = read_net(resource_path("models") / "lenet" / "train_val.prototxt")
    for layer in net.layer:
        layer.data_param.source = str(sample / Path(layer.data_param.source).name)
    solver = parse_solver('base_lr: 0.02 momentum: 0.9 lr_policy: "fixed" random_seed: 7 snapshot_after_train: false')
    solver.net_param.CopyFrom(net)
    path = tmp_path_factory.mktemp("trained") / "lenet.caffemodel"
    run = get_solver(solver)
    run.step(10)
    run.net.save(path)
    run.close()
    return path


def write_solver(path: Path, **changes: object) -> Path:
    """A solver file for LeNet; ``None`` leaves a line out, a string is quoted."""
    settings: dict[str, object] = {
        "net": "models/lenet/train_val.prototxt", "test_iter": 5, "test_interval": 5, "base_lr": 0.02, "momentum": 0.9,
        "weight_decay": 0.0005, "lr_policy": "fixed", "max_iter": 10, "display": 5, "random_seed": 7,
    } | changes  # fmt: skip
    lines = [
        f"{name}: "
        + (
            f'"{value}"'
            if isinstance(value, str) and not (value.isupper() or value in ("true", "false"))
            else str(value)
        )
        for name, value in settings.items()
        if value is not None
    ]
    path.write_text("\n".join(lines) + "\n")
    return path
