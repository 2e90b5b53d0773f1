"""Step sizes, extensions, adaptive clip policies and losses that cannot be: the error's type and what it names."""

from __future__ import annotations

import math
import re
from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

import pytest
import torch

import torchclip
from builders import CLIPPING, REQUIRED, each_class, fresh, unchanged
from memory_guard import same_bits
from torchclip import (
    AdaLossStep,
    AdaptiveGradientClip,
    AutoClip,
    GradientDropout,
    GradientNoise,
    Lookahead,
    LRDropout,
    SqrtDecay,
    SqrtDecayLR,
    ZClip,
)

NAN, INF = math.nan, math.inf


@dataclass(frozen=True)
class BadField:
    """A field out of its range."""

    cls: type
    field: str
    value: Any

    @property
    def name(self) -> str:
        """``LRDropout-p=1.5``."""
        return f"{self.cls.__name__}-{self.field}={self.value}"


def each(cls: type, field: str, *values: Any) -> list[BadField]:
    return [BadField(cls, field, value) for value in values]


OUT_OF_RANGE = (
    *(bad for cls in (GradientDropout, LRDropout) for bad in each(cls, "p", -0.1, 1, 1.0, 1.5, NAN)),
    *(bad for field in ("eta", "gamma") for bad in each(GradientNoise, field, -1, -1e-9, NAN, INF)),
    *each(Lookahead, "k", 0, -1),
    *each(Lookahead, "alpha", -0.1, 1.1, NAN),
    *(
        bad
        for cls in (AdaLossStep, SqrtDecay)
        for field in ("b0", "alpha")
        for bad in each(cls, field, 0, 0.0, -1, NAN, INF)
    ),
    *each(AdaLossStep, "c", NAN, INF, -INF),
    *each(AutoClip, "percentile", -1, 100.5, NAN),
    *each(AutoClip, "window", 0, -1, 1025),
    *each(ZClip, "alpha", -0.1, 1, 1.0, NAN),
    *each(ZClip, "z_threshold", 0, -1, NAN, INF),
    *each(ZClip, "warmup_steps", 0, -3),
    *each(ZClip, "max_norm", -1.0, NAN),
    *each(ZClip, "eps", -1, NAN, INF),
    *each(AdaptiveGradientClip, "clipping", 0, -0.01, NAN, INF),
    *each(AdaptiveGradientClip, "eps", 0, -0.01, NAN, INF),
    *(bad for cls in (AdaptiveGradientClip, AutoClip, ZClip) for bad in each(cls, "nonfinite", "ignore", "raise")),
)

OF_THE_WRONG_TYPE = (
    *each(GradientDropout, "p", "0.1", None, True),
    *each(LRDropout, "p", (0.1,), torch.tensor(0.5)),
    *each(GradientNoise, "eta", "0.3", None),
    *each(Lookahead, "k", 2.0, True, "5", None),
    *each(Lookahead, "alpha", "0.5"),
    *each(AdaLossStep, "b0", "1"),
    *each(AdaLossStep, "c", None),
    *each(SqrtDecay, "alpha", True),
    *each(AutoClip, "window", 1.5, 16.0, True),
    *each(AutoClip, "percentile", "10"),
    *each(ZClip, "warmup_steps", 2.0, True),
    *each(ZClip, "max_norm", "1"),
    *each(AdaptiveGradientClip, "clipping", "0.01"),
)


@pytest.mark.parametrize("bad", OUT_OF_RANGE, ids=lambda bad: bad.name)
def test_field_out_of_range(bad: BadField) -> None:
    shown = repr(bad.value) if isinstance(bad.value, str) else str(bad.value)
    with pytest.raises(ValueError, match=f"^Invalid {bad.field}: {re.escape(shown)}; "):
        bad.cls(**{bad.field: bad.value})


@pytest.mark.parametrize("bad", OF_THE_WRONG_TYPE, ids=lambda bad: bad.name)
def test_field_of_the_wrong_type(bad: BadField) -> None:
    with pytest.raises(TypeError, match=f"^{bad.field}={re.escape(repr(bad.value))} must be "):
        bad.cls(**{bad.field: bad.value})


@pytest.mark.parametrize("cls", [torchclip.ClipByGlobalNorm, torchclip.ClipByTensorNorm])
@pytest.mark.parametrize("smooth", ["no", 1, None])
def test_a_flag_is_true_or_false(cls: Any, smooth: Any) -> None:
    with pytest.raises(TypeError, match=f"^smooth={smooth!r} must be True or False"):
        cls(1.0, smooth=smooth)


