"""The emulator runs right kernels right, whatever the order of their threads and blocks, and reports planted faults."""

from __future__ import annotations

import os
import shutil
import subprocess
from pathlib import Path

import pytest

from emulated import build_script
from kept import said
from places import CSRC, SUPPORT, nvcc

EMULATOR = SUPPORT / "cuda_emulator"
COMPILER = shutil.which("g++")

pytestmark = [
    pytest.mark.skipif(COMPILER is None, reason="no g++ on PATH"),
    pytest.mark.xdist_group("cuda_emulator"),  # of one fixture
]

BUILDS = {
    "plain": [],
    "sanitized": ["-fsanitize=address,undefined", "-fno-sanitize-recover=undefined"],
}
FLAGS = ["-std=c++20", "-O1", "-g", "-fvisibility=hidden", "-fno-strict-aliasing", "-ffp-contract=off"]
FLAGS += ["-Wall", "-Wextra", "-Werror", "-Wno-unknown-pragmas", f"-I{EMULATOR / 'include'}", f"-I{CSRC}"]
ORDERS = ["ascending", "descending", "shuffled:1", "shuffled:2"]

each_build = pytest.mark.parametrize("build", ["plain", pytest.param("sanitized", marks=pytest.mark.thorough)])


class Builds(dict[str, Path]):
    """The builds of selftest.cu by their names, each made when it is first asked for."""

    def __init__(self, folder: Path) -> None:
        super().__init__()
        self.folder = folder

    def __missing__(self, name: str) -> Path:
        def run(*command: str) -> None:
            built = subprocess.run(command, capture_output=True, text=True, timeout=300, check=False)
            assert built.returncode == 0, built.stderr

        objects = []
        for source in sorted(EMULATOR.glob("*.c*")):
            objects.append(str(self.folder / f"{source.name}.{name}.o"))
            made = ["-MD", "-MF", f"{objects[-1]}.d", "-x", "c++", "-c", str(source), "-o", objects[-1]]
            run(*build_script("build.py").launcher(), str(COMPILER), *FLAGS, *BUILDS[name], *made)
        run(str(COMPILER), *BUILDS[name], *objects, "-o", str(self.folder / name))
        self[name] = self.folder / name
        return self[name]


@pytest.fixture(scope="module")
def selftest(tmp_path_factory: pytest.TempPathFactory) -> Builds:
    return Builds(tmp_path_factory.mktemp("cuda_emulator"))


def _run(program: Path, *names: str, order: str = "ascending") -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "TORCHCLIP_EMULATOR_ORDER": order}
    return subprocess.run([program, *names], env=environment, capture_output=True, text=True, timeout=60, check=False)


@pytest.mark.parametrize("order", ORDERS)
@each_build
def test_sums_are_right_for_every_geometry(selftest: Builds, build: str, order: str) -> None:
    result = _run(selftest[build], "sum_float", "sum_double", "sum_int", order=order)
    assert (result.returncode, result.stderr) == (0, "")
    # 3 types, 1, 3 and 100 blocks, 32, 96, 256 and 1024 threads; every partial sum is exact in float32
    assert [float(value) for value in result.stdout.split()] == [100 * 999 * 500] * 36


@pytest.mark.parametrize("order", ORDERS)
@each_build
def test_grid_barrier_keeps_every_block(selftest: Builds, build: str, order: str) -> None:
    result = _run(selftest[build], "grid", order=order)
    assert [float(value) for value in result.stdout.split()] == [255] * 256
    assert result.returncode == 3  # the second launch has more blocks than can be resident
    assert "cudaErrorCooperativeLaunchTooLarge" in result.stderr


@pytest.mark.parametrize("order", ORDERS)
@each_build
def test_warp_operations_and_vectors(selftest: Builds, build: str, order: str) -> None:
    result = _run(selftest[build], "mixed", order=order)
    assert (result.returncode, result.stderr) == (0, "")
    values, votes = result.stdout.splitlines()
    expected = []
    for i in range(64):
        warp, lane = i - i % 32, i % 32
        down = lane + 8 if lane % 16 < 8 else lane  # within segments of 16 lanes
        expected += [2 * i, 2 * (63 - i), i ^ 1, warp + 5 + warp + down]
    assert [float(value) for value in values.split()] == expected
    assert [int(value) for value in votes.split()] == [0xAAAAAAAA, 3, 64, 7]


def test_missing_barrier_shows_in_the_order(selftest: Builds) -> None:
    ascending, descending = (
        _run(selftest["plain"], "missing_barrier", order=order).stdout.split() for order in ORDERS[:2]
    )
    right = [str(63 - i) for i in range(64)]
    assert ascending[32:] == right[32:]
    assert descending[:32] == right[:32]
    # What the other half read is what shared memory starts with.
    assert {value.lstrip("-") for value in ascending[:32] + descending[32:]} == {"nan"}


REPORTS = {
    "divergent_barrier": ["thread (0, 0, 0) waits at __syncthreads", "thread (16, 0, 0) has returned"],
    "two_barriers": ["thread (32, 0, 0): a barrier, while thread (0, 0, 0) waits at __syncthreads"],
    "missing_lane": ["waits in a shuffle under the mask 0xffffffff", "thread (9, 0, 0) has returned"],
    "count_without_fence": ["thread (0, 0, 0): atomicInc without __threadfence() since the block's last barrier"],
    "misaligned_load": ["an access of 16 bytes at an address that is 4 above", "cudaErrorMisalignedAddress"],
}


