"""The reference path, in float64, against ``torch.optim``, torch's clipping, and the authors' formulas."""

from __future__ import annotations

import math
from collections import defaultdict
from collections.abc import Callable
from typing import Any

import pytest
import torch
from torch import Tensor

from torchclip.backends import reference
from torchclip.backends.reference import StepReport
from torchclip.policies.clip import ClipByGlobalNorm, ClipByTensorNorm, ClipByValue, NonFinite, Scope
from torchclip.policies.modifiers import Modifiers
from torchclip.rules import table
from torchclip.rules.norms import NORM_SCOPES

SHAPES = [(3, 4), (7,), (), (0, 3), (2, 3, 4)]
STEPS = 12
SGD = {"lr": 0.1, "momentum": 0.9, "dampening": 0, "weight_decay": 0, "nesterov": False, "maximize": False}
ADAM = {"lr": 0.1, "betas": (0.9, 0.99), "eps": 1e-8, "weight_decay": 0, "amsgrad": False, "maximize": False}
MIX = {"lr": 0.5, "momentum": 0.9, "gamma": 0.7, "nu": 0.7, "smooth": True, "weight_decay": 0.01}
NORMALIZED = {"lr": 0.1, "momentum": 0.9, "eps": 1e-6, "weight_decay": 0.01}
GRDA = {"lr": 0.1, "c": 0.5, "mu": 0.6}
NADAM = {"lr": 0.1, "betas": (0.9, 0.99), "eps": 1e-8, "weight_decay": 0, "momentum_decay": 0.1, "maximize": False}
RADAM = {"lr": 0.1, "betas": (0.9, 0.8), "eps": 1e-8, "weight_decay": 0, "maximize": False}
RMSPROP = {"lr": 0.1, "alpha": 0.9, "eps": 0.1, "momentum": 0, "centered": False, "weight_decay": 0, "maximize": False}
ADAGRAD = {"lr": 0.1, "lr_decay": 0.1, "eps": 1e-8, "weight_decay": 0, "initial_accumulator_value": 0.5}
ADAGRAD_NORM = {"lr": 0.1, "b0": 1.0, "momentum": 0.9, "weight_decay": 0.01}
LION = {"lr": 0.1, "betas": (0.9, 0.99), "weight_decay": 0.1, "decoupled_weight_decay": True}
LIN_BREG = {"lr": 0.1, "lam": 0.3, "delta": 0.7, "momentum": 0.9}
ADA_BREG = {"lr": 0.1, "lam": 0.3, "delta": 0.7, "betas": (0.9, 0.999), "eps": 1e-8}
GROUPS = {
    "sgd": SGD,
    "adam": ADAM,
    "nadam": NADAM,
    "radam": RADAM,
    "rmsprop": RMSPROP,
    "adagrad": ADAGRAD,
    "mix_clip": MIX,
    "normalized_sgd": NORMALIZED,
    "adagrad_norm": ADAGRAD_NORM,
    "grda": GRDA,
    "lion": LION,
    "lin_breg": LIN_BREG,
    "ada_breg": ADA_BREG,
}

State = dict[Tensor, dict[str, Any]]


def parameters(dtype: torch.dtype = torch.float64) -> list[Tensor]:
    generator = torch.Generator().manual_seed(1)
    return [torch.randn(shape, generator=generator, dtype=torch.float64).to(dtype) for shape in SHAPES]


def gradients(step: int, scale: float = 1.0) -> list[Tensor | None]:
    """Gradients of step 1, 2, …; most parameters miss theirs now and then, and the last gets its first one late."""
    generator = torch.Generator().manual_seed(100 + step)
    drawn = [scale * torch.randn(shape, generator=generator, dtype=torch.float64) for shape in SHAPES]
    missing = {step % 5} | ({4} if step < 3 else set())
    return [None if index in missing else gradient for index, gradient in enumerate(drawn)]


def give(params: list[Tensor], grads: list[Tensor | None]) -> None:
    for param, grad in zip(params, grads, strict=True):
        param.grad = None if grad is None else grad.to(param.dtype)


