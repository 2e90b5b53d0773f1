"""recipes.data: images from .npz files and by torchvision, running text from files, and what is no such file."""

from __future__ import annotations

import sys
import types
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from torch import Tensor

from recipe_files import Arrays, same, some_arrays, write_idx, write_npz
from recipes.data import RecipeDataError
from recipes.data.corpus import Corpus, columns
from recipes.data.images import load_images


@pytest.mark.parametrize("labels", [np.uint8, np.int32, np.uint64])
def test_npz_files_are_read_back(tmp_path: Path, labels: type) -> None:
    arrays = some_arrays((4, 5, 3))
    arrays["y_train"] = arrays["y_train"].astype(labels)[:, None]
    write_npz(tmp_path / "own.npz", arrays)
    images = load_images("own", tmp_path)
    assert (images.classes, images.shape) == (10, (3, 4, 5))
    assert same(images.train_images, arrays["x_train"].transpose(0, 3, 1, 2))
    assert same(images.train_labels, arrays["y_train"][:, 0]) and images.train_labels.dtype == torch.int64
    grey = write_npz(tmp_path / "grey.npz", some_arrays())
    assert same(load_images("grey", tmp_path).test_images, grey["x_test"][:, None])


def test_moments_are_those_of_the_training_images(tmp_path: Path) -> None:
    arrays = write_npz(tmp_path / "own.npz", some_arrays((4, 5, 3)))
    mean, std = load_images("own", tmp_path).moments()
    pixels = arrays["x_train"].astype(np.float64) / 255
    torch.testing.assert_close(mean, torch.tensor(pixels.mean((0, 1, 2)), dtype=torch.float32))
    torch.testing.assert_close(std, torch.tensor(pixels.std((0, 1, 2)), dtype=torch.float32))


def torchvision_with(monkeypatch: pytest.MonkeyPatch, make: Any) -> None:
    for name in ("torchvision", "torchvision.datasets"):
        monkeypatch.setitem(sys.modules, name, types.ModuleType(name))
    sys.modules["torchvision.datasets"].CIFAR10 = make  # type: ignore[attr-defined]


def test_known_names_are_torchvisions_and_an_npz_goes_before_them(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    arrays, asked = some_arrays((4, 5, 3)), []

    def make(root: Path, train: bool, download: bool) -> types.SimpleNamespace:
        asked.append((root, train, download))
        part = "train" if train else "test"
        return types.SimpleNamespace(data=arrays[f"x_{part}"], targets=arrays[f"y_{part}"].tolist())

    torchvision_with(monkeypatch, make)
    images = load_images("cifar10", tmp_path)
    assert asked == [(tmp_path / "cifar10", True, True), (tmp_path / "cifar10", False, True)]
    assert same(images.train_images, arrays["x_train"].transpose(0, 3, 1, 2))
    assert same(images.test_labels, arrays["y_test"])
    other = write_npz(tmp_path / "cifar10.npz", some_arrays(seed=2))
    assert same(load_images("cifar10", tmp_path).train_images, other["x_train"][:, None])


def test_mnists_own_files_by_the_real_torchvision(tmp_path: Path) -> None:
    try:
        import torchvision.datasets  # noqa: F401
    except Exception as error:  # one for another torch raises what it likes
        pytest.skip(f"torchvision does not import: {error}")
    arrays = some_arrays((28, 28))
    write_idx(tmp_path / "fashion_mnist" / "FashionMNIST" / "raw", arrays)
    images = load_images("fashion_mnist", tmp_path)
    assert same(images.train_images, arrays["x_train"][:, None]) and same(images.test_labels, arrays["y_test"])


def test_without_torchvision_or_its_server_the_remedy_is_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    put = (
        f"or put an .npz with the arrays x_train, y_train, x_test, y_test at {tmp_path}/cifar10.npz, or give --data-dir"
    )
    for module, reason in ((None, "torchvision does not import"), (..., "no route to the server")):

        def refuse(*_: Any, **__: Any) -> None:
            raise OSError("no route to the server")

        torchvision_with(monkeypatch, refuse)
        if module is None:
            monkeypatch.setitem(sys.modules, "torchvision", None)
            monkeypatch.delitem(sys.modules, "torchvision.datasets")
        with pytest.raises(RecipeDataError) as caught:
            load_images("cifar10", tmp_path)
        assert "cifar10 cannot be had by torchvision" in str(caught.value)
        assert put in str(caught.value) and (reason in str(caught.value) or module is None)


def test_an_unknown_name_lists_what_there_is(tmp_path: Path) -> None:
    write_npz(tmp_path / "own.npz", some_arrays())
    with pytest.raises(RecipeDataError, match=r"'minst'.*mnist, fashion_mnist, cifar10, cifar100.*are own\.npz"):
        load_images("minst", tmp_path)


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"x_train": np.zeros((7, 4, 5), np.float32)}, r"x_train is float32 \[7, 4, 5, 1\] and .*, expected uint8"),
        (
            {"x_test": np.zeros((3, 20), np.uint8)},
            r"x_test is uint8 \[3, 20\] and .*, expected uint8",
        ),
        ({"x_train": np.zeros((7, 3, 8, 8), np.uint8)}, r"x_train is uint8 \[7, 3, 8, 8\] .* at most 4 channels"),
        ({"y_train": np.zeros(7)}, r"y_train float64 \[7\], expected .* integers from 0"),
        ({"y_train": np.zeros(6, int)}, r"y_train int64 \[6\], expected .* n integers from 0"),
        ({"x_test": np.zeros((0, 4, 5), np.uint8), "y_test": np.zeros(0, int)}, r"y_test int64 \[0\], expected"),
        ({"x_test": np.zeros((3, 4, 6), np.uint8)}, r"training images are \[1, 4, 5\], and test images \[1, 4, 6\]"),
        ({"y_test": np.array([-1, 0, 1])}, "y_test has the label -1, and classes are counted from 0"),
        ({"y_test": np.array(["a", "b", "c"], object)}, "no .npz file .*: one of them holds Python objects, where"),
    ],
)
def test_an_npz_of_another_form_is_refused(tmp_path: Path, changes: Arrays, words: str) -> None:
    write_npz(tmp_path / "own.npz", {**some_arrays(), **changes})
    with pytest.raises(RecipeDataError, match=f"own.npz.*{words}"):
        load_images("own", tmp_path)


