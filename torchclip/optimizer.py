"""The step that all optimizers share: closure, checks, the fused plan or the reference path, and its report."""

from __future__ import annotations

from collections.abc import Callable, Iterable, Mapping
from dataclasses import replace
from typing import Any, ClassVar

import torch
from torch import Tensor
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
    describe_parameter,
)
from torchclip.clip import ClipPolicy, Scope, as_clip_policy, measures
from torchclip.extensions import Extension
from torchclip.hooks import hook_step
from torchclip.metrics import described, sparsity
from torchclip.modifiers import SLOW, Modifiers
from torchclip.plan import NON_FINITE, STEPPED, configuration, make_plan
from torchclip.rule_spec import RuleSpec
from torchclip.shared import checked_seed, complete_shared, forget_norms
from torchclip.state import check_held_state, create_state, drop_state, nonfinite_error
from torchclip.step_size import AdaLossStep, StepSize, checked_loss

ParamsT = Iterable[Tensor] | Iterable[dict[str, Any]] | Iterable[tuple[str, Tensor]]


class FusedOptimizer(Optimizer):
    """Abstract base of every optimizer here. A subclass is a signature, a docstring, and these three:

    Attributes:
        spec: the update rule.
        hyperparameter_checks: for each key of a param group, the check of its value.
        clips_by: for rules that clip themselves, over which parameters their norms are taken.
    """

    spec: RuleSpec
    hyperparameter_checks: ClassVar[Mapping[str, Check]]
    clips_by: Scope = Scope.OPTIMIZER

    _backend: str | None
    _plan: Any
    _report: reference.StepReport | None

    _step_supports_amp_scaling = True

    def __init__(
        self,
        params: ParamsT,
        defaults: dict[str, Any],
        *,
        clip: ClipPolicy | float | None,
        step_size: StepSize | None,
        extensions: Iterable[Extension],
        seed: int | None,
        backend: str | None,
    ) -> None:
        check_hyperparameters(defaults, self.hyperparameter_checks)
        backends.check_flags(defaults, backend)
        if backend is not None:
            backends.unavailable_reason(backend)  # an unknown name, before anything else
        self._requested = backend
        self._seed = checked_seed(seed)
        self._modifiers = Modifiers.of(clip, step_size, extensions)
        self._compose()
        self._forget_plan()
        super().__init__(params, defaults)
        self._complete_shared()
        self.backend  # noqa: B018  an unavailable backend is an error of the constructor

    def _compose(self) -> None:
        """The rule with the state that scope and extensions ask for."""
        spec = type(self).spec.over(self.clips_by)
        refusal = self._modifiers.refusal(spec)
        if refusal is not None:
            raise ValueError(refusal)
        self.spec = spec if self._modifiers.lookahead is None else spec.with_slot(SLOW)

    def _complete_shared(self) -> None:
        complete_shared(self.param_groups, self._modifiers, self.spec, self.clips_by, self._seed)

    # What a user reads.

    @property
    def clip(self) -> ClipPolicy | None:
        """The clip policy; assigning a number or a policy changes it from the next step on, and starts its memory."""
        return self._modifiers.clip

    @clip.setter
    def clip(self, clip: ClipPolicy | float | None) -> None:
        policy = as_clip_policy(clip)
        if policy != self._modifiers.clip:
            forget_norms(self.param_groups)
        self._modifiers = replace(self._modifiers, clip=policy)
        self._complete_shared()
        if self._report is not None:
            self._report = self._report.without_measurements()
        if self._plan is not None:
            self._plan.configure(configuration(self._modifiers))

    @property
    def step_size(self) -> StepSize | None:
        """The step size policy."""
        return self._modifiers.step_size

    @property
    def extensions(self) -> tuple[Extension, ...]:
        """The extensions, in the order in which they act."""
        return self._modifiers.extensions

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
        return self._measurement("grad_norm")

    @property
    def clip_factor(self) -> Tensor:
        """What the last step's gradient was multiplied with, shaped as :attr:`grad_norm`.

        For a rule that clips itself, without a policy in front of it: the factor on lr times its direction; 1 over
        rows, where there are too many to report.

        Raises:
            RuntimeError: when nothing was measured.
        """
        return self._measurement("clip_factor")

    def metrics(self) -> dict[str, Tensor]:
        """What the last step measured and counted, without waiting for the device.

        Returns:
            0-dim tensors, or one number per param group or per parameter where a norm is taken over those. Only what
            there is:

            ``grad_norm``, ``clip_factor``: as the attributes.
            ``direction_norm``: the norm of the direction that a rule measures itself.
            ``clipped_fraction``: the share of steps in which a clip factor was below 1, since the optimizer was made or
            loaded.
            ``lr_scale``: the factor of the step size on the gradient.
            ``sparsity``: the fraction of parameters that are exactly zero; counted in this call, but for gRDA.
        """
        return {name: self._as_tensor(value) for name, value in self._measured().items()} | {
            "sparsity": self._sparsity()
        }

    def __repr__(self) -> str:
        return described(type(self).__name__, self.param_groups, self._modifiers)

    def _as_tensor(self, value: Any) -> Tensor:
        return torch.as_tensor(value, dtype=torch.promote_types(self.param_groups[0]["params"][0].dtype, torch.float32))

    def _measurement(self, name: str) -> Tensor:
        measured = self._measured()
        if name in measured:
            return self._as_tensor(measured[name])
        if measures(self.clip) or self.spec.clips_itself:
            raise RuntimeError("no norm was measured yet: call step() first, with gradients in place")
        raise RuntimeError(
            f"{type(self).__name__} measures no norm with clip={self.clip}: pass clip=max_norm, "
            "or clip=torchclip.ClipByGlobalNorm(math.inf) to measure and clip nothing"
        )

    def _measured(self) -> Mapping[str, Any]:
        """What the last step measured: numbers and lists of them, or tensors."""
        if self._plan is not None:
            return self._plan.report()
        return {} if self._report is None else self._report.measured()

    def _sparsity(self) -> Tensor:
        return sparsity(self.param_groups, self._plan.zeros if self._plan is not None else [])

    # The step.

    profile_hook_step = staticmethod(hook_step)

    def step(self, closure: Callable[[], Any] | None = None, *, loss: Tensor | float | None = None) -> Any:
        """Updates every parameter that has a gradient.

        Args:
            closure: re-evaluates the model and returns the loss; it runs with gradients enabled.
            loss: the loss, one number on the parameters' device, for ``AdaLossStep``, which takes what the closure
                returned where this is None. Nothing else looks at it.

        Returns:
            What the closure returned, else None.

        Raises:
            RuntimeError: for a gradient that is sparse or does not fit its parameter, and for a norm that is not finite
                under ``nonfinite="error"``. Parameters and state are then as they were.
            TypeError, ValueError: for a missing loss under ``AdaLossStep``, one that is no scalar, or one on another
                device.
        """
        result = None
        if closure is not None:
            with torch.enable_grad():
                result = closure()
        scaled_by = None
        if isinstance(self._modifiers.step_size, AdaLossStep):
            given = result if loss is None else loss
            scaled_by = checked_loss(given, self.param_groups[0]["params"][0].device, type(self).__name__)
        self._run(scaled_by)
        return result

    def _run(self, loss: Tensor | None) -> None:
        if self.backend == "reference":
            self._reference_step(loss)
        else:
            self._fused_step(loss)

    def _fused_step(self, loss: Tensor | None) -> None:
        plan = self._plan
        if plan is None:
            plan = self._plan = make_plan(self.spec, self.clips_by, self._modifiers)
        attention = plan.refresh(self.param_groups, self.state)
        created: list[tuple[int, Tensor, str]] = []
        if attention:
            if not self._still_served():
                return self._run(loss)
            created = create_state(self.spec, list(self._named_parameters()), self.state, attention)
            # Slow weights that are made later, after loading say, make no first step of the rule.
            plan.mark_fresh(sorted({position for position, _, slot in created if slot != SLOW.name}))
            if plan.refresh(self.param_groups, self.state):
                raise AssertionError("a parameter still cannot step after its state was made")
        grad_scale, found_inf = getattr(self, "grad_scale", None), getattr(self, "found_inf", None)
        outcome = plan.step(
            1.0 if grad_scale is None else 1.0 / float(grad_scale),
            found_inf is not None and float(found_inf) != 0,  # a sum over devices: 2 says no less than 1
            0.0 if loss is None else float(loss),
        )
        if outcome != STEPPED:
            drop_state(self.state, created)
        if outcome == NON_FINITE:
            self._raise_nonfinite()

    def _reference_step(self, loss: Tensor | None) -> None:
        for name, parameter, group in self._named_parameters():
            if parameter.grad is not None:
                check_parameter(name, parameter)
                check_gradient(name, parameter)
                check_held_state(self.spec, name, parameter, group, self.state.get(parameter, {}))
        with torch.set_grad_enabled(any(group.get("differentiable", False) for group in self.param_groups)):
            self._report = reference.step(
                self.spec,
                self.param_groups,
                self.state,
                modifiers=self._modifiers,
                scope=self.clips_by,
                grad_scale=getattr(self, "grad_scale", None),
                found_inf=getattr(self, "found_inf", None),
                loss=loss,
                before=self._report,
            )
        if self._report.nonfinite:
            self._raise_nonfinite()

    # The life of the plan.

    def _forget_plan(self) -> None:
        self._plan = None
        self._backend = None
        self._report = None

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

    def _raise_nonfinite(self) -> None:
        named = [(name, parameter) for name, parameter, _ in self._named_parameters()]
        raise nonfinite_error(named, f"the gradient norm is not finite, and {self.clip} says to raise")

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
        if len(self.param_groups) > 1:
            self._complete_shared()
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
        self._complete_shared()
        self._forget_plan()

    def __setstate__(self, state: dict[str, Any]) -> None:
        super().__setstate__(state)
        for group in self.param_groups:
            for key, value in self.defaults.items():
                group.setdefault(key, value)
        for name, default in (("_requested", None), ("_seed", None), ("_modifiers", Modifiers())):
            self.__dict__.setdefault(name, default)
        self._compose()
        self._complete_shared()
        self._forget_plan()

    def __getstate__(self) -> dict[str, Any]:
        kept = ("_requested", "_seed", "_modifiers", "clips_by")
        return {**super().__getstate__(), **{name: getattr(self, name) for name in kept}}
