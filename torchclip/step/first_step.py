"""A step before which state or the plan is made: the state stays if the step was taken, and goes if it was not.

An exception may come from anywhere, and Ctrl-C's between any two instructions of Python. What a step makes is written
down first, and whether the step was taken is asked of what takes it: a compiled plan, whose steps nothing interrupts,
counts them; the reference path writes each parameter and its state in one operation, which autograd counts. Between two
parameters of the reference path, and between two kernels of Triton's, a step that is interrupted stays half taken.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any, NamedTuple, TypeVar, cast

from torch import Tensor

from torchclip.backends import choice
from torchclip.backends.codes import GROUPS_CHANGED, SKIPPED, UNREADY
from torchclip.backends.plan import Plan, make_plan
from torchclip.backends.sharded_plan import ShardedPlan
from torchclip.distributed.shards import laid_out
from torchclip.policies.modifiers import BESIDE_RULE
from torchclip.policies.precision.codec import MASTER
from torchclip.rules.rule_spec import RuleSpec
from torchclip.state.parameter_state import Ledger, Made, create_state, positions_of, still_unstarted
from torchclip.state.precision_state import renew_masters
from torchclip.state.reachable import refuse_transform
from torchclip.step.held_state import maker

if TYPE_CHECKING:
    from torchclip import _C
    from torchclip.step.fused_optimizer import FusedOptimizer

Read = TypeVar("Read")


class Pending(NamedTuple):
    """A step of which it is open whether it is taken.

    Args:
        ledger: what it has made.
        plan: what takes it; None on the reference path.
        steps: how many the plan had taken.
    """

    ledger: Ledger
    plan: Plan | None
    steps: int


def first_step(
    optimizer: FusedOptimizer, loss: Tensor | None, grad_scale: Tensor | None, found_inf: Tensor | None
) -> int:
    """Takes the step of a fused backend, with the plan and the state that it needs.

    Returns:
        The plan's outcome; UNREADY, with nothing done, when another backend or other policies run from now on.
    """
    refuse_transform()
    sharing = _explained(optimizer, lambda: optimizer._processes.sharing(optimizer))
    if optimizer._processes.follows and not optimizer._still_served():
        return UNREADY
    groups, state = optimizer.param_groups, optimizer.state
    plan = optimizer._plan
    if plan is not None and isinstance(plan, ShardedPlan) is not (sharing is not None):
        optimizer._forget_plan()
        return UNREADY
    if plan is None:
        plan = optimizer._plan = make_plan(
            optimizer.backend, optimizer.spec, optimizer.clips_by, optimizer._modifiers, optimizer._keys, sharing
        )
    elif isinstance(plan, ShardedPlan) and sharing is not None:
        plan.use(sharing)
    settle(optimizer)
    attention = _explained(optimizer, lambda: plan.refresh(optimizer.param_groups, optimizer.state))
    if attention and attention[0] == GROUPS_CHANGED:
        optimizer._set_clips(optimizer.clip)
        return UNREADY
    if attention and not optimizer._still_served():
        return UNREADY
    with recorded(optimizer, plan) as ledger:
        if attention:
            named = list(optimizer._named_parameters())
            on_device = optimizer.backend in choice.ON_DEVICE
            precision = optimizer._modifiers.precision
            create_state(
                optimizer.spec,
                named,
                state,
                attention,
                ledger,
                laid_out,
                precision=precision,
                make=None if precision is None else maker(optimizer.spec, precision),
                on_device=on_device,
            )
            attention = plan.refresh(groups, state)
            if attention and attention[0] == GROUPS_CHANGED:
                return UNREADY  # by another thread
            if attention:
                raise AssertionError("a parameter still cannot step after its state was made")
        fresh = {made.position for made in ledger.made if _begins(optimizer.spec, made, state[made.parameter])}
        unstarted = still_unstarted(optimizer._unstarted, state)
        renew_masters(optimizer._modifiers.precision, (parameter for parameter, _ in unstarted), state)
        fresh |= positions_of(unstarted, groups)
        plan.mark_fresh(sorted(fresh))
        optimizer._unstarted = []
        give_norm(optimizer, plan)
        return plan.step(groups, state, grad_scale, found_inf, loss)


def _begins(spec: RuleSpec, made: Made, held: Mapping[str, Any]) -> bool:
    """Whether the next step of a parameter that was given state is the first that is taken with it.

    Slow weights that are made later, after loading say, make no first step of the rule; nor does what a precision
    policy keeps, or puts in another order, but for a master beside which there is nothing else.
    """
    of_rule = {*(slot.name for slot in spec.slots), *(scalar.name for scalar in spec.scalars)} - BESIDE_RULE
    names = made.tensors.keys() - made.replaced.keys()
    return bool(names & of_rule) or (MASTER in names and not held.keys() & of_rule)


def give_norm(optimizer: FusedOptimizer, plan: Plan) -> None:
    """Hands the plan the norm that its next step is to take, once."""
    given, optimizer._last.given_norm = optimizer._last.given_norm, None
    if given is not None:
        cast("_C.Plan | ShardedPlan", plan).set_norm(given)  # no other is given one


def drop_handed(optimizer: FusedOptimizer) -> None:
    """A norm and a loss that were handed over are those of one step, whatever comes of it."""
    optimizer._last.given_norm = optimizer._last.given_loss = None
    if optimizer._backend == "cpu" and optimizer._plan is not None:
        cast("_C.Plan | ShardedPlan", optimizer._plan).set_norm(None)


def leave_out(optimizer: FusedOptimizer) -> None:
    """Of a step that is not taken, since the processes may disagree."""
    drop_handed(optimizer)
    optimizer._last.outcome = SKIPPED


def _explained(optimizer: FusedOptimizer, read: Callable[[], Read]) -> Read:
    try:
        return read()
    except Exception:
        optimizer._keys.read(optimizer.param_groups)  # which says what is wrong in words
        raise


@contextmanager
def recorded(optimizer: FusedOptimizer, plan: Plan | None) -> Iterator[Ledger]:
    """A ledger for what a step makes, settled at the end."""
    settle(optimizer)
    ledger = Ledger()
    optimizer._pending = Pending(ledger, plan, 0 if plan is None else plan.steps)
    try:
        yield ledger
    finally:
        settle(optimizer)


def settle(optimizer: FusedOptimizer) -> None:
    """Drops state that was made for a step which was not taken. Where this is interrupted, the next step does it."""
    pending = optimizer._pending
    if pending is None:
        return
    if pending.plan is None:
        pending.ledger.drop(optimizer.state, written=False)
    elif pending.plan.steps == pending.steps:
        pending.ledger.drop(optimizer.state)
    optimizer._pending = None


def settle_when_idle(optimizer: FusedOptimizer) -> None:
    """Not while another thread is in such a step."""
    if not optimizer._lock.locked():
        settle(optimizer)
