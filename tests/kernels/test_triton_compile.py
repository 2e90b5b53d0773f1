"""Triton's compiler without a GPU: every variant in use compiles, to accesses of 128 bits and without local memory."""

from __future__ import annotations

import fcntl
import inspect
import json
import os
import re
import subprocess
import sys
import tempfile
from collections import Counter
from collections.abc import Callable
from functools import cache
from pathlib import Path
from typing import Any

import pytest
import torch

from kept import kept
from places import ROOT, SUPPORT

triton = pytest.importorskip("triton", reason="Triton is an optional dependency of the package")

from triton.backends import backends  # noqa: E402

from torchclip.backends.triton import columns  # noqa: E402

THIS = Path(__file__)
VARIANTS = SUPPORT / "triton_variants.py"

BACKENDS = {"sm_90": "nvidia", "sm_80": "nvidia", "gfx942": "amd"}
TARGETS = ["sm_90", *(pytest.param(name, marks=pytest.mark.thorough) for name in ("sm_80", "gfx942"))]

KERNELS = {
    "update_kernel",
    "gradient_norm_kernel",
    "direction_norm_kernel",
    "row_norm_kernel",
    "row_direction_norm_kernel",
    "finish_step_kernel",
    "finish_rule_kernel",
    "share_kernel",
    "share_rows_kernel",
}

IN_WIDE_ACCESSES = ("update_kernel", "gradient_norm_kernel", "direction_norm_kernel")
"""Where tensors are aligned. Rows begin anywhere."""

WIDE = 16
"""Bytes of the widest access."""

ELEMENT_BYTES = {columns.FLOAT32: 4, columns.FLOAT64: 8, columns.BFLOAT16: 2, columns.FLOAT16: 2}

AMD_BYTES = {"byte": 1, "short": 2, "dword": 4, "dwordx2": 8, "dwordx3": 12, "dwordx4": 16}

Record = dict[str, Any]
"""See ``compiled`` in tests/support/triton_variants.py."""


FAST = "few"
"""What is compiled where no thorough test is asked for; see ``triton_variants.py``."""


def missing_reason(target: str) -> str | None:
    """Why Triton cannot compile for a target here."""
    if BACKENDS[target] not in backends:
        return f"Triton was built without its backend {BACKENDS[target]!r}"
    if BACKENDS[target] == "nvidia":
        try:
            _ = triton.knobs.nvidia.ptxas.path
        except RuntimeError as error:
            return f"Triton has no ptxas: {error}"
    return None


_shared_folder: Path | None = None
_few = False


