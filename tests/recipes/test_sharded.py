"""``recipes image --fsdp`` and ``--tp``: two processes do what one does, and go on where they were stopped."""

from __future__ import annotations

from pathlib import Path

import pytest
import torch
import torch.distributed as distributed

from recipe_runs import checkpoint, differences, epochs, rows, run, start_two_processes, write_images
from sharded_recipe import RUN

pytestmark = [
    pytest.mark.skipif(not distributed.is_available(), reason="torch was built without torch.distributed"),
    pytest.mark.xdist_group("sharded_recipe"),  # of one fixture
]

KINDS = ("fsdp", "tp")


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where both processes have run, and one alone in "plain"."""
    folder = tmp_path_factory.mktemp("sharded")
    write_images(folder, (28, 28, 1))
    start_two_processes("sharded_recipe.py", folder, timeout=200)
    assert run(folder, folder / "plain", RUN) == 0
    return folder


@pytest.mark.parametrize("kind", KINDS)
def test_two_processes_do_what_one_does(result: Path, kind: str) -> None:
    """Draws of noise and the norm that clips are those of the whole tensors."""
    for one, both in zip(epochs(result / "plain"), epochs(result / kind), strict=True):
        for key in ("train_loss", "test_loss", "test_accuracy", "grad_norm", "clip_factor"):
            assert both[key] == pytest.approx(one[key], rel=1e-4), key
    alone, whole = checkpoint(result / "plain")["model"], checkpoint(result / kind)["whole"]["model"]
    assert alone.keys() == whole.keys()
    for name, value in alone.items():
        torch.testing.assert_close(whole[name], value, rtol=1e-3, atol=1e-4)


@pytest.mark.parametrize("kind", KINDS)
def test_goes_on_where_it_was_stopped(result: Path, kind: str) -> None:
    assert rows(result / kind) == rows(result / f"{kind}_stopped")
    found = differences(checkpoint(result / kind), checkpoint(result / f"{kind}_stopped"))
    assert [place for place in found if not place.endswith(".betas")] == []  # which torch hands on as a list


@pytest.mark.parametrize("kind", KINDS)
def test_one_process_is_told_how_to_start_several(
    kind: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(data, tmp_path, f"--{kind} --model mlp(4)") == 2
    assert "torchrun --nproc-per-node 2" in capsys.readouterr().err
