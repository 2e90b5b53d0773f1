"""Run by tests/kernels/test_triton_compile.py without TRITON_INTERPRET: compiles the variants in use, without a GPU.

Its arguments are a file and the names of targets. It writes to the file, as JSON, a record for each target and variant;
see ``compiled``.
"""

from __future__ import annotations

import contextlib
import io
import json
import os
import re
import sys
from collections import Counter
from collections.abc import Hashable, Sequence
from concurrent.futures import ProcessPoolExecutor
from multiprocessing import get_context
from pathlib import Path
from typing import Any

import triton
from triton.backends.compiler import GPUTarget
from triton.compiler import ASTSource, make_backend

from torchclip.backends.triton import columns, launcher
from torchclip.kernels import finish_rule, finish_step
from triton_launches import NUMBER, UNALIGNED, Variant, variants

TARGETS = {
    "sm_90": GPUTarget("cuda", 90, 32),
    "sm_80": GPUTarget("cuda", 80, 32),
    "gfx942": GPUTarget("hip", "gfx942", 64),
}
"""What is compiled for. All variants in use take half an hour of a core, and TORCHCLIP_COMPILE_ALL=1 in the environment
compiles them. Otherwise one stands for all that have the code of the elements in common, for each target; for sm_80,
whose code is nearly that of sm_90, one type stands for all types, too, and for gfx942 two do. What the end of a norm
pass makes of each policy and rule is compiled by itself, once."""

TYPES_OF_AMD = (None, columns.FLOAT32, columns.BFLOAT16)

NVIDIA_ACCESS = re.compile(r"\b(ld|st)\.(global|local)((?:\.[\w:]+)*)")
NVIDIA_NUMBERS = {
    "stack": re.compile(r"(\d+) bytes stack frame"),
    "spill stores": re.compile(r"(\d+) bytes spill stores"),
    "spill loads": re.compile(r"(\d+) bytes spill loads"),
    "registers": re.compile(r"Used (\d+) registers"),
}
NVIDIA_ORDER = re.compile(r"\bst\.global|\bbar\.sync|\batom\.[\w.]*acq_rel")
AMD_ACCESS = re.compile(r"^\s+((?:global|flat|buffer|scratch)_(?:load|store)_\w+)", re.MULTILINE)
AMD_NUMBERS = {
    "stack": re.compile(r"\.private_segment_fixed_size:\s+(\d+)"),
    "vector spills": re.compile(r"\.vgpr_spill_count:\s+(\d+)"),
    "scalar spills": re.compile(r"\.sgpr_spill_count:\s+(\d+)"),
    "registers": re.compile(r"\.vgpr_count:\s+(\d+)"),
}


def source_of(variant: Variant, target: GPUTarget) -> ASTSource:
    """The variant as the JIT would specialise it: addresses that are multiples of 16, and AMD's tables below 2 GB."""
    names, backend = variant.kernel.arg_names, make_backend(target)
    types = {**dict.fromkeys(names, "constexpr"), **dict(variant.pointers)}
    constants = {(names.index(name),): value for name, value in variant.constants}
    small = "S" if target.backend == "hip" else ""
    attributes = {
        (names.index(name),): backend.parse_attr(small if name in UNALIGNED else "D" + small)
        for name, kind in variant.pointers
        if kind != NUMBER
    }
    return ASTSource(variant.kernel, types, constants, attributes)


def compiled(target_name: str, variant: Variant) -> dict[str, Any]:
    """A variant's record: what it is, and the accesses and registers of its code, or the error in their place."""
    target, options = TARGETS[target_name], dict(variant.options)
    record = {
        "target": target_name,
        "name": variant.name,
        "kernel": variant.kernel.fn.__name__,
        "elements": variant.elements,
        "threads": options["num_warps"] * target.warp_size,
        "twin": twin_of(variant).name if variant.elements.get("access") == columns.ALIGNED else None,
    }
    log = io.StringIO()  # of ptxas
    try:
        with contextlib.redirect_stdout(log):
            assembly = triton.compile(source_of(variant, target), target, options).asm
    except Exception as error:  # whatever the compiler raises is a result
        return {**record, "error": f"{type(error).__name__}: {error}"}
    if target.backend == "hip":
        code, report, access, numbers = assembly["amdgcn"], assembly["amdgcn"], AMD_ACCESS, AMD_NUMBERS
    else:
        code, report, access, numbers = assembly["ptx"], log.getvalue(), NVIDIA_ACCESS, NVIDIA_NUMBERS
    return {
        **record,
        "accesses": Counter(map("".join, access.findall(code))),
        "numbers": {name: max(map(int, pattern.findall(report)), default=None) for name, pattern in numbers.items()},
        "declares_local": ".local" in code,
        "orders": NVIDIA_ORDER.findall(code),
    }


def twin_of(variant: Variant) -> Variant:
    """The same kernel where tensors are not aligned: what lies in wide accesses is then read and written narrowly."""
    return variant.with_access(columns.ANYHOW)


