"""The examples of the pages under docs/ that no doctest runs: files that parse, commands that work."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import pytest

import protocaffe
from protocaffe.io import parse_net, parse_solver, read_net
from protocaffe.resources import resource_path

DOCS = Path(__file__).resolve().parent.parent / "docs"
pytestmark = pytest.mark.skipif(not DOCS.is_dir(), reason="no docs here")


def blocks(page: str, section: str) -> list[str]:
    """The fenced blocks of a section, without their languages."""
    text = (DOCS / page).read_text(encoding="utf-8")
    part = re.split(r"^## ", text, flags=re.MULTILINE)
    (found,) = [p for p in part if p.startswith(section)]
    return re.findall(r"^```[^\n]*\n(.*?)^```", found, re.MULTILINE | re.DOTALL)


def test_own_data_has_a_net_for_both_phases_and_a_solver():
    net, solver, commands = blocks("own_data.md", "4. ")
    layers = {
        layer.name: layer for layer in read_net(resource_path("models") / "caffenet" / "train_val.prototxt").layer
    }
    assert "conv1 to drop7 of models/caffenet/train_val.prototxt, and in place of its fc8" in net
    assert list(layers["conv1"].bottom) == ["data"] and list(layers["drop7"].top) == ["fc7"] and "fc8" in layers
    head, tail = parse_net(net.split("# ...")[0]), parse_net(net.split("fc8:\n")[1])
    for phase in (protocaffe.TRAIN, protocaffe.TEST):
        (data,) = [layer for layer in head.layer if layer.include[0].phase == phase]
        assert list(data.top) == ["data", "label"] and data.transform_param.crop_size == 227
        whole = parse_net('layer { name: "in" type: "Input" top: "fc7" top: "label" '
                          "input_param { shape { dim: 2 dim: 4096 } shape { dim: 2 } } }")  # fmt: skip
        whole.layer.extend(tail.layer)
        outputs = protocaffe.Net(whole, phase).outputs
        assert outputs == (["accuracy", "loss"] if phase == protocaffe.TEST else ["loss"])
    parameter = parse_solver(solver)
    assert parameter.net == "train_val.prototxt" and parameter.max_iter == 3000
    assert f"{parameter.snapshot_prefix}_iter_{parameter.snapshot}.solverstate" in commands


def test_a_python_layer_on_pythonpath(tmp_path):
    code, net, command = blocks("coming_from_caffe.md", "Python layers")
    (tmp_path / "layers").mkdir()
    (tmp_path / "layers" / "my_layers.py").write_text(code)
    (tmp_path / "net.prototxt").write_text(net)
    assert command.startswith("PYTHONPATH=layers protocaffe ")
    arguments = command.split()[2:]
    root = str(Path(protocaffe.__file__).resolve().parent.parent)
    for folders, needle in ((["layers", root], "Python "), ([root], "is its folder on PYTHONPATH?")):
        done = subprocess.run(
            [sys.executable, "-m", "protocaffe", *arguments], cwd=tmp_path, capture_output=True, text=True,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(folders)},
        )  # fmt: skip
        assert needle in done.stdout + done.stderr and (done.returncode == 0) == ("layers" in folders)
