"""recipes.data's downloads, from a local server: what comes is checked, and without it the error says what to do."""

from __future__ import annotations

import dataclasses
import functools
import gzip
import hashlib
import http.server
import os
import threading
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from recipe_files import (
    CIFAR_FOLDERS,
    CIFAR_NAMES,
    IDX_NAMES,
    cifar_contents,
    idx_bytes,
    same,
    some_arrays,
    tar_bytes,
    write_idx,
)
from recipes.data import images as images_module
from recipes.data.download import RemoteFile, fetch, unpack
from recipes.data.errors import RecipeDataError
from recipes.data.idx import MNIST
from recipes.data.images import load_images


@pytest.fixture
def server(tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch) -> Iterator[tuple[str, Path]]:
    """The address of a server, and the folder that it serves."""
    monkeypatch.setenv("no_proxy", "127.0.0.1")
    folder = tmp_path_factory.mktemp("served")

    class Quiet(http.server.SimpleHTTPRequestHandler):
        def log_message(self, *arguments: Any) -> None:
            pass

    handler = functools.partial(Quiet, directory=str(folder))
    with http.server.ThreadingHTTPServer(("127.0.0.1", 0), handler) as running:
        thread = threading.Thread(target=running.serve_forever, kwargs={"poll_interval": 0.01})
        thread.start()
        yield f"http://127.0.0.1:{running.server_port}", folder
        running.shutdown()
        thread.join()


def served(server: tuple[str, Path], name: str, content: bytes) -> RemoteFile:
    address, folder = server
    (folder / name).write_bytes(content)
    return RemoteFile(f"{address}/{name}", hashlib.md5(content).hexdigest(), len(content))


def test_missing_official_files_are_downloaded_and_kept(
    tmp_path: Path, server: tuple[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    arrays, folder = some_arrays(), tmp_path / "mnist"
    write_idx(folder, arrays, zipped=False)
    (folder / IDX_NAMES[2]).unlink()
    test_images = served(server, f"{IDX_NAMES[2]}.gz", gzip.compress(idx_bytes(arrays["x_test"])))
    # The other three have no server: asking for them would fail.
    monkeypatch.setitem(images_module._OFFICIAL, "mnist", dataclasses.replace(MNIST, test_images=test_images))
    assert same(load_images("mnist", tmp_path).test_images, arrays["x_test"][:, None])
    (server[1] / test_images.name).unlink()
    assert same(load_images("mnist", tmp_path).test_images, arrays["x_test"][:, None])
    assert sorted(os.listdir(folder)) == sorted([*IDX_NAMES[:2], f"{IDX_NAMES[2]}.gz", IDX_NAMES[3]])


@pytest.mark.parametrize("name", CIFAR_NAMES)
def test_an_archive_is_downloaded_and_unpacked_once(
    tmp_path: Path, server: tuple[str, Path], monkeypatch: pytest.MonkeyPatch, name: str
) -> None:
    contents, pixels, _ = cifar_contents(name)
    archive = tar_bytes({f"{CIFAR_FOLDERS[name]}/{file}": content for file, content in contents.items()})
    source = dataclasses.replace(images_module._OFFICIAL[name], archive=served(server, "archive.tar.gz", archive))
    monkeypatch.setitem(images_module._OFFICIAL, name, source)
    assert same(load_images(name, tmp_path).train_images, pixels[:-2])
    (tmp_path / name / "archive.tar.gz").unlink()
    assert same(load_images(name, tmp_path, download=False).train_images, pixels[:-2])
    assert os.listdir(tmp_path / name) == [CIFAR_FOLDERS[name]]


def test_an_archive_put_there_by_hand_is_checked(tmp_path: Path) -> None:
    (tmp_path / "cifar10").mkdir()
    archive = tmp_path / "cifar10" / "cifar-10-binary.tar.gz"
    archive.write_bytes(b"half of it")
    with pytest.raises(RecipeDataError, match=r"10 bytes with md5 \w{32}, expected .* md5 c32a1d4a.*: delete it"):
        load_images("cifar10", tmp_path)
    assert archive.exists()


def test_an_archive_cannot_write_outside_its_folder(tmp_path: Path) -> None:
    (tmp_path / "inside").mkdir()
    (tmp_path / "bad.tar.gz").write_bytes(tar_bytes({"../outside": b"x"}))
    (tmp_path / "no.tar.gz").write_bytes(b"not a tar")
    for archive in ("bad.tar.gz", "no.tar.gz"):
        with pytest.raises(RecipeDataError, match=f"cannot unpack .*{archive}"):
            unpack(tmp_path / archive, tmp_path / "inside")
    assert sorted(os.listdir(tmp_path)) == ["bad.tar.gz", "inside", "no.tar.gz"]
    assert not os.listdir(tmp_path / "inside")


def test_another_content_is_refused_and_removed(tmp_path: Path, server: tuple[str, Path]) -> None:
    file = served(server, "some.gz", b"right")
    assert fetch(file, tmp_path, "or not").read_bytes() == b"right"
    (tmp_path / "some.gz").unlink()
    wrong = hashlib.md5(b"wrong").hexdigest()
    served(server, "some.gz", b"wrong")
    with pytest.raises(RecipeDataError, match=f"5 bytes with md5 {wrong}, expected 5 with md5 {file.md5}.*or not"):
        fetch(file, tmp_path, "or not")
    assert not os.listdir(tmp_path)


def test_a_folder_that_cannot_be_made_is_an_error_like_any_other(tmp_path: Path, server: tuple[str, Path]) -> None:
    (tmp_path / "file").write_text("")
    with pytest.raises(RecipeDataError, match="cannot download .* into .*file.*Not a directory.*or not"):
        fetch(served(server, "some.gz", b"right"), tmp_path / "file" / "below", "or not")


def test_without_a_server_or_the_file_the_remedy_is_named(
    tmp_path: Path, server: tuple[str, Path], monkeypatch: pytest.MonkeyPatch
) -> None:
    address, _ = server
    for url, reason in ((f"{address}/x.gz", "HTTP Error 404"), ("http://127.0.0.1:9/x.gz", "Connection refused")):
        train_images = dataclasses.replace(MNIST.train_images, url=url)
        monkeypatch.setitem(images_module._OFFICIAL, "mnist", dataclasses.replace(MNIST, train_images=train_images))
        with pytest.raises(RecipeDataError) as caught:
            load_images("mnist", tmp_path)
        message = str(caught.value)
        assert message.startswith(f"cannot download {url} into {tmp_path / 'mnist'}: ") and reason in message
        assert f"put x.gz (from {url}) into {tmp_path / 'mnist'}, or an .npz" in message and "--data-dir" in message
        assert not os.listdir(tmp_path)
