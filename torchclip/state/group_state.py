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

from torchclip.policies.clip import AdaGC, AutoClip, ClipPolicy, ZClip
from torchclip.policies.modifiers import Modifiers
from torchclip.policies.skip import SkipSpikes
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
    parameters = sum(len(group["params"]) for group in param_groups)
    for index, group in enumerate(param_groups):
        have = numbers_of(group)
        shared = _complete(modifiers, have, device, draw_seed, on_device, parameters) if index == 0 else {}
        if spec.by_scope is not None and (scope is Scope.GROUP or (scope is Scope.OPTIMIZER and index == 0)):
            start = torch.full((), float(group["b0"]) ** 2, dtype=norm_dtype(device), device=device)
            shared["sum"] = have.get("sum", start).to(device, norm_dtype(device))
        if spec.family == "soft_threshold" and (THRESHOLD_SCALE in have or TARGET in group):
            scale = have.get(THRESHOLD_SCALE, torch.ones((), dtype=norm_dtype(device), device=device))
            shared[THRESHOLD_SCALE] = scale.to(device, norm_dtype(device))
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


def _complete(
    modifiers: Modifiers,
    have: Mapping[str, Tensor],
    device: torch.device,
    draw_seed: int | None,
    on_device: bool,
    parameters: int,
) -> dict[str, Tensor]:
    """The first group's shared numbers, but for AdaGradNorm's: those of ``have`` that are needed, and new ones.

    Args:
        have: the numbers so far.
        device: of the leading parameter.
        draw_seed: the seed of the draws; None takes one from torch's default generator, if there are any.
        on_device: whether the number of steps lies on ``device``.
        parameters: how many there are.
    """
    numbers: dict[str, Tensor] = {}
    memory = _memory_of(modifiers.clip, parameters)
    have = _without_other_memory(modifiers.clip, memory, _with_bounds_of(parameters, have), "norm_")
    watched = _watched_by(modifiers.skip)
    have = _without_other_memory(modifiers.skip, watched, have, "skip_")

    def need(name: str, initial: float = 0.0, shape: tuple[int, ...] = ()) -> None:
        place = torch.device("cpu") if name == "step" and not on_device else device
        made = have.get(name)
        if made is None:
            made = torch.full(shape, initial, dtype=norm_dtype(place), device=place)
        numbers[name] = made.to(place, norm_dtype(place))

    if modifiers.counts_steps:
        need("step")
    if modifiers.draws:
        numbers["seed"] = have["seed"].cpu() if "seed" in have else _seed_tensor(draw_seed)
    if isinstance(modifiers.step_size, AdaLossStep):
        need("b_squared", modifiers.step_size.b0**2)
    if isinstance(modifiers.step_size, PolyakStep) and modifiers.step_size.growth is not None:
        need("polyak_step", modifiers.step_size.initial_step)
    for name, shape in (memory | watched).items():
        need(name, shape=shape)
    return numbers


def _with_bounds_of(parameters: int, have: Mapping[str, Tensor]) -> Mapping[str, Tensor]:
    """``have`` with a bound for each parameter, where a param group has come or gone since."""
    bounds = have.get("norm_bounds")
    if bounds is None or bounds.ndim != 1 or len(bounds) == parameters:
        return have
    kept = bounds[:parameters]
    return {**have, "norm_bounds": torch.cat([kept, kept.new_zeros(parameters - len(kept))])}


def fit_bounds(param_groups: Sequence[dict[str, Any]]) -> None:
    """AdaGC's bounds, for the parameters that there are now: a user may have taken a param group out."""
    have = numbers_of(param_groups[0]) if param_groups else {}
    if "norm_bounds" in have:
        have |= _with_bounds_of(sum(len(group["params"]) for group in param_groups), have)


def _watched_by(skip: SkipSpikes | None) -> dict[str, tuple[int, ...]]:
    """What SkipSpikes remembers: names and shapes."""
    if skip is None:
        return {}
    norms = {"skip_norms": (skip.window,), "skip_norm_count": ()} if skip.watches_norm else {}
    return norms | ({"skip_losses": (skip.window,), "skip_loss_count": ()} if skip.watches_loss else {})


def _memory_of(clip: ClipPolicy | None, parameters: int) -> dict[str, tuple[int, ...]]:
    """What a clip policy remembers of past norms: names and shapes."""
    if isinstance(clip, AdaGC):
        return {"norm_bounds": (parameters,), "norm_count": ()}
    if isinstance(clip, AutoClip):
        return {"norm_window": (clip.window,), "norm_count": ()}
    return {"norm_mean": (), "norm_variance": (), "norm_count": ()} if isinstance(clip, ZClip) else {}


def _without_other_memory(
    policy: object, memory: Mapping[str, tuple[int, ...]], have: Mapping[str, Tensor], prefix: str
) -> Mapping[str, Tensor]:
    """``have`` without what another policy has remembered: a count says nothing of norms that are not there."""
    remembered = [name for name in have if name.startswith(prefix)]
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
