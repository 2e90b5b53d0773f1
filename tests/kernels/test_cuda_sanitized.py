"""Steps of the CUDA backend under AddressSanitizer and UBSan: the kernels, and the host's tables for them."""

from __future__ import annotations

import os
import subprocess
import sys

import pytest

import emulated
from places import TESTS

# Memory errors hang on layouts, kinds of kernel and sizes of elements, and hardly on a rule's options: a rule for each
# functor, each kind of norm, all extensions, one and two launches, and a captured step.
SELECTED = {
    "test_conformance.py": "cuda and not cuda-float16 and (sgd_momentum-no_clip-cuda or "
    "sgd_momentum-global_norm or adamw-global_norm-cuda or adamw-adaptive or mix_clip-tensor_norm-cuda or "
    "grda-global_norm or rmsprop_centered or ada_grad_norm_row-no or adamw-global_norm-sqrt_decay-all or around) and "
    "not split",
    "test_cuda_plan.py": "test_launches_of_a_step or test_gradients_that_moved or test_two_devices_step_as_one or "
    "(has_not_been and launch)",
    "test_cuda_graphs.py": "test_every_replay_is_a_step",
}


def _runtime(name: str) -> str:
    """Where g++ has a library that must be loaded before Python's own."""
    return subprocess.run(
        ["g++", f"-print-file-name={name}"], capture_output=True, text=True, check=True
    ).stdout.strip()


@pytest.mark.thorough
@pytest.mark.skipif(emulated.unbuilt_reason() is not None, reason=str(emulated.unbuilt_reason()))
@pytest.mark.skipif(emulated.REQUESTED != "", reason="this run has chosen its emulated module")
@pytest.mark.parametrize("file", SELECTED)
def test_steps_are_clean_under_sanitizers(file: str) -> None:
    environment = {
        **os.environ,
        "TORCHCLIP_EMULATOR": "sanitized",
        # libstdc++: AddressSanitizer looks for the functions that throw when it starts, and Python itself has none.
        "LD_PRELOAD": f"{_runtime('libasan.so')} {_runtime('libstdc++.so')}",
        # Python keeps memory until it ends, and torch allocates and frees through different libraries.
        "ASAN_OPTIONS": "detect_leaks=0:alloc_dealloc_mismatch=0",
        "UBSAN_OPTIONS": "print_stacktrace=1",
        "OMP_NUM_THREADS": "1",
    }
    command = [sys.executable, "-m", "pytest", "-q", "-x", "-p", "no:cacheprovider", str(TESTS / "kernels" / file)]
    result = subprocess.run(
        [*command, "-k", SELECTED[file]], env=environment, capture_output=True, text=True, timeout=1800, check=False
    )
    assert result.returncode == 0, f"{result.stdout[-4000:]}\n{result.stderr[-8000:]}"
    assert " passed" in result.stdout and "skipped" not in result.stdout, result.stdout[-400:]
