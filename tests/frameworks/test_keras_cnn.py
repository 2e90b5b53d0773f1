"""`python -m recipes keras_cnn` with Keras on torch: what it logs is what the saved model has."""

from __future__ import annotations

import os
import re
import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest

from places import PYTHONPATH
from recipe_files import some_arrays, write_npz
from recipes.run_folder import read_log

pytest.importorskip("h5py", reason="Keras is of the extra 'test-frameworks'")
pytest.importorskip("keras", reason="Keras is of the extra 'test-frameworks'")

pytestmark = pytest.mark.thorough  # half a minute: two processes import Keras

COUNT = r"""
import sys, keras, numpy, torchclip.keras
weights = numpy.concatenate([numpy.ravel(one) for one in keras.saving.load_model(sys.argv[1]).get_weights()])
print("zeros", float((weights == 0).mean()))
"""


def run(*arguments: str | Path) -> str:
    environment = {**os.environ, "KERAS_BACKEND": "torch", "PYTHONPATH": PYTHONPATH, "OMP_NUM_THREADS": "1"}
    ran = subprocess.run([sys.executable, *arguments], env=environment, capture_output=True, text=True, check=False)
    assert ran.returncode == 0, ran.stderr
    return ran.stdout


def test_a_larger_c_has_more_zeros_and_the_log_is_the_models(tmp_path: Path) -> None:
    write_npz(tmp_path / "toy.npz", some_arrays((12, 12, 3)))
    out = tmp_path / "out"
    options = ["--dataset", "toy", "--epochs", "2", "-b", "4", "--c", "0", "0.1", "--lr", "0.01"]
    said = run("-m", "recipes", "keras_cnn", *options, "--data-dir", tmp_path, "--result-dir", out)
    rows = read_log(out)
    assert [(row["c"], row["epoch"]) for row in rows] == [(c, epoch) for c in (0, 0.1) for epoch in (1, 2)]
    assert rows[1]["sparsity"] < 0.01 and rows[2]["sparsity"] < rows[3]["sparsity"] < 1
    assert len(rows[3]["sparsity_of_weights"]) == 6
    assert "| 0.1 |" in said and (out / "figure.png").stat().st_size > 1000
    zeros = re.search("zeros (.*)", run("-c", COUNT, out / "c0.1.keras"))
    assert zeros is not None and np.isclose(float(zeros[1]), rows[3]["sparsity"], atol=1e-6)