def kind_of_code(variant: Variant, target_name: str) -> Hashable:
    """What variants have in common whose code of the elements differs little."""
    run = variant.elements
    pair = () if target_name == "sm_80" else (run.get("dtype"), run.get("state_dtype"))
    stages = run.get("stages", 0) != 0
    held = run.get("form"), run.get("form0"), kind_of_exchange(variant)
    return variant.kernel.fn.__name__, run.get("family"), run.get("slots"), stages, run.get("block"), *held, *pair


def kind_of_exchange(variant: Variant) -> Hashable:
    """What differs where other processes take part."""
    constants = dict(variant.constants)
    finish = constants.pop("finish", None)
    ends = None if finish is None else finish.shares
    return variant.elements.get("in_parts"), ends, None if variant.elements else tuple(constants.items())


FEW = "few"
"""In the place of a target's name: of its first the fewest variants that reach the code of every kernel and family, and
codes."""


def few() -> list[Variant]:
    """One for each kernel and family, with its twin, one with codes, and one for each kernel that is the end of a norm
    pass alone."""
    preferred = {"access": columns.ALIGNED, "dtype": columns.BFLOAT16}.items()
    found = sorted(variants("cuda"), key=lambda variant: len(preferred & variant.elements.items()))
    found += [alone for variant in found if (alone := end_of(variant)) is not None]

    def kind(variant: Variant) -> Hashable:
        elements = variant.elements
        name = variant.kernel.fn.__name__
        return name, elements.get("family"), elements.get("group"), kind_of_exchange(variant)

    chosen = list({kind(variant): variant for variant in found}.values())  # those that are aligned come last
    return chosen + [twin_of(variant) for variant in chosen if needs_twin(variant, "sm_90")]


def selected(target_name: str) -> list[Variant]:
    """What is compiled for a target."""
    found = variants(TARGETS[target_name].backend)
    if os.environ.get("TORCHCLIP_COMPILE_ALL") != "1":
        if target_name == "gfx942":
            found = [variant for variant in found if variant.elements.get("dtype") in TYPES_OF_AMD]
        found.sort(key=lambda variant: variant.elements.get("access") != columns.ALIGNED)  # those first
        ends = {kind_of_end(alone): alone for variant in found if (alone := end_of(variant)) is not None}
        found = list({kind_of_code(variant, target_name): variant for variant in reversed(found)}.values())
        found += ends.values() if target_name == next(iter(TARGETS)) else []
    if target_name != "sm_80":  # which has no other accesses than sm_90
        found += [twin_of(variant) for variant in found if needs_twin(variant, target_name)]
    return list(dict.fromkeys(found))


def end_of(variant: Variant) -> Variant | None:
    """The kernel that is the end of a norm pass alone, of the same policy and rule."""
    constants, pointers = dict(variant.constants), dict(variant.pointers)
    if "finish" not in constants:
        return None
    kernel = finish_rule.finish_rule_kernel if "coefficients" in pointers else finish_step.finish_step_kernel
    constants["by_rows"] = "row_factors" in pointers  # which the end of a clip policy's pass does not ask
    return Variant(
        kernel,
        tuple({**dict(variant.options), "num_warps": launcher.FINISH_WARPS}.items()),
        tuple((name, pointers[name]) for name in kernel.arg_names if name in pointers),
        tuple((name, constants.get(name)) for name in kernel.arg_names if name not in pointers),
    )


def kind_of_end(variant: Variant) -> Hashable:
    """A rule under the plainest policy, or a policy, a step size and extensions under any rule."""
    finish = dict(variant.constants)["finish"]
    given = [name for name, _ in variant.pointers if name in UNALIGNED]
    if finish.clip in (0, 1) and finish.step_size == 0 and not given:
        return variant.kernel.fn.__name__, finish.rule, finish.is_single, finish.by_group, finish.threshold_scales
    return variant.kernel.fn.__name__, *given, *finish._replace(rule="", scalars=0, fresh=False)


def needs_twin(variant: Variant, target_name: str) -> bool:
    """AMD's compiler reads tables in wide accesses, too, which the twin shows; elsewhere some suffice."""
    run = variant.elements
    if run.get("access") != columns.ALIGNED:
        return False
    return TARGETS[target_name].backend == "hip" or run.get("family") in (None, "momentum")


_jobs: list[tuple[str, Variant]] = []


def _run(index: int) -> dict[str, Any]:
    return compiled(*_jobs[index])


def main(path: Path, targets: Sequence[str]) -> None:
    """Compiles everything for the targets, in as many processes as there are cores for this one."""
    if FEW in targets:
        _jobs.extend((next(iter(TARGETS)), variant) for variant in few())
    else:
        _jobs.extend((name, variant) for name in targets for variant in selected(name))
    # Forked, so that the jobs, which hold kernels, need not be pickled.
    with ProcessPoolExecutor(len(os.sched_getaffinity(0)), get_context("fork")) as pool:
        path.write_text(json.dumps(list(pool.map(_run, range(len(_jobs))))))


if __name__ == "__main__":
    main(Path(sys.argv[1]), sys.argv[2:])
