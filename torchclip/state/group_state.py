"""State that belongs to no single parameter.

The numbers of state that belong to no single parameter are 0-dim tensors (some of them vectors) in the param group's
dict ``"shared"``, so that they travel with ``state_dict``. All are float64, but for the int64 seed.

    step            steps taken: for draws, Lookahead and SqrtDecay
    seed            the key of every draw
    b_squared       AdaLossStep's b²
    norm_window     AutoClip's last norms, a ring: the norm of step t is at t mod window
    norm_count      norms remembered by AutoClip and ZClip so far; steps taken under AdaGC
    norm_mean       ZClip's μ; during the warm-up the mean so far
    norm_variance   ZClip's σ²; during the warm-up the variance so far
    norm_bounds     AdaGC's γ of each parameter; 0 where there is none yet
    polyak_step     PolyakStep's γ, where it has a growth
    skip_norms      SkipSpikes' last norms, a ring, and how many it has remembered so far
    skip_norm_count
    skip_losses     the same of losses
    skip_loss_count
    sum             AdaGradNorm's s: of the optimizer in the first group, or of each group in its own
    threshold_scale the factor on the threshold of a group whose sparsity is steered, in its own
"""

from __future__ import annotations

import math
import warnings
from collections.abc import Mapping, Sequence
from typing import Any

import torch
from torch import Tensor

from torchclip.policies.modifiers import Modifiers
from torchclip.policies.step_size import AdaLossStep, PolyakStep
from torchclip.rules.norms import Scope, norm_dtype
from torchclip.rules.plain_numbers import check_size, plain_number
from torchclip.rules.rule_spec import RuleSpec
from torchclip.rules.soft_threshold import TARGET, THRESHOLD_SCALE
from torchclip.rules.state_numbers import COUNT, NON_NEGATIVE, POSITIVE, exact_number
from torchclip.state.steppable import leading_device

NUMBERS = {
    "step": COUNT,
    "b_squared": POSITIVE,
    "norm_count": COUNT,
    "norm_mean": NON_NEGATIVE,
    "norm_variance": NON_NEGATIVE,
    "polyak_step": NON_NEGATIVE,
    "skip_norm_count": COUNT,
    "skip_loss_count": COUNT,
    "sum": POSITIVE,
    THRESHOLD_SCALE: POSITIVE,
}
NORMS = ("norm_window", "norm_bounds", "skip_norms")
VECTORS = (*NORMS, "skip_losses")
NAMES = frozenset((*NUMBERS, *VECTORS, "seed"))


def numbers_of(group: Mapping[str, Any]) -> dict[str, Any]:
    """The numbers of state of a param group; empty where ``"shared"`` is a key of the user's own."""
    held = group.get("shared")
    return held if isinstance(held, dict) and held.keys() <= NAMES else {}


def checked_shared(index: int, group: dict[str, Any]) -> dict[str, Any]:
    """A param group of a checkpoint, with copies of its shared numbers.

    Raises:
        TypeError, ValueError: for one that is no number, not one number, or out of range.
    """
    held = numbers_of(group)
    if not held:
        return group
    checked: dict[str, Tensor] = {}
    for name, value in held.items():
        called = f'the number {name!r} of param group {index}\'s "shared"'
        if name == "seed":
            checked[name] = _checked_seed_tensor(called, value)
        elif name in VECTORS:
            checked[name] = _checked_vector(called, value, least=0.0 if name in NORMS else -math.inf)
        else:
            checked[name] = exact_number(called, value, NUMBERS[name], torch.float64)
    return {**group, "shared": checked}


def _checked_vector(called: str, value: Any, least: float) -> Tensor:
    if not isinstance(value, Tensor) or value.layout is not torch.strided or value.is_complex() or value.ndim != 1:
        what = f"{value.dtype} of shape {tuple(value.shape)}" if isinstance(value, Tensor) else type(value).__name__
        raise TypeError(f"{called} is {what}, and a vector of numbers is wanted")
    numbers = value.detach().to(torch.float64, copy=True)
    if not bool(((numbers >= least) & numbers.isfinite()).all()):
        wrong = "not finite" if math.isinf(least) else "negative or not finite"
        raise ValueError(f"{called} holds numbers that are {wrong}: {numbers.tolist()}")
    return numbers


def _checked_seed_tensor(called: str, value: Any) -> Tensor:
    plain = plain_number(value.item() if isinstance(value, Tensor) and value.numel() == 1 else value)
    if plain is None:
        raise TypeError(f"{called} is {value!r}, and an integer is wanted")
    check_size(called, plain)
    if not math.isfinite(plain) or plain != int(plain) or not -(2**63) <= plain < 2**64:
        raise ValueError(f"{called} is {plain}; it must be an integer that fits into 64 bits")
    return _seed_tensor(int(plain))


