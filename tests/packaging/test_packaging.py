"""What is built, what is in it, and what a build says when it cannot do what it was told."""

from __future__ import annotations

import ast
import json
import os
import re
import tarfile
import zipfile
from pathlib import Path
from typing import Any

import pytest
import setuptools
import torch

import torchclip
from package_builds import build, files, python, wheel_build
from places import ROOT
from torchclip import info
from torchclip.backends import native
from torchclip.backends.choice import BACKENDS

pytestmark = pytest.mark.xdist_group("packaging")  # of a few fixtures


@pytest.fixture(scope="module")
def sdist(tree: Path, tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The unpacked source distribution."""
    out = tmp_path_factory.mktemp("sdist")
    with tarfile.open(build(tree, "build_sdist", out)) as archive:
        archive.extractall(out)
    return out / f"torchclip-{torchclip.__version__}"


@pytest.fixture(scope="module")
def wheel(sdist: Path) -> Path:
    """The wheel of the Python parts, built from the source distribution."""
    return build(sdist, "build_wheel", sdist.parent / "wheel")


@pytest.fixture(scope="module")
def installed(wheel: Path) -> Path:
    """A folder in which pip installed the wheel."""
    target = wheel.parent / "site"
    python("-m", "pip", "install", "-q", "--no-deps", "--no-index", "--target", target, wheel, cwd=wheel.parent)
    return target


def installed_python(installed: Path, *arguments: object) -> str:
    """Runs Python on the installed wheel. -S keeps an editable install out, which would lend it its torchclip._C."""
    site_packages = Path(torch.__file__).parent.parent
    return python("-S", *arguments, cwd=installed, PYTHONPATH=f"{installed}{os.pathsep}{site_packages}")


@pytest.fixture(scope="module")
def only_setuptools(tmp_path_factory: pytest.TempPathFactory) -> dict[str, str]:
    """The environment of a Python that has setuptools and no torch; to be run with -S."""
    site_packages = Path(setuptools.__file__).parent.parent
    links = tmp_path_factory.mktemp("setuptools")
    for path in site_packages.iterdir():
        if path.name.startswith(("setuptools", "_distutils_hack", "wheel")):
            (links / path.name).symlink_to(path)
    return {"PYTHONPATH": str(links)}


@pytest.mark.parametrize("folder", ["csrc", "kernels", "tests", "recipes", "bench", "docs"])
def test_sdist_holds_every_source(sdist: Path, folder: str) -> None:
    # The Triton sources travel where the link in the repository puts them.
    place = "torchclip/kernels" if folder == "kernels" else folder
    missing = [name for name in files(ROOT / folder) if not (sdist / place / Path(name).relative_to(folder)).is_file()]
    assert not missing


def test_sdist_holds_nothing_built(sdist: Path) -> None:
    assert not [path for path in sdist.rglob("*") if path.suffix in {".so", ".o", ".pyc"} or ".venv" in path.parts]


def test_wheel_holds_the_package_and_nothing_else(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        names = {name for name in archive.namelist() if ".dist-info/" not in name}
        others = {name.split(".dist-info/")[1] for name in archive.namelist() if ".dist-info/" in name}
    assert names == files(ROOT / "torchclip")
    assert "torchclip/py.typed" in names
    assert "licenses/LICENSE" in others
    assert wheel.name.endswith("-py3-none-any.whl")


def test_wheel_metadata(wheel: Path) -> None:
    with zipfile.ZipFile(wheel) as archive:
        metadata = archive.read(f"torchclip-{torchclip.__version__}.dist-info/METADATA").decode()
    assert f"\nVersion: {torchclip.__version__}\n" in metadata
    assert "\nRequires-Dist: torch>=2.11\n" in metadata
    assert "\nRequires-Python: >=3.10\n" in metadata
    assert "\nLicense-Expression: Apache-2.0\n" in metadata


def test_torch_is_no_build_requirement() -> None:
    # An isolated build would bring a torch of its own, and compile against that one.
    build_system = re.search(r"\[build-system\](.*?)\n\[", (ROOT / "pyproject.toml").read_text(), re.DOTALL)
    assert build_system
    assert "torch" not in re.sub("#.*", "", build_system[1])


def test_the_citation_has_this_version_and_the_papers() -> None:
    text = (ROOT / "CITATION.cff").read_text()
    assert f"\nversion: {torchclip.__version__}\n" in text
    assert re.findall(r"arXiv:([\d.]+)", text) == ["2010.02519", "2109.08282", "2006.09358", "1912.00144"]


def test_the_changelogs_last_release_is_this_version_with_the_citations_date() -> None:
    releases = re.findall(r"^## \[([\d.]+)\] - (\d{4}-\d\d-\d\d)$", (ROOT / "CHANGELOG.md").read_text(), re.MULTILINE)
    cited = re.search(r"^date-released: (.*)$", (ROOT / "CITATION.cff").read_text(), re.MULTILINE)
    assert cited is not None and releases[0] == (torchclip.__version__, cited[1])


@pytest.fixture(scope="module")
def said_where_installed(installed: Path) -> tuple[str, str, str]:
    """Where the wheel is installed: what a step did, the words of a backend that is not there, the package's report.

    Of one process, since each would import torch anew."""
    script = """
import runpy, torch, torchclip
parameter = torch.nn.Parameter(torch.ones(3))
parameter.grad = torch.full((3,), 2.0)
optimizer = torchclip.SGD([parameter], lr=0.5, clip=1.0)
optimizer.step()
print(torchclip.__file__, torchclip.__version__, optimizer.backend, parameter.tolist())
try:
    torchclip.SGD([parameter], backend="cpu")
except RuntimeError as error:
    print(error)
runpy.run_module("torchclip.info", run_name="__main__", alter_sys=True)
"""
    step, refusal, report = installed_python(installed, "-c", script).split("\n", 2)
    return step, refusal, report


def test_python_parts_run_the_reference_and_refuse_the_rest(
    installed: Path, said_where_installed: tuple[str, str, str]
) -> None:
    step, refusal, _ = said_where_installed
    file, version, backend, *values = step.split(maxsplit=3)
    assert Path(file).is_relative_to(installed)
    assert (version, backend) == (torchclip.__version__, "reference")
    assert ast.literal_eval(values[0]) == pytest.approx([1 - 0.5 / 3**0.5] * 3, rel=1e-5)
    assert "pip install ." in refusal


def test_info_of_the_python_parts_says_why_and_the_remedy(said_where_installed: tuple[str, str, str]) -> None:
    _, _, report = said_where_installed
    assert "not built" in report
    assert re.search("cpu +not available: .*pip install", report)
    assert re.search("reference +available", report)


def test_info_names_versions_and_every_backend() -> None:
    report = info.report()
    assert torchclip.__version__ in report
    for backend in BACKENDS:
        assert re.search(rf"^  {backend} +(available$|not available: .)", report, re.MULTILINE)


@pytest.mark.parametrize(
    ("choice", "environment", "message"),
    [
        pytest.param("cuda", {"CUDACXX": "/no/such/nvcc"}, "no nvcc was found", id="cuda-without-nvcc"),
        pytest.param("cuda", {"CXX": "/no/such/c++"}, "no C++ compiler was found", id="cuda-without-compiler"),
        pytest.param("gpu", {}, "TORCHCLIP_BUILD=gpu is not one of auto, cpu, cuda, none", id="unknown"),
        pytest.param("cpu", {"CXX": "/no/such/c++"}, "no C++ compiler was found", id="cpu-without-compiler"),
    ],
)
def test_build_that_cannot_be_had_fails(
    tree: Path, tmp_path: Path, choice: str, environment: dict[str, str], message: str
) -> None:
    finished = wheel_build(tree, tmp_path, choice, **environment)
    assert finished.returncode != 0
    assert message in finished.stderr
    assert not list(tmp_path.iterdir())


@pytest.mark.thorough  # it compiles everything
@pytest.mark.parametrize("choice", ["auto", "cpu"])
def test_a_build_without_torch_compiles_the_part_for_every_torch(
    tree: Path, tmp_path: Path, only_setuptools: dict[str, str], choice: str
) -> None:
    finished = wheel_build(tree, tmp_path, choice, "-S", CUDACXX="/no/such/nvcc", **only_setuptools)
    assert finished.returncode == 0, finished.stderr
    assert "without torchclip._torch, which saves host time with one torch: the build sees no torch" in finished.stderr
    (wheel,) = tmp_path.iterdir()
    assert wheel.name.startswith(f"torchclip-{torchclip.__version__}-cp310-abi3-linux_")
    with zipfile.ZipFile(wheel) as archive:
        assert [name for name in archive.namelist() if name.endswith(".so")] == ["torchclip/_C.abi3.so"]


def test_auto_without_compiler_builds_the_python_parts(tree: Path, tmp_path: Path) -> None:
    finished = wheel_build(tree, tmp_path, "auto", CXX="/no/such/c++")
    assert finished.returncode == 0, finished.stderr
    assert "without compiled kernels: no C++ compiler was found" in finished.stderr
    assert [path.name for path in tmp_path.iterdir()] == [f"torchclip-{torchclip.__version__}-py3-none-any.whl"]


@pytest.fixture(scope="module")
def imported() -> dict[str, Any]:
    """What importing the package, and a step, did in a process of its own."""
    # torch is imported before the hook, since it is not the subject.
    script = """
import json, os, sys, torch
started = []
sys.addaudithook(lambda event, _: started.append(event) if event in {
    "subprocess.Popen", "os.system", "os.exec", "os.posix_spawn", "os.fork", "os.forkpty"} else None)
import torchclip
maps = open("/proc/self/maps") if os.path.exists("/proc/self/maps") else []
libraries = {line.split()[-1] for line in maps if "omp" in line.rpartition("/")[2]}
parameter = torch.nn.Parameter(torch.ones(3))
parameter.grad = torch.ones(3)
torchclip.AdamW([parameter], clip=1.0).step()
compiles = "torch.utils.cpp_extension" in sys.modules
print(json.dumps({"started": started, "compiles": compiles, "libraries": sorted(libraries)}))
"""
    found: dict[str, Any] = json.loads(python("-c", script, cwd=ROOT))
    return found


def test_import_starts_no_process(imported: dict[str, Any]) -> None:
    """A compiler at import would show up as a process."""
    assert not imported["compiles"]
    assert not imported["started"]


@pytest.mark.skipif(native.NATIVE is None, reason="torchclip._C is not built")
@pytest.mark.skipif(not Path("/proc/self/maps").exists(), reason="the loaded libraries are read from /proc/self/maps")
def test_one_openmp_runtime(imported: dict[str, Any]) -> None:
    assert len(imported["libraries"]) <= 1


def test_readme_example_runs() -> None:
    blocks = re.findall(r"```python\n(.*?)```", (ROOT / "README.md").read_text(), re.DOTALL)
    assert blocks
    # Each with names of its own; not each in a process of its own, which would import torch anew.
    python("-c", f"for block in {blocks!r}: exec(block, {{}})", cwd=ROOT)


@pytest.mark.thorough  # seventeen seconds: it trains fifteen networks
def test_demo_runs_and_finds_the_curves_equal(tmp_path: Path) -> None:
    pytest.importorskip("sklearn", reason="the digits come with scikit-learn: pip install -e '.[demo]'")
    printed = python("-m", "recipes.demo", "--epochs", "1", cwd=tmp_path, PYTHONPATH=str(ROOT), OMP_NUM_THREADS="1")
    assert printed.count("agrees") == 2
    assert (tmp_path / "results" / "demo.png").stat().st_size > 10_000
