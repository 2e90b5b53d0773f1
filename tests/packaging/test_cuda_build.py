"""The CUDA part of the build: which toolkit it takes, what it says where none will do, and what it compiles again."""

from __future__ import annotations

import ctypes
import os
import runpy
import subprocess
import sys
from collections.abc import Callable
from pathlib import Path
from types import SimpleNamespace
from typing import Any

import pytest
import setuptools

from places import ROOT, nvcc

KERNEL = """
#include <cuda_runtime.h>
#include "numbers.h"
__global__ void fill(int* numbers) { numbers[threadIdx.x] = kNumber; }
extern "C" __attribute__((visibility("default"))) int runtime_version() {
  int version = 0;
  cudaRuntimeGetVersion(&version);
  fill<<<1, 1>>>(nullptr);
  return version;
}
"""

# Answers as nvcc does, with the release that it is made for; writes objects that hold their command line.
FAKE_NVCC = """#!{python}
import sys
from pathlib import Path
words = sys.argv[1:]
if words == ["--version"]:
    print("Cuda compilation tools, release {release}, V{release}.99")
elif words == ["--list-gpu-arch"]:
    newest = ["100", "120"] if ({release}) >= 12.8 else []
    print(*(f"compute_{{number}}" for number in ["75", "80", "86", "90", *newest]), sep="\\n")
elif words[0] == "--dryrun":
    print('#$ LIBRARIES=  "-L{folder}/stubs" "-L{folder}"', file=sys.stderr)
else:
    source, target = Path(words[words.index("-c") + 1]), Path(words[words.index("-o") + 1])
    target.write_text(" ".join(words))
    rule = f"{{target}} : {{source}} \\\\\\n  {{source.with_name('numbers.h')}}\\n"
    Path(words[words.index("-MF") + 1]).write_text(rule)
    with open("{folder}/calls", "a") as calls:
        print(source.name, file=calls)
    sys.exit("syntax error" in source.read_text())
"""