def take(
    rule: str,
    groups: list[dict[str, Any]],
    state: State,
    clip: Any = None,
    scope: Scope = Scope.OPTIMIZER,
    **options: Any,
) -> StepReport:
    for group in groups:
        if "b0" in group:  # adagrad_norm's sum, where parameters share it
            group.setdefault("shared", {"sum": torch.tensor(float(group["b0"]) ** 2, dtype=torch.float64)})
    with torch.no_grad():
        return reference.step(
            table.RULES[rule].over(scope), groups, state, modifiers=Modifiers(clip), scope=scope, **options
        )


def assert_same(actual: list[Tensor], expected: list[Tensor], tolerance: float = 1e-12) -> None:
    for index, (ours, theirs) in enumerate(zip(actual, expected, strict=True)):
        largest = float(theirs.abs().max()) if theirs.numel() else 0.0
        torch.testing.assert_close(
            ours,
            theirs,
            rtol=tolerance,
            atol=tolerance * largest,
            msg=lambda text, index=index: f"tensor {index}: {text}",
        )


def sgd(**options: Any) -> tuple[str, Callable, dict[str, Any]]:
    return "sgd", torch.optim.SGD, {**SGD, **options}


def adam(**options: Any) -> tuple[str, Callable, dict[str, Any]]:
    return "adam", torch.optim.Adam, {**ADAM, **options}


TORCH_CASES = {
    "sgd": sgd(momentum=0),
    "sgd-decay-maximize": sgd(momentum=0, weight_decay=0.1, maximize=True),
    "momentum": sgd(),
    "dampening": sgd(dampening=0.3, weight_decay=0.1),
    "nesterov": sgd(nesterov=True, weight_decay=0.1, maximize=True),
    "tensor_lr": sgd(lr=torch.tensor(0.25, dtype=torch.float64)),
    "adam": adam(),
    "adam-decay-maximize": adam(weight_decay=0.1, maximize=True),
    "amsgrad": adam(amsgrad=True),
    "adamw": adam(weight_decay=0.1, decoupled_weight_decay=True),
    # NAdam is compared in test_optim_namespace.py: torch rounds its product of momenta to float32.
    "radam": ("radam", torch.optim.RAdam, RADAM),
    "radamw": ("radam", torch.optim.RAdam, {**RADAM, "weight_decay": 0.1, "decoupled_weight_decay": True}),
    "rmsprop": ("rmsprop", torch.optim.RMSprop, {**RMSPROP, "weight_decay": 0.1}),
    "rmsprop-centered": ("rmsprop", torch.optim.RMSprop, {**RMSPROP, "centered": True, "maximize": True}),
    "rmsprop-momentum": ("rmsprop", torch.optim.RMSprop, {**RMSPROP, "centered": True, "momentum": 0.9}),
    "adagrad": ("adagrad", torch.optim.Adagrad, {**ADAGRAD, "weight_decay": 0.1}),
    "adamw-amsgrad-maximize": adam(weight_decay=0.1, decoupled_weight_decay=True, amsgrad=True, maximize=True),
}


@pytest.mark.parametrize("max_norm", [None, 1.5], ids=["no_clip", "clip"])
@pytest.mark.parametrize(("rule", "optimizer", "group"), TORCH_CASES.values(), ids=TORCH_CASES)
def test_steps_as_torch(rule: str, optimizer: Callable, group: dict[str, Any], max_norm: float | None) -> None:
    ours, theirs = parameters(), parameters()
    groups = [{"params": ours[:2], **group}, {"params": ours[2:], **group, "lr": group["lr"] * 0.5}]
    halves = [{"params": theirs[:2]}, {"params": theirs[2:], "lr": group["lr"] * 0.5}]
    opt = optimizer(halves, **group, foreach=False)
    state: State = {}
    for step in range(1, STEPS + 1):
        give(ours, gradients(step))
        give(theirs, gradients(step))
        report = take(rule, groups, state, clip=None if max_norm is None else ClipByGlobalNorm(max_norm))
        if max_norm is not None:
            norm = torch.nn.utils.clip_grad_norm_(theirs, max_norm)
            assert_same([report.grad_norm], [norm])
        opt.step()
    assert_same(ours, theirs)
    for mine, its in zip(ours, theirs, strict=True):
        held = state.get(mine, {})
        assert held.keys() == {name for name, value in opt.state[its].items() if value is not None}
        assert_same(list(held.values()), [opt.state[its][name] for name in held])


