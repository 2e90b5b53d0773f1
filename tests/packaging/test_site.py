"""The documentation: every public name has a page, every page is listed, its examples run, its links lead somewhere."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import links
import reference_pages
import torchclip
from places import ROOT

DOCS = ROOT / "docs"
WRITTEN = sorted(path for path in DOCS.rglob("*.md"))
FRAMEWORKS = ("accelerate", "keras", "lightning", "timm", "torchtitan", "transformers")

each_page = pytest.mark.parametrize("path", WRITTEN, ids=lambda path: str(path.relative_to(DOCS)))


def test_every_public_name_has_a_page() -> None:
    listed = [name for section in reference_pages.sections().values() for name in section.names]
    assert len(listed) == len(set(listed))
    pages = [getattr(torchclip, name) for name in listed]
    assert [name for name in torchclip.__all__ if not any(getattr(torchclip, name) is page for page in pages)] == []


def test_every_integration_has_a_page() -> None:
    text = "".join(path.read_text() for path in (DOCS / "frameworks").glob("*.md"))
    modules = [path.stem for path in (ROOT / "torchclip" / "integrations").glob("*.py") if path.stem != "__init__"]
    assert modules and [name for name in modules if f"torchclip.integrations.{name}" not in text] == []


@pytest.mark.parametrize("name", torchclip.__all__)
def test_a_page_shows_the_docstring(name: str) -> None:
    page = reference_pages.page(name)
    assert page.replace("\\_", "_").startswith(f"{name}\n=") and f" torchclip.{name}\n" in page


@pytest.mark.parametrize(
    "name, row",
    [
        ("SGD", "``momentum=0.9``, 1, 5, 6"),
        ("AdamW", "as it is, 2, 7, 8"),
        ("AdamW", "``amsgrad=True``, 3, 9, 10"),
        ("MixClip", "as it is, 1, 7, 8"),
        ("GRDA", "as it is, 1, 4, 5"),
        ("AdaGradNorm", "as it is, 0, 4, 5"),
    ],
)
def test_a_page_tells_the_words_that_a_step_moves(name: str, row: str) -> None:
    """As the benchmarks count them."""
    cells = ", ".join(re.findall(r"^   (?:  |\* )- (.*)$", reference_pages.page(name), re.MULTILINE))
    assert row in cells


def test_a_page_says_what_is_not_taken() -> None:
    assert "in any mix.\n" in reference_pages.page("AdamW")
    assert "Not :class:`~torchclip.Lookahead`: Lookahead cannot be combined with gRDA" in reference_pages.page("GRDA")


def test_pages_are_written_once_and_old_ones_go(tmp_path: Path) -> None:
    (tmp_path / "Gone.rst").write_text("of a class that is no more")
    reference_pages.write(tmp_path)
    before = {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()}
    assert tmp_path / "Gone.rst" not in before and tmp_path / "GRDA.rst" in before
    reference_pages.write(tmp_path)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.iterdir()} == before


def test_every_page_is_in_the_contents() -> None:
    index = (DOCS / "index.md").read_text()
    listed = re.findall(r"^(?:[^\n<]*<)?([\w/-]+)>?$", index, re.MULTILINE)
    pages = {str(path.relative_to(DOCS).with_suffix("")) for path in WRITTEN} - {"index"}
    assert pages | {f"reference/{name}" for name in reference_pages.sections()} == set(listed)


@each_page
def test_examples_run(path: Path, monkeypatch: pytest.MonkeyPatch, tmp_path: Path) -> None:
    monkeypatch.chdir(tmp_path)
    monkeypatch.setenv("KERAS_BACKEND", "torch")
    for block in re.findall(r"^```python\n(.*?)^```", path.read_text(), re.DOTALL | re.MULTILINE):
        for framework in FRAMEWORKS:
            if re.search(rf"^(import|from) {framework}\b", block, re.MULTILINE):
                __import__("framework_runs")  # without which a torchvision for CUDA is not imported
                pytest.importorskip(framework, exc_type=ImportError)
        torch.manual_seed(0)
        exec(compile(block, str(path), "exec"), {"__name__": "example"})


@pytest.mark.parametrize(
    "path", [*WRITTEN, ROOT / "README.md", ROOT / "CONTRIBUTING.md"], ids=lambda path: str(path.relative_to(ROOT))
)
def test_links_lead_to_files(path: Path) -> None:
    targets = re.findall(r"\]\(([^)#\s]+)(?:#[^)]*)?\)", path.read_text())
    places = [target for target in targets if not re.match(r"\w+:", target)]
    assert [place for place in places if not (path.parent / place).exists()] == []


def test_dead_links_are_found(tmp_path: Path) -> None:
    (tmp_path / "a.html").write_text('<a href="b.html#here">b</a> <a href="https://x.org/none">x</a> <a href="#top">')
    (tmp_path / "b.html").write_text('<p id="here"> <img src="none.png"> <a href="a.html#there">')
    assert links.dead_links(tmp_path) == ["a.html: #top", "b.html: none.png", "b.html: a.html#there"]


@pytest.mark.thorough  # ten seconds
def test_the_site_builds_without_a_warning_or_a_dead_link(tmp_path: Path) -> None:
    for needed in ("sphinx", "furo", "myst_parser", "latex2mathml"):
        pytest.importorskip(needed, reason="it is of the extra 'site': make site")
    command = [sys.executable, "-m", "sphinx", "-q", "-W", "--keep-going", "-b", "html", DOCS, tmp_path]
    built = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, check=False)
    assert built.returncode == 0, built.stderr
    assert links.dead_links(tmp_path) == []
    assert "<math" in (tmp_path / "reference" / "MixClip.html").read_text()