@pytest.mark.parametrize("fault", REPORTS)
@each_build
def test_faults_end_the_launch_with_a_report(selftest: Builds, build: str, fault: str) -> None:
    result = _run(selftest[build], fault)
    assert result.returncode == 3, result.stderr
    assert "launch of kernel failed with" in result.stderr
    for part in [*REPORTS[fault], "block (0, 0, 0)", f"{fault}_kernel", "selftest.cu:"]:
        assert part in result.stderr


def test_last_block_that_does_not_fence_is_reported(selftest: Builds) -> None:
    result = _run(selftest["plain"], "read_without_fence")
    assert result.returncode == 3
    assert "block (0, 0, 0), thread (0, 0, 0): no __threadfence() after its block counted as" in result.stderr


def test_write_into_a_guard_zone_is_reported(selftest: Builds) -> None:
    result = _run(selftest["plain"], "out_of_bounds")
    assert result.returncode == 3
    assert "something was written just outside 256 bytes of device memory" in result.stderr


SANITIZER_REPORTS = {
    "out_of_bounds": ["AddressSanitizer: use-after-poison", "WRITE of size 4", "in out_of_bounds_kernel"],
    "use_after_free": ["AddressSanitizer: use-after-poison", "READ of size 4", "in add_kernel"],
    "shared_out_of_bounds": ["index 32 out of bounds for type 'float [32]'"],
    "misaligned_access": ["store to misaligned address", "which requires 16 byte alignment"],
}


@pytest.mark.thorough
@pytest.mark.parametrize("fault", SANITIZER_REPORTS)
def test_sanitizers_see_into_kernels(selftest: Builds, fault: str) -> None:
    result = _run(selftest["sanitized"], fault)
    assert result.returncode not in (0, 3), result.stderr
    for part in [*SANITIZER_REPORTS[fault], "selftest"]:
        assert part in result.stderr


@pytest.mark.parametrize(
    ("name", "message"),
    [
        ("launch_too_large", "launch of kernel failed with cudaErrorInvalidConfiguration: invalid configuration"),
        ("injected_launch", "cudaErrorNoKernelImageForDevice: no kernel image for the device; build torchclip for"),
        ("injected_allocation", "cudaMalloc failed with cudaErrorMemoryAllocation: out of memory; free memory on"),
        ("injected_attributes", "cudaFuncGetAttributes failed with cudaErrorNoKernelImageForDevice"),
        ("old_driver", "cudaGetDeviceCount failed with cudaErrorInsufficientDriver"),
    ],
)
@each_build
def test_errors_reach_the_launcher(selftest: Builds, build: str, name: str, message: str) -> None:
    result = _run(selftest[build], name)
    assert (result.returncode, result.stdout) == (3, "12040\n" if name == "old_driver" else "")
    assert message in result.stderr


@pytest.mark.parametrize("order", ORDERS)
@each_build
def test_graph_is_recorded_and_replayed(selftest: Builds, build: str, order: str) -> None:
    result = _run(selftest[build], "graph", order=order)
    assert (result.returncode, result.stderr) == (0, "")
    during, before, *replays, launches = (line.split() for line in result.stdout.splitlines())
    assert during == ["1", "4", "0"]  # a capture is active, of four nodes, of which none has run
    assert before == ["1", "1"]
    # What is added is the amount at the capture, and what is copied is there at the replay.
    assert replays == [["3", "7"], ["1"], ["3", "9"], ["1"]]
    assert launches == ["4"]


def test_forbidden_call_spoils_a_capture(selftest: Builds) -> None:
    result = _run(selftest["plain"], "spoilt_graph")
    assert result.stdout.split() == [
        "cudaErrorStreamCaptureUnsupported",
        "2",  # cudaStreamCaptureStatusInvalidated
        "cudaErrorStreamCaptureInvalidated",
        "-1",
    ]
    assert result.returncode == 3
    assert "cudaDeviceSynchronize failed with cudaErrorStreamCaptureUnsupported" in result.stderr


def test_devices_are_counted_and_chosen(selftest: Builds) -> None:
    result = _run(selftest["plain"], "devices")
    settings, launches, after = (line.split() for line in result.stdout.splitlines())
    assert settings == ["3", "1", str(5 << 20), "2", "0"]  # the second tensor was not placed
    assert launches == ["1", "0", "3"]  # a replay runs on the device of the capture
    assert after == ["0", "0"]
    assert result.returncode == 3
    assert "cudaSetDevice failed with cudaErrorInvalidDevice" in result.stderr


def test_unknown_order_is_refused(selftest: Builds) -> None:
    result = _run(selftest["plain"], "mixed", order="random")
    assert result.returncode == 3
    assert "TORCHCLIP_EMULATOR_ORDER=random is not ascending, descending or shuffled:SEED" in result.stderr


@pytest.mark.skipif(nvcc() is None, reason="no nvcc on PATH or under CUDA_HOME")
@pytest.mark.parametrize("architecture", ["sm_80", pytest.param("sm_90", marks=pytest.mark.thorough)])
def test_selftest_is_real_cuda(architecture: str, tmp_path: Path) -> None:
    command = [str(nvcc()), "-std=c++20", f"-arch={architecture}", "-Werror=all-warnings", f"-I{CSRC}"]
    command += ["-c", str(EMULATOR / "selftest.cu")]

    def report() -> list[str]:
        target = ["-o", str(tmp_path / "selftest.o")]
        result = subprocess.run([*command, *target], capture_output=True, text=True, timeout=300, check=False)
        assert result.returncode == 0, result.stderr
        return [result.stderr]

    said(command, report)