@pytest.fixture(scope="session", autouse=True)
def _share_with_other_processes(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> None:
    """Under pytest-xdist one process compiles, and the others wait for what it found."""
    global _shared_folder, _few
    _few = not any(item.get_closest_marker("thorough") for item in request.session.items if item.path == THIS)
    if "PYTEST_XDIST_WORKER" in os.environ:
        _shared_folder = tmp_path_factory.getbasetemp().parent


@cache
def compile_everything() -> tuple[str, list[Record]]:
    """What went wrong, and the records of all targets that can be compiled for here."""
    if _shared_folder is None:
        return compile_here()
    path = _shared_folder / "triton_variants.json"
    with open(_shared_folder / "triton_variants.lock", "w") as lock:
        fcntl.flock(lock, fcntl.LOCK_EX)
        if not path.exists():
            path.write_text(json.dumps(compile_here()))
    error, records = json.loads(path.read_text())
    return error, records


def compile_here() -> tuple[str, list[Record]]:
    """In one process, which shares its cores among the variants; or what it said before."""
    targets = [FAST] if _few else [target for target in BACKENDS if missing_reason(target) is None]
    words = ["triton", triton.__version__, sys.version, torch.__version__, *targets, inspect.getsource(made)]
    try:
        (records,) = kept(words, python_files, lambda: made(targets))
    except RuntimeError as error:
        return str(error), []
    return "", json.loads(records)


def python_files() -> list[Path]:
    """What the kernels, and the choice of variants, are made of."""
    return [path for folder in ("kernels", "torchclip", "tests/support") for path in (ROOT / folder).rglob("*.py")]


def made(targets: list[str]) -> list[str]:
    """The records; a RuntimeError with what went wrong."""
    environment = {name: value for name, value in os.environ.items() if name != "TRITON_INTERPRET"}
    with tempfile.TemporaryDirectory() as folder:
        # An empty cache, or ptxas would have nothing to tell.
        environment |= {"TRITON_CACHE_DIR": str(Path(folder, "cache")), "TRITON_DUMP_PTXAS_LOG": "1"}
        path = Path(folder, "records.json")
        command = [sys.executable, str(VARIANTS), str(path), *targets]
        result = subprocess.run(command, env=environment, capture_output=True, text=True)
        if result.returncode != 0:
            raise RuntimeError(result.stderr)
        return [path.read_text()]


def all_records() -> list[Record]:
    """Of all targets."""
    error, records = compile_everything()
    assert not error, error
    return records


@pytest.fixture(params=TARGETS)
def target(request: pytest.FixtureRequest) -> str:
    """Each target in turn."""
    reason = missing_reason(request.param)
    if reason is not None:
        pytest.skip(reason)
    return request.param


def records_of(target: str) -> list[Record]:
    """What was compiled for a target."""
    return [record for record in all_records() if record["target"] == target and "error" not in record]


@cache
def by_name(target: str) -> dict[str, Record]:
    """The records of a target."""
    return {record["name"]: record for record in records_of(target)}


def twin_of(record: Record) -> Record:
    """The same kernel where tensors are not aligned."""
    return by_name(record["target"])[record["twin"]]


def main_parts(target: str) -> list[Record]:
    """Of the variants whose main part is read by groups; without those that have codes, of which a thread takes as few
    bytes as a number of a table has."""
    return [
        record
        for record in records_of(target)
        if record["kernel"] in IN_WIDE_ACCESSES
        and record["elements"]["access"] == columns.ALIGNED
        and record["elements"].get("group") != columns.BLOCK
    ]


def assert_none(faults_of: Callable[[Record], Any], records: list[Record]) -> None:
    """Raises with the variants that have a fault."""
    offenders = [f"{record['name']}: {faults}" for record in records if (faults := faults_of(record))]
    assert records
    assert not offenders, f"{len(offenders)} of {len(records)} variants:\n" + "\n".join(offenders)


def operand_bytes(record: Record, access: str) -> list[int]:
    """The size of an element of each operand that is read ("load") or written ("store")."""
    run, kernel = record["elements"], record["kernel"]
    if kernel == "gradient_norm_kernel":
        return [ELEMENT_BYTES[run["dtype"]]] if access == "load" else []
    own = ELEMENT_BYTES[run["parameter_dtype"]]
    decays = run["stages"] & columns.COUPLED_DECAY
    state = [ELEMENT_BYTES[run[f"dtype{slot}"]] for slot in range(3) if run["slots"] >> slot & 1]
    if kernel == "direction_norm_kernel":
        return [own, *([own] if decays else []), *state] if access == "load" else []
    slow = [max(own, 4)] if run["lookahead"] else []
    if access == "store":
        return [own, *state, *slow]
    return [own, *([] if run["family"] == "soft_threshold" and not decays else [own]), *state, *slow]


def elements_of_thread(record: Record) -> int:
    """A thread's share of a block."""
    return record["elements"]["block"] // record["threads"]


def needed(record: Record, access: str) -> Counter[int]:
    """How many accesses of which width the main part needs: as wide as a thread's share, and 16 bytes at most."""
    count = elements_of_thread(record)
    result: Counter[int] = Counter()
    for size in operand_bytes(record, access):
        width = min(count * size, WIDE)
        result[width] += count * size // width
    return result


def found(record: Record, access: str) -> Counter[int]:
    """How many accesses to device memory of which width, in bytes, there are."""
    result: Counter[int] = Counter()
    for name, count in record["accesses"].items():
        if match := re.fullmatch(r"(ld|st)global.*?(?:\.v(\d))?\.[bfus](\d+)", name):
            kind = {"ld": "load", "st": "store"}[match[1]]
            width = int(match[2] or 1) * int(match[3]) // 8
        elif match := re.fullmatch(r"(?:global|flat|buffer)_(load|store)_[us]?(byte|short|dword(?:x\d)?)\w*", name):
            kind, width = match[1], AMD_BYTES[match[2]]
        else:
            continue
        if kind == access:
            result[width] += count
    return result


def missing_wide(record: Record) -> str:
    """What the main part needs and has not, or has without need."""
    faults = []
    for access in ("load", "store"):
        needs, has = needed(record, access), found(record, access)
        if BACKENDS[record["target"]] == "amd":  # whose compiler reads and writes tables in wide accesses, too
            has -= found(twin_of(record), access)
        exact = BACKENDS[record["target"]] == "nvidia"
        for width, count in needs.items():
            if has[width] < count or (exact and has[width] > count):
                faults.append(f"{has[width]} {access}s of {width} bytes where {count} are needed")
    return "; ".join(faults)


def excess_narrow(record: Record) -> str:
    """Accesses narrower than those of a table's numbers, beyond those of the tail: one for each operand.

    An operand whose main part is not read by groups has one for each element of a thread.
    """
    faults = []
    for access in ("load", "store"):
        sizes, has = Counter(operand_bytes(record, access)), found(record, access)
        for width in (1, 2, 4):
            allowed = sizes[width]
            if BACKENDS[record["target"]] == "amd":
                # There half of some integers in tables is read: as often as in the twin, by the main part and the tail.
                shared = found(twin_of(record), access)[width] - sizes[width] * elements_of_thread(record)
                allowed += 2 * shared
            elif width == 4 and (access == "load" or record["kernel"] != "update_kernel"):
                continue  # tables have int32 numbers, the end of a norm pass float32; a lost operand is missing above
            if has[width] > allowed:
                faults.append(f"{has[width]} {access}s of {width} bytes where {allowed} are enough")
    return "; ".join(faults)


SPARED = 20
"""Bytes of local memory that the end of a norm pass may take, for numbers that wait for it while the elements go by.
ptxas takes them so that one more program fits on a multiprocessor; nothing in a loop over elements touches them."""


def local_memory(record: Record) -> str:
    """What of it a variant uses. AMD's scalars that find no register of their own take lanes of vector registers."""
    faults = [f"{count} {name}" for name, count in record["accesses"].items() if re.search("local|scratch", name)]
    faults += ["declares .local"] if record["declares_local"] else []
    counts = {name: count for name, count in record["numbers"].items() if name not in ("registers", "scalar spills")}
    run = record["elements"]
    # AdaBreg beside a bfloat16 parameter, three float32 states: ptxas stops at 64 registers and keeps one word outside.
    is_ada_bregs = run.get("family") == "soft_threshold" and run["slots"] == 7 and ELEMENT_BYTES[run["dtype"]] == 2
    spared = (8 if is_ada_bregs else 0) if record["kernel"] == "update_kernel" else SPARED
    return "; ".join(faults + [f"{name}: {count}" for name, count in counts.items() if count > spared])


def programs_at_once(record: Record) -> int:
    """How many programs a multiprocessor has registers for."""
    registers = record["numbers"]["registers"]
    if BACKENDS[record["target"]] == "nvidia":
        return 65536 // (registers * record["threads"])
    return 512 // registers * 4 * 64 // record["threads"]  # for each of 64 lanes of four units


def test_every_variant_compiles(target: str) -> None:
    records = [record for record in all_records() if record["target"] == target]
    assert {record["kernel"] for record in records} == KERNELS
    assert_none(lambda record: record.get("error"), records)


def test_main_part_is_read_and_written_by_groups(target: str) -> None:
    assert_none(missing_wide, main_parts(target))


def test_elements_are_read_and_written_one_by_one_in_the_tail_alone(target: str) -> None:
    assert_none(excess_narrow, main_parts(target))


@pytest.mark.parametrize("target", [TARGETS[0], TARGETS[2]], indirect=True)  # sm_80's accesses are those of sm_90
def test_lost_alignment_is_noticed(target: str) -> None:
    compared = [record for record in main_parts(target) if record["twin"] in by_name(target)]
    lost = [{**record, "accesses": twin_of(record)["accesses"]} for record in compared]
    assert_none(lambda record: not missing_wide(record) and "goes unnoticed", lost)
    # The numbers of tables are of 8 bytes, too.
    narrow = [r for r in lost if r["kernel"] == "update_kernel" and r["elements"]["dtype"] != columns.FLOAT64]
    assert_none(lambda record: not excess_narrow(record) and "goes unnoticed", narrow)


@pytest.mark.parametrize("target", TARGETS[:2], indirect=True)
def test_threads_wait_before_their_program_counts_as_done(target: str) -> None:
    """What any of them has stored is there when the count says that the program is done."""

    def counted_early(record: Record) -> bool:
        orders = record["orders"]
        counts = [place for place, what in enumerate(orders) if what.startswith("atom")]
        return not counts or any(orders[place - 1] != "bar.sync" for place in counts)

    assert_none(counted_early, [record for record in records_of(target) if "norm_kernel" in record["kernel"]])


def test_no_local_memory(target: str) -> None:
    assert_none(local_memory, records_of(target))


def test_registers_leave_room_for_several_programs(target: str) -> None:
    # While one waits for memory another computes.
    twins = {record["twin"] for record in records_of(target)}
    in_use = [record for record in records_of(target) if record["name"] not in twins]
    # With a clip policy before a rule that clips itself by rows, what the last program does takes 231 registers.
    least = {"row_direction_norm_kernel": 2}
    assert_none(lambda record: programs_at_once(record) < least.get(record["kernel"], 3) and record["numbers"], in_use)
