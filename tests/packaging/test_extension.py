"""An extension that cannot be used here: found out at import, before any of it runs, and said."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from importlib.util import find_spec
from pathlib import Path

import pytest
import torch

import torchclip
from torchclip.backends import native

ROOT = Path(torchclip.__file__).resolve().parent.parent

NAME = "_C.abi3.so"
FOR_PYTHON_3_9 = "_C.cpython-39-x86_64-linux-gnu.so"

PACKAGES: dict[str, dict[str, bytes]] = {
    "broken": {NAME: b"\x7fELF"},
    "absent": {},
    "for another Python": {FOR_PYTHON_3_9: b"\x7fELF"},
    "without a GIL": {NAME: b"\x7fELF"},
}
"""The extensions in the package, by file name."""

# Importing torch takes seconds, and so does what its first optimizer imports: every package is imported in a fork.
SCRIPT = """
import os, sys, sysconfig, warnings
import torch
torch.optim.SGD([torch.nn.Parameter(torch.ones(1))])
for name in sys.argv[1:]:
    child = os.fork()
    if child:
        os.waitpid(child, 0)
        continue
    said = os.open(os.path.join(name, "said.txt"), os.O_CREAT | os.O_WRONLY)
    os.dup2(said, 1)
    os.dup2(said, 2)
    sys.path.insert(0, os.path.abspath(name))
    if name == "without a GIL":
        sysconfig.get_config_vars()
        sys.abiflags += "t"
    with warnings.catch_warnings(record=True) as caught:
        warnings.simplefilter("always")
        import torchclip
    from torchclip.backends import native
    from torchclip.backends.choice import unavailable_reason
    assert native.NATIVE is None and "torchclip._C" not in sys.modules
    parameter = torch.nn.Parameter(torch.ones(3))
    parameter.grad = torch.ones(3)
    optimizer = torchclip.SGD([parameter], lr=0.5)
    optimizer.step()
    optimizer.step()  # says nothing again
    asked = torchclip.SGD([parameter], lr=0.0, backend="reference")
    asked.step()
    print(torchclip.__file__)
    print(optimizer.backend, parameter.tolist())
    print(*[str(each.message) for each in caught if issubclass(each.category, RuntimeWarning)], sep="|")
    print(unavailable_reason("cpu"))
    print(unavailable_reason("triton"), flush=True)
    os._exit(0)  # to take down what was imported takes a second
