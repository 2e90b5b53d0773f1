"""The step that all optimizers share: closure, checks, the fused plan or the reference path, and its report."""

from __future__ import annotations

import sys
from collections import defaultdict
from collections.abc import Callable, Iterable, Mapping
from threading import Lock
from typing import Any, ClassVar, TypeVar, overload
from weakref import ref

import torch
from torch import Tensor
from torch._C import _current_graph_task_id
from torch.compiler import is_compiling, is_dynamo_compiling
from typing_extensions import Unpack

from torchclip.backends import choice, flags
from torchclip.backends.codes import NON_FINITE, STEPPED, UNREADY
from torchclip.backends.step_lock import claimed
from torchclip.distributed.device_flag import LeftOut
from torchclip.policies.adaptive_clip import AdaGC
from torchclip.policies.modifiers import Modifiers
from torchclip.policies.step_size import check_closure, checked_loss
from torchclip.rules.hyperparameters import Check
from torchclip.state.group_state import checked_seed, fit_bounds
from torchclip.state.group_values import GroupKeys
from torchclip.state.parameter_state import nonfinite_error, positions_of, without_unstarted
from torchclip.state.steppable import leading_device
from torchclip.step import torch_compile
from torchclip.step.add_param_group import check_params, checked_group
from torchclip.step.amp import asks_for_scaling_step, scaling_tensor
from torchclip.step.checkpoint import all_or_nothing, packed, unpacked, without_live
from torchclip.step.checkpoint_precision import with_bits_to_send
from torchclip.step.first_step import Pending, first_step, give_norm, leave_out, recorded, settle_when_idle
from torchclip.step.float32_values import ConvertedOptimizer
from torchclip.step.hooks import hook_step
from torchclip.step.in_backward import NO_BACKWARD, check_in_backward
from torchclip.step.many_processes import ManyProcesses
from torchclip.step.options import Options, check_known, show_options
from torchclip.step.reference_step import reference_step

ParamsT = Iterable[Tensor] | Iterable[dict[str, Any]] | Iterable[tuple[str, Tensor]]
Result = TypeVar("Result")


