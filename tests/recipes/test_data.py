"""recipes.data's image formats, read back from files made here, and the order in which they are looked for."""

from __future__ import annotations

import gzip
from pathlib import Path

import numpy as np
import pytest
import torch

from recipe_files import (
    CIFAR_FOLDERS,
    CIFAR_NAMES,
    IDX_NAMES,
    Arrays,
    cifar_contents,
    idx_bytes,
    same,
    some_arrays,
    write_idx,
    write_npz,
)
from recipes.data import images as images_module
from recipes.data.errors import RecipeDataError
from recipes.data.images import IMAGE_DATASETS, load_images


@pytest.mark.parametrize("zipped", [False, True])
def test_idx_files_are_read_back(tmp_path: Path, zipped: bool) -> None:
    arrays = some_arrays()
    write_idx(tmp_path / "fashion_mnist", arrays, zipped)
    images = load_images("fashion_mnist", tmp_path, download=False)
    assert (images.name, images.classes, images.shape) == ("fashion_mnist", 10, (1, 4, 5))
    assert same(images.train_images, arrays["x_train"][:, None]) and same(images.train_labels, arrays["y_train"])
    assert same(images.test_images, arrays["x_test"][:, None]) and same(images.test_labels, arrays["y_test"])
    assert images.train_images.dtype == torch.uint8 and images.train_labels.dtype == torch.int64


@pytest.mark.parametrize("below", [False, True])
@pytest.mark.parametrize("name", CIFAR_NAMES)
def test_cifar_files_are_read_back(tmp_path: Path, name: str, below: bool) -> None:
    folder = tmp_path / name / (CIFAR_FOLDERS[name] if below else ".")
    folder.mkdir(parents=True)
    contents, pixels, labels = cifar_contents(name)
    for file, content in contents.items():
        (folder / file).write_bytes(content)
    images = load_images(name, tmp_path, download=False)
    assert (images.classes, images.shape) == (10 if name == "cifar10" else 100, (3, 32, 32))
    assert same(images.train_images, pixels[:-2]) and same(images.train_labels, labels[:-2])
    assert same(images.test_images, pixels[-2:]) and same(images.test_labels, labels[-2:])


@pytest.mark.parametrize("labels", [np.uint8, np.int32, np.uint64])
def test_npz_files_are_read_back(tmp_path: Path, labels: type) -> None:
    arrays = some_arrays((4, 5, 3))
    arrays["y_train"] = arrays["y_train"].astype(labels)[:, None]
    images = load_images("own", write_npz(tmp_path / "own.npz", arrays) and tmp_path)
    assert (images.classes, images.shape) == (10, (3, 4, 5))
    assert same(images.train_images, arrays["x_train"].transpose(0, 3, 1, 2))
    assert same(images.train_labels, arrays["y_train"][:, 0]) and images.train_labels.dtype == torch.int64
    grey = write_npz(tmp_path / "grey.npz", some_arrays())
    assert same(load_images("grey", tmp_path).test_images, grey["x_test"][:, None])


def test_moments_are_those_of_the_training_images(tmp_path: Path) -> None:
    arrays = write_npz(tmp_path / "own.npz", some_arrays((4, 5, 3)))
    mean, std = load_images("own", tmp_path).moments()
    pixels = arrays["x_train"].astype(np.float64) / 255
    assert mean.dtype == std.dtype == torch.float32
    torch.testing.assert_close(mean, torch.tensor(pixels.mean((0, 1, 2)), dtype=torch.float32))
    torch.testing.assert_close(std, torch.tensor(pixels.std((0, 1, 2)), dtype=torch.float32))


def test_an_npz_goes_before_the_official_files(tmp_path: Path) -> None:
    write_idx(tmp_path / "mnist", some_arrays(seed=1), zipped=True)
    official = load_images("mnist", tmp_path, download=False)
    arrays = write_npz(tmp_path / "mnist.npz", some_arrays(seed=2))
    assert same(load_images("mnist", tmp_path).train_images, arrays["x_train"][:, None])
    assert not same(official.train_images, arrays["x_train"][:, None])


@pytest.mark.parametrize("name", IMAGE_DATASETS)
def test_without_a_download_the_remedy_is_named(tmp_path: Path, name: str) -> None:
    with pytest.raises(RecipeDataError) as caught:
        load_images(name, tmp_path, download=False)
    assert f"an .npz with x_train, y_train, x_test, y_test at {tmp_path / name}.npz" in str(caught.value)
    assert f"into {tmp_path / name}, or" in str(caught.value) and "--data-dir" in str(caught.value)
    for file in images_module._OFFICIAL[name].missing(tmp_path / name):
        assert f"{file.name} (from {file.url})" in str(caught.value)


