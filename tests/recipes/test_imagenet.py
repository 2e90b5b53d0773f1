"""`python -m recipes imagenet`: images from folders, their crops, equal parts for every process, runs that go on."""

from __future__ import annotations

import math
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from PIL import Image
from torch import nn

import ranks
from image_folders import CLASSES, write_pictures
from memory_guard import same_bits
from recipes import imagenet
from recipes.data import RecipeDataError
from recipes.data.image_folder import Crops, Draw, evaluation_draws, find_images, random_box, training_draws
from recipes.run_folder import read_log
from recipes.world import World
from stopped_runs import check_stopped_run, weights

SMALL = [*("--image-size", "28", "-b", "6", "--workers", "0", "--epochs", "2", "--algo", "sgd", "--lr", "0.05")]


@pytest.fixture
def pictures(tmp_path: Path) -> Path:
    return write_pictures(tmp_path / "pictures")


def arguments_for(pictures: Path, arch: str = "mlp") -> list[str]:
    return ["--data", str(pictures), "--arch", arch, "--device", "cpu", *SMALL]


def test_folder_lists_its_images_by_class(pictures: Path) -> None:
    (pictures / "train" / "cat" / "notes.txt").write_text("no image")
    classes, files = find_images(pictures / "train")
    assert classes == list(CLASSES) and len(files) == 24
    assert all(file.parent.name == CLASSES[label] for file, label in files)
    assert [label for _, label in find_images(pictures / "train", 6)[1]] == [0, 0, 1, 1, 2, 2]
    assert find_images(pictures / "train", 99)[1] == files


def test_crops_are_drawn_as_they_should_be() -> None:
    random = np.random.default_rng(0)
    boxes = np.array([random_box(250, 250, random) for _ in range(3000)])
    left, top, right, bottom = boxes.T
    assert left.min() >= 0 and top.min() >= 0 and right.max() <= 250 and bottom.max() <= 250
    ratio, area = (right - left) / (bottom - top), (right - left) * (bottom - top) / 62_500
    assert 0.73 < ratio.min() < 0.78 and 1.29 < ratio.max() < 1.36
    assert 0.075 < area.min() < 0.1 and area.max() > 0.8
    assert abs(np.log(ratio).mean()) < 0.03  # as often wide as high
    assert random_box(1000, 10, random) == (493, 0, 506, 10)  # nothing fits: 4 : 3 from the middle
    assert random_box(10, 1000, random) == (0, 493, 10, 506)


def test_training_crops_depend_on_seed_epoch_and_image_alone(pictures: Path) -> None:
    _, files = find_images(pictures / "train")
    images = Crops(files, 16, seed=0)
    crop, label = images[Draw(0, 9)]  # type: ignore[misc]
    assert crop.shape == (3, 16, 16) and crop.dtype == torch.uint8 and label == 1
    images[Draw(1, 3)]
    assert torch.equal(crop, images[Draw(0, 9)][0])  # type: ignore[index]
    for other in (images[Draw(1, 9)], Crops(files, 16, seed=1)[Draw(0, 9)]):
        assert not torch.equal(crop, other[0])  # type: ignore[index]


def test_evaluation_takes_the_middle(tmp_path: Path) -> None:
    pixels = np.zeros((64, 128, 3), np.uint8)
    pixels[4:60, 36:92] = (10, 20, 30)  # 56 × 56 in the middle, of which 64 is 8/7
    for name in ("a", "b"):
        (tmp_path / name).mkdir()
        Image.fromarray(pixels).save(tmp_path / name / "one.png")
    crop, label = Crops(find_images(tmp_path)[1], 56)[Draw(0, 1)]
    assert label == 1 and crop.shape == (3, 56, 56)
    assert (crop == torch.tensor([10, 20, 30], dtype=torch.uint8).view(3, 1, 1)).all()