class FusedOptimizer(ConvertedOptimizer):
    """Abstract base of every optimizer here. A subclass is a signature, a docstring, and the attributes below. Its
    constructor takes the common arguments as ``**options: Unpack[Options]``: see :mod:`torchclip.step.options`.

    Attributes:
        spec: the update rule.
        hyperparameter_checks: for each key of a param group, the check of its value.
        fixed: what keys of a param group are in every optimizer of the class, whatever it loads.
    """

    hyperparameter_checks: ClassVar[Mapping[str, Check]]
    fixed: ClassVar[Mapping[str, Any]] = {}

    _pending: Pending | None = None

    @property
    def _step_supports_amp_scaling(self) -> bool:
        """Whether a step undoes the scale of a GradScaler: of one that is about to take it."""
        return asks_for_scaling_step(self._own, sys._getframe(1))

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        show_options(cls)

    def __init__(
        self,
        params: ParamsT,
        defaults: dict[str, Any],
        **options: Unpack[Options],
    ) -> None:
        self._itself = ref(self)
        check_known(type(self).__name__, options)
        backend = options.get("backend")
        check_params(params, type(self).__name__)
        self._keys = self._keys_of(defaults)
        self._keys.check(defaults, type(self).__name__)
        flags.check_flags(defaults, backend)
        if backend is not None:
            choice.unavailable_reason(backend)  # an unknown name, before anything else
        self._requested = backend
        self._lock = Lock()
        self._seed = checked_seed(options.get("seed"))
        self._processes = ManyProcesses(options.get("norm_group"), options.get("loss_group"))
        self._modifiers = Modifiers.of(
            options.get("clip"),
            options.get("step_size"),
            options.get("extensions"),
            options.get("skip"),
            options.get("precision"),
        )
        self._compose()
        self._forget_plan()
        super().__init__(self._processes.params(params, defaults), defaults)
        self._modifiers = self._modifiers.with_clips(self._modifiers.clip, self.param_groups)
        self._choose_backend()  # so that one that cannot run is an error of the constructor

    def _compose(self) -> None:
        """The rule with the state that scope and extensions ask for."""
        spec = type(self).spec.over(self.clips_by)
        reason = self._modifiers.reason_against(spec)
        if reason is not None:
            raise ValueError(reason)
        slot = self._modifiers.followers_slot
        self.spec = spec if slot is None else spec.with_slot(slot)
        if "_number" not in vars(self):
            self._number = torch_compile.register(self)

    def _keys_of(self, defaults: Mapping[str, Any]) -> GroupKeys:
        return GroupKeys.of(type(self).__name__, type(self).spec, self.hyperparameter_checks, defaults)

    # The step.

    @staticmethod
    def profile_hook_step(func: Callable[..., Any]) -> Callable[..., Any]:
        """Torch's name for what wraps ``step``: a subclass's own is not passed by."""
        return hook_step(func, FusedOptimizer._step if func is _STEP else func)

    @overload
    def step(self, closure: None = None, *, loss: Tensor | float | None = None) -> None: ...
    @overload
    def step(self, closure: Callable[[], Result], *, loss: Tensor | float | None = None) -> Result: ...
    def step(self, closure: Callable[[], Any] | None = None, *, loss: Tensor | float | None = None) -> Any:
        """Updates every parameter that has a gradient.

        Args:
            closure: re-evaluates the model and returns the loss; it runs with gradients enabled.
            loss: the loss, one number on the parameters' device, for ``AdaLossStep``, ``PolyakStep`` and
                ``SkipSpikes``, which take what the closure returned where this is None, and before that what
                :attr:`loss` was set to. Nothing else looks at it.

        Returns:
            What the closure returned, else None.

        Raises:
            RuntimeError: for a gradient that is sparse or does not fit its parameter, for a norm that is not finite
                under ``nonfinite="error"``, and within ``backward()`` for a norm over several parameters; while another
                step of this optimizer is being taken. Parameters and state are then as they were.
            TypeError, ValueError: for a closure that is no function; for no loss, or no scalar, where one is needed.
        """
        return self._step(closure, loss, is_compiling())

    def _step(
        self, closure: Callable[[], Any] | None = None, loss: Tensor | float | None = None, is_compiled: bool = False
    ) -> Any:
        result, handed, norm = None, self._last.given_loss, self._last.given_norm
        if handed is not None or norm is not None:
            self._last.given_loss = self._last.given_norm = None
        own = self._itself()
        if (self if own is None else own)._shows_averages:
            raise RuntimeError("step() was called within averaged(), where the parameters are averages: leave it first")
        if closure is not None:
            check_closure(closure, type(self).__name__)
            with torch.enable_grad():
                result = closure()
        # What breaks a graph may have left this one to be traced by itself, whoever has called it.
        is_compiled = is_compiled or is_dynamo_compiling()
        # A graph is never compiled within backward(); only the hooks of one step eagerly are.
        if not is_compiled and _current_graph_task_id() != NO_BACKWARD:
            check_in_backward(type(self).__name__, self._modifiers, self.spec, self.clips_by, self.param_groups)
        scaled_by, modifiers = None, self._modifiers
        if (modifiers.step_size is not None or modifiers.skip is not None) and modifiers.takes_loss:
            given = next((each for each in (loss, handed, result) if each is not None), None)
            if given is None and not any(group["lr"] for group in self.param_groups):
                # torch.distributed.checkpoint's step, which is there for the state that it makes
                given = getattr(modifiers.step_size, "c", 0.0)
            device = leading_device(self.param_groups)
            scaled_by = checked_loss(given, device, type(self).__name__, modifiers.needs_loss)
        grad_scale, found_inf = getattr(self, "grad_scale", None), getattr(self, "found_inf", None)
        if grad_scale is not None or found_inf is not None:
            grad_scale, found_inf = scaling_tensor(grad_scale), scaling_tensor(found_inf)
        if norm is not None:
            self._last.given_norm = norm
        if is_compiled:
            self._run_compiled(scaled_by, grad_scale, found_inf)
        else:
            try:
                self._run(scaled_by, grad_scale, found_inf)
            except LeftOut:
                leave_out(self)
        return result

    def _run(self, loss: Tensor | None, grad_scale: Tensor | None, found_inf: Tensor | None) -> None:
        backend = self._choose_backend() if self._backend is None else self._backend
        if backend == "reference":
            choice.say_what_is_missing(self._requested, self.param_groups)
            self._last.outcome = STEPPED
            with claimed(self._lock), recorded(self, None) as ledger:
                return reference_step(self, loss, grad_scale, found_inf, ledger)
        plan, outcome, norm = self._plan, UNREADY, self._last.given_norm
        if self._processes.known is not None:
            self._processes.look(self)
        mean = None if loss is None else self._processes.mean_loss(self, loss)
        if isinstance(self._modifiers.clip, AdaGC):
            fit_bounds(self.param_groups)
        if plan is not None and not self._unstarted and self._pending is None and not self._processes.has_told:
            try:
                if norm is not None:
                    give_norm(self, plan)
                outcome = plan.step(self.param_groups, self.state, grad_scale, found_inf, mean)
            except Exception:
                self._keys.read(self.param_groups)  # which says what is wrong in words
                raise
        if outcome == UNREADY:
            with claimed(self._lock):
                outcome = first_step(self, mean, grad_scale, found_inf)
            if outcome == UNREADY:  # for another backend
                return self._run(loss, grad_scale, found_inf)
        self._last.outcome, self._last.found_inf = outcome, found_inf
        if outcome == NON_FINITE:
            raise nonfinite_error(self._named_parameters(), self._modifiers.raising, norm)

    def _run_compiled(self, loss: Tensor | None, grad_scale: Tensor | None, found_inf: Tensor | None) -> None:
        backend = self._choose_backend() if self._backend is None else self._backend
        has_shards = self._processes.has_shards(self.param_groups)
        if has_shards:
            self._processes.check_compiled(self)
        # DTensor knows the operators of the reference path.
        if backend != "reference" and not has_shards:
            torch_compile.step(self, loss, grad_scale, found_inf)
        else:
            reference_step(self, loss, grad_scale, found_inf, None)

    # The constructor's and torch's hooks into the above.

    def add_param_group(self, param_group: dict[str, Any]) -> None:
        """Adds a param group, as :meth:`torch.optim.Optimizer.add_param_group`.

        Raises:
            ValueError: for a hyperparameter out of range, and for a parameter that is given twice.
            TypeError: for a parameter of a type that the rule does not take.
        """
        group = checked_group(param_group, self.param_groups, self._requested, self._keys, self._modifiers.precision)
        if isinstance(self.param_groups, tuple):
            self.param_groups = list(self.param_groups)  # which torch appends to
        super().add_param_group(group)
        if self._backend is None:  # the constructor's: it chooses once, at its end
            return
        before = self._modifiers
        try:
            self._modifiers = before.with_clips(before.clip, self.param_groups)
            self._choose_anew()
        except BaseException:
            self.param_groups.pop()
            self._modifiers = before
            self._choose_anew()
            raise

    def load_state_dict(self, state_dict: dict[str, Any]) -> None:
        """Loads a state dict of this class, of the ``torch.optim`` class of the same name, or of gRDA's authors."""
        with self._processes.loading(self), all_or_nothing(self):
            super().load_state_dict(state_dict)

    def state_dict(self) -> dict[str, Any]:
        """As :meth:`torch.optim.Optimizer.state_dict`, of steps that were taken: what skipped ones made is left out.

        So are clip policies and process groups, which are no state; those of param groups leave None in their place.
        """
        settle_when_idle(self)
        saved = self._keys.saved(super().state_dict())
        keys = positions_of(self._all_unstarted(), self.param_groups)
        state = with_bits_to_send(without_unstarted(self.spec, saved["state"], sorted(keys)))
        groups = [without_live(group) for group in saved["param_groups"]]
        return {**saved, "state": state, "param_groups": groups}

    def __setstate__(self, state: dict[str, Any]) -> None:
        has_flag = "differentiable" in {**vars(self), **state}["defaults"]
        super().__setstate__(unpacked(state))
        if not has_flag:
            del self.defaults["differentiable"]  # torch gives it to every class, and not every one here has it
        self.defaults.update(self.fixed)
        for group in self.param_groups:
            group.update(self.fixed)
            for key, value in self.defaults.items():
                group.setdefault(key, value)
        self._itself = ref(self)
        missing: dict[str, Any] = {"_requested": None, "_seed": None, "_modifiers": Modifiers()}
        missing |= {"_lock": Lock(), "_processes": ManyProcesses(None, None)}
        for name, default in missing.items():
            self.__dict__.setdefault(name, default)
        self._keys = self._keys_of(self.defaults)
        self._compose()
        self._plan, self._unstarted = None, []  # what they know of is replaced
        self._choose_anew()

    def __getstate__(self) -> dict[str, Any]:
        kept = ("_requested", "_seed", "_modifiers", "clips_by", "_processes")
        settle_when_idle(self)
        started = without_unstarted(self.spec, self.state, [parameter for parameter, _ in self._all_unstarted()])
        own = {name: vars(self)[name] for name in kept if name in vars(self)}
        return {**packed(super().__getstate__()), "state": defaultdict(dict, started), **own}


_STEP = FusedOptimizer.step
show_options(FusedOptimizer)
