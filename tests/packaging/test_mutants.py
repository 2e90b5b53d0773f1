"""Planted faults say what they are and still apply. `make mutants` tries them."""

from __future__ import annotations

from pathlib import Path

import pytest

from mutant_patches import FOLDER, PatchError, all_mutants, read_mutant
from mutant_trees import FAILED, Tree
from places import ROOT

PATCHES = sorted(FOLDER.glob("*.patch"))

DIFF = """--- a/numbers.txt
+++ b/numbers.txt
@@ -1,3 +1,3 @@
 one
-two
+three
 four
"""
HEADER = "Fault: two is three.\nTests: tests/unit -k numbers\nBuilds: none\n"


@pytest.fixture
def patch(tmp_path: Path) -> Path:
    (tmp_path / "numbers.txt").write_text("zero\none\ntwo\nfour\n")
    return tmp_path / "two_is_three.patch"


@pytest.mark.parametrize("path", PATCHES, ids=lambda path: path.stem)
def test_a_patch_says_what_it_is_and_applies(path: Path) -> None:
    mutant = read_mutant(path)
    changed = mutant.applied(ROOT)
    assert all(text != (ROOT / name).read_text(encoding="utf-8") for name, text in changed.items())
    places = [word for word in mutant.tests if word.startswith("tests/")]
    assert places, "no test is named"
    assert not [place for place in places if not (ROOT / place.partition("::")[0]).exists()]
    assert not any(name.startswith("tests/") for name in mutant.changes), "a fault of the code, not of its tests"


def test_there_are_faults_of_every_build() -> None:
    assert {mutant.builds for mutant in all_mutants()} == {"none", "cpu", "emulated"}
    faults = [mutant.fault for mutant in all_mutants()]
    assert len(set(faults)) == len(faults)


def test_a_patch_is_found_where_its_lines_have_moved_to(patch: Path) -> None:
    patch.write_text(HEADER + DIFF)
    mutant = read_mutant(patch)
    assert mutant.tests == ("tests/unit", "-k", "numbers")
    assert mutant.applied(patch.parent) == {"numbers.txt": "zero\none\nthree\nfour\n"}
    patch.write_text(f"{HEADER}diff --git a/numbers.txt b/numbers.txt\nindex 0123..4567 100644\n{DIFF}")  # git's
    assert read_mutant(patch) == mutant


def test_a_patch_whose_lines_have_changed_is_refused(patch: Path) -> None:
    patch.write_text(HEADER + DIFF.replace("-two", "-too"))
    with pytest.raises(PatchError, match="two_is_three does not apply: numbers.txt has changed around line 1"):
        read_mutant(patch).applied(patch.parent)
    patch.write_text(HEADER + DIFF.replace("numbers.txt", "letters.txt"))
    with pytest.raises(PatchError, match=r"there is no letters\.txt"):
        read_mutant(patch).applied(patch.parent)


@pytest.mark.parametrize(
    "text, message",
    [
        (HEADER.replace("Tests", "Test") + DIFF, "header line 'Test: tests/unit -k numbers'"),
        (HEADER.replace("Fault: two is three.\n", "") + DIFF, "no header line 'Fault'"),
        (HEADER.replace("none", "cuda") + DIFF, "Builds: cuda, which is not one of none, cpu, emulated"),
        (HEADER, "changes no file"),
        (HEADER + DIFF.replace(" four\n", ""), "a hunk of numbers.txt that ends early"),
        (HEADER + DIFF.partition("@@")[0], "no unified diff"),
    ],
    ids=["field", "missing", "builds", "no-diff", "cut", "no-hunk"],
)
def test_a_patch_that_is_not_complete_is_refused(patch: Path, text: str, message: str) -> None:
    patch.write_text(text)
    with pytest.raises(PatchError, match=message):
        read_mutant(patch)


def test_a_planted_fault_and_what_it_was_built_into_are_taken_out_again(patch: Path) -> None:
    patch.write_text(HEADER.replace("none", "cpu") + DIFF)
    source, built, made = (patch.parent / name for name in ("numbers.txt", "build/numbers.o", "build/three.o"))
    built.parent.mkdir()
    built.write_text("two")
    tree = Tree(patch.parent)
    tree.keep()
    before = source.read_text(), source.stat().st_mtime_ns, built.stat().st_mtime_ns
    with pytest.raises(KeyboardInterrupt), tree.planted(read_mutant(patch)):
        assert source.read_text() == "zero\none\nthree\nfour\n"
        built.write_text("three")
        made.touch()
        raise KeyboardInterrupt
    assert (source.read_text(), source.stat().st_mtime_ns, built.stat().st_mtime_ns) == before
    assert built.read_text() == "two"
    assert not made.exists()


@pytest.mark.parametrize(
    "line, name",
    [
        ("FAILED tests/a.py::test_b[c-cpu] - AssertionError: [1] is not [2]", "tests/a.py::test_b[c-cpu]"),
        ("FAILED tests/a.py::test_b[one two] - assert 1 == 2", "tests/a.py::test_b[one two]"),
        ("ERROR tests/a.py - ImportError: no b", "tests/a.py"),
    ],
)
def test_the_first_failure_is_named(line: str, name: str) -> None:
    found = FAILED.search(f"== short test summary info ==\n{line}\n1 failed")
    assert found is not None and found[1] == name