# At the edge of a range, and inside it.
@pytest.mark.parametrize(
    "build",
    [
        lambda: (GradientDropout(0), GradientDropout(0.0), LRDropout(1 - 2**-53)),
        lambda: (GradientNoise(0, 0), GradientNoise(0.0, 1e9)),
        lambda: (Lookahead(1, 0), Lookahead(10**12, 1)),
        lambda: (AutoClip(0, 1), AutoClip(100.0, 1024)),
        lambda: (ZClip(0.0, 1e-9, 1, 0.0, 0.0), ZClip(max_norm=INF)),
        lambda: (AdaLossStep(1e-30, 1e-30, -5), SqrtDecay(1, 2)),
    ],
)
def test_fields_at_the_edge(build: Callable[[], object]) -> None:
    assert build()


@pytest.mark.parametrize("field", ["b0", "alpha"])
@pytest.mark.parametrize("value", [0, -1, NAN])
def test_fields_through_an_optimizer_and_a_scheduler(field: str, value: float) -> None:
    with pytest.raises(ValueError, match=f"^Invalid {field}: {value}; "):
        torchclip.AdaLoss(fresh(), **{field: value})
    optimizer = torch.optim.SGD(fresh(), lr=0.5)
    with pytest.raises(ValueError, match=f"^Invalid {field}: {value}; "):
        SqrtDecayLR(optimizer, **{field: value})
    assert optimizer.param_groups[0]["lr"] == 0.5


def test_scopes_of_rules() -> None:
    with pytest.raises(ValueError, match=r"^Invalid scope: 'layer'.*'optimizer', 'group', 'tensor', 'row'"):
        torchclip.AdaGradNorm(fresh(), scope="layer")
    for cls in CLIPPING:
        with pytest.raises(ValueError, match=r"^Invalid scope: 'row'.*'optimizer', 'group', 'tensor'$"):
            cls(fresh(), **{**REQUIRED[cls], "scope": "row"})
    with pytest.raises(ValueError, match=r"^Invalid scope: 'row'"):
        torchclip.ClipByGlobalNorm(1.0, scope="row")


BAD_ARGUMENTS: dict[str, tuple[dict[str, Any], type[Exception], str]] = {
    "seed_float": ({"seed": 1.0}, TypeError, "seed=1.0 must be an integer or None, got float"),
    "seed_bool": ({"seed": True}, TypeError, "seed=True must be an integer"),
    "seed_string": ({"seed": "1"}, TypeError, "seed='1' must be an integer"),
    "seed_large": ({"seed": 2**64}, ValueError, f"Invalid seed: {2**64}; it must fit into 64 bits"),
    "seed_small": ({"seed": -(2**63) - 1}, ValueError, f"Invalid seed: {-(2**63) - 1}; "),
    "extensions_bare": (
        {"extensions": GradientDropout(0.1)},
        TypeError,
        "extensions=GradientDropout(p=0.1) must be a tuple: write extensions=(GradientDropout(p=0.1),)",
    ),
    "extensions_class": ({"extensions": (GradientNoise,)}, TypeError, "extensions holds <class "),
    "extensions_two_of_a_kind": (
        {"extensions": (GradientDropout(0.1), GradientNoise(), GradientDropout(0.2))},
        ValueError,
        "extensions holds GradientDropout twice",
    ),
    "extensions_policy": ({"extensions": (ZClip(),)}, TypeError, "extensions holds ZClip("),
    "extensions_string": ({"extensions": ("noise",)}, TypeError, "extensions holds 'noise'"),
    "clip_extension": ({"clip": GradientDropout(0.1)}, TypeError, "clip=GradientDropout(p=0.1) must be None, a number"),
    "clip_class": ({"clip": AutoClip}, TypeError, "clip=<class "),
}

BAD_STEP_SIZES: dict[str, Any] = {
    "number": 0.1,
    "class": SqrtDecay,
    "string": "sqrt",
    "extension": Lookahead(),
    "scheduler": SqrtDecayLR,
}


@pytest.mark.parametrize("options, exception, message", BAD_ARGUMENTS.values(), ids=BAD_ARGUMENTS)
@each_class
def test_argument(
    cls: type[torch.optim.Optimizer], options: dict[str, Any], exception: type[Exception], message: str
) -> None:
    params = fresh()
    before = [p.detach().clone() for p in params]
    with pytest.raises(exception, match="^" + re.escape(message)):
        cls(params, **REQUIRED[cls], **options)
    assert all(same_bits(p, b) for p, b in zip(params, before))


@pytest.mark.parametrize("step_size", BAD_STEP_SIZES.values(), ids=BAD_STEP_SIZES)
@pytest.mark.parametrize("cls", [cls for cls in REQUIRED if cls is not torchclip.AdaLoss], ids=lambda c: c.__name__)
def test_step_size_argument(cls: type[torch.optim.Optimizer], step_size: Any) -> None:
    with pytest.raises(
        TypeError, match=r"^step_size=.* must be None, AdaLossStep\(\.\.\.\), SqrtDecay\(\.\.\.\) or PolyakStep"
    ):
        cls(fresh(), **REQUIRED[cls], step_size=step_size)


