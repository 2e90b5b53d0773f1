"""Hugging Face's Trainer: norm, clipping and loss are the step's, in place of the Trainer's passes over gradients."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import torch
from torch import Tensor

from torchclip.step.fused_optimizer import FusedOptimizer

if TYPE_CHECKING:
    from transformers import Trainer
else:
    Trainer = object

_OVERRIDDEN = ("create_optimizer", "training_step", "_clip_grad_norm", "_get_grad_norm", "_maybe_log_save_evaluate")


class FusedTrainerMixin(Trainer):
    """Has a ``transformers.Trainer`` clip in the optimizer's step: named before the Trainer among a class's bases.

    - Gradients are clipped by the optimizer's ``clip``. Where it has none, nor a param group one of its own,
      ``TrainingArguments.max_grad_norm`` becomes its ``ClipByGlobalNorm(max_grad_norm)``; 0 leaves it without one.
    - ``grad_norm`` in the logs is what the step measured: for several norms, by group or tensor, the norm of those;
      without a clip policy it is left out. The Trainer's own pass over the gradients is not made.
    - The loss of an accumulated step, the sum of its parts, is handed to the step, for ``AdaLoss``.
    - Without ``lr`` in ``optimizer_cls_and_kwargs`` it is ``TrainingArguments.learning_rate``.

    With an optimizer that is not of torchclip the Trainer does what it always does.

    Raises:
        TypeError: where a class is made without a Trainer behind it that has the methods which this one replaces.

    Example::

        class Trainer(FusedTrainerMixin, transformers.Trainer):
            pass

        trainer = Trainer(model, args, train_dataset=data, optimizer_cls_and_kwargs=(torchclip.AdamW, {}))

    Source: the methods are those of transformers 5.24.
    """

    optimizer_cls_and_kwargs: tuple[type[torch.optim.Optimizer], dict[str, Any]] | None
    _loss_so_far: Tensor | None = None

    def __init_subclass__(cls, **kwargs: Any) -> None:
        super().__init_subclass__(**kwargs)
        after = cls.__mro__[cls.__mro__.index(FusedTrainerMixin) + 1 :]
        missing = [name for name in _OVERRIDDEN if not any(name in vars(base) for base in after)]
        if missing:
            raise TypeError(
                f"{cls.__name__} has no {', '.join(missing)} behind FusedTrainerMixin: name it before "
                "transformers.Trainer among the bases, of transformers>=5.24"
            )

    def create_optimizer(self, *arguments: Any, **options: Any) -> torch.optim.Optimizer:
        """The Trainer's, with the learning rate of its arguments where none is given."""
        given = self.optimizer_cls_and_kwargs
        if self.optimizer is None and given is not None:
            cls, kwargs = given
            if isinstance(cls, type) and issubclass(cls, FusedOptimizer):
                self.optimizer_cls_and_kwargs = (cls, {"lr": self.args.learning_rate, **kwargs})
        made: torch.optim.Optimizer = super().create_optimizer(*arguments, **options)
        return made

    def training_step(self, *arguments: Any, **options: Any) -> Tensor:
        """The Trainer's, whose loss goes to the step when the gradients of all its parts are there."""
        loss: Tensor = super().training_step(*arguments, **options)
        self._loss_so_far = loss if self._loss_so_far is None else self._loss_so_far + loss
        if self.accelerator.sync_gradients:
            own = _fused(self.optimizer)
            if own is not None:
                own.loss = self._loss_so_far
            self._loss_so_far = None
        return loss

    def _clip_grad_norm(self, model: Any) -> Any:
        own = _fused(self.optimizer)
        if own is None:
            return super()._clip_grad_norm(model)
        if own.clip is None and not any("clip" in group for group in own.param_groups):
            own.clip = self.args.max_grad_norm
        return None

    def _get_grad_norm(self, model: Any, grad_norm: Any = None) -> Any:
        return super()._get_grad_norm(model, grad_norm=grad_norm) if _fused(self.optimizer) is None else None

    def _maybe_log_save_evaluate(self, tr_loss: Tensor, grad_norm: Any, *arguments: Any, **options: Any) -> None:
        own = _fused(self.optimizer)
        if grad_norm is None and own is not None and self.control.should_log and "grad_norm" in own._measured():
            grad_norm = torch.linalg.vector_norm(own.grad_norm)
        super()._maybe_log_save_evaluate(tr_loss, grad_norm, *arguments, **options)


def _fused(optimizer: Any) -> FusedOptimizer | None:
    """The optimizer within Accelerate's wrapper, where it is one of torchclip's."""
    while optimizer is not None and not isinstance(optimizer, FusedOptimizer):
        optimizer = getattr(optimizer, "optimizer", None)
    return optimizer