def test_files_that_are_no_npz_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "few.npz", x_train=np.zeros(1), y=np.zeros(1))
    (tmp_path / "text.npz").write_text("text")
    np.save(tmp_path / "one.npy", np.zeros(1))
    (tmp_path / "one.npy").rename(tmp_path / "one.npz")
    for name in ("few", "text", "one"):
        with pytest.raises(RecipeDataError, match=f"{name}.npz is no .npz file with the arrays x_train") as caught:
            load_images(name, tmp_path)
        assert "allow_pickle" not in str(caught.value)
        assert (name == "few") != ("write one by numpy.savez" in str(caught.value))


def words_of(corpus: Corpus, tokens: Tensor) -> list[str]:
    return [corpus.vocabulary[token] for token in tokens]


def write_parts(folder: Path, train: str, valid: str, test: str) -> Path:
    for part, text in {"train": train, "valid": valid, "test": test}.items():
        (folder / f"{part}.txt").write_text(text, encoding="utf-8")
    return folder


def test_a_folder_of_words(tmp_path: Path) -> None:
    corpus = Corpus.load(write_parts(tmp_path, "the cat\n\n the  dog", "the fox\n", "a dog\n"), "word")
    assert corpus.vocabulary == ["the", "cat", "<eos>", "dog", "<unk>"]
    assert words_of(corpus, corpus.train) == ["the", "cat", "<eos>", "<eos>", "the", "dog", "<eos>"]
    assert words_of(corpus, corpus.valid) == ["the", "<unk>", "<eos>"]
    corpus = Corpus.load(write_parts(tmp_path, "<unk> cat\n", "dog\n", "cat\n"), "word")
    assert corpus.vocabulary == ["<unk>", "cat", "<eos>"] and corpus.valid.tolist() == [0, 2]


def test_a_folder_of_characters(tmp_path: Path) -> None:
    corpus = Corpus.load(write_parts(tmp_path, "aé\nb", "é c", "b\n"), "character")
    assert corpus.vocabulary == ["a", "é", "\n", "b", "<unk>"]
    assert [part.tolist() for part in (corpus.train, corpus.valid, corpus.test)] == [[0, 1, 2, 3], [1, 4, 4], [3, 2]]


@pytest.mark.parametrize(("lines", "sizes"), [(20, (18, 1, 1)), (101, (90, 5, 6))])
def test_one_file_is_split_by_lines_in_order(tmp_path: Path, lines: int, sizes: tuple[int, int, int]) -> None:
    (tmp_path / "text.txt").write_text("".join(f"{number}\n" for number in range(lines)))
    corpus = Corpus.load(tmp_path / "text.txt", "word")
    assert tuple(len(part) // 2 for part in (corpus.train, corpus.valid, corpus.test)) == sizes
    assert words_of(corpus, corpus.train)[::2] == [str(number) for number in range(sizes[0])]


def test_texts_that_cannot_be_read(tmp_path: Path) -> None:
    with pytest.raises(RecipeDataError, match="there is no .*nowhere: put it there"):
        Corpus.load(tmp_path / "nowhere", "word")
    write_parts(tmp_path, "a", "", "b")
    with pytest.raises(RecipeDataError, match="valid.txt is empty"):
        Corpus.load(tmp_path, "word")
    (tmp_path / "valid.txt").write_bytes(b"\xff\xfe")
    with pytest.raises(RecipeDataError, match="cannot read .*valid.txt as UTF-8"):
        Corpus.load(tmp_path, "character")
    (tmp_path / "train.txt").unlink()
    with pytest.raises(RecipeDataError, match="has no train.txt: wanted"):
        Corpus.load(tmp_path, "word")


def test_columns_are_stretches_of_the_text() -> None:
    assert columns(torch.arange(8), 3).tolist() == [[0, 2, 4], [1, 3, 5]]
