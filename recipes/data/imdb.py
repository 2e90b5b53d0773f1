"""IMDB's film reviews, negative and positive: Maas et al. 2011, https://ai.stanford.edu/~amaas/data/sentiment/."""

from __future__ import annotations

import re
import tarfile
import zlib
from pathlib import Path, PurePosixPath
from typing import NamedTuple

from recipes.data.download import RemoteFile, fetch, verify
from recipes.data.errors import RecipeDataError

NAME = "imdb"
CLASSES = ("neg", "pos")
ARCHIVE = RemoteFile(
    "https://ai.stanford.edu/~amaas/data/sentiment/aclImdb_v1.tar.gz", "7c2ac02c03563afcf9b574c7e56c153a", 84_125_825
)
_PARTS = ("train", "test")
_LINE_BREAK = re.compile(r"<br\s*/?>")  # the reviews were web pages


class Example(NamedTuple):
    """A text and its class."""

    text: str
    label: int


def read(data_dir: Path, download: bool) -> tuple[list[Example], list[Example]]:
    """The training and the test part: from ``data_dir``/imdb/, unpacked or in the archive, fetched if missing.

    Raises: RecipeDataError if they are not there and cannot be fetched, or are damaged.
    """
    folder = data_dir / NAME
    for place in (folder, folder / "aclImdb"):
        if is_unpacked(place):
            return read_folder(place)
    archive = folder / ARCHIVE.name
    alternatives = "or the unpacked folders train/{neg,pos} and test/{neg,pos}, or give --data-dir"
    if archive.is_file():
        verify(archive, ARCHIVE)
    elif download:
        fetch(ARCHIVE, folder, alternatives)
    else:
        raise RecipeDataError(
            f"{NAME} is not in {folder}, and is not to be downloaded: "
            f"put {ARCHIVE.name} (from {ARCHIVE.url}) there, {alternatives}"
        )
    return _read_archive(archive)


def is_unpacked(folder: Path) -> bool:
    return all((folder / part / name).is_dir() for part in _PARTS for name in CLASSES)


def read_folder(folder: Path) -> tuple[list[Example], list[Example]]:
    """The training and the test part from train/{neg,pos}/*.txt and test/{neg,pos}/*.txt.

    Raises: RecipeDataError for a folder without texts, and for a text without words or not in UTF-8.
    """
    contents = {
        (part, name, path.name): read_text(path)
        for part in _PARTS
        for name in CLASSES
        for path in (folder / part / name).glob("*.txt")
    }
    return _parts(folder, contents)


def read_text(path: Path) -> str:
    return _decoded(str(path), path.read_bytes())


def _read_archive(archive: Path) -> tuple[list[Example], list[Example]]:
    """Without unpacking 100,000 small files."""
    contents = {}
    try:
        with tarfile.open(archive, "r|gz") as tar:  # as a stream: going back and forth would decompress it many times
            for member in tar:
                key = PurePosixPath(member.name).parts[-3:]
                if len(key) == 3 and key[0] in _PARTS and key[1] in CLASSES and (file := tar.extractfile(member)):
                    contents[key[0], key[1], key[2]] = _decoded(member.name, file.read())
    except (tarfile.TarError, EOFError, zlib.error) as error:
        raise RecipeDataError(f"cannot read {archive}: {error}; delete it to have it downloaded again") from error
    return _parts(archive, contents)


def _decoded(origin: str, content: bytes) -> str:
    try:
        return content.decode("utf-8")
    except UnicodeDecodeError as error:
        raise RecipeDataError(f"{origin} is no UTF-8 text: {error}") from error


def _parts(origin: Path, contents: dict[tuple[str, str, str], str]) -> tuple[list[Example], list[Example]]:
    """Sorted by name, since neither folders nor archives have an order to rely on."""
    parts: dict[str, list[Example]] = {part: [] for part in _PARTS}
    for part, name, file in sorted(contents):
        text = _LINE_BREAK.sub(" ", contents[part, name, file])
        if not text.strip():
            raise RecipeDataError(f"{origin}: {part}/{name}/{file} has no words: remove it")
        parts[part].append(Example(text, CLASSES.index(name)))
    for part, examples in parts.items():
        if {example.label for example in examples} != set(range(len(CLASSES))):
            raise RecipeDataError(f"{origin}: expected .txt files in each of {part}/neg and {part}/pos")
    return parts["train"], parts["test"]