def test_decoupled_decay_of_sgd() -> None:
    decayed, plain = parameters(), parameters()
    give(decayed, gradients(1))
    give(plain, gradients(1))
    take("sgd", [{"params": decayed, **SGD, "weight_decay": 0.2, "decoupled_weight_decay": True}], {})
    take("sgd", [{"params": plain, **SGD}], {})
    for new, reference_new, old, grad in zip(decayed, plain, parameters(), gradients(1), strict=True):
        assert_same([new], [reference_new if grad is None else reference_new - 0.1 * 0.2 * old])


def authors_clipping(
    params: list[list[float]], grads: list[list[float]], buffers: list[list[float]], group: dict[str, Any]
) -> None:
    """MixClip, MomClip, SGDClip and NormalizedSGD over one norm scope, number by number."""
    lr, beta = group["lr"], group["momentum"]
    for param, grad, buffer in zip(params, grads, buffers, strict=True):
        for i in range(len(param)):
            grad[i] += group["weight_decay"] * param[i]
            buffer[i] = beta * buffer[i] + (1 - beta) * grad[i]
    grad_norm = math.sqrt(sum(x * x for grad in grads for x in grad))
    buffer_norm = math.sqrt(sum(x * x for buffer in buffers for x in buffer))

    def step_size(norm: float) -> float:
        if "eps" in group:
            return lr / (norm + group["eps"])
        return lr / (1 + lr * norm / group["gamma"]) if group["smooth"] else min(lr, group["gamma"] / norm)

    nu = group.get("nu", 1)
    for param, grad, buffer in zip(params, grads, buffers, strict=True):
        for i in range(len(param)):
            param[i] -= nu * step_size(buffer_norm) * buffer[i] + (1 - nu) * step_size(grad_norm) * grad[i]


CLIPPING_CASES = {
    "mix_clip": ("mix_clip", MIX),
    "mix_clip-hard": ("mix_clip", {**MIX, "smooth": False}),
    "mom_clip": ("mix_clip", {**MIX, "nu": 1}),
    "sgd_clip": ("mix_clip", {**MIX, "nu": 1, "smooth": False, "momentum": 0}),
    "sgd_clip-momentum": ("mix_clip", {**MIX, "nu": 1, "smooth": False}),
    "sgd_clip-slack": ("mix_clip", {**MIX, "nu": 1, "smooth": False, "gamma": 1e3}),
    "normalized_sgd": ("normalized_sgd", NORMALIZED),
    "normalized_sgd-no_momentum": ("normalized_sgd", {**NORMALIZED, "momentum": 0, "weight_decay": 0}),
}


@pytest.mark.parametrize("scope", NORM_SCOPES, ids=lambda scope: scope.value)
@pytest.mark.parametrize(("rule", "options"), CLIPPING_CASES.values(), ids=CLIPPING_CASES)
def test_steps_as_the_clipping_authors(rule: str, options: dict[str, Any], scope: Scope) -> None:
    ours = [param for param in parameters() if param.numel()]
    theirs = [param.flatten().tolist() for param in ours]
    buffers = [[0.0] * len(param) for param in theirs]
    groups = [{"params": ours[:2], **options}, {"params": ours[2:], **options}]
    scopes = {
        Scope.OPTIMIZER: [slice(0, 4)],
        Scope.GROUP: [slice(0, 2), slice(2, 4)],
        Scope.TENSOR: [slice(i, i + 1) for i in range(4)],
    }
    state: State = {}
    for step in range(STEPS):
        grads = [torch.randn(p.shape, generator=torch.Generator().manual_seed(step), dtype=p.dtype) for p in ours]
        give(ours, grads)
        numbers = [grad.flatten().tolist() for grad in grads]
        lr = options["lr"] * 0.9**step
        groups[0]["lr"] = groups[1]["lr"] = lr
        take(rule, groups, state, scope=scope)
        for part in scopes[scope]:
            authors_clipping(theirs[part], numbers[part], buffers[part], {**options, "lr": lr})
    assert_same([param.flatten() for param in ours], [torch.tensor(param, dtype=torch.float64) for param in theirs])
    assert all(bool(entry) == (options["momentum"] != 0) for entry in (state.get(p, {}) for p in ours))