"""


pytestmark = pytest.mark.xdist_group("extension")  # of one fixture


@pytest.fixture(scope="module")
def packages(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with copies of the package and what each of them said when it was imported, and stepped."""
    folder = tmp_path_factory.mktemp("packages")
    for name, extensions in PACKAGES.items():
        package = folder / name / "torchclip"
        shutil.copytree(ROOT / "torchclip", package, ignore=shutil.ignore_patterns("*.so"))
        for file, content in extensions.items():
            (package / file).write_bytes(content)
    # -S keeps an editable install out, which would lend its torchclip._C.
    environment = {**os.environ, "PYTHONPATH": str(Path(torch.__file__).parent.parent)}
    command = [sys.executable, "-S", "-c", SCRIPT, *PACKAGES]
    finished = subprocess.run(command, env=environment, cwd=folder, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    return folder


def said(packages: Path, name: str) -> tuple[str, str]:
    """The warning and the reason of one of the packages, whose optimizer has run the reference path."""
    text = (packages / name / "said.txt").read_text()
    assert "Traceback" not in text and text.count("\n") == 6, text
    missing, file, stepped, warning, reason, _ = text.splitlines()
    assert Path(file).is_relative_to(packages / name)
    assert stepped == "reference [0.0, 0.0, 0.0]"
    assert missing.startswith("torchclip: this step runs on the reference path, which took more than ten times as long")
    assert missing.endswith(reason)
    assert "`TORCHCLIP_BUILD=cpu pip install .`" in reason
    return warning, reason


def test_one_that_does_not_load_is_said(packages: Path) -> None:
    warning, reason = said(packages, "broken")
    assert warning.startswith("torchclip runs without its compiled passes: ")
    assert "build it anew with `pip install .`" in warning
    assert "does not load (" in warning
    assert "does not load (" in reason


def test_none_is_no_warning(packages: Path) -> None:
    warning, reason = said(packages, "absent")
    assert warning == ""
    assert "the compiled extension torchclip._C is not built; build it" in reason


@pytest.mark.skipif(find_spec("triton") is None, reason="Triton is an optional dependency of the package")
def test_the_triton_backend_needs_one(packages: Path) -> None:
    reason = (packages / "absent" / "said.txt").read_text().splitlines()[-1]
    assert reason.startswith(
        "the host's part of its steps is compiled, and the compiled extension torchclip._C is not "
    )
    assert reason.endswith("`TORCHCLIP_BUILD=cpu pip install .`, which needs a C++ compiler")


def test_one_for_another_python_is_named(packages: Path) -> None:
    warning, reason = said(packages, "for another Python")
    assert warning == ""
    assert f"torchclip._C is not built for this Python ({FOR_PYTHON_3_9} is for another)" in reason


def test_a_python_without_a_gil_loads_none(packages: Path) -> None:
    warning, reason = said(packages, "without a GIL")
    assert "this Python is free-threaded, and the compiled extension torchclip._C relies on the GIL" in warning
    assert "this Python is free-threaded, and the compiled extension torchclip._C relies on the GIL" in reason


# The part that is for one torch.

STEP = """
import torch, torchclip
from torchclip.backends import native
parameter = torch.nn.Parameter(torch.ones(3))
parameter.grad = torch.ones(3)
optimizer = torchclip.SGD([parameter], lr=0.5, backend="cpu")
optimizer.step()
print(native.NATIVE.reader(), parameter.tolist(), parameter._version, native.slower_reason())
"""


def reader_file() -> Path:
    spec = find_spec(native.READER)
    if native.NATIVE is None or spec is None or spec.origin is None:
        pytest.skip("torchclip._C and torchclip._torch are not both built")
    return Path(spec.origin)


def test_the_reader_says_for_which_torch_it_was_built() -> None:
    assert native._torch_of(reader_file()) == torch.__version__


@pytest.mark.parametrize("built_for", ["another torch", "no torch that it names", "this one"])
def test_a_reader_for_another_torch_is_not_loaded_and_steps_go_on(tmp_path: Path, built_for: str) -> None:
    reader = reader_file()
    shutil.copytree(ROOT / "torchclip", tmp_path / "torchclip")
    mark = native.MARK + torch.__version__.encode()
    others = {"another torch": native.MARK + b"1" + mark[len(native.MARK) + 1 :], "this one": mark}
    other = others.get(built_for, mark.replace(b"torchclip", b"TORCHCLIP"))
    content = reader.read_bytes()
    assert mark in content and len(other) == len(mark)
    (tmp_path / "torchclip" / reader.name).write_bytes(content.replace(mark, other))
    environment = {**os.environ, "PYTHONPATH": f"{tmp_path}{os.pathsep}{Path(torch.__file__).parent.parent}"}
    command = [sys.executable, "-S", "-c", STEP]
    finished = subprocess.run(command, env=environment, cwd=tmp_path, capture_output=True, text=True)
    assert finished.returncode == 0 and finished.stderr == "", finished.stderr
    name, stepped = finished.stdout.split(" ", 1)
    assert name == ("torch" if built_for == "this one" else "dlpack")
    assert stepped.startswith("[0.5, 0.5, 0.5] 1 ")
    reasons = {"another torch": f"and torch {torch.__version__} is here", "this one": "None"}
    assert reasons.get(built_for, "does not say for which torch it was built") in stepped


@pytest.mark.parametrize(
    ("built_for", "here", "fits"),
    [
        ("2.13.0+cpu", "2.13.0+cu130", True),
        ("2.13.0", "2.13.1", False),
        ("2.13.0+cpu", "2.14.0+cpu", False),
        ("2.14.0.dev20261101+cpu", "2.14.0.dev20261102+cpu", False),
        ("2.14.0a0+git1234567", "2.14.0a0+git7654321", False),
        ("2.14.0a0+git1234567", "2.14.0a0+git1234567", True),
    ],
)
def test_versions_that_fit(built_for: str, here: str, fits: bool) -> None:
    assert (native._release(built_for) == native._release(here)) is fits
