"""`python -m recipes finetune`: where its models and weights come from, what it holds out, that it goes on."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import nn

from recipe_files import write_npz
from recipes import finetune, image
from recipes.data.images import load_images
from recipes.run_folder import read_log
from stopped_runs import check_stopped_run, weights


def write_images(data_dir: Path, name: str = "made", classes: int = 3) -> None:
    """Images of one colour a class, 16 × 16."""
    random = np.random.default_rng(0)
    parts = {}
    for part, count in (("train", 40), ("test", 12)):
        labels = np.arange(count) % classes
        pixels = random.integers(0, 60, (count, 16, 16, 3)) + (60 * labels)[:, None, None, None]
        parts |= {f"x_{part}": pixels.astype(np.uint8), f"y_{part}": labels}
    data_dir.mkdir(exist_ok=True)
    write_npz(data_dir / f"{name}.npz", parts)


class FakeTimm(types.ModuleType):
    """As much of timm as the recipe asks for."""

    def __init__(self) -> None:
        super().__init__("timm")
        self.calls: list[dict[str, Any]] = []
        self.config = {"input_size": (3, 8, 8), "mean": (0.5, 0.5, 0.5), "std": (0.5, 0.5, 0.5)}

    def is_model(self, name: str) -> bool:
        return name.startswith("tiny")

    def create_model(self, name: str, **arguments: Any) -> nn.Module:
        self.calls.append({"name": name, **arguments})
        if name == "tiny_offline" and arguments["pretrained"]:
            raise ConnectionError("no route to the hub")

        class Tiny(nn.Sequential):
            def forward(self, images: torch.Tensor) -> torch.Tensor:
                assert images.shape[1:] == (3, 8, 8)
                return super().forward(images)

        model = Tiny(nn.Flatten(), nn.Linear(192, arguments["num_classes"]))
        model.pretrained_cfg = self.config
        return model


@pytest.fixture
def timm(monkeypatch: pytest.MonkeyPatch) -> FakeTimm:
    fake = FakeTimm()
    monkeypatch.setitem(sys.modules, "timm", fake)
    return fake


@pytest.fixture
def common(tmp_path: Path) -> list[str]:
    write_images(tmp_path / "data")
    return [
        *("--dataset", "made", "--data-dir", str(tmp_path / "data"), "--validation", "8", "-b", "8", "--epochs", "2"),
        *("--device", "cpu"),
    ]


def run(arguments: list[str], folder: Path) -> int:
    return finetune.main([*arguments, "--quiet", "--result-dir", str(folder)])


def test_timm_model_learns_on_images_as_it_wants_them(timm: FakeTimm, common: list[str], tmp_path: Path) -> None:
    assert run([*common, "--model", "tiny_a", "--epochs", "40"], tmp_path / "run") == 0
    assert timm.calls == [{"name": "tiny_a", "pretrained": True, "num_classes": 3}]
    header, *epochs, _ = read_log(tmp_path / "run")
    arguments = header["arguments"]
    assert (arguments["algo"], arguments["lr"], arguments["weight_decay"]) == ("adaloss", 0.1, 1e-4)
    assert min(epochs[-1]["valid_accuracy"], epochs[-1]["test_accuracy"]) > 0.6  # by chance a third


def test_batches_have_the_models_size_and_moments(timm: FakeTimm, common: list[str]) -> None:
    options = finetune.parse([*common, "--model", "tiny_a", "--no-pretrained"])
    task = finetune.make_task(options, torch.device("cpu"))
    assert timm.calls[0]["pretrained"] is False
    assert task.steps(0) == 4  # of the 40 images, 8 are held out
    pixels, labels = next(task.batches(0, 1))
    assert pixels.shape == (8, 3, 8, 8)
    brightness = torch.stack([pixels[labels == label].mean() for label in range(3)])
    expected = (torch.tensor([29.5, 89.5, 149.5]) / 255 - 0.5) / 0.5
    torch.testing.assert_close(brightness, expected, atol=0.02, rtol=0)


def test_weights_of_a_file(timm: FakeTimm, common: list[str], tmp_path: Path) -> None:
    state = {"1.weight": torch.ones(3, 192), "1.bias": torch.ones(3)}
    torch.save({"model": state}, tmp_path / "a.pt")
    options = finetune.parse([*common, "--model", "tiny_a", "--weights", str(tmp_path / "a.pt")])
    task = finetune.make_task(options, torch.device("cpu"))
    assert timm.calls == [{"name": "tiny_a", "pretrained": False, "num_classes": 3}]
    assert torch.equal(task.model.state_dict()["1.weight"], state["1.weight"])


def test_held_out_images_are_the_last_ones(common: list[str], tmp_path: Path) -> None:
    images = load_images("made", tmp_path / "data")
    task = finetune.make_task(finetune.parse([*common, "--model", "mlp(4)"]), torch.device("cpu"))
    assert torch.equal(task.held_out["valid"][0], images.train_images[32:])
    assert torch.equal(task._training.labels, images.train_labels[:32])
    for count in (40, -1):
        options = finetune.parse([*common, "--model", "mlp(4)", "--validation", str(count)])
        with pytest.raises(ValueError, match=f"--validation {count} of 40 training images"):
            finetune.make_task(options, torch.device("cpu"))
    options = finetune.parse([*common, "--model", "mlp(4)", "--validation", "0"])
    assert "valid" not in finetune.make_task(options, torch.device("cpu")).held_out


def test_random_weights_are_told(common: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    assert finetune.main([*common, "--model", "lenet", "--quick", "--result-dir", str(tmp_path / "run")]) == 0
    assert "lenet starts from random weights: --weights FILE" in capsys.readouterr().out


def test_weights_of_the_image_recipe(common: list[str], tmp_path: Path) -> None:
    write_images(tmp_path / "data", "before", classes=4)
    before = ["--data-dir", str(tmp_path / "data"), "--dataset", "before", "--model", "mlp(4)", "--epochs", "1"]
    assert image.main([*before, "--quiet", "--device", "cpu", "--result-dir", str(tmp_path / "before")]) == 0
    file = str(tmp_path / "before" / "checkpoint.pt")
    learned = weights(tmp_path / "before")
    options = finetune.parse([*common, "--model", "mlp(4)", "--weights", file])
    started = finetune.make_task(options, torch.device("cpu")).model.state_dict()
    assert torch.equal(started["1.weight"], learned["1.weight"])
    assert started["3.weight"].shape == (3, 4) and learned["3.weight"].shape == (4, 4)
    options.dataset = "before"
    same = finetune.make_task(options, torch.device("cpu")).model.state_dict()
    assert torch.equal(same["3.weight"], learned["3.weight"])


def test_stopped_run_goes_on(
    timm: FakeTimm, common: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    check_stopped_run(finetune.main, [*common, "--model", "tiny_a", "--augment"], tmp_path, stop=6)


def test_mistakes_are_told(
    timm: FakeTimm, common: list[str], tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    bare, torn = tmp_path / "bare.pt", tmp_path / "torn.pt"
    torch.save({"weight": torch.zeros(2)}, bare)
    torn.write_bytes(b"PK")
    cases = {
        ("--model", "huge"): "--model huge: timm has no such model, nor is it one of mlp",
        ("--model", "tiny_offline"): "could not be had (ConnectionError: no route to the hub)",
        ("--model", "mlp", "--weights", str(bare)): 'Missing key(s) in state_dict: "1.weight"',
        ("--model", "mlp", "--weights", str(torn)): f"--weights {torn} are not those of this model, or cannot be read",
        ("--model", "mlp", "--weights", str(tmp_path / "none.pt")): "No such file or directory",
    }
    for number, (arguments, words) in enumerate(cases.items()):
        assert run([*common, *arguments], tmp_path / f"run{number}") == 2
        said = capsys.readouterr().err
        assert words in said and "Traceback" not in said
    assert run([*common, "--model", "tiny_offline", "--no-pretrained"], tmp_path / "random") == 0


def test_timm_is_missing(
    common: list[str], tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setitem(sys.modules, "timm", None)
    assert run([*common, "--model", "vit_small_patch16_224"], tmp_path / "run") == 2
    said = capsys.readouterr().err
    assert "pip install timm, with a torchvision that fits torch" in said and '"resnet(8,1)"' in said
