"""The rules with a buffer at most: SGD, normalized SGD, the clipping algorithms and AdaGrad-Norm."""

from __future__ import annotations

import torch
from torch import Tensor

from torchclip.rules.norms import Norms, Scope, norm_dtype
from torchclip.rules.rule_spec import Extent, Group, RuleSpec, State, StateSlot, Stepped


def _momentum_slots(group: Group) -> tuple[str, ...]:
    return ("momentum_buffer",) if group["momentum"] != 0 else ()


# SGD with momentum, as torch.optim.SGD:
#
#     m ← g in the first step, and m ← μ m + (1 − dampening) g afterwards
#     p ← p − lr · m, or with Nesterov's momentum p ← p − lr · (g + μ m)
#
# Sutskever, Martens, Dahl, Hinton, On the importance of initialization and momentum in deep learning, ICML 2013,
# equations (1) to (4), with lr taken out of the momentum as torch does.


def _sgd(parameter: Tensor, gradient: Tensor, state: State, group: Group, first: bool, norms: Norms | None) -> Stepped:
    lr, momentum = group["lr"], group["momentum"]
    if momentum == 0:
        return parameter - lr * gradient, {}
    buffer = gradient if first else momentum * state["momentum_buffer"] + (1 - group["dampening"]) * gradient
    direction = gradient + momentum * buffer if group["nesterov"] else buffer
    return parameter - lr * direction, {"momentum_buffer": buffer}


def _sgd_conflict(group: Group) -> str | None:
    dampening = group["dampening"]
    if not (group["nesterov"] and group["momentum"] != 0 and dampening != 0):
        return None  # without a momentum it is plain SGD, as torch's
    return f"Nesterov momentum requires a momentum and zero dampening; got {dampening=}: leave one of them out"


SGD = RuleSpec(
    name="sgd",
    family="momentum",
    hyperparameters=("momentum", "dampening", "nesterov"),
    slots=(StateSlot("momentum_buffer", optional=True),),
    used_slots=_momentum_slots,
    scalars=(),
    conflict=_sgd_conflict,
    first_differs=lambda group: group["momentum"] != 0 and group["dampening"] != 0,
    step=_sgd,
    citation="Sutskever et al., On the importance of initialization and momentum in deep learning, ICML 2013",
)


def normalized_step_size(norm: Tensor, lr: float | Tensor, eps: float | Tensor) -> Tensor:
    r"""The step size of normalized SGD; lr where the denominator is 0, and a NaN stays one.

    .. math::
        h(r) = \frac{\eta}{r + \epsilon}

    Source: the code of Zhang, Jin, Fang, Wang, NeurIPS 2020, arXiv 2010.02519.
    """
    denominator = norm + eps
    return lr / torch.where(denominator == 0, 1.0, denominator)


# Normalized SGD with momentum:
#
#     m ← β m + (1 − β) g          from m = 0
#     p ← p − lr · m / (‖m‖ + eps)
#
# The baseline in the code of Zhang, Jin, Fang, Wang, Improved Analysis of Clipping Algorithms for Non-convex
# Optimization, NeurIPS 2020, arXiv 2010.02519; the momentum form is Cutkosky, Mehta, ICML 2020, arXiv 2002.03305.


def _averaged_momentum(gradient: Tensor, state: State, group: Group, first: bool) -> State:
    beta = group["momentum"]
    if beta == 0:
        return {}
    return {"momentum_buffer": beta * state["momentum_buffer"] + (1 - beta) * gradient}


def _normalized_sgd(
    parameter: Tensor, gradient: Tensor, state: State, group: Group, first: bool, norms: Norms | None
) -> Stepped:
    assert norms is not None, "normalized_sgd steps by the norm of its direction"
    new = _averaged_momentum(gradient, state, group, first)
    momentum = new.get("momentum_buffer", gradient)
    return parameter - normalized_step_size(norms.direction, group["lr"], group["eps"]) * momentum, new


def _normalized_sgd_factor(norms: Norms, group: Group) -> Tensor:
    return normalized_step_size(norms.direction, 1.0, group["eps"])


NORMALIZED_SGD = RuleSpec(
    name="normalized_sgd",
    family="momentum",
    hyperparameters=("momentum", "eps"),
    slots=(StateSlot("momentum_buffer", optional=True),),
    used_slots=_momentum_slots,
    scalars=(),
    step=_normalized_sgd,
    accumulate=_averaged_momentum,
    clip_factor=_normalized_sgd_factor,
    citation="Zhang, Jin, Fang, Wang, Improved Analysis of Clipping Algorithms, NeurIPS 2020, arXiv 2010.02519",
)


def clipped_step_size(norm: Tensor, lr: float | Tensor, gamma: float | Tensor, smooth: bool) -> Tensor:
    r"""The step size of the clipping algorithms; a norm of 0 gives lr, and a NaN stays one.

    .. math::
        h(r) = \frac{\eta}{1 + \eta r / \gamma} \;\text{(smooth)}
        \quad\text{or}\quad h(r) = \min\left(\eta, \frac{\gamma}{r}\right)

    Source: Zhang, Jin, Fang, Wang, NeurIPS 2020, arXiv 2010.02519: Algorithm 1, and its smooth form in their code.
    """
    lr = torch.zeros_like(norm) + lr  # a changing float stays one in a compiled graph
    # 1 in place of 0 keeps γ/0, and 0/0 with γ = 0, out of the branch not taken, whose NaN autograd would find.
    positive = torch.where(norm == 0, 1.0, norm)
    step_size = lr / (1.0 + lr * positive / gamma) if smooth else torch.minimum(lr, gamma / positive)
    return torch.where(norm == 0, lr, step_size)