@pytest.mark.parametrize("dtype", [torch.float64, torch.float32, torch.bfloat16])
def test_steps_as_the_grda_authors(dtype: torch.dtype) -> None:
    param = parameters(dtype)[4]
    accumulator, l1, state = param.double().flatten().tolist(), 0.0, {}
    for step in range(1, STEPS + 1):
        lr = 0.1 if step < 6 else 0.02
        param.grad = torch.randn(param.shape, generator=torch.Generator().manual_seed(step)).to(dtype)
        take("grda", [{"params": [param], **GRDA, "lr": lr}], state)
        accumulator = [a - lr * g for a, g in zip(accumulator, param.grad.double().flatten().tolist(), strict=True)]
        l1 += 0.5 * lr**1.1 * (step**0.6 - (step - 1) ** 0.6)
    expected = torch.tensor([math.copysign(max(abs(a) - l1, 0.0), a) for a in accumulator], dtype=torch.float64)
    assert 0 < int((expected == 0).sum()) < expected.numel()
    assert torch.equal(param.flatten() == 0, expected == 0)
    # The accumulator is float32 for bfloat16 parameters: only what is stored in them is rounded.
    tolerance = {torch.float64: 1e-12, torch.float32: 1e-6, torch.bfloat16: torch.finfo(dtype).eps / 2}[dtype]
    assert_same([param.double().flatten()], [expected], tolerance)
    assert state[param]["accumulator"].dtype is torch.promote_types(dtype, torch.float32)
    assert float(state[param]["l1"]) == pytest.approx(l1, rel=1e-14) and float(state[param]["step"]) == STEPS


def test_steps_as_the_lion_paper() -> None:
    """Algorithm 2, number by number: the step is by the average before it moves on."""
    param, state = parameters()[0], defaultdict(dict)
    values, averages = param.flatten().tolist(), [0.0] * param.numel()
    for step in range(1, STEPS + 1):
        param.grad = gradients(step)[0]
        if param.grad is None:
            continue
        lr, (beta1, beta2) = (0.1, (0.9, 0.99)) if step < 6 else (0.02, (0.5, 0.8))
        take("lion", [{"params": [param], **LION, "lr": lr, "betas": (beta1, beta2)}], state)
        for i, g in enumerate(param.grad.flatten().tolist()):
            moved = beta1 * averages[i] + (1 - beta1) * g
            values[i] -= lr * (math.copysign(1.0, moved) + 0.1 * values[i])
            averages[i] = beta2 * averages[i] + (1 - beta2) * g
    expected = [torch.tensor(each, dtype=torch.float64) for each in (values, averages)]
    assert_same([param.flatten(), state[param]["exp_avg"].flatten()], expected, 1e-12)


