"""The package's wings: what one of them imports lies in itself or further down, and no two modules need one another."""

from __future__ import annotations

import ast
import os
import re
from collections.abc import Iterator
from dataclasses import dataclass
from graphlib import CycleError, TopologicalSorter
from pathlib import Path

import pytest

from places import ROOT

WINGS = ("kernels", "rules", "policies", "state", "distributed", "backends", "step", "optimizers")
"""From the lowest to the highest; what lies beside them, ``torchclip/info.py`` say, is above them all."""

OPTIONAL = ("integrations", "keras")
"""Above even that: what a user imports beside the package, and nothing else does."""


@dataclass(frozen=True)
class Import:
    """Of one module by another, by their names within the package.

    Args:
        importer: what imports.
        imported: what is imported.
        is_of_types: only a type checker sees it.
    """

    importer: str
    imported: str
    is_of_types: bool

    @property
    def looks_up(self) -> bool:
        return height(self.imported) > height(self.importer)


def height(module: str) -> int:
    """The place of a module's wing."""
    wing = module.partition(".")[0]
    if wing in OPTIONAL:
        return len(WINGS) + 1
    return WINGS.index(wing) if wing in WINGS else len(WINGS)


def module_of(file: Path, package: Path) -> str:
    """The name within the package; empty for the package itself."""
    return ".".join(part for part in file.relative_to(package).with_suffix("").parts if part != "__init__")


def imports_of(package: Path) -> Iterator[Import]:
    """Every import within a package, those in functions among them."""
    found = (Path(folder) / name for folder, _, names in os.walk(package, followlinks=True) for name in names)
    files = {module_of(file, package): file for file in sorted(found) if file.suffix == ".py"}
    for importer, file in files.items():
        tree = ast.parse(file.read_text())
        for_types = {
            child
            for node in ast.walk(tree)
            if isinstance(node, ast.If) and ast.unparse(node.test) == "TYPE_CHECKING"
            for child in ast.walk(node)
        }
        for node in ast.walk(tree):
            if isinstance(node, ast.Import):
                names = [alias.name for alias in node.names]
            elif isinstance(node, ast.ImportFrom):
                above = file.relative_to(package.parent).parts[: -node.level] if node.level else ()
                base = ".".join([*above, *([node.module] if node.module else [])])
                names = [f"{base}.{alias.name}" for alias in node.names]
            else:
                continue
            for name in names:
                top, _, within = name.partition(".")
                if top != package.name:
                    continue
                imported = within if within in files else within.rpartition(".")[0]
                if imported in files and not (imported == "" and within.startswith("_C")):
                    yield Import(importer, imported, node in for_types)


def circle_of(imports: list[Import]) -> list[str]:
    """Modules of which each imports the next, and the last is the first; empty where there are none."""
    graph: dict[str, set[str]] = {}
    for each in imports:
        graph.setdefault(each.importer, set()).add(each.imported)
    try:
        TopologicalSorter(graph).prepare()
    except CycleError as error:
        return list(error.args[1])
    return []


@pytest.fixture(scope="module")
def imports() -> list[Import]:
    return list(imports_of(ROOT / "torchclip"))


def test_no_import_looks_up(imports: list[Import]) -> None:
    assert {height(each.importer) for each in imports} == set(range(len(WINGS) + 2))
    assert [each for each in imports if each.looks_up] == []


def test_imports_make_no_circle(imports: list[Import]) -> None:
    assert circle_of([each for each in imports if not each.is_of_types]) == []


def test_every_folder_is_a_wing() -> None:
    folders = {path.name for path in (ROOT / "torchclip").iterdir() if any(path.rglob("*.py"))}
    assert folders == {*WINGS, *OPTIONAL}


def test_the_page_on_them_names_what_is_there() -> None:
    page = (ROOT / "docs" / "architecture.md").read_text()
    named = re.findall(r"`((?:torchclip|csrc|kernels|tests)/[\w./]*)`", page)
    assert len(named) > 20
    assert [path for path in named if not (ROOT / path).exists()] == []
    assert [wing for wing in WINGS if f"\n      {wing}/ " not in page] == []


@pytest.mark.parametrize(
    "path, text, found",
    [
        ("rules/a.py", "from torchclip.policies import b", Import("rules.a", "policies.b", False)),
        ("rules/a.py", "def f():\n    import torchclip.policies.b", Import("rules.a", "policies.b", False)),
        ("rules/a.py", "from torchclip.policies.b import c as d", Import("rules.a", "policies.b", False)),
        (
            "rules/a.py",
            "if TYPE_CHECKING:\n    from torchclip.policies.b import c",
            Import("rules.a", "policies.b", True),
        ),
        ("rules/a.py", "from torchclip import info", Import("rules.a", "info", False)),
        ("info.py", "from torchclip.integrations import b", Import("info", "integrations.b", False)),
        ("rules/a.py", "from ..policies.b import c", Import("rules.a", "policies.b", False)),
    ],
)
def test_what_looks_up_is_found(path: str, text: str, found: Import, tmp_path: Path) -> None:
    for name in (
        "__init__.py",
        "info.py",
        "policies/__init__.py",
        "policies/b.py",
        "rules/__init__.py",
        "integrations/b.py",
        path,
    ):
        file = tmp_path / "torchclip" / name
        file.parent.mkdir(parents=True, exist_ok=True)
        file.touch()
    (tmp_path / "torchclip" / path).write_text(text)
    assert list(imports_of(tmp_path / "torchclip")) == [found]
    assert found.looks_up


def test_circle_is_found() -> None:
    there, back = Import("rules.a", "rules.b", False), Import("rules.b", "rules.a", False)
    assert circle_of([there]) == [] and circle_of([there, back]) != []
