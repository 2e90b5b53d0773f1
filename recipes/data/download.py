"""Files fetched from their official addresses, which appear under their name only when whole and right."""

from __future__ import annotations

import contextlib
import hashlib
import http.client
import os
import tarfile
import tempfile
import urllib.request
import zlib
from dataclasses import dataclass
from pathlib import Path

from tqdm import tqdm

from recipes.data.errors import RecipeDataError

_CHUNK = 1 << 20  # bytes
_TIMEOUT = 30.0  # seconds without a byte, not for the whole file
_USER_AGENT = "torchclip-recipes"  # some servers refuse urllib's own


@dataclass(frozen=True)
class RemoteFile:
    """A file as its authors publish it."""

    url: str
    md5: str
    size: int  # bytes

    @property
    def name(self) -> str:
        return self.url.rpartition("/")[2]


def put_by_hand(files: list[RemoteFile], folder: Path) -> str:
    """How to do without the download, as the end of an error message."""
    return f"put {' and '.join(f'{file.name} (from {file.url})' for file in files)} into {folder}"


def fetch(file: RemoteFile, folder: Path, alternatives: str) -> Path:
    """Downloads the file into the folder.

    ``alternatives`` ends the error message, after the advice to fetch the file by hand.

    Raises: RecipeDataError without the network, on an error of the server or the disk, and for another content.
    """
    # The process id keeps two runs that start together out of each other's file.
    part = folder / f"{file.name}.{os.getpid()}.part"
    remedy = f"{put_by_hand([file], folder)}, {alternatives}"
    try:
        received, md5 = _download(file, part)
        if md5 != file.md5:
            raise RecipeDataError(
                f"{file.url} gave {received:,} bytes with md5 {md5}, expected {file.size:,} with md5 {file.md5}. "
                f"Try again later, or {remedy}"
            )
        os.replace(part, folder / file.name)
    except (OSError, http.client.HTTPException) as error:  # OSError covers urllib's errors, timeouts and the disk
        reason = str(error) or type(error).__name__
        raise RecipeDataError(f"cannot download {file.url} into {folder}: {reason}. Instead, {remedy}") from error
    finally:
        with contextlib.suppress(OSError):  # absent after success; and what went wrong above is what to report
            part.unlink()
    return folder / file.name


def _download(file: RemoteFile, part: Path) -> tuple[int, str]:
    """The number of bytes that came, and their md5."""
    request = urllib.request.Request(file.url, headers={"User-Agent": _USER_AGENT})
    digest = hashlib.md5(usedforsecurity=False)
    received = 0
    with urllib.request.urlopen(request, timeout=_TIMEOUT) as response:
        part.parent.mkdir(parents=True, exist_ok=True)  # only now, so that a server out of reach leaves no folder
        progress = tqdm(total=file.size, desc=file.name, unit="B", unit_scale=True, unit_divisor=1024)
        with progress, part.open("wb") as target:
            while chunk := response.read(_CHUNK):
                target.write(chunk)
                digest.update(chunk)
                received += len(chunk)
                progress.update(len(chunk))
    return received, digest.hexdigest()


def verify(path: Path, file: RemoteFile) -> None:
    """That a file found on disk is the published one.

    Raises: RecipeDataError with both checksums.
    """
    digest = hashlib.md5(usedforsecurity=False)
    with path.open("rb") as stream:
        while chunk := stream.read(_CHUNK):
            digest.update(chunk)
    if digest.hexdigest() != file.md5:
        raise RecipeDataError(
            f"{path} has {path.stat().st_size:,} bytes with md5 {digest.hexdigest()}, "
            f"expected {file.size:,} with md5 {file.md5}: delete it to have it downloaded again from {file.url}"
        )


def unpack(archive: Path, folder: Path) -> None:
    """Unpacks a tar file; each of its files appears whole, so that an interrupted unpacking is merely repeated.

    Raises: RecipeDataError for a file that is no tar archive or one that writes outside the folder.
    """
    with tempfile.TemporaryDirectory(dir=folder, prefix="unpacking-") as temporary:
        try:
            with tarfile.open(archive) as tar:
                tar.extractall(temporary, filter="data")
        except (tarfile.TarError, EOFError, zlib.error) as error:
            raise RecipeDataError(f"cannot unpack {archive}: {error}; delete it to have it downloaded again") from error
        for path in Path(temporary).rglob("*"):
            if path.is_file():
                target = folder / path.relative_to(temporary)
                target.parent.mkdir(parents=True, exist_ok=True)
                os.replace(path, target)
