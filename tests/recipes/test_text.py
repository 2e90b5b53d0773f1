"""`python -m recipes text`: what is read, a step by hand, a run that goes on, and mistakes in a line."""

from __future__ import annotations

import copy
import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch.nn.functional import cross_entropy

from recipe_runs import assert_same_run, checkpoint, epochs, interrupted_after
from recipes import text


@pytest.fixture
def folder(tmp_path: Path) -> Path:
    """Two authors who use the same twenty words, one the first of them more often, the other the last."""
    random = np.random.default_rng(0)
    weights = np.linspace(1, 9, 20)
    place = tmp_path / "authors"
    place.mkdir()
    for name, chances in (("one", weights), ("two", weights[::-1])):
        chosen = random.choice(20, size=1000, p=chances / chances.sum())
        (place / f"{name}.txt").write_text(" ".join(f"w{number}" for number in chosen))
    return place


def arguments(folder: Path, *others: str) -> list[str]:
    return ["--dataset", str(folder), "--length", "10", "-b", "16", "--device", "cpu", "--quiet", *others]


def make_task(given: list[str]) -> text.TextTask:
    options = text.parse(given)
    torch.manual_seed(options.seed)
    return text.TextTask(options, torch.device("cpu"))


def test_a_file_for_each_class(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text(" ".join(f"a{number}" for number in range(21)))
    (tmp_path / "b.txt").write_text(" ".join(f"b{number}" for number in range(10)))
    parts = text.read_folder(tmp_path, 2)
    # 16 words of a and 8 of b are for training, the next 4 and 2, which no training example has, for testing.
    wanted = [([f"a{n}", f"a{n + 1}"], 0) for n in range(0, 16, 2)] + [
        ([f"b{n}", f"b{n + 1}"], 1) for n in (0, 2, 4, 6)
    ]
    assert parts[0] == wanted
    vocabulary, ((tokens, labels), (test_tokens, test_labels)) = text.indexed(parts)
    assert vocabulary == 2 + 24 and sorted(tokens.flatten().tolist()) == list(range(2, 26))
    assert (tokens[labels == 0] < 18).all() and (tokens[labels == 1] >= 18).all()
    assert test_tokens.tolist() == [[1, 1]] * 3 and sorted(test_labels.tolist()) == [0, 0, 1]
    assert labels.tolist() != sorted(labels.tolist())


def test_imdb_is_hugging_faces(monkeypatch: pytest.MonkeyPatch) -> None:
    """At most 4 words a review: indices fall with the frequency in training, and then as the words were met."""
    train = [{"text": "Bad, bad film.", "label": 0}, {"text": "It's BAD<br /><br />Truly", "label": 0}]
    rows = {"train": [*train, {"text": "good film", "label": 1}], "test": [{"text": "bad unheard", "label": 0}]}
    module: Any = types.ModuleType("datasets")
    module.load_dataset = {"stanfordnlp/imdb": rows}.__getitem__
    monkeypatch.setitem(sys.modules, "datasets", module)
    vocabulary, (tokens, tests) = text.indexed(text.read_imdb(4))
    bad, film, comma, its, truly, good = range(2, 8)
    wanted = [([bad, comma, bad, film], 0), ([its, bad, truly, 0], 0), ([good, film, 0, 0], 1)]
    assert vocabulary == 8 and sorted(zip(tokens[0].tolist(), tokens[1].tolist())) == sorted(wanted)
    assert tests[0].tolist() == [[bad, 1]]
    assert text.indexed(text.read_imdb(4), words=2)[0] == 4  # only the most frequent ones


def test_padding_changes_nothing() -> None:
    torch.manual_seed(0)
    model = text.TextClassifier(12, 3, embedding=6, hidden=5).double()
    texts = torch.tensor([[5, 3, 9, 2], [7, 8, 0, 0], [0, 0, 0, 0]])
    padded = model(texts)
    for row, logits in zip(texts[:2], padded):
        torch.testing.assert_close(model(row[None, row != 0])[0], logits, rtol=1e-12, atol=1e-12)
    torch.testing.assert_close(padded[2], model.classifier.bias)


@pytest.mark.parametrize("algo", ["adaloss", "adagrad_norm"])
def test_a_run_stopped_in_mid_epoch_ends_as_one_that_was_not(algo: str, folder: Path, tmp_path: Path) -> None:
    given = arguments(folder, "--algo", algo, "--momentum", "0.9", "--epochs", "2")
    whole, stopped = tmp_path / "whole", tmp_path / "stopped"
    assert text.main([*given, "--result-dir", str(whole)]) == 0
    given += ["--result-dir", str(stopped)]
    with interrupted_after(3):
        assert text.main(given) == 130
    assert text.main([*given, "--resume"]) == 0
    assert_same_run(whole, stopped)


def test_a_step_is_what_a_hand_writes(folder: Path, tmp_path: Path) -> None:
    """b² = b0² + alpha · loss, p <- p - lr · g / b."""
    given = arguments(folder, "--texts", "16", "--epochs", "1", "--lr", "2", "--b0", "0.5", "--alpha", "3")
    task = make_task(given)
    model = copy.deepcopy(task.model).double()
    ((tokens, labels),) = task.batches(0, 0)
    loss = cross_entropy(model(tokens), labels)
    gradients = torch.autograd.grad(loss, list(model.parameters()))
    with torch.no_grad():
        for p, gradient in zip(model.parameters(), gradients):
            p -= 2 * gradient / (0.25 + 3 * loss).sqrt()
    assert text.main([*given, "--result-dir", str(tmp_path / "run")]) == 0
    for name, value in checkpoint(tmp_path / "run")["model"].items():
        torch.testing.assert_close(value.double(), model.state_dict()[name], rtol=1e-5, atol=1e-6)


def test_it_learns(folder: Path, tmp_path: Path) -> None:
    """And its accuracy is that of its model on the test texts."""
    given = arguments(folder, "--epochs", "8", "--lr", "1", "--result-dir", str(tmp_path / "run"))
    assert text.main(given) == 0
    rows = epochs(tmp_path / "run")
    assert rows[-1]["train_loss"] < rows[0]["train_loss"] and rows[-1]["test_accuracy"] > 0.8
    task = make_task(given)
    task.model.load_state_dict(checkpoint(tmp_path / "run")["model"])
    tokens, labels = task._test
    with torch.no_grad():
        right = task.model.eval()(tokens).argmax(1) == labels
    assert rows[-1]["test_accuracy"] == pytest.approx(float(right.float().mean()))


def test_defaults() -> None:
    assert text.parse([]).lr == 1 and text.parse(["--lr", "0.3"]).lr == 0.3
    assert text.parse(["--algo", "adam"]).lr is None
    quick = text.parse(["--quick", "--texts", "50"])
    assert (quick.dataset, quick.algo, quick.epochs, quick.length) == ("imdb", "adaloss", [2], 64)
    assert quick.texts == 50 and text.parse(["--quick"]).texts == 2000


ERRORS = {
    "a missing folder": (
        ("--dataset", "nowhere"),
        "--dataset nowhere has 0 .txt files: wanted two, each a class",
    ),
    "too long": (("--length", "900"), "one.txt has 1000 words, expected at least 1800: lower --length"),
    "no datasets": (("--dataset", "imdb"), "pip install datasets, or give --dataset a folder of .txt files"),
    "another algorithm's option": (("--gamma", "1"), "--gamma is no option of --algo adaloss"),
}


@pytest.mark.parametrize("name", ERRORS)
def test_a_mistake_is_one_line(
    name: str, folder: Path, tmp_path: Path, capsys: pytest.CaptureFixture[str], monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setitem(sys.modules, "datasets", None)
    others, message = ERRORS[name]
    assert text.main(arguments(folder, *others, "--result-dir", str(tmp_path / "run"))) == 2
    said = capsys.readouterr().err
    assert said.startswith("python -m recipes text: ") and said.count("\n") == 1 and message in said
