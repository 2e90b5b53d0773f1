"""The folder of a run: its log in JSON lines, and its checkpoint."""

import json
import math
import os
import pickle
import re
from collections.abc import Mapping, Sequence
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
    """Where a run writes.

    Args:
        path: made if it is not there.
        writes: False in all processes of a distributed run but the first.
    """

    def __init__(self, path: Path, writes: bool = True) -> None:
        self.path = path
        self.rows: list[dict[str, Any]] = []  # of the log
        self._writes = writes
        if writes:
            path.mkdir(parents=True, exist_ok=True)

    def append(self, row: Mapping[str, Any]) -> None:
        self.rows.append(_finite(row))
        if self._writes:
            with (self.path / LOG).open("a") as file:
                file.write(json.dumps(self.rows[-1], allow_nan=False) + "\n")

    def restart(self, rows: Sequence[Mapping[str, Any]] = ()) -> None:
        """The log is what a checkpoint has of it; without one, nothing stays of a run that was here before."""
        if self._writes and not rows:
            (self.path / CHECKPOINT).unlink(missing_ok=True)
        if self._writes:
            (self.path / LOG).unlink(missing_ok=True)
        self.rows = []
        for row in rows:
            self.append(row)

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
