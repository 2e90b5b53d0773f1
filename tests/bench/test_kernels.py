"""`python -m bench kernels` on tiny tensors: rows of every kind, their bytes, and a wrong result."""

from __future__ import annotations

import dataclasses
from pathlib import Path
from typing import Any

import pytest
import torch

import torchclip
from bench import __main__ as command
from bench import kernels
from bench.kernels import MODIFIERS, RULES, combine
from bench.results import read_document
from tiny_bench import shrink


@pytest.fixture(autouse=True)
def tiny(monkeypatch: pytest.MonkeyPatch) -> None:
    shrink(monkeypatch)
    monkeypatch.setattr(kernels, "SHAPES", {"cpu": ((30, 10), (77,))})


@pytest.mark.parametrize(
    ("rule", "clips", "dtype", "wanted"),
    [  # in words of four bytes, as the design has them
        ("sgd_momentum", True, torch.float32, 6 * 4),
        ("adamw", True, torch.float32, 8 * 4),
        ("adamw", False, torch.float32, 7 * 4),
        ("mix_clip", False, torch.float32, 7 * 4),
        ("grda", False, torch.float32, 4 * 4),
        ("grda", True, torch.float32, 5 * 4),
        ("adagrad_norm", False, torch.float32, 4 * 4),
        ("sgd_momentum", False, torch.bfloat16, 5 * 2),
        ("grda", False, torch.bfloat16, 2 + 2 + 2 * 4),  # its accumulator is float32
    ],
)
def test_bytes_that_must_move(rule: str, clips: bool, dtype: torch.dtype, wanted: int) -> None:
    assert RULES[rule].bytes_per_element(MODIFIERS["clip" if clips else "plain"], dtype) == wanted


def test_rows_of_every_kind(tmp_path: Path, capsys: pytest.CaptureFixture[str]) -> None:
    path = tmp_path / "kernels.json"
    arguments = ["kernels", "--seconds", "0.001", "--json", str(path)]
    # A few rules, with every addition; all are seen by a run of the command itself.
    chosen = ["--rules", "norm", "adamw", "grda", "--dtypes", "float32"]
    assert command.main([*arguments, *chosen]) == 0
    entries = read_document(path, "kernels")["rows"]
    rules = [RULES[name] for name in ("adamw", "grda")]
    combined = sum(combine(rule, modifier, torch.float32) for rule in rules for modifier in MODIFIERS.values())
    assert len(entries) == 1 + combined
    assert combined == 2 * len(MODIFIERS) - 2  # gRDA takes neither LRDropout nor Lookahead
    for entry in entries:
        assert len(entry["samples_seconds"]["ours"]) == entry["rounds"] >= 10
    plain = next(entry for entry in entries if entry["algorithm"] == "adamw")
    assert list(plain["contenders"]) == ["ours", "reference", "foreach", "fused"]
    assert capsys.readouterr().out.count("ps an element") == len(entries)
    assert command.main([*arguments, *chosen]) == 0
    assert read_document(path)["rows"] == entries, "rows that are there were measured again"


@pytest.mark.parametrize("rule", ["norm", "sgd_momentum"])
def test_a_wrong_kernel_is_found_out(
    rule: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    def wrong_norm(tensors: Any) -> torch.Tensor:
        return 1.001 * torch.nn.utils.get_total_norm(tensors)

    class Wrong(torchclip.SGD):
        def step(self, closure: Any = None, *, loss: Any = None) -> Any:
            for group in self.param_groups:
                group["lr"] *= 0.99 if self.backend != "reference" else 1.0
            return super().step(closure, loss=loss)

    monkeypatch.setattr(torchclip, "get_total_norm", wrong_norm)
    monkeypatch.setattr(kernels, "RULES", {"sgd_momentum": dataclasses.replace(RULES["sgd_momentum"], cls=Wrong)})
    path = tmp_path / "kernels.json"
    arguments = ["kernels", "--rules", rule, "--modifiers", "plain", "--dtypes", "float32", "--seconds", "0.001"]
    assert command.main([*arguments, "--json", str(path)]) == 1
    assert f"float32 {rule}  WRONG RESULT: ours is" in capsys.readouterr().out
    assert not path.exists()