def test_processes_share_every_batch() -> None:
    def draws(world: World, epoch: int = 3, start: int = 0) -> list[list[Draw]]:
        return list(training_draws(50, 12, world, 0, epoch, start))

    whole, parts = draws(World()), [draws(World(rank, 3)) for rank in range(3)]
    assert [len(batch) for batch in whole] == [12] * 4
    for step, batch in enumerate(whole):
        assert sorted(batch) == sorted(draw for part in parts for draw in part[step])
    assert len({draw.image for batch in whole for draw in batch}) == 48
    assert draws(World(), start=2) == whole[2:] and draws(World(), epoch=4) != whole
    numbers = [draw.image for rank in range(3) for part in evaluation_draws(11, 2, World(rank, 3)) for draw in part]
    assert sorted(numbers) == list(range(11))


def test_it_learns_and_counts(pictures: Path, tmp_path: Path) -> None:
    arguments = [*arguments_for(pictures, "lenet"), "--epochs", "6", "--workers", "1"]
    assert imagenet.main([*arguments, "--precision", "bfloat16", "--quiet", "--result-dir", str(tmp_path / "run")]) == 0
    header, *epochs, _ = read_log(tmp_path / "run")
    assert header["arguments"]["weight_decay"] == 1e-4
    assert epochs[-1]["test_accuracy"] > 0.8
    assert epochs[0]["test_accuracy5"] == 1.0  # of three classes
    assert all(math.isclose(row["test_accuracy"] * 9, round(row["test_accuracy"] * 9)) for row in epochs)


@pytest.mark.parametrize("workers", ["0", "2"])
def test_stopped_run_goes_on(pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, workers: str) -> None:
    class Dropped(nn.Sequential):
        """With draws from torch's own generator, which the readers of images must leave alone."""

        def __init__(self, name: str, side: int, classes: int) -> None:
            super().__init__(nn.Flatten(), nn.Dropout(0.2), nn.Linear(3 * side * side, classes))

    monkeypatch.setattr(imagenet, "architecture", Dropped)
    arguments = [*arguments_for(pictures), "--workers", workers]
    check_stopped_run(imagenet.main, arguments, tmp_path, stop=6)