# MixClip, and with ν = 1 MomClip, and with ν = 1 and the hard h SGDClip:
#
#     m ← β m + (1 − β) g          from m = 0
#     p ← p − ν h(‖m‖) m − (1 − ν) h(‖g‖) g,   h(r) = lr / (1 + lr·r/γ)  or  min(lr, γ/r)
#
# Zhang, Jin, Fang, Wang, NeurIPS 2020, arXiv 2010.02519, Algorithm 1.


def _mix_clip_step_size(norm: Tensor, group: Group) -> Tensor:
    return clipped_step_size(norm, group["lr"], group["gamma"], group["smooth"])


def _mix_clip(
    parameter: Tensor, gradient: Tensor, state: State, group: Group, first: bool, norms: Norms | None
) -> Stepped:
    assert norms is not None, "mix_clip steps by the norms of its momentum and its gradient"
    nu, new = group["nu"], _averaged_momentum(gradient, state, group, first)
    momentum = new.get("momentum_buffer", gradient)
    momentum_step = nu * _mix_clip_step_size(norms.direction, group) * momentum
    gradient_step = (1 - nu) * _mix_clip_step_size(norms.gradient, group) * gradient
    return parameter - momentum_step - gradient_step, new


def _mix_clip_factor(norms: Norms, group: Group) -> Tensor:
    lr = torch.zeros_like(norms.direction) + group["lr"]
    # At a rate of 0 the limit, where h/lr is 0/0.
    return torch.where(lr == 0, 1.0, _mix_clip_step_size(norms.direction, group) / torch.where(lr == 0, 1.0, lr))


MIX_CLIP = RuleSpec(
    name="mix_clip",
    family="momentum",
    hyperparameters=("momentum", "gamma", "nu", "smooth"),
    slots=(StateSlot("momentum_buffer", optional=True),),
    used_slots=_momentum_slots,
    scalars=(),
    step=_mix_clip,
    accumulate=_averaged_momentum,
    clip_factor=_mix_clip_factor,
    citation=NORMALIZED_SGD.citation,
)


# AdaGrad-Norm:
#
#     s ← s + ‖g‖²                  over the scope, from s = b₀²
#     m ← β m + (1 − β) g          from m = 0
#     p ← p − lr · m / sqrt(s),   and over rows p ← p − lr · m / (sqrt(s) + 1e-10)
#
# Ward, Wu, Bottou, AdaGrad stepsizes: Sharp Convergence over Nonconvex Landscapes, ICML 2019, arXiv 1806.01811,
# Algorithm 1; over rows, and with momentum, the baseline in the code of Wu, Xie, Du, Ward, AAAI 2022, arXiv 2109.08282.
# Where parameters share an s, ``Norms.sum`` is the new one, and the state has none.


def _adagrad_norm_accumulate(gradient: Tensor, state: State, group: Group, first: bool) -> State:
    new = _averaged_momentum(gradient, state, group, first)
    if "sum" in state:
        # The squares of a float32 gradient need not fit float32, nor need the sum of many of them be exact there.
        squares = gradient.to(norm_dtype(gradient.device)).square().sum_to_size(state["sum"].shape)
        new["sum"] = (state["sum"] + squares).to(state["sum"].dtype)
    return new


def _adagrad_norm(
    parameter: Tensor, gradient: Tensor, state: State, group: Group, first: bool, norms: Norms | None
) -> Stepped:
    assert norms is not None, "adagrad_norm needs the scope of its sum"
    new = _adagrad_norm_accumulate(gradient, state, group, first)
    if norms.row_squares is not None:  # of rows that other processes hold parts of
        new["sum"] = (state["sum"] + norms.row_squares).to(state["sum"].dtype)
    elif "sum" in new and norms.sum is not None:
        new["sum"] = norms.sum.to(new["sum"].dtype).reshape(new["sum"].shape)
    total = new.get("sum", norms.sum)
    assert total is not None, f"adagrad_norm has no sum over the scope {norms.scope.value!r}"
    root = total.sqrt() + 1e-10 if norms.scope is Scope.ROW else total.sqrt()
    return parameter - group["lr"] * (new.get("momentum_buffer", gradient) / root), new


def _adagrad_norm_factor(norms: Norms, group: Group) -> Tensor:
    assert norms.sum is not None, f"adagrad_norm reports no factor over the scope {norms.scope.value!r}"
    return norms.sum.rsqrt()


def _b0_squared(group: Group) -> float:
    return float(group["b0"]) ** 2


def adagrad_norm(scope: Scope) -> RuleSpec:
    """The rule over ``scope``: its sums are state of the parameters, or, where they share one, of the param groups."""
    # Over rows, a parameter below two dimensions has its sums beside its momentum, element by element and of one type.
    by_row = scope is Scope.ROW
    extent = {Scope.TENSOR: Extent.TENSOR, Scope.ROW: Extent.ROW}.get(scope)
    sums = () if extent is None else (StateSlot("sum", _b0_squared, True, extent, has_own_type=not by_row),)
    return RuleSpec(
        name="adagrad_norm",
        family="momentum",
        hyperparameters=("momentum",),
        slots=(StateSlot("momentum_buffer", at_least_float32=by_row, optional=True), *sums),
        used_slots=lambda group: (*_momentum_slots(group), *(slot.name for slot in sums)),
        scalars=(),
        by_scope=adagrad_norm,
        takes_complex=False,
        step=_adagrad_norm,
        accumulate=_adagrad_norm_accumulate,
        clip_factor=_adagrad_norm_factor,
        citation="Ward, Wu, Bottou, AdaGrad stepsizes, ICML 2019, arXiv 1806.01811; Wu, Xie, Du, Ward, AAAI 2022, "
        "arXiv 2109.08282",
    )


ADAGRAD_NORM = adagrad_norm(Scope.ROW)
"""With every slot that the rule can have."""