def complete_shared(
    param_groups: Sequence[dict[str, Any]],
    modifiers: Modifiers,
    spec: RuleSpec,
    scope: Scope,
    draw_seed: int | None,
    *,
    on_device: bool,
) -> None:
    """Makes the shared numbers that are needed and missing, and drops those that are not needed.

    Args:
        param_groups: as in ``optimizer.param_groups``; their ``"shared"`` is replaced.
        modifiers: what needs them.
        spec: the rule, which needs ``sum`` when it sums norms.
        scope: over which parameters it does.
        draw_seed: the seed of the draws; None takes one from torch's default generator, if there are any.
        on_device: whether the number of steps, too, lies on the device of the leading parameter, as all but it and the
            seed do.

    Raises:
        ValueError: for a param group that needs such numbers, and whose user keeps something else under ``"shared"``.
    """
    device = leading_device(param_groups)
    for index, group in enumerate(param_groups):
        have = kept = numbers_of(group)
        shapes = shapes_of(index, param_groups, modifiers, spec, scope)
        if index == 0:
            kept = _with_bounds_of(param_groups, kept)
            kept = _without_other_memory(modifiers.clip, shapes, kept, "norm_")
            kept = _without_other_memory(modifiers.skip, shapes, kept, "skip_")
        shared: dict[str, Tensor] = {}
        for name, shape in shapes.items():
            if name == "seed":
                shared[name] = kept[name].cpu() if name in kept else _seed_tensor(draw_seed)
                continue
            place = torch.device("cpu") if name == "step" and not on_device else device
            dtype, held = norm_dtype(place), kept.get(name)
            if held is None:
                held = torch.full(shape, _initial(name, group, modifiers), dtype=dtype, device=place)
            shared[name] = held.to(place, dtype)
        is_users = "shared" in group and not have
        if shared and is_users:
            raise ValueError(
                f"param group {index} holds shared={group['shared']!r}, and this optimizer keeps its state in the key "
                "'shared': call yours otherwise"
            )
        if shared:
            group["shared"] = shared
        elif not is_users:
            group.pop("shared", None)


def forget_norms(param_groups: Sequence[dict[str, Any]]) -> None:
    """Drops what a clip policy remembers."""
    shared = numbers_of(param_groups[0])
    for name in [name for name in shared if name.startswith("norm_")]:
        del shared[name]
    if not shared and shared is param_groups[0].get("shared"):
        del param_groups[0]["shared"]


def shapes_of(
    index: int, param_groups: Sequence[Mapping[str, Any]], modifiers: Modifiers, spec: RuleSpec, scope: Scope
) -> dict[str, tuple[int, ...]]:
    """The shared numbers that a param group needs: names and shapes.

    Args:
        index: that of the group.
        param_groups: as in ``optimizer.param_groups``.
        modifiers, spec, scope: as :func:`complete_shared` takes them.
    """
    group, shapes = param_groups[index], {}
    for name, shape in modifiers.shared_shapes.items() if index == 0 else ():
        shapes[name] = (sum(len(each["params"]) for each in param_groups),) if shape is None else shape
    if spec.by_scope is not None and (scope is Scope.GROUP or (scope is Scope.OPTIMIZER and index == 0)):
        shapes["sum"] = ()
    if spec.family == "soft_threshold" and (TARGET in group or THRESHOLD_SCALE in numbers_of(group)):
        shapes[THRESHOLD_SCALE] = ()
    return shapes


def _initial(name: str, group: Mapping[str, Any], modifiers: Modifiers) -> float:
    """A number of a param group before the first step."""
    step_size = modifiers.step_size
    if name == "b_squared" and isinstance(step_size, AdaLossStep):
        return step_size.b0**2
    if name == "polyak_step" and isinstance(step_size, PolyakStep):
        return step_size.initial_step
    if name == "sum":
        return float(group["b0"]) ** 2
    return 1.0 if name == THRESHOLD_SCALE else 0.0


def _with_bounds_of(param_groups: Sequence[Mapping[str, Any]], have: dict[str, Tensor]) -> dict[str, Tensor]:
    """``have`` with a bound for each parameter, where a param group has come or gone since."""
    bounds, parameters = have.get("norm_bounds"), sum(len(group["params"]) for group in param_groups)
    if not isinstance(bounds, Tensor) or bounds.ndim != 1 or len(bounds) == parameters:
        return have
    kept = bounds[:parameters]
    return {**have, "norm_bounds": torch.cat([kept, kept.new_zeros(parameters - len(kept))])}


def fit_bounds(param_groups: Sequence[dict[str, Any]]) -> None:
    """AdaGC's bounds, for the parameters that there are now: a user may have taken a param group out."""
    have = numbers_of(param_groups[0]) if param_groups else {}
    if "norm_bounds" in have:
        have |= _with_bounds_of(param_groups, have)


def _without_other_memory(
    policy: object, shapes: Mapping[str, tuple[int, ...]], have: dict[str, Tensor], prefix: str
) -> dict[str, Tensor]:
    """``have`` without what another policy has remembered: a count says nothing of norms that are not there."""
    remembered = [name for name in have if name.startswith(prefix)]
    memory = {name: shape for name, shape in shapes.items() if name.startswith(prefix)}
    if all(name in have and have[name].shape == shape for name, shape in memory.items()) or not remembered:
        return have
    warnings.warn(
        f"what was remembered of past steps ({', '.join(sorted(remembered))}) is not what {policy} remembers, which "
        "starts anew",
        stacklevel=2,
    )
    return {name: value for name, value in have.items() if name not in remembered}


def _seed_tensor(seed: int | None) -> Tensor:
    """The seed as a signed 64-bit integer, which is what a tensor holds; from torch's default generator for None."""
    tensor = torch.empty((), dtype=torch.int64, device="cpu")
    if seed is None:
        return tensor.random_()
    return tensor.fill_(seed - 2**64 if seed >= 2**63 else seed)


def checked_seed(seed: int | None) -> int | None:
    """What an optimizer's ``seed=`` argument stands for.

    Raises:
        TypeError: when it is no integer.
        ValueError: when it does not fit into 64 bits.
    """
    if seed is None:
        return None
    plain = plain_number(seed)
    if not isinstance(plain, int):
        raise TypeError(f"seed={seed!r} must be an integer or None, got {type(seed).__name__}")
    if not -(2**63) <= plain < 2**64:
        raise ValueError(f"Invalid seed: {plain}; it must fit into 64 bits")
    return plain