@pytest.mark.parametrize("rule", ["lin_breg", "lin_breg-momentum", "ada_breg"])
def test_steps_as_the_bregman_paper(rule: str) -> None:
    """Algorithms 1 to 3, number by number, with the threshold on delta |v| as the authors have it."""
    param, state = parameters()[0], defaultdict(dict)
    lr, lam, delta, (beta1, beta2) = 0.1, 0.3, 0.7, (0.9, 0.999)
    beta = 0.9 if rule == "lin_breg-momentum" else 0.0
    values = param.flatten().tolist()
    sub_grads = [p / delta + lam * math.copysign(1.0, p) for p in values]
    first, second, t = [0.0] * len(values), [0.0] * len(values), 0
    group = {**ADA_BREG} if rule == "ada_breg" else {**LIN_BREG, "momentum": beta}
    for step in range(1, STEPS + 1):
        param.grad = gradients(step)[0]
        if param.grad is None:
            continue
        take(rule.partition("-")[0], [{"params": [param], **group}], state)
        t += 1
        for i, g in enumerate(param.grad.flatten().tolist()):
            if rule == "ada_breg":
                first[i] = beta1 * first[i] + (1 - beta1) * g
                second[i] = beta2 * second[i] + (1 - beta2) * g * g
                change = lr / (1 - beta1**t) * first[i] / (math.sqrt(second[i]) / math.sqrt(1 - beta2**t) + 1e-8)
            else:
                change = first[i] = beta * first[i] + (1 - beta) * lr * g
            sub_grads[i] -= change
            values[i] = math.copysign(max(delta * abs(sub_grads[i]) - delta * lam, 0.0), sub_grads[i])
    expected = [torch.tensor(each, dtype=torch.float64) for each in (values, sub_grads)]
    assert_same([param.flatten(), state[param]["sub_grad"].flatten()], expected, 1e-12)
    assert 0 < int((param == 0).sum()) < param.numel()


def test_every_rule_is_tried_here() -> None:
    assert table.RULES.keys() == GROUPS.keys()
    for spec in table.RULES.values():
        assert (spec.accumulate is not None) == spec.clips_itself


@pytest.mark.parametrize("scope", NORM_SCOPES, ids=lambda scope: scope.value)
@pytest.mark.parametrize("smooth", [False, True], ids=["hard", "smooth"])
@pytest.mark.parametrize("rule", GROUPS)
def test_zero_gradients_give_no_nan(rule: str, smooth: bool, scope: Scope) -> None:
    params = parameters()
    give(params, [torch.zeros_like(param) for param in params])
    group = {"params": params, **GROUPS[rule], "weight_decay": 0, "eps": 0 if rule == "normalized_sgd" else 1e-8}
    group |= {"smooth": smooth, "gamma": 0, "c": 0}
    report = take(rule, [group], {}, clip=ClipByGlobalNorm(1.0, smooth=smooth), scope=scope)
    assert_same(params, parameters())
    assert float(report.grad_norm) == 0 and float(report.clip_factor) == 1
    report = take(rule, [{**group, "lr": 0.0}], {}, scope=scope)
    if report.clip_factor is not None:
        assert_same([report.clip_factor], [torch.ones_like(report.clip_factor)])


CLIPS: dict[str, tuple[Any, Callable[[list[Tensor]], Any]]] = {
    "group": (ClipByGlobalNorm(0.5, scope="group"), lambda ps: [norm_clip(ps[:2], 0.5), norm_clip(ps[2:], 0.5)]),
    "tensor": (ClipByTensorNorm(0.5), lambda ps: [norm_clip([p], 0.5) for p in ps]),
    "value": (ClipByValue(0.3), lambda ps: torch.nn.utils.clip_grad_value_(ps, 0.3)),
}


def norm_clip(params: list[Tensor], max_norm: float) -> Tensor:
    return torch.nn.utils.clip_grad_norm_(params, max_norm).double()


@pytest.mark.parametrize(("clip", "torch_clip"), CLIPS.values(), ids=CLIPS)
def test_clips_as_torch(clip: Any, torch_clip: Callable[[list[Tensor]], Any]) -> None:
    ours, theirs = parameters(), parameters()
    give(ours, gradients(1))
    give(theirs, gradients(1))
    untouched = [None if param.grad is None else param.grad.clone() for param in ours]
    report = take("sgd", [{"params": ours[:2], **SGD}, {"params": ours[2:], **SGD}], {}, clip=clip)
    norms = torch_clip(theirs)
    torch.optim.SGD(theirs, lr=0.1, momentum=0.9, foreach=False).step()
    assert_same(ours, theirs)
    assert all(old is None or torch.equal(param.grad, old) for param, old in zip(ours, untouched, strict=True))
    if norms is None:
        assert report.grad_norm is None and report.clip_factor is None
    else:
        assert_same([report.grad_norm], [torch.stack(norms)])
        assert_same([report.clip_factor], [(0.5 / (report.grad_norm + 1e-6)).clamp(max=1)])


