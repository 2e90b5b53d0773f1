"""The base of every optimizer: its policies, and what its last step measured, without taking a step."""

from __future__ import annotations

from collections.abc import Iterable, Mapping
from typing import Any
from weakref import ReferenceType

import torch
from torch import Tensor
from torch.optim.optimizer import Optimizer
from typing_extensions import Self

from torchclip.backends.codes import configuration, group_numbers
from torchclip.backends.plan import Plan
from torchclip.policies.clip import ClipPolicy, Scope, as_clip_policy
from torchclip.policies.extensions import Extension
from torchclip.policies.group_clip import check_keys
from torchclip.policies.modifiers import Modifiers
from torchclip.policies.precision import Precision
from torchclip.policies.skip import SkipSpikes
from torchclip.policies.step_size import StepSize
from torchclip.rules.rule_spec import RuleSpec
from torchclip.state.group_state import forget_norms, numbers_of
from torchclip.state.parameter_state import Unstarted, still_unstarted
from torchclip.state.precision_state import renew_masters
from torchclip.state.real_view import real_dtype
from torchclip.state.steppable import leading_parameter
from torchclip.state.tensor_checks import describe_parameter
from torchclip.step.given import given
from torchclip.step.given_norm import checked_norm
from torchclip.step.last_step import LastStep
from torchclip.step.log_metrics import log, on_host
from torchclip.step.many_processes import ManyProcesses
from torchclip.step.metrics import described, sparsity
from torchclip.step.thresholds import thresholds


