"""`python -m recipes image`: it learns, counts the zeros of gRDA right, and has a line for mistakes."""

from __future__ import annotations

import argparse
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from torch import nn

from places import ROOT
from recipe_runs import checkpoint, epochs, run
from recipes import image
from recipes.data.images import load_images
from recipes.image import classification_metrics
from recipes.models.images import make_model
from recipes.world import World


@pytest.mark.parametrize(
    "algo", ["sgd --momentum 0.9 --lr 0.05", "mix_clip --momentum 0.9", "adaloss", "grda --lr 0.05"]
)
def test_learns(algo: str, data: Path, tmp_path: Path) -> None:
    """Four classes, a quarter of the test images each: chance is 25 %."""
    assert run(data, tmp_path, f"--model mlp(16) --epochs 8 --algo {algo}") == 0
    first, *_, last = epochs(tmp_path)
    assert last["test_accuracy"] > 0.9 and last["train_loss"] < 0.5 * first["train_loss"]
    assert last["test_loss"] < 0.7


def test_the_metrics_are_those_of_the_checkpoint(data: Path, tmp_path: Path) -> None:
    assert run(data, tmp_path, "--model mlp(16) --epochs 2 --algo adamw") == 0
    images = load_images("made", data)
    model = make_model("mlp(16)", images.shape, images.classes)
    model.load_state_dict(checkpoint(tmp_path)["model"])
    pixels = images.train_images.double() / 255
    mean, std = (getattr(pixels, of)((0, 2, 3), keepdim=True) for of in ("mean", "std"))
    outputs = model(((images.test_images.double() / 255 - mean) / std).float())
    row = epochs(tmp_path)[-1]
    assert row["test_accuracy"] == float((outputs.argmax(1) == images.test_labels).double().mean())
    loss = nn.functional.cross_entropy(outputs, images.test_labels)
    assert row["test_loss"] == pytest.approx(loss.item(), rel=1e-2)  # std has a divisor of n, or of n - 1


def test_grdas_zeros_are_counted_layer_by_layer(data: Path, tmp_path: Path) -> None:
    assert run(data, tmp_path, "--model mlp(16) --epochs 3 --algo grda --lr 0.1 --c 0.05 --mu 0.51") == 0
    model = checkpoint(tmp_path)["model"]
    row = epochs(tmp_path)[-1]
    assert row["layers"] == {name: float((value == 0).double().mean()) for name, value in model.items()}
    zeros = sum(int((value == 0).sum()) for value in model.values())
    count = sum(value.numel() for value in model.values())
    assert row["sparsity"] == pytest.approx(zeros / count) and 0.1 < row["sparsity"] < 1
    assert "layers" not in epochs_of_sgd(data, tmp_path)[-1]


def epochs_of_sgd(data: Path, folder: Path) -> list[dict[str, Any]]:
    assert run(data, folder / "sgd", "--model mlp(16) --epochs 1") == 0
    return epochs(folder / "sgd")


def test_weights_that_are_not_numbers_have_metrics() -> None:
    model = nn.Linear(2, 4)
    with torch.no_grad():
        model.weight.fill_(float("nan"))
    metrics = classification_metrics(model, iter([(torch.ones(3, 2), torch.tensor([0, 1, 2]))]))
    assert 0 <= metrics["test_accuracy"] <= 1 and metrics["test_loss"] != metrics["test_loss"]


def parse(text: str) -> argparse.Namespace:
    return image.parse(text.split())


def test_a_quick_run(data: Path, tmp_path: Path) -> None:
    options = ["--dataset", "made", "--data-dir", str(data), "--model", "mlp(16)", "-b", "8", "--quick", "--quiet"]
    assert image.main([*options, "--lr", "0.05", "--device", "cpu", "--result-dir", str(tmp_path)]) == 0
    assert len(epochs(tmp_path)) == 2 and epochs(tmp_path)[-1]["test_accuracy"] > 0.5


def test_quick_is_less_but_not_other_than_what_was_asked_for() -> None:
    assert (parse("--quick").epochs, parse("--quick").train_images) == ([2], 4000)
    asked = parse("--quick --epochs 1,3 --train-images 50")
    assert (asked.epochs, asked.train_images) == ([1, 3], 50)
    assert parse("--quick --train-images 50000").train_images == 4000
    assert (parse("").epochs, parse("").train_images) == ([80, 120, 150], None)


def test_only_the_first_images(data: Path) -> None:
    options = parse(f"--dataset made --data-dir {data} --train-images 20 --test-images 8 --model mlp(4)")
    task = image.make_task(options, torch.device("cpu"))
    assert len(task._training.images) == 20 and len(task.held_out["test"][1]) == 8


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("--dataset nothing", "no image data set 'nothing': known by name are mnist"),
        ("--model perceptron", "'perceptron' is no model; the models are: mlp"),
        ("--algo sgd --nu 0.5", "--nu is no option of --algo sgd: those that have it are mix_clip"),
        ("--schedule plateau --epochs 1,2", "--schedule plateau has no milestones: give --epochs 2, not [1, 2]"),
        ("--backend nothing", "unknown backend='nothing'; choose one of"),
    ],
)
def test_a_mistake_is_a_line(
    text: str, words: str, data: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    assert run(data, tmp_path / "run", text) == 2
    said = capsys.readouterr()
    (line,) = said.err.splitlines()
    assert line.startswith("python -m recipes image: ") and words in line and not said.out
    assert not (tmp_path / "run").exists()


@pytest.mark.parametrize(
    ("text", "words"),
    [
        ("--train-images 0", "'0' is not a whole number of at least 1"),
        ("-b 1.5", "'1.5' is not a whole number of at least 1"),
        ("--seed -1", "'-1' is not a whole number of at least 0"),
        ("--algo nothing", "invalid choice: 'nothing'"),
        ("--epochs 5,2", "'5,2' is not a list of increasing epochs"),
        ("--precision float64", "invalid choice: 'float64'"),
    ],
)
def test_a_mistake_in_an_option_is_argparses(text: str, words: str, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit) as caught:
        image.main(text.split())
    assert caught.value.code == 2 and words in capsys.readouterr().err


def test_several_processes_are_refused(
    data: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    """Each of them would train the same model on all images."""
    monkeypatch.setattr(World, "join", classmethod(lambda cls, device: cls(0, 2)))
    monkeypatch.setattr(World, "gather", lambda self, value: [value, value])
    assert run(data, tmp_path) == 2
    assert "trains in one process, of which 2 run: start it without torchrun" in capsys.readouterr().err


def test_the_command_itself(data: Path) -> None:
    """In a process of its own: the exit status of a mistake, and no traceback."""
    command = [sys.executable, "-m", "recipes", "image", "--dataset", "made", "--data-dir", str(data), "--nu", "1"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True)
    assert done.returncode == 2 and "Traceback" not in done.stderr and len(done.stderr.splitlines()) == 1