def test_report_of_a_rule_that_clips_itself() -> None:
    params = parameters()
    give(params, gradients(1))
    group = {"params": params, **MIX, "momentum": 0}
    seen = [None if p.grad is None else p.grad + 0.01 * p for p in params]
    norms = torch.stack([torch.zeros((), dtype=torch.float64) if g is None else g.norm() for g in seen])
    report = take("mix_clip", [group], {}, scope=Scope.TENSOR)
    assert_same([report.grad_norm], [norms])
    assert_same([report.clip_factor], [1 / (1 + 0.5 * norms / 0.7)])  # 1 where no gradient is
    report = take("normalized_sgd", [{**group, **NORMALIZED}], {}, scope=Scope.TENSOR)
    assert float(report.clip_factor[1]) == 1 and float(report.grad_norm[1]) == 0  # not 1 / eps
    params = group["params"] = parameters()
    give(params, gradients(1))
    report = take("mix_clip", [group], {}, clip=ClipByGlobalNorm(0.1))
    assert report.grad_norm.shape == report.clip_factor.shape == ()
    assert float(report.clip_factor) == pytest.approx(0.1 / float(report.grad_norm), rel=1e-5)  # the policy's


@pytest.mark.parametrize("bad", [math.inf, -math.inf, math.nan])
@pytest.mark.parametrize("rule", GROUPS)
def test_nonfinite(rule: str, bad: float) -> None:
    params = parameters()
    grads = gradients(1)
    grads[0][1, 2] = bad
    give(params, grads)
    for nonfinite in (NonFinite.SKIP, NonFinite.ERROR):
        state: State = defaultdict(dict)
        clip = ClipByGlobalNorm(1.0, nonfinite=nonfinite)
        report = take(rule, [{"params": params, **GROUPS[rule]}], state, clip=clip)
        assert report.skipped and report.nonfinite == (nonfinite is NonFinite.ERROR)
        assert not math.isfinite(float(report.grad_norm))
        assert not state
        assert_same(params, parameters(), 0.0)
    report = take(rule, [{"params": params, **GROUPS[rule]}], {}, clip=ClipByGlobalNorm(1.0))
    assert not report.skipped and not report.nonfinite and bool(params[0][1, 2].isnan())
    if rule == "sgd":
        theirs = parameters()
        give(theirs, grads)
        norm = torch.nn.utils.clip_grad_norm_(theirs, 1.0)
        torch.optim.SGD(theirs, lr=0.1, momentum=0.9, foreach=False).step()
        torch.testing.assert_close([*params, report.grad_norm], [*theirs, norm], equal_nan=True)


def test_grad_scale_is_undone_before_the_clip() -> None:
    plain, scaled = parameters(), parameters()
    give(plain, gradients(1))
    give(scaled, gradients(1, scale=1024.0))
    expected = take("adam", [{"params": plain, **ADAM}], {}, clip=ClipByGlobalNorm(1.0))
    options = {"grad_scale": torch.tensor(1024.0), "found_inf": torch.zeros(1)}
    report = take("adam", [{"params": scaled, **ADAM}], {}, clip=ClipByGlobalNorm(1.0), **options)
    assert_same([*scaled, report.grad_norm], [*plain, expected.grad_norm], 0.0)
    assert not report.skipped


@pytest.mark.parametrize("found_inf", [1.0, 2.0], ids=["one_device", "sum_over_two"])
@pytest.mark.parametrize("rule", GROUPS)
def test_found_inf_skips_and_is_no_error(rule: str, found_inf: float) -> None:
    params = parameters()
    give(params, [torch.full_like(param, math.inf) for param in params])
    state: State = defaultdict(dict)
    clip = ClipByGlobalNorm(1.0, nonfinite="error")
    options = {"grad_scale": torch.tensor(2.0), "found_inf": torch.tensor(found_inf)}
    report = take(rule, [{"params": params, **GROUPS[rule]}], state, clip=clip, **options)
    assert report.skipped and not report.nonfinite and not state
    assert_same(params, parameters(), 0.0)