class MeasuredOptimizer(Optimizer):
    """Abstract base of :class:`~torchclip.FusedOptimizer`: norms, factors and counts, without taking a step.

    Attributes:
        spec: the update rule.
        clips_by: for rules that clip themselves, over which parameters their norms are taken.
    """

    spec: RuleSpec
    clips_by: Scope = Scope.OPTIMIZER

    _modifiers: Modifiers
    _backend: str | None
    _plan: Plan | None = None
    _unstarted: Unstarted = []  # noqa: RUF012  never written: those of which the plan has not been told yet
    _last: LastStep
    _processes: ManyProcesses
    _itself: ReferenceType[Any]

    @property
    def _own(self) -> Self:
        """The optimizer, of which Fabric and Lightning make objects of a subclass that have, or look up, what it had
        when they were made; what is set or read there is the optimizer's."""
        own: Self | None = self._itself()
        return self if own is None else own

    @property
    def backend(self) -> str:
        """What runs the step."""
        raise NotImplementedError

    @property
    def _demands_compiled(self) -> bool:
        """Whether a compiled backend was asked for, by its name or a flag."""
        raise NotImplementedError

    def _all_unstarted(self) -> Unstarted:
        """The parameters whose next step is the first that is taken with the state they have, in which masters are
        what they would be made as then."""
        told = [] if self._plan is None else self._plan.unstarted()
        found = [*self._unstarted, *told]
        unstarted = still_unstarted(found, self.state) if found else []
        if unstarted:
            renew_masters(self._modifiers.precision, (parameter for parameter, _ in unstarted), self.state)
        return unstarted

    @property
    def clip(self) -> ClipPolicy | None:
        """The clip policy; assigning a number or a policy changes it from the next step on, and starts its memory.

        A param group has a policy of its own under the key ``"clip"``, which can be assigned to as well.
        """
        return self._own._modifiers.clip

    @clip.setter
    def clip(self, clip: ClipPolicy | float | None) -> None:
        self._own._set_clips(as_clip_policy(clip))

    def _set_clips(self, clip: ClipPolicy | None) -> None:
        """Takes the optimizer's policy, and those that param groups have of their own, from the next step on."""
        for index, group in enumerate(self.param_groups):
            check_keys(group, index, clips_itself=self.spec.clips_itself)
        modifiers = self._modifiers.with_clips(clip, self.param_groups)
        self._processes.check(self, modifiers)
        before = self._modifiers
        self._modifiers = modifiers
        try:
            if clip != before.clip:
                forget_norms(self.param_groups)
            self._complete_shared()
            refused = self._backend is not None and self._processes.compiled_reason(self, self._backend) is not None
            if refused or self._backend == "reference":  # which a policy of before may have asked for
                self._still_served()
        except BaseException:
            self._modifiers = before
            raise
        if self._last.report is not None:
            self._last.report = self._last.report.without_measurements()
        if self._plan is not None:
            self._plan.configure(configuration(self._modifiers), group_numbers(self._modifiers))

    def _complete_shared(self) -> None:
        """Makes the numbers of state that the policies need."""
        raise NotImplementedError

    def _still_served(self) -> bool:
        """Whether the same backend goes on; else the next step chooses one."""
        raise NotImplementedError

    @given
    def step_size(self) -> StepSize | None:
        """The step size policy."""
        return self._own._modifiers.step_size

    @given
    def skip(self) -> SkipSpikes | None:
        """What skips steps."""
        return self._own._modifiers.skip

    @given
    def extensions(self) -> tuple[Extension, ...]:
        """The extensions, in the order in which they act."""
        return self._own._modifiers.extensions

    @given
    def precision(self) -> Precision | None:
        """The precision policy."""
        return self._own._modifiers.precision

    @property
    def grad_norm(self) -> Tensor:
        """The norm that the last step measured, before clipping.

        The clip policy's norm; without one, for a rule that clips itself, the norm of the gradient as the rule sees it.
        A 0-dim tensor, or one norm per param group or per parameter when the policy's scope says so (0 for a parameter
        without a gradient). One per group, too, where a group has a clip policy of its own: groups without one show
        the norm that they share, and a group whose policy is None shows 0.

        Raises:
            RuntimeError: when nothing was measured.
        """
        return self._own._measurement("grad_norm")

    @property
    def clip_factor(self) -> Tensor:
        """What the last step's gradient was multiplied with, shaped as :attr:`grad_norm`.

        For a rule that clips itself, without a policy in front of it: the factor on lr times its direction; 1 over
        rows, where there are too many to report.

        Raises:
            RuntimeError: when nothing was measured.
        """
        return self._own._measurement("clip_factor")

    def set_grad_norm(self, norm: Tensor) -> None:
        """Gives the next step its norm, which it does not measure then: that of several optimizers, say.

        It is that of one step, whatever comes of it.

        Args:
            norm: one number, at least 0, of the gradients as the clip policy would measure them, without the scale of a
                GradScaler. A negative one on a GPU, which is not waited for, counts without its sign.

        Raises:
            TypeError, ValueError: for what is no such tensor.
            RuntimeError: where the clip policy does not take one norm of all parameters, and on a GPU's backends, which
                measure by themselves.

        Example:
            >>> import torch, torchclip
            >>> weight = torch.nn.Parameter(torch.zeros(2))
            >>> optimizer = torchclip.SGD([weight], lr=1.0, clip=1.0, backend="reference")
            >>> weight.grad = torch.tensor([3.0, 4.0])
            >>> optimizer.set_grad_norm(torch.tensor(10.0))
            >>> optimizer.step()
            >>> weight.detach()
            tensor([-0.3000, -0.4000])
        """
        own = self._own
        own._last.given_norm = checked_norm(norm, own._modifiers, own.backend)

    @property
    def step_was_skipped(self) -> bool:
        """Whether the last step was left out, with parameters and state as they were.

        For a norm that is not finite under ``nonfinite="skip"`` or ``"error"``, for what ``skip=`` has found, or for
        the scale of a GradScaler that has overflowed. On a GPU this waits for the device, which alone knows. False
        before the first step.
        """
        own = self._own
        return own._last.was_skipped(own._plan)

    def metrics(self) -> dict[str, Tensor]:
        """What the last step measured and counted, without waiting for the device.

        Returns:
            0-dim tensors, or one number per param group or per parameter where a norm is taken over those. Only what
            there is:

            ``grad_norm``, ``clip_factor``: as the attributes.
            ``direction_norm``: the norm of the direction that a rule measures itself.
            ``clipped_fraction``: the share of steps in which a clip factor was below 1, since the optimizer was made or
            loaded.
            ``clip_threshold``: the norm above which the next step is clipped, where a policy remembers past norms; one
            for each parameter under AdaGC. Infinite before there is one.
            ``skip_norm_threshold``, ``skip_loss_threshold``: the norm and the loss above which it is skipped.
            ``lr_scale``: the factor of the step size on the gradient; of ``PolyakStep``, the first param group's.
            ``skipped``, ``skipped_fraction``: 1 where the last step was not taken and 0 where it was, and the share of
            such steps since the optimizer was made or loaded; where ``skip=`` or a clip policy may skip steps.
            ``sparsity``: the fraction of parameters that are exactly zero. ``GRDA``, ``LinBreg`` and ``AdaBreg`` count
            them in a fused step; the others are counted in this call.

            Where processes hold parts of the parameters, each counts its own in this call: all have to make it.
        """
        own = self._own
        measured = dict(own._measured())
        if measured:
            measured |= thresholds(own._modifiers, numbers_of(own.param_groups[0]))
        return {name: own._as_tensor(value) for name, value in measured.items()} | {"sparsity": own._sparsity()}

    def log_metrics(self, writer: Any, step: int | None = None, prefix: str = "optimizer/") -> None:
        """Writes :meth:`metrics` to TensorBoard or Weights & Biases, and waits for the device once.

        All numbers come to the host in one transfer, which waits for the steps before it: call it every so many steps.
        A metric of several numbers, one for each param group or parameter, is written as ``name/min``, ``name/mean``
        and ``name/max``.

        Args:
            writer: has ``add_scalar(name, number, step)``, as TensorBoard's ``SummaryWriter``, or ``log(numbers,
                step=step)``, as a run of wandb and wandb itself.
            step: the number that the writer is told; None for the writer's own.
            prefix: of every name.

        Raises:
            TypeError: for another writer.
        """
        log(writer, on_host(self.metrics(), prefix), step)

    def __repr__(self) -> str:
        own = self._own
        return described(type(self).__name__, self.param_groups, own._modifiers, own._backend)

    def _as_tensor(self, value: Any) -> Tensor:
        leading = leading_parameter(self.param_groups)
        dtype = torch.float32 if leading is None else torch.promote_types(real_dtype(leading.dtype), torch.float32)
        if isinstance(value, Tensor):
            return value.to(dtype, copy=True)  # the next step writes into it
        return torch.as_tensor(value, dtype=dtype, device="cpu")  # whatever torch.set_default_device says

    def _named_parameters(self) -> Iterable[tuple[str, Tensor, dict[str, Any]]]:
        for group_index, group in enumerate(self.param_groups):
            for index, parameter in enumerate(group["params"]):
                yield describe_parameter(self.param_groups, group_index, index), parameter, group

    def _measurement(self, name: str) -> Tensor:
        measured = self._measured()
        if name in measured:
            return self._as_tensor(measured[name])
        if self._modifiers.measures or self.spec.clips_itself:
            raise RuntimeError("no norm was measured yet: call step() first, with gradients in place")
        raise RuntimeError(
            f"{type(self).__name__} measures no norm with clip={self._modifiers.clip}: pass clip=max_norm, "
            "or clip=torchclip.ClipByGlobalNorm(math.inf) to measure and clip nothing"
        )

    def _measured(self) -> Mapping[str, Any]:
        """What the last step measured: numbers and lists of them, or tensors."""
        if self._plan is not None:
            return self._plan.report()
        return {} if self._last.report is None else self._last.report.measured()

    def _sparsity(self) -> Tensor:
        """The fraction of parameters that are exactly zero."""
        written = self._plan.zeros if self._plan is not None else []
        return sparsity(self.param_groups, written, self._processes.parts(self))
