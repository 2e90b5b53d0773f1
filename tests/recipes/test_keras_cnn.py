"""`python -m recipes keras_cnn` without Keras: what it says, its table, its figure. tests/frameworks has the runs."""

from __future__ import annotations

import sys
from pathlib import Path
from types import SimpleNamespace

import numpy as np
import pytest

from recipe_files import some_arrays, write_npz
from recipes import keras_cnn
from recipes.data.images import load_images
from recipes.run_folder import RunFolder, read_log

ROW = {"train_loss": 1.25, "test_loss": 1.5, "test_accuracy": 0.5, "sparsity": 0.25}


def test_without_keras_it_says_what_to_install(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "keras", None)
    write_npz(tmp_path / "toy.npz", some_arrays((12, 12, 3)))
    arguments = ["--dataset", "toy", "--data-dir", str(tmp_path), "--result-dir", str(tmp_path / "out")]
    assert keras_cnn.main(arguments) == 2
    assert "pip install 'torchclip[keras]'" in capsys.readouterr().err


def test_a_refused_run_keeps_the_log_of_the_last(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def refuse(**options: float) -> None:
        if options["c"] < 0:
            raise ValueError("c must be at least 0")

    monkeypatch.setattr(keras_cnn, "package", lambda name, remedy: SimpleNamespace(GRDA=refuse))
    RunFolder(tmp_path).append(ROW)
    for wrong, words in ((["--c", "-1"], "c must be at least 0"), (["--dataset", "none"], "none.npz")):
        assert keras_cnn.main([*wrong, "--data-dir", str(tmp_path), "--result-dir", str(tmp_path)]) == 2
        assert words in capsys.readouterr().err
    assert read_log(tmp_path) == [ROW]


def test_images_are_the_last_axis_of_keras(tmp_path: Path) -> None:
    given = write_npz(tmp_path / "toy.npz", some_arrays((4, 5, 3)))
    x, y, x_test, y_test = keras_cnn.arrays(load_images("toy", tmp_path))
    assert x.dtype == np.float32 and x.shape == (7, 4, 5, 3) and x_test.shape == (3, 4, 5, 3)
    np.testing.assert_allclose(x, given["x_train"] / np.float32(255))
    assert y.tolist() == given["y_train"].tolist() and y_test.tolist() == given["y_test"].tolist()


def test_table_and_figure_have_a_line_for_each_c(tmp_path: Path) -> None:
    runs = {
        c: [{**ROW, "c": c, "epoch": epoch, "sparsity_of_weights": [c * 10, 0.5]} for epoch in (1, 2)]
        for c in (0.0, 0.01)
    }
    assert keras_cnn.table(runs).splitlines()[2:] == [
        "| 0 | 50.0 | 1.250 | 25.0 | 0, 50 |",
        "| 0.01 | 50.0 | 1.250 | 25.0 | 10, 50 |",
    ]
    keras_cnn.draw(runs, tmp_path / "figure.png")
    assert (tmp_path / "figure.png").read_bytes().startswith(b"\x89PNG")