def test_two_processes_do_what_one_does(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    arguments = [*arguments_for(pictures), "--algo", "adaloss", "--lr", "0.05"]
    found = ranks.spawn(arguments, tmp_path)
    assert imagenet.main([*arguments, "--quiet", "--result-dir", str(tmp_path / "one")]) == 0
    one = weights(tmp_path / "one")
    assert [found[f"stopped[]{rank}"][0] for rank in range(2)] == [130, 130]
    for name in ("whole[]", "stopped['--resume']"):
        (first_status, first), (second_status, second) = (found[f"{name}{rank}"] for rank in range(2))
        assert first_status == second_status == 0
        for key, value in one.items():
            assert same_bits(first[key], second[key])
            assert same_bits(first[key], found["whole[]0"][1][key])
            torch.testing.assert_close(first[key], value, atol=1e-5, rtol=0)
    assert any(not same_bits(value, found["stopped[]0"][1][key]) for key, value in found["whole[]0"][1].items())
    for ours, theirs in zip(read_log(tmp_path / "whole")[1:-1], read_log(tmp_path / "one")[1:-1]):
        assert ours["test_accuracy"] == theirs["test_accuracy"]
        assert ours["train_loss"] == pytest.approx(theirs["train_loss"], abs=1e-5)
        assert ours["test_loss"] == pytest.approx(theirs["test_loss"], abs=1e-5)
    (tmp_path / "alone").mkdir()
    for name in ("log.jsonl", "checkpoint.pt"):
        (tmp_path / "alone" / name).write_bytes((tmp_path / "stopped" / name).read_bytes())
    log = (tmp_path / "alone" / "log.jsonl").read_text().splitlines(keepends=True)
    (tmp_path / "alone" / "log.jsonl").write_text("".join(log[:-1]))
    assert imagenet.main([*arguments, "--quiet", "--result-dir", str(tmp_path / "alone"), "--resume"]) == 2
    assert "is a run of 2 processes, which are now 1" in capsys.readouterr().err


def test_a_batch_that_cannot_be_shared(pictures: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    for batch, world, words in (
        ("5", World(0, 2), "a batch of 5 for 2 processes: wanted a multiple of their number"),
        ("25", World(), "24 training images are less than one batch of 25"),
    ):
        options = imagenet.parse([*arguments_for(pictures), "-b", batch])
        monkeypatch.setattr(World, "join", lambda device, world=world: world)
        with pytest.raises(ValueError, match=words):
            imagenet.ImageNetTask(options, torch.device("cpu"))


@pytest.mark.parametrize("workers", ["0", "1"])
def test_broken_image_is_named(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str], workers: str
) -> None:
    # For how long torch waits for a process that reads ahead to end by itself.
    monkeypatch.setattr("torch.utils.data._utils.MP_STATUS_CHECK_INTERVAL", 0.5)
    broken = pictures / "train" / "dog" / "3.png"
    broken.write_bytes(broken.read_bytes()[:200])
    arguments = [*arguments_for(pictures), "--workers", workers]
    assert imagenet.main([*arguments, "--quiet", "--result-dir", str(tmp_path / "run")]) == 2
    said = capsys.readouterr().err
    assert f"{broken} is no image that can be read" in said and "Traceback" not in said


def test_folders_that_are_not_as_they_should_be(pictures: Path, tmp_path: Path) -> None:
    with pytest.raises(RecipeDataError, match=r"none has 0 folders: wanted CLASS"):
        find_images(tmp_path / "none")
    (tmp_path / "empty" / "one").mkdir(parents=True)
    with pytest.raises(RecipeDataError, match="empty has 1 folders: wanted CLASS"):
        find_images(tmp_path / "empty")
    (tmp_path / "empty" / "two").mkdir()
    with pytest.raises(RecipeDataError, match="one has no image"):
        find_images(tmp_path / "empty")
    (pictures / "val" / "eel").rename(pictures / "val" / "elk")
    with pytest.raises(RecipeDataError, match="have not the same classes: eel, elk are in one only"):
        imagenet.ImageNetTask(imagenet.parse(arguments_for(pictures)), torch.device("cpu"))


def stand_in_torchvision(monkeypatch: pytest.MonkeyPatch) -> None:
    """torchvision.models with one model, whose constructor reads numbers of its tensors, as those of RegNets do."""

    def resnet50(num_classes: int) -> nn.Module:
        return nn.Linear(*torch.tensor([3 * 28 * 28, num_classes]).tolist())

    def builder(name: str) -> Any:
        if name != "resnet50":
            raise ValueError(f"Unknown model {name}")
        return resnet50

    models: Any = types.ModuleType("torchvision.models")
    models.get_model_builder = builder
    models.get_model = lambda name, num_classes: builder(name)(num_classes)
    monkeypatch.setitem(sys.modules, "torchvision", types.ModuleType("torchvision"))
    monkeypatch.setitem(sys.modules, "torchvision.models", models)


def test_a_model_is_looked_up_before_the_images_are_read(
    pictures: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    stand_in_torchvision(monkeypatch)
    task = imagenet.ImageNetTask(imagenet.parse(arguments_for(pictures, "resnet50")), torch.device("cpu"))
    assert task.model.out_features == len(CLASSES)
    for name, words in (("huge", "Unknown model huge"), ("resnet(9,1)", "the depth must be 6n")):
        with pytest.raises(ValueError, match=words):
            imagenet.ImageNetTask(imagenet.parse(arguments_for(tmp_path / "none", name)), torch.device("cpu"))


def test_networks_are_torchvisions_or_ours(monkeypatch: pytest.MonkeyPatch) -> None:
    stand_in_torchvision(monkeypatch)
    assert imagenet.architecture("resnet50", 224, 7).out_features == 7
    with pytest.raises(ValueError, match="Unknown model huge"):
        imagenet.architecture("huge", 224, 7)
    monkeypatch.setitem(sys.modules, "torchvision.models", None)
    with pytest.raises(RecipeDataError, match=r"torchvision.models does not import .* or give --arch one of mlp"):
        imagenet.architecture("resnet50", 224, 7)
    assert sum(p.numel() for p in imagenet.architecture("resnet(8,1)", 32, 7).parameters()) > 1000
