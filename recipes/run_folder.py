"""The folder of a run: its log in JSON lines, and its checkpoint."""

from __future__ import annotations

import json
import math
import os
import pickle
import re
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import torch

LOG, CHECKPOINT = "log.jsonl", "checkpoint.pt"


def folder_name(text: str) -> str:
    """The text with what a shell or a file system could take amiss, as in "resnet(32,1)", made "_"."""
    return re.sub(r"[^A-Za-z0-9.=+-]+", "_", text).lstrip(".") or "_"


def read_log(folder: Path) -> list[dict[str, Any]]:
    """The rows of a run's log: the first says what ran (``kind`` "run"), the others are its epochs and its end.

    A last line that was cut off in mid-write is left out.
    """
    path = folder / LOG
    rows = []
    for line in path.read_text().splitlines() if path.exists() else ():
        try:
            rows.append(json.loads(line))
        except json.JSONDecodeError:
            break
    return rows


def _finite(value: Any) -> Any:
    """JSON has no NaN: what is not finite becomes null."""
    if isinstance(value, Mapping):
        return {key: _finite(one) for key, one in value.items()}
    return None if isinstance(value, float) and not math.isfinite(value) else value


class RunFolder:
    """Where a run writes. Whoever goes on from its checkpoint first cuts the log back to it.

    Args:
        path: made if it is not there.
        writes: False in all processes of a distributed run but the first.
    """

    def __init__(self, path: Path, writes: bool = True) -> None:
        self.path = path
        self.rows = len(read_log(path))  # of the log
        self._writes = writes
        if writes:
            path.mkdir(parents=True, exist_ok=True)

    def append(self, row: Mapping[str, Any]) -> None:
        self.rows += 1
        if self._writes:
            with (self.path / LOG).open("a") as file:
                file.write(json.dumps(_finite(row), allow_nan=False) + "\n")

    def cut(self, rows: int) -> None:
        """Leaves the first ``rows`` rows of the log. Raises ValueError when it has fewer."""
        kept = read_log(self.path)[:rows]
        if len(kept) < rows:
            raise ValueError(
                f"{self.path / LOG} has {len(kept)} whole rows, and its checkpoint was written after {rows}: "
                "it was changed since; put it back, or start anew with --overwrite"
            )
        self.rows = rows
        if self._writes:
            part = self.path / (LOG + ".part")
            part.write_text("".join(json.dumps(row) + "\n" for row in kept))
            os.replace(part, self.path / LOG)

    def clear(self) -> None:
        """Removes the log and the checkpoint of a run that was here before."""
        self.rows = 0
        if self._writes:
            for name in (CHECKPOINT, LOG):
                (self.path / name).unlink(missing_ok=True)

    def save(self, state: Mapping[str, Any]) -> None:
        """The checkpoint. It takes the place of the last one only when it is wholly written."""
        if self._writes:
            part = self.path / (CHECKPOINT + ".part")
            torch.save(dict(state), part)
            os.replace(part, self.path / CHECKPOINT)

    def load(self, device: torch.device) -> dict[str, Any] | None:
        """The checkpoint, or None where there is none. Raises ValueError for a file that is none."""
        path = self.path / CHECKPOINT
        if not path.exists():
            return None
        try:
            state: dict[str, Any] = torch.load(path, map_location=device, weights_only=True)
        except (OSError, RuntimeError, EOFError, pickle.UnpicklingError) as error:
            reason = str(error).partition("\n")[0]
            raise ValueError(f"{path} cannot be read ({reason}): start anew with --overwrite") from error
        return state
