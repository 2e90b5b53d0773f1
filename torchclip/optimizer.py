"""The step that all optimizers share: closure, checks, the fused plan or the reference path, and its report."""

from __future__ import annotations

import functools
from collections.abc import Callable, Iterable, Mapping
from typing import Any, ClassVar

import torch
from torch import Tensor
from torch.optim import optimizer as torch_optimizer
from torch.optim.optimizer import Optimizer

from torchclip import backend as backends
from torchclip import reference
from torchclip.checkpoint import restore_precision
from torchclip.checks import (
    Check,
    check_gradient,
    check_hyperparameters,
    check_new_parameters,
    check_parameter,
    check_state,
    describe_parameter,
)
from torchclip.clip import ClipByValue, ClipPolicy, Scope, as_clip_policy
from torchclip.plan import NON_FINITE, STEPPED, clip_arguments, make_plan
from torchclip.rule_spec import RuleSpec

ParamsT = Iterable[Tensor] | Iterable[dict[str, Any]] | Iterable[tuple[str, Tensor]]


class FusedOptimizer(Optimizer):
    """Abstract base of every optimizer here. A subclass is a signature, a docstring, and these three:

    Attributes:
        spec: the update rule.
        hyperparameter_checks: for each key of a param group, the check of its value.
        clips_by: for rules that clip themselves, over which parameters their norms are taken.
    """

    spec: ClassVar[RuleSpec]
    hyperparameter_checks: ClassVar[Mapping[str, Check]]
    clips_by: Scope = Scope.OPTIMIZER

    _step_supports_amp_scaling = True

    def __init__(
        self, params: ParamsT, defaults: dict[str, Any], *, clip: ClipPolicy | float | None, backend: str | None
    ) -> None:
        check_hyperparameters(defaults, self.hyperparameter_checks)
        backends.check_flags(defaults, backend)
        if backend is not None:
            backends.unavailable_reason(backend)  # an unknown name, before anything else
        self._requested = backend
        self.clip = clip
        self._forget_plan()
        super().__init__(params, defaults)
        self.backend  # noqa: B018  an unavailable backend is an error of the constructor

    # What a user reads.

    @property
    def clip(self) -> ClipPolicy | None:
        """The clip policy; assigning a number or a policy changes it from the next step on."""
        return self._clip

    @clip.setter
    def clip(self, clip: ClipPolicy | float | None) -> None:
        self._clip = as_clip_policy(clip)
        self._clip_arguments = clip_arguments(self._clip)

    @property
    def backend(self) -> str:
        """What runs the step: ``"cuda"``, ``"triton"``, ``"cpu"`` or ``"reference"``."""
        if self._backend is None:
            self._backend = backends.choose_for_groups(self._requested, self.param_groups)
        return self._backend

    @property
    def grad_norm(self) -> Tensor:
        """The norm that the last step measured, before clipping.

        The clip policy's norm; without one, for a rule that clips itself, the norm of the gradient as the rule sees it.
        A 0-dim tensor, or one norm per param group or per parameter when the policy's scope says so (0 for a parameter
        without a gradient).

        Raises:
            RuntimeError: when nothing was measured.
        """
        return self._measurement(0)

    @property
    def clip_factor(self) -> Tensor:
        """What the last step's gradient was multiplied with, shaped as :attr:`grad_norm`.

        For a rule that clips itself, without a policy in front of it: the factor on lr times its direction.

        Raises:
            RuntimeError: when nothing was measured.
        """
        return self._measurement(1)

    def _measurement(self, index: int) -> Tensor:
        dtype = torch.promote_types(self.param_groups[0]["params"][0].dtype, torch.float32)
        if self._plan is not None and self._plan.norms:
            values = (self._plan.norms, self._plan.factors)[index]
            scope = self._clip.scope if _measures(self._clip) else self.clips_by
            return torch.tensor(values[0] if scope is Scope.OPTIMIZER else values, dtype=dtype)
        if self._report is not None and self._report.grad_norm is not None:
            measured = (self._report.grad_norm, self._report.clip_factor)[index]
            assert measured is not None
            return measured.to(dtype)
        if _measures(self._clip) or self.spec.clips_itself:
            raise RuntimeError("no norm was measured yet: call step() first, with gradients in place")
        raise RuntimeError(
            f"{type(self).__name__} measures no norm with clip={self._clip}: pass clip=max_norm, "
            "or clip=torchclip.ClipByGlobalNorm(math.inf) to measure and clip nothing"
        )

    # The step.

    @staticmethod
    def profile_hook_step(func: Callable[..., Any]) -> Callable[..., Any]:
        """Torch's wrapper around every ``step``: step hooks, and a record for the profiler.

        It takes as long as a hundred parameters do. Where nobody listens, the step runs without it.
        """
        observed = Optimizer.profile_hook_step(func)

        @functools.wraps(func)
        def wrapper(self: FusedOptimizer, *args: Any, **kwargs: Any) -> Any:
            hooks = self._optimizer_step_pre_hooks or self._optimizer_step_post_hooks
            global_hooks = torch_optimizer._global_optimizer_pre_hooks or torch_optimizer._global_optimizer_post_hooks
            if hooks or global_hooks or torch.autograd._profiler_enabled():
                return observed(self, *args, **kwargs)
            return func(self, *args, **kwargs)

        return wrapper

    def step(self, closure: Callable[[], Any] | None = None) -> Any:
        """Updates every parameter that has a gradient.

        Args:
            closure: re-evaluates the model and returns the loss; it runs with gradients enabled.

        Returns:
            What the closure returned, else None.

        Raises:
            RuntimeError: for a gradient that is sparse or does not fit its parameter, and for a norm that is not finite
                under ``nonfinite="error"``. Parameters and state are then as they were.
        """
        loss = None
        if closure is not None:
            with torch.enable_grad():
                loss = closure()
        self._run()
        return loss

    def _run(self) -> None:
        if self.backend == "reference":
            self._reference_step()
        else:
            self._fused_step()

    def _fused_step(self) -> None:
        plan = self._plan
        if plan is None:
            plan = self._plan = make_plan(self.spec, self.clips_by)
        attention = plan.refresh(self.param_groups, self.state)
        created: list[tuple[int, Tensor, str]] = []
        if attention:
            if not self._still_served():
                return self._run()
            created = self._create_state(attention)
            plan.mark_fresh(sorted({position for position, _, _ in created}))
            if plan.refresh(self.param_groups, self.state):
                raise AssertionError("a parameter still cannot step after its state was made")
        grad_scale, found_inf = getattr(self, "grad_scale", None), getattr(self, "found_inf", None)
        outcome = plan.step(
            *self._clip_arguments,
            1.0 if grad_scale is None else 1.0 / float(grad_scale),
            found_inf is not None and float(found_inf) != 0,  # a sum over devices: 2 says no less than 1
        )
        if outcome != STEPPED:
            self._drop_state(created)
        if outcome == NON_FINITE:
            self._raise_nonfinite()

    def _reference_step(self) -> None:
        for name, parameter, _ in self._named_parameters():
            if parameter.grad is not None:
                check_parameter(name, parameter)
                check_gradient(name, parameter)
        with torch.set_grad_enabled(any(group.get("differentiable", False) for group in self.param_groups)):
            self._report = reference.step(
                self.spec,
                self.param_groups,
                self.state,
                clip=self._clip,
                scope=self.clips_by,
                grad_scale=getattr(self, "grad_scale", None),
                found_inf=getattr(self, "found_inf", None),
            )
        if self._report.nonfinite:
            self._raise_nonfinite()

    # The life of the plan.

    def _forget_plan(self) -> None:
        self._plan = None
        self._backend: str | None = None
        self._report: reference.StepReport | None = None

    def _still_served(self) -> bool:
        """False when the model was moved or cast since the backend was chosen, and another one runs from now on."""
        chosen = backends.choose_for_groups(self._requested, self.param_groups)
        if chosen == self._backend:
            return True
        self._forget_plan()
        return False

    # Parameters and their state.

    def _named_parameters(self) -> Iterable[tuple[str, Tensor, dict[str, Any]]]:
        for group_index, group in enumerate(self.param_groups):
            for index, parameter in enumerate(group["params"]):
                yield describe_parameter(self.param_groups, group_index, index), parameter, group

    def _create_state(self, positions: list[int]) -> list[tuple[int, Tensor, str]]:
        """Checks the parameters at ``positions`` and makes the state they lack.

        Returns:
            What was made: position, parameter and the state's name.
        """
        every = list(self._named_parameters())
        wanted = [(position, *every[position]) for position in positions]
        for _, name, parameter, group in wanted:
            check_parameter(name, parameter)
            check_gradient(name, parameter)
            state = self.state.get(parameter, {})
            used = {slot: state[slot] for slot in self.spec.used_slots(group) if state.get(slot) is not None}
            check_state(name, used, parameter)
        created: list[tuple[int, Tensor, str]] = []
        for position, _, parameter, group in wanted:
            state = self.state[parameter]
            for slot in self.spec.missing_state(state, group):
                state[slot] = self.spec.create_state(slot, parameter, group)
                created.append((position, parameter, slot))
        return created

    def _drop_state(self, created: list[tuple[int, Tensor, str]]) -> None:
        """A step that was skipped leaves nothing behind, so that the next one is a first step again."""
        for _, parameter, slot in created:
            self.state[parameter].pop(slot)
            if not self.state[parameter]:
                self.state.pop(parameter)

    def _raise_nonfinite(self) -> None:
        names = [
            name
            for name, parameter, _ in self._named_parameters()
            if parameter.grad is not None and not bool(torch.isfinite(parameter.grad).all())
        ]
        where = ", ".join(names) if names else "no single gradient: the sum of squares overflows float32"
        raise RuntimeError(
            f"the gradient norm is not finite, and {self._clip} says to raise; not finite: {where}. Nothing was "
            'written. Lower the learning rate or the loss scale, or choose nonfinite="skip"'
        )

    # The constructor's and torch's hooks into the above.

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds a param group, as :meth:`torch.optim.Optimizer.add_param_group`.

        Raises:
            ValueError: for a hyperparameter out of range, and for a parameter that is given twice.
            TypeError: for a parameter that is not floating point.
        """
        check_hyperparameters({**self.defaults, **param_group}, self.hyperparameter_checks)
        for key in ("weight_decay", "decoupled_weight_decay", "maximize"):
            if param_group.get(key) and key not in self.defaults:
                raise ValueError(
                    f"{type(self).__name__} has no {key}, and a param group sets {key}={param_group[key]}: leave it out"
                )
        backends.check_flags({**self.defaults, **param_group}, self._requested)
        params = param_group["params"]
        param_group = {**param_group, "params": [params] if isinstance(params, Tensor) else list(params)}
        check_new_parameters(param_group["params"], len(self.param_groups))
        super().add_param_group(param_group)
        self._forget_plan()

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Loads a state dict of this class, or of the ``torch.optim`` class of the same name."""
        saved: dict[str, Any] = {}
        flags = [{flag: group[flag] for flag in backends.FLAGS if flag in group} for group in self.param_groups]
        # Registered last, it sees what the user's own hooks have made of the state dict.
        capture = self.register_load_state_dict_pre_hook(lambda _, final: saved.update(final))
        try:
            super().load_state_dict(state_dict)
        finally:
            capture.remove()
        for group, own in zip(self.param_groups, flags, strict=True):
            group.update(own)  # how a checkpoint's optimizer ran is not how this one was asked to run
        restore_precision(self.spec, self.param_groups, self.state, saved)
        self._forget_plan()

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for group in self.param_groups:
            for key, value in self.defaults.items():
                group.setdefault(key, value)
        self.__dict__.setdefault("_requested", None)
        self.clip = self.__dict__.get("_clip")
        self._forget_plan()

    def __getstate__(self) -> dict[str, Any]:
        return {**super().__getstate__(), "_requested": self._requested, "_clip": self._clip, "clips_by": self.clips_by}


def _measures(clip: ClipPolicy | None) -> bool:
    return clip is not None and not isinstance(clip, ClipByValue)