@pytest.fixture
def fake_nvcc(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[..., Path]:
    """Makes CUDACXX name an nvcc of a release; the folder that it looks for libraries in."""

    def make(release: str, with_runtime: bool = True) -> Path:
        folder = tmp_path / "toolkit"
        folder.mkdir()
        nvcc = folder / "nvcc"
        nvcc.write_text(FAKE_NVCC.format(python=sys.executable, release=release, folder=folder))
        nvcc.chmod(0o755)
        if with_runtime:
            (folder / "libcudart_static.a").touch()
        monkeypatch.setenv("CUDACXX", str(nvcc))
        monkeypatch.delenv("TORCHCLIP_CUDA_ARCHS", raising=False)
        return folder

    return make


@pytest.fixture
def build(tmp_path: Path) -> SimpleNamespace:
    """csrc/cuda/build.py on a tree with two kernels."""
    functions = runpy.run_path(str(ROOT / "csrc" / "cuda" / "build.py"))
    kernels = tmp_path / "csrc" / "cuda"
    kernels.mkdir(parents=True)
    for name in ("first.cu", "second.cu"):
        (kernels / name).write_text(KERNEL)
    (kernels / "numbers.h").write_text("constexpr int kNumber = 3;\n")
    functions["find_toolkit"].__globals__["ROOT"] = tmp_path
    return SimpleNamespace(**{**functions, "kernels": kernels, "objects": tmp_path / "objects"})


def setup_arguments(choice: str, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
    """What setup.py hands to setuptools."""
    handed: list[dict[str, Any]] = []
    monkeypatch.setenv("TORCHCLIP_BUILD", choice)
    monkeypatch.setattr(setuptools, "setup", lambda **arguments: handed.append(arguments))
    monkeypatch.setattr(os, "environ", os.environ.copy())  # setup.py puts its folder of scripts on PATH
    runpy.run_path(str(ROOT / "setup.py"))
    return handed[0]


@pytest.mark.parametrize(
    ("release", "with_runtime", "message"),
    [
        pytest.param("11.8", True, "is of CUDA 11.8, and 12.1 or later is needed: install a newer", id="too_old"),
        pytest.param("12.0", True, "is of CUDA 12.0, and 12.1 or later is needed: install a newer", id="almost"),
        pytest.param("13.0", False, "libcudart_static.a is in none of the library folders of", id="no_runtime"),
    ],
)
def test_a_toolkit_that_will_not_do_is_an_error_for_cuda_and_a_line_for_auto(
    fake_nvcc: Callable[..., Path],
    monkeypatch: pytest.MonkeyPatch,
    capfd: pytest.CaptureFixture[str],
    release: str,
    with_runtime: bool,
    message: str,
) -> None:
    fake_nvcc(release, with_runtime)
    with pytest.raises(SystemExit) as raised:
        setup_arguments("cuda", monkeypatch)
    assert str(raised.value).startswith("TORCHCLIP_BUILD=cuda cannot be had: ")
    assert message in str(raised.value)
    module = setup_arguments("auto", monkeypatch)["ext_modules"][0]
    lines = capfd.readouterr().err.splitlines()
    assert len(lines) == 1
    assert lines[0].startswith("torchclip: the CPU passes only, without those for CUDA: ")
    assert message in lines[0]
    assert "csrc/cpu/plan.cpp" in module.sources
    assert not [word for word in (*module.sources, *module.extra_compile_args) if "cuda" in word.lower()]


@pytest.mark.parametrize("setting", ["sm_90", "9x", "70", ";"])
@pytest.mark.parametrize("choice", ["auto", "cuda"])
def test_architectures_that_are_none_are_an_error(
    fake_nvcc: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, setting: str, choice: str
) -> None:
    fake_nvcc("13.0")
    monkeypatch.setenv("TORCHCLIP_CUDA_ARCHS", setting)
    with pytest.raises(SystemExit, match=f"TORCHCLIP_CUDA_ARCHS={setting} is not a list of compute capabilities"):
        setup_arguments(choice, monkeypatch)


@pytest.mark.parametrize(("release", "newest"), [("12.1", "90"), ("13.0", "120")])
@pytest.mark.parametrize("choice", ["auto", "cuda"])
def test_a_toolkit_that_will_do_is_used(
    fake_nvcc: Callable[..., Path], monkeypatch: pytest.MonkeyPatch, choice: str, release: str, newest: str
) -> None:
    """For the GPUs that its nvcc knows."""
    fake_nvcc(release)
    module = setup_arguments(choice, monkeypatch)["ext_modules"][0]
    assert "-DTORCHCLIP_CUDA" in module.extra_compile_args
    codes = "sm_80, sm_90, " + ("sm_100, sm_120, " if newest == "120" else "")
    assert f'-DTORCHCLIP_CUDA_BUILD="CUDA {release}, {codes}compute_{newest}"' in module.extra_compile_args
    assert not [source for source in module.sources if source.endswith(".cu")]


def test_cpu_asks_for_no_toolkit(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> None:
    monkeypatch.setenv("CUDACXX", "/no/such/nvcc")
    module = setup_arguments("cpu", monkeypatch)["ext_modules"][0]
    assert "-DTORCHCLIP_CUDA" not in module.extra_compile_args
    assert not capfd.readouterr().err


def test_the_toolkit_is_found_under_cuda_home_first(
    fake_nvcc: Callable[..., Path], build: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    folder = fake_nvcc("12.4")
    monkeypatch.delenv("CUDACXX")
    (folder / "bin").symlink_to(folder)
    for name in ("CUDA_HOME", "CUDA_PATH"):
        monkeypatch.setenv(name, str(folder))
        assert build.find_toolkit().nvcc == str(folder / "bin" / "nvcc")
        monkeypatch.delenv(name)
    monkeypatch.setenv("PATH", str(folder))
    assert build.find_toolkit().nvcc == str(folder / "nvcc")


def test_a_kernel_is_compiled_again_when_it_or_a_header_or_the_command_changes(
    fake_nvcc: Callable[..., Path], build: SimpleNamespace, monkeypatch: pytest.MonkeyPatch
) -> None:
    calls = fake_nvcc("13.0") / "calls"

    def compiled() -> list[str]:
        """The files that a build compiles."""
        calls.write_text("")
        linked = build.compile_kernels(build.find_toolkit(), build.objects)
        assert [Path(path).name for path in linked] == ["first.o", "second.o", "libcudart_static.a"]
        return sorted(calls.read_text().split())

    def change(path: Path) -> None:
        later = max(target.stat().st_mtime for target in build.objects.iterdir()) + 1
        os.utime(path, (later, later))
        for target in build.objects.glob("*.o"):
            if path.suffix == ".cu" and target.stem != path.stem:
                os.utime(target, (later, later))

    assert compiled() == ["first.cu", "second.cu"]
    assert compiled() == []
    change(build.kernels / "second.cu")
    assert compiled() == ["second.cu"]
    os.utime(build.kernels / "second.cu", (0, 0))
    change(build.kernels / "numbers.h")
    assert compiled() == ["first.cu", "second.cu"]
    os.utime(build.kernels / "numbers.h", (0, 0))
    assert compiled() == []
    monkeypatch.setenv("TORCHCLIP_CUDA_ARCHS", "9.0 8.0 10.0")
    assert compiled() == ["first.cu", "second.cu"]
    command = (build.objects / "first.o").read_text()
    assert "-gencode=arch=compute_100,code=sm_100 -gencode=arch=compute_100,code=compute_100" in command
    assert command.count("-gencode=") == 4


def test_a_kernel_that_does_not_compile_is_an_error_each_time(
    fake_nvcc: Callable[..., Path], build: SimpleNamespace
) -> None:
    fake_nvcc("13.0")
    (build.kernels / "second.cu").write_text("syntax error")
    for _ in range(2):
        with pytest.raises(SystemExit, match=r"nvcc failed for second\.cu"):
            build.compile_kernels(build.find_toolkit(), build.objects)


def test_auto_goes_on_without_kernels_that_do_not_compile(
    fake_nvcc: Callable[..., Path], build: SimpleNamespace, capfd: pytest.CaptureFixture[str]
) -> None:
    fake_nvcc("13.0")
    (build.kernels / "second.cu").write_text("syntax error")

    class Command:
        build_temp = build.objects

        def build_extensions(self) -> None:
            """Has no more to do."""

    def module() -> SimpleNamespace:
        return SimpleNamespace(sources=["plan.cpp"], depends=[], extra_compile_args=["-O3"], extra_link_args=["-lc10"])

    left = module()
    build.add_kernels(left, Command, "auto")().build_extensions()
    assert {**vars(left), "depends": []} == vars(module())
    said = capfd.readouterr().err
    assert "torchclip: the CPU passes only, without those for CUDA: " in said and "nvcc failed for second.cu" in said
    with pytest.raises(SystemExit, match=r"nvcc failed for second\.cu"):
        build.add_kernels(module(), Command, "cuda")().build_extensions()


@pytest.mark.skipif(nvcc() is None, reason="no nvcc on PATH or under CUDA_HOME")
def test_the_runtime_is_linked_statically_and_exported_to_nobody(
    build: SimpleNamespace, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.setenv("TORCHCLIP_CUDA_ARCHS", "90")
    toolkit = build.find_toolkit()
    (build.kernels / "second.cu").unlink()
    linked = build.compile_kernels(toolkit, build.objects)
    library = tmp_path / "kernels.so"
    module = SimpleNamespace(sources=[], depends=[], extra_compile_args=[], extra_link_args=[])
    build.add_kernels(module, object, "cuda")
    subprocess.run(["c++", "-shared", *linked, *module.extra_link_args, "-o", str(library)], check=True)
    exported = subprocess.run(["nm", "-D", str(library)], capture_output=True, text=True, check=True).stdout
    assert "runtime_version" in exported
    assert "cuda" not in exported
    major, minor = divmod(ctypes.CDLL(str(library)).runtime_version(), 1000)
    assert (major, minor // 10) == toolkit.version
