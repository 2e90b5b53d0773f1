"""The file of a run: what it was measured with, its rows with their raw samples, and how it goes on after a break.

A row is a dictionary of plain values. Files hold finite numbers only: a run that produced another kind of number has
measured nothing, so it is refused when it is written and when it is read.
"""

import json
import math
import re
from collections.abc import Mapping, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

from bench.environment import Environment

VERSION = 2

Entry = Mapping[str, Any]


@dataclass(frozen=True)
class Header:
    """What all rows of a file have in common."""

    command: str
    environment: Environment
    commit: str
    settings: Mapping[str, Any]

    def as_json(self) -> dict[str, Any]:
        return {
            "version": VERSION,
            "command": self.command,
            "environment": asdict(self.environment),
            "commit": self.commit,
            "settings": dict(self.settings),
        }


def refuse_nonfinite(value: Any, where: str) -> None:
    """Goes through dictionaries and lists.

    Raises:
        ValueError: at the first number that is infinite or NaN, or null where a number should be, with its place.
    """
    if isinstance(value, Mapping):
        for key, item in value.items():
            refuse_nonfinite(item, f"{where}.{key}")
    elif isinstance(value, Sequence) and not isinstance(value, str):
        for index, item in enumerate(value):
            refuse_nonfinite(item, f"{where}[{index}]")
    elif value is None or (isinstance(value, float) and not math.isfinite(value)):
        raise ValueError(f"{where} is {value}: measure that row again")


def read_document(path: Path, command: str | None = None) -> dict[str, Any]:
    """The document in the file.

    Args:
        path: of the file.
        command: whose results are expected; None takes any.

    Raises:
        ValueError: when it is none of ours, of another version or command, or has a number that is not finite.
    """
    try:
        document = json.loads(path.read_text())
    except (json.JSONDecodeError, UnicodeDecodeError) as error:
        raise ValueError(f"{path} holds no results: {error}") from error
    if not isinstance(document, dict) or document.get("version") != VERSION:
        raise ValueError(f"{path} holds no results of version {VERSION}: measure them again")
    if command is not None and document["command"] != command:
        raise ValueError(f"{path} holds results of `{document['command']}`, expected those of `{command}`")
    refuse_nonfinite(document["rows"], f"{path}: rows")
    return document


def write_document(path: Path, document: Mapping[str, Any]) -> None:
    """Whoever reads the file sees the old document or the new one, never half of one."""
    refuse_nonfinite(document["rows"], "rows")
    text = json.dumps(document, indent=1, allow_nan=False)
    # A list of numbers on one line: a file has tens of thousands of them.
    text = re.sub(r"\[[^\[\]{}\"]*\]", lambda match: f"[{' '.join(match[0][1:-1].split())}]", text)
    path.parent.mkdir(parents=True, exist_ok=True)
    draft = path.with_name(path.name + ".part")
    draft.write_text(text + "\n")
    draft.replace(path)


def _differences(ours: Mapping[str, Any], theirs: Mapping[str, Any]) -> list[str]:
    """In words, what the header of a file has otherwise than ours."""
    found = []
    for name in ("version", "command", "commit"):
        if theirs.get(name) != ours[name]:
            found.append(f"{name} {theirs.get(name)} instead of {ours[name]}")
    for part in ("environment", "settings"):
        there = theirs.get(part, {})
        found += [
            f"{key} {there.get(key)} instead of {ours[part].get(key)}"
            for key in {**ours[part], **there}
            if there.get(key) != ours[part].get(key)
        ]
    return found


class Results:
    """The rows measured so far. Each is on disk as soon as it is there, so that an interrupted run can go on."""

    def __init__(self, header: Header, path: Path | None = None, keys: Sequence[str] = ()) -> None:
        self.header = header
        self.rows: list[Entry] = []
        self.wrong: list[Entry] = []
        """Rows whose results were wrong: named in the file, not among the rows, and measured anew by the next run."""
        self._path = path
        self._keys = keys

    @classmethod
    def open(cls, header: Header, path: Path | None, keys: Sequence[str], fresh: bool = False) -> "Results":
        """Results that continue those in the file.

        Args:
            header: of this run.
            path: of the file; None keeps everything in memory.
            keys: the entries that tell one row from another.
            fresh: drop what the file holds.

        Raises:
            ValueError: when the file was measured with something else, with the remedy.
        """
        results = cls(header, path, keys)
        if path is None or fresh or not path.exists():
            return results
        remedy = f"choose another file, or give --fresh to replace {path}"
        try:
            document = read_document(path)
        except ValueError as error:
            raise ValueError(f"{error}; {remedy}") from error
        # Through JSON, since that is what the file went through.
        differences = _differences(json.loads(json.dumps(header.as_json())), document)
        if differences:
            raise ValueError(f"{path} cannot be continued, it has {', '.join(differences)}: {remedy}")
        results.rows = list(document["rows"])
        return results

    def find(self, *key: object) -> Entry | None:
        """The row with these entries, if there is one."""
        return next((row for row in self.rows if tuple(row[name] for name in self._keys) == key), None)

    def add(self, row: Entry) -> None:
        """Takes in a row and writes the file."""
        refuse_nonfinite(row, "/".join(str(row[name]) for name in self._keys))
        self.rows.append(row)
        self._write()

    def add_wrong(self, key: Sequence[object], failures: Sequence[str]) -> None:
        """Takes in the entries that name a row whose results were wrong, with why, and writes the file."""
        self.wrong.append({**dict(zip(self._keys, key, strict=True)), "failures": list(failures)})
        self._write()

    def _write(self) -> None:
        if self._path is not None:
            wrong = {"wrong": self.wrong} if self.wrong else {}
            write_document(self._path, {**self.header.as_json(), **wrong, "rows": self.rows})
