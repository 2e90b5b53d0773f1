"""The Triton element functions, interpreted on the CPU, against the compiled loops and the reference generator."""

from __future__ import annotations

import json
import os
import subprocess
import sys

import pytest

from places import SUPPORT

pytest.importorskip("triton", reason="Triton is an optional dependency of the package")

CHECKS = SUPPORT / "triton_checks.py"


CHECK_NAMES = (
    "rules",
    "coefficients",
    "whole_powers",
    "prepare",
    "after_rule",
    "philox",
    "draws",
    "draws_of_large_parameters",
)


@pytest.fixture(scope="module")
def faults() -> dict[str, str]:
    """What each check found, empty where it found nothing.

    In a process of their own: Triton decides when it is imported whether functions are interpreted.
    """
    environment = {**os.environ, "TRITON_INTERPRET": "1"}
    result = subprocess.run(
        [sys.executable, str(CHECKS), *CHECK_NAMES], env=environment, capture_output=True, text=True
    )
    assert result.returncode == 0, result.stderr
    found: dict[str, str] = json.loads(result.stdout)
    return found


@pytest.mark.xdist_group("triton_functions")
@pytest.mark.parametrize("check", CHECK_NAMES)
def test_interpreted_function_agrees(check: str, faults: dict[str, str]) -> None:
    assert faults[check] == ""
