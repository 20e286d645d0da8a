"""demo and data on the shipped sample, and the progress bar."""

import json

from protocaffe.cli.progress import bar


def test_the_demo_offline_ends_with_a_line_of_json_and_says_that_it_is_the_sample(cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = cli("demo", "--offline", "--iterations", 60, "--finetune-iterations", 20)
    assert result.code == 0, result.err
    line = json.loads(result.out.splitlines()[-1])
    assert set(line) == {
        "dense_accuracy", "sparsity", "pruned_accuracy", "finetuned_accuracy", "seconds", "data",
    }  # fmt: skip
    assert line["data"] == "shipped sample"
    assert "the shipped sample (2,000 training and 500 test digits) stands in for MNIST" in result.out
    assert line["sparsity"] >= 0.9
    assert line["dense_accuracy"] > 0.7
    assert line["finetuned_accuracy"] > 0.7
    folder = tmp_path / "protocaffe_demo_offline"
    assert {p.name for p in folder.glob("*.caffemodel")} == {
        "lenet_dense.caffemodel", "lenet_pruned.caffemodel", "lenet_finetuned.caffemodel",
    }  # fmt: skip


def test_data_offline_writes_the_sample(cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = cli("data", "mnist", "--offline")
    assert result.code == 0
    assert "not the whole of MNIST" in result.out
    assert (tmp_path / "data/mnist/mnist_train_lmdb/data.mdb").is_file()


def test_an_unknown_data_set(cli, tmp_path, monkeypatch):
    monkeypatch.chdir(tmp_path)
    result = cli("data", "fashion-minst")
    assert (result.code, result.err.count("\n")) == (1, 1)
    assert 'did you mean "fashion-mnist"' in result.err


def test_a_folder_without_the_files_is_named(cli, tmp_path, monkeypatch):
    from protocaffe.data import fetch

    def only_the_folder(data_set, folder, report):
        return [(f'folder "{folder}"', lambda: fetch.from_folder(data_set, tmp_path))]

    monkeypatch.chdir(tmp_path)
    monkeypatch.setattr(fetch, "_places", only_the_folder)
    result = cli("data", "mnist", "--source", tmp_path)
    assert result.code == 1
    assert "Traceback" not in result.err
    assert str(tmp_path) in result.err.splitlines()[-1]


def test_the_bar_shows_what_it_is_told(capsys):
    with bar("train", 10, show=True) as update:
        for i in range(1, 11):
            update(i, f"loss {1 / i:.2f}")
    shown = capsys.readouterr().err
    assert "train" in shown
    assert "10/10" in shown
    assert "loss 0.10" in shown


def test_no_bar_without_a_terminal(capsys):
    with bar("train", 10) as update:
        update(10, "loss 1")
    assert capsys.readouterr().err == ""
