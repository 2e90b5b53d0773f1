"""Two processes, as torchrun starts them: their means, one that is interrupted alone, and a run that goes on."""

from __future__ import annotations

import dataclasses
from pathlib import Path

import pytest
import torch
import torch.distributed as distributed
from torch import nn

import recipe_process
from recipe_runs import checkpoint, differences, epochs, rows, start_two_processes, write_images
from recipes.data.images import ImageBatches, load_images
from recipes.world import World

pytestmark = [
    pytest.mark.skipif(not distributed.is_available(), reason="torch was built without torch.distributed"),
    pytest.mark.xdist_group("processes"),  # of one fixture
]


@pytest.fixture(scope="module")
def result(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Where both processes have run."""
    folder = tmp_path_factory.mktemp("processes")
    write_images(folder)
    start_two_processes("recipe_process.py", folder, folder, timeout=100)
    return folder


def test_the_mean_is_that_of_all_images(result: Path) -> None:
    """Of the first epoch, with the draws of both processes done again here."""
    images = load_images("made", result)
    total = 0.0
    torch.manual_seed(0)
    weights = recipe_process.dropout("", images.shape, images.classes).state_dict()
    for rank, own in ((0, slice(0, 30)), (1, slice(30, 59))):
        model = recipe_process.dropout("", images.shape, images.classes)
        model.load_state_dict(weights)
        half = dataclasses.replace(images, train_images=images.train_images[own], train_labels=images.train_labels[own])
        batches = ImageBatches(half.train_images, half.train_labels, 2, 0, *half.moments())
        torch.manual_seed(rank)
        for step in range(len(batches)):
            inputs, labels = batches.batch(0, step)
            total += nn.functional.cross_entropy(model(inputs), labels, reduction="sum").item()
    assert epochs(result / "whole")[0]["train_loss"] == pytest.approx(total / 59, rel=1e-5)


def test_goes_on_where_one_of_them_was_interrupted(result: Path) -> None:
    whole, again = rows(result / "whole"), rows(result / "new0")
    assert [row["kind"] for row in whole] == ["run", "epoch", "epoch", "end"]
    assert whole[1] == again[1], "what was run anew is what was run"
    assert rows(result / "stopped_before") == whole
    state = checkpoint(result / "stopped_before")
    assert not differences(checkpoint(result / "whole"), state)
    first, second = state["processes"]
    assert not torch.equal(first["cpu"], second["cpu"])


def test_one_process_asks_nobody() -> None:
    assert World.join(torch.device("cpu")) == World(0, 1)
    assert World().gather("own") == ["own"] and World().any(True, torch.device("cpu"))
