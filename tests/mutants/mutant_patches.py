"""Planted faults: patches with a header, and how they are applied to a tree without git."""

from __future__ import annotations

import re
import shlex
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

FOLDER = Path(__file__).resolve().parent
FIELDS = ("Fault", "Tests", "Builds", "Equivalent")
REQUIRED = ("Fault", "Tests", "Builds")
BUILDS = ("none", "cpu", "emulated")
"""What must be compiled anew for a fault to show, in the order in which faults are tried."""

HUNK = re.compile(r"@@ -(\d+)(?:,(\d+))? \+(\d+)(?:,(\d+))? @@")


class PatchError(Exception):
    """What is wrong with a patch, or why it does not apply."""


@dataclass(frozen=True)
class Hunk:
    """A run of lines, and what stands in their place; each ends with a newline."""

    line: int  # of the first, from 1
    before: tuple[str, ...]
    after: tuple[str, ...]


@dataclass(frozen=True)
class Mutant:
    """One planted fault.

    Args:
        name: of its file, without the suffix.
        fault: what is wrong, in one sentence.
        tests: pytest's arguments: those that should find it.
        builds: one of ``BUILDS``.
        equivalent: why no test can find it; empty where one can.
        changes: the hunks of each file, by its path in the tree.
    """

    name: str
    fault: str
    tests: tuple[str, ...]
    builds: str
    equivalent: str
    changes: dict[str, tuple[Hunk, ...]]

    def applied(self, root: Path) -> dict[str, str]:
        """The files of the tree as the fault has them.

        Raises:
            PatchError: where a file is missing or holds other lines.
        """
        result = {}
        for name, hunks in self.changes.items():
            path = root / name
            if not path.is_file():
                raise PatchError(f"{self.name} does not apply: there is no {name}")
            result[name] = _patched(self.name, name, path.read_text(encoding="utf-8"), hunks)
        return result


def all_mutants() -> list[Mutant]:
    """Every planted fault, those that need no build first."""
    found = [read_mutant(path) for path in sorted(FOLDER.glob("*.patch"))]
    return sorted(found, key=lambda mutant: (BUILDS.index(mutant.builds), mutant.name))


def read_mutant(path: Path) -> Mutant:
    """The fault that a patch plants.

    Raises:
        PatchError: for a header or a diff that is not complete.
    """
    lines = path.read_text(encoding="utf-8").splitlines(keepends=True)
    end = next((number for number, line in enumerate(lines) if line.startswith(("diff ", "--- "))), len(lines))
    fields: dict[str, str] = {}
    for line in map(str.rstrip, lines[:end]):
        name, _, value = line.partition(": ")
        if name not in FIELDS or name in fields or not value.strip():
            raise PatchError(f"{path.name} has the header line {line!r}; wanted is one each of {', '.join(FIELDS)}")
        fields[name] = value.strip()
    missing = [name for name in REQUIRED if name not in fields]
    if missing:
        raise PatchError(f"{path.name} has no header line {missing[0]!r}")
    if fields["Builds"] not in BUILDS:
        raise PatchError(f"{path.name} has Builds: {fields['Builds']}, which is not one of {', '.join(BUILDS)}")
    if end == len(lines):
        raise PatchError(f"{path.name} changes no file")
    return Mutant(
        path.stem,
        fields["Fault"],
        tuple(shlex.split(fields["Tests"])),
        fields["Builds"],
        fields.get("Equivalent", ""),
        _changes(path.name, lines[end:]),
    )


def _changes(name: str, lines: Sequence[str]) -> dict[str, tuple[Hunk, ...]]:
    changes: dict[str, tuple[Hunk, ...]] = {}
    file, position = "", 0
    while position < len(lines):
        line = lines[position]
        position += 1
        if line.startswith("+++ b/"):
            file = line[len("+++ b/") :].strip()
            changes[file] = ()
        found = HUNK.match(line)
        if found is None:
            continue
        old, new = (int(count) if count is not None else 1 for count in found.group(2, 4))
        before: list[str] = []
        after: list[str] = []
        while len(before) < old or len(after) < new:
            if position == len(lines) or lines[position][0] not in " +-":
                raise PatchError(f"{name} has a hunk of {file} that ends early")
            mark, text = lines[position][0], lines[position][1:]
            position += 1
            before += [text] if mark in " -" else []
            after += [text] if mark in " +" else []
        changes[file] += (Hunk(int(found[1]), tuple(before), tuple(after)),)
    if not changes or not all(changes.values()):
        raise PatchError(f"{name} holds no unified diff with paths a/… and b/…")
    return changes


def _patched(mutant: str, name: str, text: str, hunks: tuple[Hunk, ...]) -> str:
    lines = text.splitlines(keepends=True)
    for hunk in reversed(hunks):
        length = len(hunk.before)
        places = [at for at in range(len(lines) - length + 1) if tuple(lines[at : at + length]) == hunk.before]
        if not places:
            raise PatchError(f"{mutant} does not apply: {name} has changed around line {hunk.line}")
        at = min(places, key=lambda place: abs(place - (hunk.line - 1)))
        lines[at : at + length] = hunk.after
    return "".join(lines)