def test_extensions_in_any_order_and_any_iterable() -> None:
    given = (Lookahead(), GradientDropout(), LRDropout(), GradientNoise())
    expected = (GradientNoise(), GradientDropout(), LRDropout(), Lookahead())
    for extensions in (given, list(given), iter(given), set(given)):
        assert torchclip.SGD(fresh(), extensions=extensions).extensions == expected


@pytest.mark.parametrize("extension", [LRDropout(), Lookahead()], ids=["LRDropout", "Lookahead"])
def test_sparse_rules_refuse_what_would_drop_or_average_its_step(extension: object) -> None:
    message = f"^{type(extension).__name__} cannot be combined with gRDA, LinBreg and AdaBreg: they set p anew"
    for cls in (torchclip.GRDA, torchclip.LinBreg, torchclip.AdaBreg):
        with pytest.raises(ValueError, match=message):
            cls(fresh(), **REQUIRED[cls], extensions=(extension,))


# --- the loss of a step -------------------------------------------------------------------------------------------


def loss_takers(backend: str) -> list[torch.optim.Optimizer]:
    """AdaLoss and another optimizer with its step size."""
    return [
        torchclip.AdaLoss(fresh(), lr=0.1, momentum=0.9, backend=backend),
        torchclip.AdamW(fresh(), lr=0.1, step_size=AdaLossStep(), extensions=(GradientDropout(0.3),), backend=backend),
    ]


BAD_LOSSES: dict[str, tuple[Any, type[Exception], str]] = {
    "vector": (torch.ones(3), ValueError, r"must be a scalar, got shape \(3,\): reduce it, say by mean\(\)"),
    "empty": (torch.ones(0), ValueError, r"must be a scalar, got shape \(0,\)"),
    "int_tensor": (torch.tensor(3), TypeError, r"must be a floating-point tensor or a number, got torch\.int64"),
    "bool_tensor": (torch.tensor(True), TypeError, r"got torch\.bool"),
    "complex": (torch.tensor(1j), TypeError, r"got torch\.complex64"),
    "string": ("1.0", TypeError, "must be a floating-point tensor or a number, got str"),
    "bool": (True, TypeError, "got bool"),
    "another_device": (torch.ones((), device="meta"), ValueError, r"is on meta .* on cpu: pass loss\.to\('cpu'\)"),
}


@pytest.mark.parametrize("loss, exception, message", BAD_LOSSES.values(), ids=BAD_LOSSES)
def test_a_loss_that_is_none(loss: Any, exception: type[Exception], message: str, backend: str) -> None:
    for optimizer in loss_takers(backend):
        for already_stepped in (False, True):
            if already_stepped:
                optimizer.step(loss=1.0)
            with unchanged(optimizer), pytest.raises(exception, match=message):
                optimizer.step(loss=loss)
            with unchanged(optimizer), pytest.raises(exception, match=message):
                optimizer.step(lambda loss=loss: loss)


def test_a_missing_loss_names_both_ways(backend: str) -> None:
    for optimizer in loss_takers(backend):
        name = type(optimizer).__name__
        for call in (optimizer.step, lambda optimizer=optimizer: optimizer.step(lambda: None)):
            with unchanged(optimizer), pytest.raises(TypeError, match=f" of {name} goes by the loss") as error:
                call()
            assert "step(closure)" in str(error.value) and "step(loss=loss)" in str(error.value)


@pytest.mark.parametrize(
    "loss", [NAN, INF, -INF, torch.tensor(NAN), torch.tensor(INF, dtype=torch.float16)], ids=lambda loss: str(loss)
)
def test_a_loss_that_is_not_finite_leaves_the_sum_and_the_step_goes_on(loss: Any, backend: str) -> None:
    for optimizer in loss_takers(backend):
        optimizer.step(loss=2.0)
        shared = optimizer.param_groups[0]["shared"]
        before, start = shared["b_squared"].clone(), [p.detach().clone() for p in optimizer.param_groups[0]["params"]]
        assert float(before) == 3.0
        optimizer.step(loss=loss)
        assert same_bits(shared["b_squared"], before)
        for p, b in zip(optimizer.param_groups[0]["params"], start):
            assert p.isfinite().all() and not torch.equal(p.detach(), b)


def test_a_loss_in_each_form(backend: str) -> None:
    """A number, 0-dim tensors of any floating type, one element in a vector, and one that autograd follows."""
    followed = torch.ones((), requires_grad=True) * 2.0
    for loss in (2, 2.0, torch.tensor(2.0), torch.tensor([2.0]), torch.tensor(2.0, dtype=torch.bfloat16), followed):
        for optimizer in loss_takers(backend):
            optimizer.step(loss=loss)
            assert float(optimizer.param_groups[0]["shared"]["b_squared"]) == 3.0
            assert not optimizer.param_groups[0]["shared"]["b_squared"].requires_grad
            assert optimizer.step(lambda loss=loss: loss) is loss
            assert float(optimizer.param_groups[0]["shared"]["b_squared"]) == 5.0
    assert torchclip.SGD(fresh(), backend=backend).step(loss="nobody looks") is None
