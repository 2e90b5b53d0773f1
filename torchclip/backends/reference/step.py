"""One optimizer step in pure PyTorch: what ``FusedOptimizer`` runs on the reference path.

Like the kernels, it goes over the parameters up to three times, keeping no more than one tensor's temporaries: once to
measure the raw gradients for a clip policy, once to measure the direction of a rule that clips itself, and once to
update. Only the last writes, so a step that is skipped has touched nothing.

In a compiled graph nothing may depend on a value: there, whether the step is taken is a 0-dim tensor, and what is
written where it is not is what was there.
"""

from __future__ import annotations

from collections.abc import Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from torchclip.backends.reference import pipeline
from torchclip.backends.reference.common import Common
from torchclip.backends.reference.directions import measure_directions
from torchclip.backends.reference.measure import (
    PolicyMeasurement,
    measure_gradients,
    measure_step_size,
)
from torchclip.backends.reference.operands import as_stored, encoded, working
from torchclip.backends.reference.report import StepReport, report_of
from torchclip.backends.reference.run import (
    Entry,
    Run,
    entries_of,
    kept_step,
    on_device,
    prepared_gradient,
    rounding_words,
    state_of,
)
from torchclip.backends.reference.spikes import find_spikes
from torchclip.backends.reference.steering import Steering
from torchclip.backends.reference.writes import Flag, chosen, write, write_together
from torchclip.distributed.exchange import Over
from torchclip.distributed.layout import Layout
from torchclip.policies.clip import ClipByValue, NonFinite, Scope
from torchclip.policies.extensions import Lookahead
from torchclip.policies.modifiers import Modifiers
from torchclip.policies.step_size import PolyakStep
from torchclip.rules.norms import Norms, norm_dtype
from torchclip.rules.rule_spec import RuleSpec, State
from torchclip.state.parameter_state import Ledger, Made
from torchclip.state.sharded import is_sharded

PLAIN = Modifiers()
"""Nothing around the rule."""


def step(
    spec: RuleSpec,
    param_groups: list[dict[str, Any]],
    state: dict[Tensor, dict[str, Any]],
    *,
    modifiers: Modifiers = PLAIN,
    scope: Scope = Scope.OPTIMIZER,
    grad_scale: Tensor | None = None,
    found_inf: Tensor | None = None,
    loss: Tensor | None = None,
    before: StepReport | None = None,
    ledger: Ledger | None = None,
    layout: Layout | None = None,
    given_norm: Tensor | None = None,
    loss_over: Over = (),
) -> StepReport:
    """Takes one step, writing parameters, state and shared numbers in place.

    The caller has checked the gradients and turned autograd off, or left it on for a differentiable step.

    Args:
        spec: the rule, as it is over ``scope``, with a slot for the slow weights under Lookahead.
        param_groups: as in ``optimizer.param_groups``, with the shared numbers that ``modifiers`` and the rule need.
        state: as in ``optimizer.state``; what is missing is made, unless the step is skipped.
        modifiers: clip policy, step size and extensions.
        scope: over which elements a rule that clips itself takes its norms.
        grad_scale: the scale of a GradScaler that has not been undone yet, one element.
        found_inf: one element; when it is not 0 the step is skipped.
        loss: 0-dim and detached, where the modifiers take one.
        before: the report of the previous step, whose counters go on.
        ledger: where state that is made is written; None in a compiled graph, which nothing interrupts.
        layout: which processes hold what; None where this one holds everything.
        given_norm: 0-dim; what the clip policy takes for its norm in place of one that it measures.
        loss_over: over which processes the loss is averaged.
    """
    sizes = [len(group["params"]) for group in param_groups]
    entries = entries_of(spec, param_groups, state, modifiers.precision)
    exchange = None if layout is None else layout.exchange()
    run = Run(
        spec,
        param_groups,
        sizes,
        entries,
        modifiers,
        scope,
        None if grad_scale is None else _inverse(grad_scale),
        layout=layout,
        exchange=exchange,
        given_norm=given_norm,
    )
    common = Common.of(run, loss, found_inf, loss_over)
    steering = Steering.of(run)
    by_policy = measure_gradients(run)
    if common.decides_step_size:
        run.run_exchange()
    left = None if by_policy is None else by_policy.left
    lr_scale, writes = measure_step_size(run, common.mean_loss, left)
    run = replace(run, clips=_clip_of_each(run, by_policy), lr_scale=lr_scale)
    by_rule = measure_directions(run) if spec.clips_itself else None

    run.run_exchange()
    handled = [] if by_policy is None else _handled(modifiers, by_policy)
    skipped, raises = _skipped(handled, common.overflow)
    if modifiers.skip is not None and common.has_gradient and not raises and skipped is not True:
        found, remembered = find_spikes(run, None if by_policy is None else by_policy.joint, common.mean_loss)
        looks = ~skipped if isinstance(skipped, Tensor) else True
        for target, value in remembered:
            write(target, value, looks)
        skipped = found | skipped if torch.compiler.is_compiling() else bool(found)
    taken = common.has_gradient and (~skipped if isinstance(skipped, Tensor) else not skipped)
    if taken is not False:
        if steering is not None:
            run = replace(run, scales=steering.scales())
            writes += steering.writes(run.scales)
        for entry in run.entries:
            _update(run, state, entry, None if by_rule is None else by_rule.norms[entry.index], taken, ledger)
        for measured in (by_policy, by_rule):
            writes += [] if measured is None else measured.writes
        if "step" in run.shared:
            writes.append((run.shared["step"], run.shared["step"] + 1))
        for target, value in writes:
            write(target, value, taken)
    if isinstance(modifiers.step_size, PolyakStep) and lr_scale is not None:  # reported is the first group's
        lr_scale = modifiers.step_size.factor(lr_scale, on_device(param_groups[0], lr_scale.device)["lr"])
    report = report_of(by_policy, by_rule, lr_scale, taken, before, skipped=skipped, nonfinite=raises)
    if (handled or modifiers.skip is not None) and common.has_gradient and not raises:
        report = report.with_skip_counted(before)
    return report


