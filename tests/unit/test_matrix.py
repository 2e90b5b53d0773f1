"""What can be combined: the table in docs/matrix.md tells what the constructors do, and what they take also steps."""

from __future__ import annotations

import inspect
import random
from dataclasses import dataclass
from typing import Any

import pytest
import torch

import torchclip
from builders import LOSS, draw_gradients
from places import ROOT
from torchclip import matrix

PAGE = ROOT / "docs/matrix.md"


@dataclass(frozen=True, eq=False)
class Combination:
    """An optimizer with some parts beside its rule, and the reason for which it is refused, if any."""

    cls: type[torch.optim.Optimizer]
    arguments: dict[str, Any]
    reasons: tuple[str, ...]

    @property
    def name(self) -> str:
        """``AdamW-AutoClip-Lookahead``."""
        parts = [self.arguments.get("clip"), self.arguments.get("step_size"), *self.arguments.get("extensions", ())]
        names = [type(part).__name__ for part in parts if part is not None]
        scope = [self.arguments["scope"]] if "scope" in self.arguments else []
        return "-".join([self.cls.__name__, *scope, *names])

    def build(self, params: list[torch.nn.Parameter], backend: str) -> torch.optim.Optimizer:
        """Two param groups, so that scopes differ."""
        groups = [{"params": params[:2]}, {"params": params[2:]}]
        return self.cls(groups, **matrix.required_arguments(self.cls), **self.arguments, seed=7, backend=backend)


def sample(count: int, seed: int) -> list[Combination]:
    """Combinations of one clip policy, one step size and any extensions, or none of them; the seed fixes the sample."""
    draw = random.Random(seed)
    classes = list(matrix.optimizer_classes().values())
    drawn = []
    for _ in range(count):
        cls = draw.choice(classes)
        chosen = {kind: draw.choice((None, *matrix.KINDS[kind])) for kind in ("clip", "step_size")}
        parts = [(kind, part) for kind, part in chosen.items() if part is not None]
        parts += [("extensions", part) for part in matrix.KINDS["extensions"] if draw.random() < 0.5]
        second_weights = [("extensions", torchclip.Lookahead), ("extensions", torchclip.WeightEMA)]
        if all(part in parts for part in second_weights):  # of which there is one set: half of the sample has both
            parts.remove(draw.choice(second_weights))
        reasons = [matrix.reason_against(cls, matrix.argument(kind, part)) for kind, part in parts]
        arguments: dict[str, Any] = {}
        for kind, part in parts:
            one = matrix.argument(kind, part)[kind]
            arguments[kind] = arguments.get(kind, ()) + one if kind == "extensions" else one
        if "scope" in inspect.signature(cls).parameters:
            scopes = ("optimizer", "group", "tensor", *(["row"] if cls is torchclip.AdaGradNorm else []))
            arguments["scope"] = draw.choice(scopes)
        reasons.append(matrix.reason_against(cls, arguments))
        drawn.append(Combination(cls, arguments, tuple(reason for reason in reasons if reason is not None)))
    return drawn


SAMPLE = [pytest.param(combination, id=f"{n}-{combination.name}") for n, combination in enumerate(sample(48, 20260301))]


def leaves(dtype: torch.dtype = torch.float32) -> list[torch.nn.Parameter]:
    generator = torch.Generator().manual_seed(23)
    shapes = ((4, 5), (17,), (2, 3, 3), (), (9, 1))
    return [torch.nn.Parameter(torch.randn(shape, generator=generator).to(dtype)) for shape in shapes]


def test_the_page_is_what_the_constructors_say() -> None:
    assert PAGE.read_text() == matrix.document() + "\n", "docs/matrix.md is out of date: run `make docs`"


def test_the_sample_has_both_kinds() -> None:
    refused = [bool(param.values[0].reasons) for param in SAMPLE]
    assert refused.count(False) >= 36 and refused.count(True) >= 2


@pytest.mark.parametrize("combination", SAMPLE)
def test_combination_steps_alike_on_every_backend_or_is_refused(combination: Combination, backend: str) -> None:
    if combination.reasons:
        with pytest.raises((TypeError, ValueError)) as error:
            combination.build(leaves(), backend)
        assert str(error.value) in combination.reasons
        return
    params, copies = leaves(), leaves()
    tested, expected = combination.build(params, backend), combination.build(copies, "reference")
    for step in range(3):
        draw_gradients(step, params, copies)
        tested.step(loss=LOSS)
        expected.step(loss=LOSS)
    for p, q, start in zip(params, copies, leaves()):
        assert p.isfinite().all()
        assert p.numel() == 1 or not torch.equal(p.detach(), start.detach())  # one number may have been dropped
        torch.testing.assert_close(p.detach(), q.detach())
        assert tested.state[p].keys() == expected.state[q].keys()


EVERY_PAIR = [
    pytest.param(cls, kind, part, id=f"{name}-{part.__name__}")
    for name, cls in matrix.optimizer_classes().items()
    for kind, parts in matrix.KINDS.items()
    for part in parts
]


def test_what_is_refused() -> None:
    """The list of refusals, so that one more does not come unseen."""
    refused = {
        (cls.__name__, part.__name__)
        for cls, kind, part in (param.values for param in EVERY_PAIR)
        if matrix.reason_against(cls, matrix.argument(kind, part)) is not None
    }
    assert refused == {
        ("AdaLoss", "AdaLossStep"),
        ("AdaLoss", "PolyakStep"),
        ("AdaLoss", "SqrtDecay"),
        *(
            (name, part)
            for name in ("GRDA", "LinBreg", "AdaBreg")
            for part in ("LRDropout", "Lookahead", "StateDtype", "Blockwise8bit")
        ),
    }


@pytest.mark.parametrize("cls, kind, part", EVERY_PAIR)
def test_every_pair_takes_a_step(cls: type[torch.optim.Optimizer], kind: str, part: type, backend: str) -> None:
    pair = Combination(cls, matrix.argument(kind, part), ())
    if matrix.reason_against(cls, pair.arguments) is not None:
        pytest.skip("refused, with the reason that docs/matrix.md gives")
    if kind == "precision" and backend not in ("cpu", "reference"):
        pytest.skip(f"the {backend} backend has no precision=")
    dtype = torch.bfloat16 if kind == "precision" else torch.float32
    params, copies = leaves(dtype), leaves(dtype)
    for optimizer in (pair.build(params, backend), pair.build(copies, "reference")):
        draw_gradients(1, params, copies)
        optimizer.step(loss=LOSS)
    for p, q in zip(params, copies):
        assert p.isfinite().all()
        torch.testing.assert_close(p.detach(), q.detach())