@pytest.mark.parametrize("rule", GROUPS)
def test_a_step_without_gradients_does_nothing(rule: str) -> None:
    params = parameters()
    state: State = defaultdict(dict)
    report = take(rule, [{"params": params, **GROUPS[rule]}], state, clip=ClipByTensorNorm(0.0))
    assert not state and not report.skipped
    assert_same(params, parameters(), 0.0)
    assert_same([report.grad_norm, report.clip_factor], [torch.zeros(5).double(), torch.ones(5).double()])


def test_a_momentum_buffer_of_none_is_a_first_step() -> None:
    param, group = torch.ones(3, dtype=torch.float64), {**SGD, "dampening": 0.5}
    param.grad = torch.full_like(param, 2.0)
    state: State = {param: {"momentum_buffer": None}}
    take("sgd", [{"params": [param], **group}], state)
    assert_same([state[param]["momentum_buffer"]], [param.grad], 0.0)


@pytest.mark.parametrize("rule", GROUPS)
def test_tensor_lr_of_one_element(rule: str) -> None:
    plain, tensor = parameters(), parameters()
    for params, lr in ((plain, 0.25), (tensor, torch.tensor([0.25]))):
        give(params, gradients(1))
        take(rule, [{"params": params, **GROUPS[rule], "lr": lr}], {})
    assert_same(tensor, plain)


@pytest.mark.parametrize("rule", GROUPS)
def test_a_0_dim_parameter_is_computed_as_any_other(rule: str) -> None:
    """Bit for bit: float64 scalars must not promote it."""
    grads = torch.randn(STEPS, generator=torch.Generator().manual_seed(5))
    scalar, vector, states = torch.tensor(1.1), torch.tensor([1.1]), ({}, {})
    for grad in grads:
        for param, state in zip((scalar, vector), states, strict=True):
            param.grad = grad.reshape(param.shape)
            options = {"clip": ClipByGlobalNorm(0.5, smooth=True), "grad_scale": torch.tensor(3.0)}
            take(rule, [{"params": [param], **GROUPS[rule]}], state, **options)
    assert_same([scalar], [vector[0]], 0.0)


def test_float16_norm_beyond_its_range() -> None:
    param = torch.zeros(400, dtype=torch.float16)
    param.grad = torch.full_like(param, 6e4)
    report = take("sgd", [{"params": [param], **SGD, "lr": 1.0}], {}, clip=ClipByGlobalNorm(20.0))
    assert float(report.grad_norm) == pytest.approx(20 * float(param.grad[0]), rel=1e-12)
    torch.testing.assert_close(param, torch.full_like(param, -1.0), rtol=torch.finfo(torch.float16).eps, atol=0)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16], ids=["bfloat16", "float16"])
@pytest.mark.parametrize("rule", GROUPS)
def test_half_precision_rounds_once(rule: str, dtype: torch.dtype) -> None:
    params, state = parameters(dtype), {}
    give(params, gradients(6))
    take(rule, [{"params": params, **GROUPS[rule]}], state)
    exact = [param.double() for param in params]
    copies = {
        new: {name: value.to(torch.float64, copy=True) for name, value in state.get(old, {}).items()}
        for new, old in zip(exact, params, strict=True)
    }
    grads = [None if grad is None else grad.to(dtype) for grad in gradients(7)]
    for run, held in ((params, state), (exact, copies)):
        give(run, grads)
        take(rule, [{"params": run, **GROUPS[rule]}], held, clip=ClipByGlobalNorm(1.0))
    for param, wanted in zip(params, exact, strict=True):
        assert_rounded_once(param, wanted)
        for name, value in state.get(param, {}).items():
            assert_rounded_once(value, copies[wanted][name])


def assert_rounded_once(actual: Tensor, exact: Tensor) -> None:
    """Half a unit in the last place of ``exact``, and the rounding of the float32 maths before it."""
    kind = torch.finfo(actual.dtype)
    half_ulp = kind.eps / 2 * exact.abs() + kind.eps * kind.smallest_normal / 2  # the second for subnormal numbers
    float32 = 8 * torch.finfo(torch.float32).eps * max(1.0, float(exact.abs().max()) if exact.numel() else 0.0)
    assert bool(((actual.double() - exact).abs() <= half_ulp + float32).all())


