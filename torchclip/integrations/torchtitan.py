"""torchtitan: optimizers of torchclip in its container, and one norm for several of them."""

from __future__ import annotations

import inspect
from collections.abc import Callable
from typing import TYPE_CHECKING, Any

from torchclip.backends.choice import ON_DEVICE
from torchclip.clip_grad import get_total_norm
from torchclip.create import optimizer_class
from torchclip.step.fused_optimizer import FusedOptimizer

if TYPE_CHECKING:
    from torchtitan.components.optimizer import OptimizersContainer
else:
    OptimizersContainer = object

PREFIX = "torchclip."
"""In front of a class's name in ``ParamGroupConfig.optimizer_name``."""

_FLAGS = ("fused", "foreach")
"""What torchtitan sets in every param group for torch's classes: the backend here is the first that serves them."""


class FusedOptimizersMixin(OptimizersContainer):
    """Has torchtitan's container make optimizers of torchclip: named before the container among a class's bases.

    - ``optimizer_name="torchclip.AdamW"`` is the class, and ``optimizer_kwargs`` its hyperparameters.
    - ``optimizer_factory_kwargs_by_name={"torchclip.AdamW": {"clip": 1.0}}`` has what an optimizer has once.
    - Where a container holds several optimizers, for parts of a pipeline or for names, a ``clip`` goes by the norm over
      all of them. The CPU's kernels take it; on a GPU such a step runs on the reference path.

    ``training.max_norm`` of torchtitan is to be infinite, since it clips before the step.

    Raises:
        ValueError: in the constructor, for several optimizers that cannot share a norm: rules that take norms of their
            own, policies whose norm cannot be handed over, different policies, ``norm_group``, classes of torch beside
            those of torchclip. For a name that torchclip does not have, too.

    Example::

        class Optimizers(FusedOptimizersMixin, OptimizersContainer):
            @dataclass(kw_only=True, slots=True)
            class Config(OptimizersContainer.Config):
                pass

        config = Optimizers.Config(
            param_groups=[ParamGroupConfig(".*", "torchclip.AdamW", {"lr": 3e-4, "weight_decay": 0.1})],
            optimizer_factory_kwargs_by_name={"torchclip.AdamW": {"clip": 1.0}},
        )

    Source: ``torchtitan.components.optimizer.OptimizersContainer`` of torchtitan 0.3.
    """

    def __init__(self, config: Any, *, model_parts: Any) -> None:
        names = {group.optimizer_name for group in config.param_groups}
        self._is_several = len(names) * len(model_parts) > 1
        super().__init__(config, model_parts=model_parts)
        self._check_norms()

    def _resolve_optimizer_factory(self, name: str) -> Callable[..., Any]:
        if not name.startswith(PREFIX):
            made: Callable[..., Any] = super()._resolve_optimizer_factory(name)
            return made
        cls, _ = optimizer_class(name.removeprefix(PREFIX))

        def make(groups: list[dict[str, Any]], **options: Any) -> FusedOptimizer:
            own = [{key: value for key, value in group.items() if key not in _FLAGS} for group in groups]
            required = [each.name for each in inspect.signature(cls).parameters.values() if each.default is each.empty]
            given = {key: own[0][key] for key in required if key in own[0] and key != "params"}
            made = cls(own, **given, **options)
            # A GPU's backends measure in the step, and take no norm that is handed over.
            shares = self._is_several and made.clip is not None and options.get("backend") is None
            return cls(own, **given, **options, backend="reference") if shares and made.backend in ON_DEVICE else made

        return make

    def _check_norms(self) -> None:
        fused = [each for each in self.optimizers if isinstance(each, FusedOptimizer)]
        takes_norms = [each for each in fused if each.clip is not None or each.spec.clips_itself]
        if not self._is_several or not takes_norms:
            return
        first = takes_norms[0]
        if (
            len(fused) < len(self.optimizers)
            or any(each.clip != first.clip or each.spec.clips_itself for each in fused)
            or any(each._processes.norm_group is not None for each in fused)
        ):
            raise ValueError(
                f"{len(self.optimizers)} optimizers of one process share a norm, and these cannot: give every one the "
                "same clip, without norm_group, and take no rule that measures norms itself, or hold one optimizer in "
                "each process"
            )
        self._share_norm()  # without gradients: only whether the policy takes a norm that is handed over

    def step(self, closure: None = None) -> None:
        """One step of each, by one norm. Not the container's, around which torch may have put the hooks already."""
        if closure is not None:
            raise TypeError(f"torchtitan's container takes no closure, got {closure!r}: leave it out")
        if self._is_several and isinstance(self.optimizers[0], FusedOptimizer) and self.optimizers[0].clip is not None:
            self._share_norm()
        for optimizer in self.optimizers:
            optimizer.step()

    def _share_norm(self) -> None:
        params = [p for optimizer in self.optimizers for group in optimizer.param_groups for p in group["params"]]
        norm = get_total_norm([p.grad for p in params if p.grad is not None])
        for optimizer in self.optimizers:
            try:
                optimizer.set_grad_norm(norm)
            except RuntimeError as error:
                raise ValueError(f"several optimizers of one process share one norm: {error}") from error