def test_an_unknown_name_lists_what_there_is(tmp_path: Path) -> None:
    write_npz(tmp_path / "own.npz", some_arrays())
    with pytest.raises(RecipeDataError, match=r"'minst'.*mnist, fashion_mnist, cifar10, cifar100.*are own\.npz"):
        load_images("minst", tmp_path)
    with pytest.raises(RecipeDataError, match=r"are none\. .*elsewhere.minst\.npz"):
        load_images("minst", tmp_path / "elsewhere")


@pytest.mark.parametrize(
    ("changes", "words"),
    [
        ({"x_train": np.zeros((7, 4, 5), np.float32)}, "x_train is float32, expected uint8"),
        ({"x_test": np.zeros((3, 20), np.uint8)}, r"x_test has shape \(3, 20\), expected \[n, height, width\]"),
        ({"x_train": np.zeros((7, 3, 8, 8), np.uint8)}, r"x_train has shape \(7, 3, 8, 8\), .* at most 4 channels"),
        ({"y_train": np.zeros(7)}, "y_train is float64, expected integers"),
        ({"y_train": np.zeros(6, int)}, "training part has 7 images and 6 labels"),
        ({"y_test": np.zeros(4, int)}, "test part has 3 images and 4 labels"),
        ({"x_test": np.zeros((0, 4, 5), np.uint8), "y_test": np.zeros(0, int)}, "0 images .* at least one"),
        ({"x_test": np.zeros((3, 4, 6), np.uint8)}, "training images are 1×4×5, and the test images 1×4×6"),
        ({"y_test": np.array([-1, 0, 1])}, "labels go from -1 to 9"),
        ({"y_test": np.array(["a", "b", "c"], object)}, "no .npz file .*pickle"),
    ],
)
def test_an_npz_of_another_form_is_refused(tmp_path: Path, changes: Arrays, words: str) -> None:
    write_npz(tmp_path / "own.npz", {**some_arrays(), **changes})
    with pytest.raises(RecipeDataError, match=f"own.npz.*{words}"):
        load_images("own", tmp_path)


def test_files_that_are_no_npz_are_refused(tmp_path: Path) -> None:
    np.savez(tmp_path / "few.npz", x_train=np.zeros(1), y=np.zeros(1))
    with pytest.raises(RecipeDataError, match="few.npz lacks y_train, x_test, y_test: it has x_train, y"):
        load_images("few", tmp_path)
    (tmp_path / "text.npz").write_text("text")
    np.save(tmp_path / "one.npy", np.zeros(1))
    (tmp_path / "one.npy").rename(tmp_path / "one.npz")
    for name in ("text", "one"):
        with pytest.raises(RecipeDataError, match=f"{name}.npz is no .npz file with the arrays x_train"):
            load_images(name, tmp_path)


@pytest.mark.parametrize(
    ("file", "content", "words"),
    [
        (IDX_NAMES[0], b"\x00\x00\x0d\x03", "starts with 00 00 0d 03, expected 00 00 08 03"),
        (IDX_NAMES[0], idx_bytes(np.zeros((7, 4, 5)))[:-1], r"155 bytes, .* \[7, 4, 5\] asks for 156: delete"),
        (IDX_NAMES[1], idx_bytes(np.full(7, 10)), r"labels go from 1 to 10, expected them in \[0, 10\)"),
        (f"{IDX_NAMES[3]}.gz", gzip.compress(b"0" * 99, mtime=0)[:-9], "no whole gzip file"),
        (f"{IDX_NAMES[3]}.gz", b"<html>", "no whole gzip file"),
    ],
)
def test_damaged_idx_files_are_refused(tmp_path: Path, file: str, content: bytes, words: str) -> None:
    write_idx(tmp_path / "mnist", some_arrays(), zipped=False)
    (tmp_path / "mnist" / file.removesuffix(".gz")).unlink()
    (tmp_path / "mnist" / file).write_bytes(content)
    with pytest.raises(RecipeDataError, match=words):
        load_images("mnist", tmp_path)


def test_a_truncated_cifar_file_is_refused(tmp_path: Path) -> None:
    (tmp_path / "cifar100").mkdir()
    for file in CIFAR_NAMES["cifar100"]:
        (tmp_path / "cifar100" / file).write_bytes(bytes(3073))
    with pytest.raises(RecipeDataError, match=r"train.bin has 3,073 bytes, expected rows of 3,074"):
        load_images("cifar100", tmp_path)
