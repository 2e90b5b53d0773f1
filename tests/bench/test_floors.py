"""What a run is held to: floors, and an earlier run. Both name what fell, and can fail."""

from __future__ import annotations

import copy
from pathlib import Path
from typing import Any

import pytest

from bench import __main__ as command
from bench.algorithm import OURS
from bench.cases import ALGORITHMS, CUDA_ALGORITHMS
from bench.floors import CUDA_FLOORS, FLOORS, Floor, Quantity, check_floors, compare
from bench.results import read_document, write_document
from bench.shapes import CPU_SETS, CUDA_SETS
from tiny_bench import edited, shrink


def entry(algorithm: str, **speedups: float) -> dict[str, Any]:
    """A row in which ours is so many times as fast as each."""
    contenders = {name: {"speedup_of_ours": {"p50": value}} for name, value in {OURS: 1.0, **speedups}.items()}
    return {"set": "large", "algorithm": algorithm, "title": algorithm, "contenders": contenders}


@pytest.mark.parametrize(
    ("before", "now", "kept"),
    [
        (entry("sgd", fused=2.0, loop=4.0), entry("sgd", fused=1.81, loop=1.9), True),
        (entry("sgd", fused=2.0, loop=4.0), entry("sgd", fused=1.79, loop=4.0), False),
        (entry("sgd", fused=2.0, loop=4.0), entry("sgd", fused=2.5, loop=1.7), False),  # another is fastest
        (entry("sgd", fused=2.0), entry("sgd", fused=2.0, compiled=1.0), True),  # which the baseline does not have
        (entry("sgd", fused=2.0, optimi=3.0), entry("sgd", fused=2.0, optimi=1.0), True),  # no form of torch's
        (entry("grda", authors=2.0), entry("grda", authors=1.0), False),
        (entry("adaloss", plain=1.0), entry("adaloss", plain=0.8), False),
        (entry("sgd", fused=2.0), entry("adamw", fused=2.0), False),  # nothing in common
    ],
)
def test_an_earlier_run(before: dict[str, Any], now: dict[str, Any], kept: bool) -> None:
    lines, verdict = compare([before], [now])
    assert verdict == kept
    fell = [line for line in lines if line.startswith("FELL")]
    assert len(fell) == (0 if kept or now["algorithm"] != before["algorithm"] else 1)
    assert all(now["algorithm"] in line for line in fell)


def test_the_command_measures_the_rows_of_the_baseline(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    shrink(monkeypatch)
    baseline, slower, faster = (tmp_path / name for name in ("baseline.json", "slower.json", "faster.json"))
    selection = ["--sets", "small", "--algorithms", "sgd", "grda"]
    assert command.main(["step", *selection, "--seconds", "0.001", "--json", str(baseline)]) == 0
    document = read_document(baseline)
    # Far apart, since tiny steps measure noise.
    for path, factor in ((slower, 1e-3), (faster, 1e3)):
        changed = copy.deepcopy(document)
        for row in changed["rows"]:
            for contender in row["contenders"].values():
                edited(contender, "speedup_of_ours.p50", contender["speedup_of_ours"]["p50"] * factor)
        write_document(path, changed)
    capsys.readouterr()
    assert command.main(["step", "--against", str(slower)]) == 0
    out = capsys.readouterr().out
    assert out.count("kept  small") == 2 and "0 of 2 rows fell" in out
    assert command.main(["step", "--against", str(faster)]) == 1
    assert capsys.readouterr().out.count("FELL  small") == 2
    assert command.main(["step", "--against", str(slower), "--sets", "small", "--algorithms", "sgd"]) == 0
    assert "1 rows of the baseline were not measured" in capsys.readouterr().out
    for missing in ('{"rows": []}', None):
        (tmp_path / "none.json").unlink() if missing is None else (tmp_path / "none.json").write_text(missing)
        with pytest.raises(SystemExit):
            command.main(["step", "--against", str(tmp_path / "none.json")])
        assert "holds no results" in capsys.readouterr().err


def test_every_floor_is_of_a_row_that_is_measured() -> None:
    for floors, rows, sets in ((FLOORS, ALGORITHMS, CPU_SETS), (CUDA_FLOORS, CUDA_ALGORITHMS, CUDA_SETS)):
        for floor in floors:
            assert floor.set_name in sets
            assert floor.quantity is not Quantity.SPEEDUP or floor.against in rows[floor.algorithm].contenders


@pytest.mark.parametrize(
    ("quantity", "ours", "bound", "holds"),
    [
        (Quantity.SPEEDUP, {}, 2.0, True),
        (Quantity.SPEEDUP, {}, 2.1, False),
        (Quantity.BANDWIDTH, {"share_of_fused": 0.9}, 0.9, True),
        (Quantity.BANDWIDTH, {"share_of_fused": 0.89}, 0.9, False),
        (Quantity.HOST_SECONDS, {"seconds": {"p50": 2.1e-5}}, 2e-5, False),
        (Quantity.HOST_SECONDS, {"seconds": {"p50": 1e-3}, "warm_host_seconds": 1e-5}, 2e-5, True),
        # A profiler that sees no kernel has counted nothing.
        *((Quantity.LAUNCHES, {"launches": {"kernels": n, "copies": 0}}, 2, 0 < n < 3) for n in range(4)),
    ],
)
def test_a_floor_is_kept_or_missed(quantity: Quantity, ours: dict[str, Any], bound: float, holds: bool) -> None:
    row = entry("sgd", fused=2.0)
    row["contenders"][OURS] |= ours
    lines, reached = check_floors([row], [Floor("large", "sgd", quantity, bound, "fused")])
    assert reached == holds and lines[0].startswith("pass" if holds else "MISS")
    lines, reached = check_floors([], [Floor("large", "sgd", quantity, bound, "fused")])
    assert not reached and "1 of 1 floors were not measured" in lines[0]
