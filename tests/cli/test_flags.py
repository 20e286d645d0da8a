"""Caffe's spelling of flags, wrong usage, errors in one line."""

import subprocess
import sys

import pytest

from protocaffe.cli import COMMANDS
from protocaffe.cli.common import caffe_flags
from protocaffe.errors import ParseError

NAMES = {"solver", "gpu", "iterations", "sigint-effect", "mask-from-zeros"}


@pytest.mark.parametrize(
    ("given", "ours"),
    [
        (["-solver", "x"], ["--solver", "x"]),
        (["-solver=x"], ["--solver=x"]),
        (["--solver=x"], ["--solver=x"]),
        (["-sigint_effect=none"], ["--sigint-effect=none"]),
        (["--mask_from_zeros"], ["--mask-from-zeros"]),
        (["-iterations", "5", "-gpu", "0"], ["--iterations", "5", "--gpu", "0"]),
        (["-unknown=1", "-h", "-1", "a-b", "-"], ["-unknown=1", "-h", "-1", "a-b", "-"]),
        (["--", "-solver"], ["--", "-solver"]),
        (["-solver=a\nb"], ["--solver=a\nb"]),
    ],
)
def test_caffes_spelling(given, ours):
    assert caffe_flags(given, NAMES) == ours


def test_a_wrong_command_gets_a_hint(cli):
    result = cli("trian")
    assert result.code == 2
    assert 'no command "trian"; did you mean "train"?' in result.err


def test_a_wrong_flag_is_wrong_usage(cli):
    result = cli("train", "--solvr", "x")
    assert result.code == 2
    assert "--solver" in result.err


@pytest.mark.parametrize("command", COMMANDS)
def test_every_command_has_help(cli, command):
    result = cli(command, "--help")
    assert result.code == 0
    assert "--debug" in result.out


def test_a_missing_file_is_one_line(cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = cli("summary", "-model", "nowhere.prototxt")
    assert (result.code, result.out, result.err) == (1, "", "error: nowhere.prototxt: No such file or directory\n")


def test_debug_shows_the_traceback(tmp_path, monkeypatch):
    from protocaffe.cli import main

    (tmp_path / "bad.prototxt").write_text("layer {")
    monkeypatch.chdir(tmp_path)
    with pytest.raises(ParseError):
        main(["summary", "--model", "bad.prototxt", "--debug"])


def test_cpu_and_gpu_exclude_each_other(cli, lenet):
    result = cli("train", "-solver", "s.prototxt", "-gpu", "0", "-cpu")
    assert (result.code, result.err) == (1, "error: --cpu and --gpu exclude each other\n")


@pytest.mark.parametrize("math", ["tf32", "TF32", "fp8"])
def test_math_is_for_gpus(cli, lenet, math):
    result = cli("train", "-solver", "s.prototxt", "-cpu", "-math", math)
    assert (result.code, math in result.err, "Traceback" in result.err) == (1 if math == "tf32" else 2, True, False)


def test_fp32_is_what_the_cpu_does(cli, lenet):
    assert cli("train", "-solver", "s.prototxt", "-cpu", "-math", "fp32", "-iterations", "1").code == 0


def test_several_gpus_are_refused_by_name(cli, lenet):
    result = cli("train", "-solver", "s.prototxt", "-gpu", "all")
    assert result.code == 1
    assert '"all"' in result.err


def test_python_m_protocaffe_is_the_command():
    done = subprocess.run([sys.executable, "-m", "protocaffe", "--version"], capture_output=True, text=True, check=True)
    assert done.stdout.startswith("protocaffe 0.")