LAYOUTS: dict[str, Callable[[], Tensor]] = {
    "gaps": lambda: torch.full((4, 10), math.nan).double()[:, ::2],
    "transposed": lambda: torch.empty(5, 4).double().t(),
    "offset": lambda: torch.empty(21).double()[1:].view(4, 5),
}


@pytest.mark.parametrize("layout", LAYOUTS.values(), ids=LAYOUTS)
@pytest.mark.parametrize("rule", GROUPS)
def test_any_strides(rule: str, layout: Callable[[], Tensor]) -> None:
    start, grad = torch.randn(2, 4, 5, generator=torch.Generator().manual_seed(3), dtype=torch.float64)
    plain, strided = start.clone(), layout().copy_(start)
    for param, laid_out in ((plain, grad), (strided, layout().copy_(grad))):
        state: State = {}
        for _ in range(3):
            param.grad = laid_out
            take(rule, [{"params": [param], **GROUPS[rule]}], state, clip=ClipByGlobalNorm(1.0))
    assert_same([strided], [plain])
    if strided.stride() == (10, 2):
        assert bool(strided.as_strided((4, 5), (10, 2), 1).isnan().all()), "the gaps were written"


DIFFERENTIABLE_CASES = {
    "sgd": ("sgd", {**SGD, "nesterov": True, "weight_decay": 0.1}, None),
    "sgd-clip": ("sgd", {**SGD, "dampening": 0.3, "weight_decay": 0.1}, ClipByGlobalNorm(0.5)),
    "sgdw": ("sgd", {**SGD, "weight_decay": 0.1, "decoupled_weight_decay": True}, None),
    "adam": ("adam", {**ADAM, "weight_decay": 0.1, "amsgrad": True}, ClipByTensorNorm(0.5, smooth=True)),
    "mix_clip": ("mix_clip", MIX, None),
    "normalized_sgd": ("normalized_sgd", NORMALIZED, None),
}


@pytest.mark.parametrize(("rule", "options", "clip"), DIFFERENTIABLE_CASES.values(), ids=DIFFERENTIABLE_CASES)
def test_gradients_through_two_steps(rule: str, options: dict[str, Any], clip: Any) -> None:
    """Through gradients, learning rate and decay: the graph must survive that parameter and state are written."""

    def two_steps(start: Tensor, first: Tensor, second: Tensor, lr: Tensor, weight_decay: Tensor) -> Tensor:
        param, state = start.clone(), {}
        group = {"params": [param], **options, "lr": lr, "weight_decay": weight_decay}
        for grad in (first, second):
            param.grad = grad
            reference.step(table.RULES[rule], [group], state, modifiers=Modifiers(clip))
        return param

    generator = torch.Generator().manual_seed(4)
    inputs = [torch.randn(2, 3, generator=generator, dtype=torch.float64, requires_grad=True) for _ in range(3)]
    inputs += [torch.tensor(value, dtype=torch.float64, requires_grad=True) for value in (0.1, 0.05)]
    assert torch.autograd.gradcheck(two_steps, inputs)


@pytest.mark.parametrize("smooth", [False, True], ids=["hard", "smooth"])
def test_gradients_through_a_zero_norm_are_numbers(smooth: bool) -> None:
    param, lr = torch.ones(3, dtype=torch.float64), torch.tensor(0.1, dtype=torch.float64, requires_grad=True)
    param.grad = torch.zeros(3, dtype=torch.float64, requires_grad=True)
    group = {"params": [param], **MIX, "smooth": smooth, "lr": lr, "momentum": 0, "weight_decay": 0}
    reference.step(table.RULES["mix_clip"], [group], {})
    (gradient,) = torch.autograd.grad(param.sum(), [param.grad])
    assert_same([gradient], [torch.full_like(gradient, -0.1)])
