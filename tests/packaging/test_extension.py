"""An extension that cannot be used here: found out at import, before any of it runs, and said."""

from __future__ import annotations

import os
import shutil
import subprocess
import sys
from pathlib import Path

import pytest
import torch

import torchclip
from torchclip import extension
from torchclip.backend import EXTENSION

ROOT = Path(torchclip.__file__).resolve().parent.parent

SCRIPT = """
import sys, warnings
{before}
with warnings.catch_warnings(record=True) as caught:
    warnings.simplefilter("always")
    import torch, torchclip
from torchclip.backend import EXTENSION, unavailable_reason
assert EXTENSION is None and "torchclip._C" not in sys.modules
parameter = torch.nn.Parameter(torch.ones(3))
parameter.grad = torch.ones(3)
optimizer = torchclip.SGD([parameter], lr=0.5)
optimizer.step()
print(optimizer.backend, parameter.tolist())
print(*[str(each.message) for each in caught if issubclass(each.category, RuntimeWarning)], sep="|")
print(unavailable_reason("cpu"))
"""


@pytest.fixture(scope="module")
def package(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A folder with a copy of the package, without an extension."""
    folder = tmp_path_factory.mktemp("package")
    shutil.copytree(ROOT / "torchclip", folder / "torchclip", ignore=shutil.ignore_patterns("*.so", "__pycache__"))
    return folder


def said(package: Path, content: bytes | None, before: str = "") -> tuple[str, str]:
    """The warning and the reason of a package with that extension, where an optimizer runs the reference path."""
    suffix = Path(EXTENSION.__file__).name if EXTENSION is not None and EXTENSION.__file__ else "_C.abi3.so"
    file = package / "torchclip" / suffix
    file.unlink(missing_ok=True)
    if content is not None:
        file.write_bytes(content)
    # -S keeps an editable install out, which would lend its torchclip._C.
    environment = {**os.environ, "PYTHONPATH": f"{package}{os.pathsep}{Path(torch.__file__).parent.parent}"}
    command = [sys.executable, "-S", "-c", SCRIPT.format(before=before)]
    finished = subprocess.run(command, env=environment, cwd=package, capture_output=True, text=True)
    assert finished.returncode == 0, finished.stderr
    stepped, warning, reason = finished.stdout.splitlines()
    assert stepped == "reference [0.5, 0.5, 0.5]"
    assert "`TORCHCLIP_BUILD=cpu pip install --no-build-isolation .`" in reason
    return warning, reason


def test_one_for_another_torch_is_not_loaded(package: Path) -> None:
    # Bytes that no loader takes: the version is read before any tries.
    warning, reason = said(package, b"\x7fELF" + extension.MARK + b"2.10.1+cpu\0")
    assert f"was built for torch 2.10.1+cpu, and torch {torch.__version__} is here" in reason
    assert f"was built for torch 2.10.1+cpu, and torch {torch.__version__} is here" in warning
    assert warning.startswith("torchclip runs without its compiled passes: ")
    assert "build it anew with `pip install --no-build-isolation .`" in warning


def test_one_that_does_not_say_for_which_torch_is_not_loaded(package: Path) -> None:
    warning, reason = said(package, b"\x7fELF")
    assert "does not say for which torch it was built" in reason
    assert "does not say for which torch it was built" in warning


def test_one_that_does_not_load_is_said(package: Path) -> None:
    warning, reason = said(package, b"\x7fELF" + extension.MARK + torch.__version__.encode() + b"\0")
    assert "does not load (" in warning
    assert "does not load (" in reason


def test_none_is_no_warning(package: Path) -> None:
    warning, reason = said(package, None)
    assert warning == ""
    assert "the compiled extension torchclip._C is not built; build it" in reason


def test_one_for_another_python_is_named(package: Path) -> None:
    other = package / "torchclip" / "_C.cpython-39-x86_64-linux-gnu.so"
    other.write_bytes(b"\x7fELF")
    warning, reason = said(package, None)
    other.unlink()
    assert warning == ""
    assert f"torchclip._C is not built for this Python ({other.name} is for another)" in reason


def test_a_python_without_a_gil_loads_none(package: Path) -> None:
    mark = extension.MARK + torch.__version__.encode() + b"\0"
    warning, reason = said(
        package, b"\x7fELF" + mark, before='import sysconfig, torch; sysconfig.get_config_vars(); sys.abiflags += "t"'
    )
    assert "this Python is free-threaded, and the compiled extension torchclip._C relies on the GIL" in warning
    assert "this Python is free-threaded, and the compiled extension torchclip._C relies on the GIL" in reason


@pytest.mark.skipif(EXTENSION is None, reason="torchclip._C is not built")
def test_the_extension_says_for_which_torch_it_was_built() -> None:
    assert EXTENSION is not None and EXTENSION.__file__ is not None
    assert extension._torch_of(Path(EXTENSION.__file__)) == torch.__version__


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
    assert (extension._release(built_for) == extension._release(here)) is fits
