"""gRDA in Keras, on each of its backends, beside ours on torch: a trajectory under a schedule, a fit, a saved model."""

from __future__ import annotations

import os
import subprocess
import sys
from importlib.util import find_spec
from typing import Any

import numpy as np
import pytest
import torch

import torchclip
from places import PYTHONPATH, SUPPORT

pytest.importorskip("h5py", reason="Keras is of the extra 'test-frameworks'")

pytestmark = pytest.mark.thorough  # half a minute or more for each backend, which imports and compiles for itself

C, MU, RATE, DECAY_STEPS, STEPS = 0.4, 0.6, 0.2, 10, 20


@pytest.fixture(scope="module", params=["tensorflow", "jax", "torch"])
def found(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    """What a process with this backend wrote: Keras chooses it when it is imported."""
    for module in ("keras", request.param):
        if find_spec(module) is None:
            pytest.skip(f"{module} is not installed: pip install {module}")
    folder = tmp_path_factory.mktemp(request.param)
    drawn = np.random.default_rng(7)
    start = drawn.normal(size=(5, 4)).astype("float32")
    gradients = drawn.normal(size=(STEPS, 5, 4)).astype("float32")
    np.savez(folder / "gradients.npz", start=start, gradients=gradients)
    environment = {**os.environ, "KERAS_BACKEND": request.param, "PYTHONPATH": PYTHONPATH, "TF_CPP_MIN_LOG_LEVEL": "3"}
    command = [sys.executable, SUPPORT / "keras_run.py", folder]
    finished = subprocess.run(command, env=environment, capture_output=True, text=True, check=False)
    assert finished.returncode == 0, finished.stderr
    return {"start": start, "gradients": gradients, **np.load(folder / "found.npz")}


def reference(start: Any, gradients: Any, batches: int = 1) -> Any:
    """Ours, in float64, after each step, with the rate of the last of so many batches to a step."""
    parameter = torch.nn.Parameter(torch.from_numpy(start).double())
    optimizer = torchclip.GRDA([parameter], lr=RATE, c=C, mu=MU, backend="reference")
    schedule = torch.optim.lr_scheduler.LambdaLR(
        optimizer, lambda step: 0.5 ** (((step + 1) * batches - 1) / DECAY_STEPS)
    )
    path = []
    for gradient in gradients:
        parameter.grad = torch.from_numpy(gradient).double()
        optimizer.step()
        schedule.step()
        path.append(parameter.detach().clone())
    return torch.stack(path).numpy()


def test_a_trajectory_under_a_schedule_is_ours(found: dict[str, Any]) -> None:
    expected = reference(found["start"], found["gradients"])
    assert (expected[-1] == 0).any() and (expected[-1] != 0).any()
    np.testing.assert_allclose(found["path"], expected, rtol=1e-4, atol=1e-6)
    assert ((found["path"] == 0) == (expected == 0)).mean() > 0.99


def test_half_precision_keeps_its_accumulator_in_float32(found: dict[str, Any]) -> None:
    """Rounded at each step it would be off by many of these."""
    expected = reference(found["start"].astype("float16").astype("float32"), found["gradients"].astype("float16"))
    np.testing.assert_allclose(found["half"], expected[-1], rtol=2e-3, atol=2e-3)


def test_accumulated_batches_make_one_step(found: dict[str, Any]) -> None:
    """Keras's schedule counts them one by one."""
    expected = reference(found["start"], found["gradients"], batches=2)
    np.testing.assert_allclose(found["accumulated"], expected[-1], rtol=1e-4, atol=1e-6)


def test_a_fit_is_resumed_from_a_saved_model(found: dict[str, Any]) -> None:
    losses = found["losses"]
    assert losses[-1] < losses[0]
    np.testing.assert_allclose(found["losses_resumed"], losses[5:], rtol=1e-5)


def test_sparsity_is_the_share_of_zeros(found: dict[str, Any]) -> None:
    told, counted = found["sparsity"]
    assert told == pytest.approx(counted) and 0 < told < 1