def _update(
    run: Run,
    state: dict[Tensor, dict[str, Any]],
    entry: Entry,
    norms: Norms | None,
    taken: Flag,
    ledger: Ledger | None,
) -> None:
    """Writes the new state and the new value of one parameter, at once: Ctrl-C comes before or behind it."""
    parameter = entry.value
    gradient = prepared_gradient(run, entry, parameter)
    old, stored, made, first = state_of(run, entry)
    decayed = pipeline.decay(parameter, entry.group)
    group = run.rules_group(entry) if run.scales else entry.group
    kept, new = run.spec.step(decayed, gradient, old, group, first, norms)
    if run.modifiers.lr_dropout is not None:
        kept = kept_step(run, entry, decayed, kept)
    if run.modifiers.lookahead is not None or run.modifiers.weight_ema is not None:
        kept, new = _followed(run, entry, kept, new, stored)
    if entry.types is not None:
        kept, new = encoded(entry.types, kept, new, stored, rounding_words(run, entry))
    writes = [(entry.parameter, kept)]
    for name, value in new.items():
        if name in made:  # which nobody sees yet
            write(stored[name], value, taken)
        else:
            writes.append((stored[name], value))
    if ledger is None:
        state.setdefault(entry.owner, {}).update(made)
    elif made:
        ledger.give(state, Made(entry.index, entry.owner, made, entry.owner._version))
    write_together(writes, taken)
    if entry.parameter is not entry.owner and is_sharded(entry.owner):  # for who has saved the DTensor itself
        sharded = [tensor for tensor in (*entry.held.values(), *made.values()) if is_sharded(tensor)]
        torch.autograd.graph.increment_version([entry.owner, *sharded])


def _followed(run: Run, entry: Entry, kept: Tensor, new: State, stored: State) -> tuple[Tensor, State]:
    """The new parameter and the new state with what follows the parameter: slow weights, or an average."""
    follower, slot = run.modifiers.follower, run.modifiers.followers_slot
    assert follower is not None and slot is not None
    synchronises = follower.synchronises(run.number)
    if synchronises is False:
        return kept, new
    # From the parameter as it would be stored: a kernel has no other by then.
    rounded = as_stored(entry.parameter, entry.types, kept)
    held = working(stored[slot.name], kept.dtype)
    if isinstance(follower, Lookahead):
        ahead = pipeline.look_ahead(held, rounded, follower.alpha)
        kept = chosen(synchronises, ahead, kept)
    else:
        ahead = pipeline.average(held, rounded, follower.weight(run.number))
    return kept, {**new, slot.name: chosen(synchronises, ahead, held)}


def _clip_of_each(run: Run, measured: PolicyMeasurement | None) -> Sequence[Tensor | ClipByValue | None]:
    """What clips the raw gradient of each parameter: its factor, or the policy that needs none."""
    if measured is not None:
        return measured.clips
    clip = run.modifiers.clip
    return [clip if isinstance(clip, ClipByValue) else None] * sum(run.group_sizes)


def _handled(modifiers: Modifiers, measured: PolicyMeasurement) -> list[tuple[NonFinite, Tensor]]:
    """What is done where a norm is not finite, and the norm, but for those that go through as they are; ``measured`` is
    what the clip policies have."""
    norm, clip, found = measured.norm, modifiers.clip, []
    if modifiers.group_clips:
        each = zip(modifiers.group_clips, norm.unbind(), strict=True)
        found = [(own.policy.nonfinite, one) for own, one in each if own.policy is not None]
    elif clip is not None and not isinstance(clip, ClipByValue):
        norms = [norm] if measured.elsewhere is None else [norm, measured.elsewhere]
        found = [(clip.nonfinite, one) for one in norms]
    return [(NonFinite(handling), one) for handling, one in found if handling != NonFinite.PROPAGATE]


def _skipped(measured: Sequence[tuple[NonFinite, Tensor]], found_inf: Tensor | None) -> tuple[Flag, bool]:
    """Whether the step is skipped, and whether the caller raises."""
    overflows: Flag = False if found_inf is None else (found_inf != 0).any()
    skipped: Flag = overflows
    raises: Flag = False
    for handling, norm in measured:
        nonfinite = ~norm.isfinite().all()
        if handling is NonFinite.ERROR:
            # When the loss scale has overflowed, gradients that are not finite are expected: the scaler handles them.
            raises = chosen(overflows, torch.zeros_like(nonfinite), nonfinite) | raises
        skipped = nonfinite | skipped
    if not torch.compiler.is_compiling():
        return bool(skipped), bool(raises)
    if isinstance(raises, Tensor):
        torch._assert_async(~raises, 'the gradient norm is not finite, and nonfinite="error" says to raise')
    return skipped, False


def _inverse(grad_scale: Tensor) -> Tensor:
    return grad_scale.reshape(()).to(norm_dtype(grad_scale.device)).reciprocal()
