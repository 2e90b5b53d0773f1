"""gRDA for Keras 3, in Keras's own operations."""

from __future__ import annotations

import math
from collections.abc import Callable, Sequence
from typing import Any

import keras
from keras import ops

from torchclip.policies.numbers import checked_number

_NOT_TAKEN = ("weight_decay", "use_ema", "ema_momentum", "ema_overwrite_frequency")
"""Of Keras's own configuration: they would write parameters that the next step overwrites."""


@keras.saving.register_keras_serializable(package="torchclip")
class GRDA(keras.optimizers.Optimizer):
    r"""gRDA, generalised regularised dual averaging: trains a network and prunes it on the way.

    .. math::
        v_t = v_{t-1} - \eta_t\, g_t \quad (v_0 = p_0), \qquad
        l_t = l_{t-1} + c\, \eta_t^{\mu + 1/2} \left(t^\mu - (t-1)^\mu\right), \qquad
        p_t = \operatorname{sign}(v_t)\, \max(\lvert v_t \rvert - l_t, 0)

    It follows a learning-rate schedule step by step, as :class:`torchclip.GRDA` does. The authors' Keras code takes the
    sum over a constant rate in one formula, and is the same where the rate is constant. The accumulator :math:`v` and
    :math:`l` are float32 for half-precision variables.

    Args:
        learning_rate: :math:`\eta`, at least 0: a number or a Keras schedule.
        c: :math:`c`, finite and at least 0: how strongly parameters are drawn to zero; 0 is SGD.
        mu: :math:`\mu`, finite and above 0 (the paper takes 0.5 to 1): how the threshold grows with the steps.
        clipnorm: Keras's clip by the norm of each variable.
        clipvalue: Keras's clip of every number.
        global_clipnorm: Keras's clip by the norm over all variables.
        loss_scale_factor: Keras's factor on the loss, which gradients are divided by.
        gradient_accumulation_steps: how many batches make a step.
        name: of the optimizer.

    Raises:
        ValueError, TypeError: for ``c`` or ``mu`` out of range, and for what Keras refuses.

    Example::

        model.compile(optimizer=GRDA(learning_rate=0.1, c=0.005, mu=0.51), loss="sparse_categorical_crossentropy")
        model.fit(images, labels)
        print(model.optimizer.sparsity())

    Source: Chao, Wang, Xing, Cheng, Directional Pruning of Deep Neural Networks, NeurIPS 2020, arXiv 2006.09358.
    """

    def __init__(
        self,
        learning_rate: float | Callable[..., Any] = 0.01,
        c: float = 0.0,
        mu: float = 0.7,
        *,
        clipnorm: float | None = None,
        clipvalue: float | None = None,
        global_clipnorm: float | None = None,
        loss_scale_factor: float | None = None,
        gradient_accumulation_steps: int | None = None,
        name: str = "grda",
    ) -> None:
        c, mu = checked_number("c", c, least=0), checked_number("mu", mu, above=0)
        super().__init__(
            learning_rate=learning_rate,
            clipnorm=clipnorm,
            clipvalue=clipvalue,
            global_clipnorm=global_clipnorm,
            loss_scale_factor=loss_scale_factor,
            gradient_accumulation_steps=gradient_accumulation_steps,
            name=name,
        )
        self.c, self.mu = c, mu

    def build(self, variables: Sequence[Any]) -> None:
        """Makes the state: for each variable its accumulator, its threshold and its number of steps."""
        if self.built:
            return
        super().build(variables)
        self._accumulators: list[Any] = []
        self._thresholds: list[Any] = []
        self._steps: list[Any] = []
        for variable in variables:
            dtype = "float64" if keras.backend.standardize_dtype(variable.dtype) == "float64" else "float32"
            for state, shape, name in (
                (self._accumulators, variable.shape, "accumulator"),
                (self._thresholds, (), "l1"),
                (self._steps, (), "step"),
            ):
                state.append(self.add_variable(shape=shape, dtype=dtype, initializer="zeros", name=name))

    def update_step(self, gradient: Any, variable: Any, learning_rate: Any) -> None:
        """One step of a variable."""
        index = self._get_variable_index(variable)
        accumulator, threshold, steps = self._accumulators[index], self._thresholds[index], self._steps[index]
        dtype = accumulator.dtype
        lr, step = ops.cast(learning_rate, dtype), ops.add(steps, 1)
        start, kept = ops.cast(ops.convert_to_tensor(variable), dtype), ops.convert_to_tensor(accumulator)
        before = ops.where(ops.equal(step, 1), start, kept)
        moved = ops.subtract(before, ops.multiply(lr, ops.cast(gradient, dtype)))
        # t^mu - (t - 1)^mu, which in float32 would lose its digits after some thousand steps.
        growth = ops.power(step, self.mu) * -ops.expm1(self.mu * ops.log1p(-1 / step))
        drawn = ops.add(threshold, self.c * ops.power(lr, self.mu + 0.5) * growth)
        self.assign(steps, step)
        self.assign(accumulator, moved)
        self.assign(threshold, drawn)
        shrunk = ops.multiply(ops.sign(moved), ops.maximum(ops.subtract(ops.abs(moved), drawn), 0))
        self.assign(variable, ops.cast(shrunk, variable.dtype))

    def sparsity(self) -> float:
        """The fraction of the variables' numbers that are exactly zero, in [0, 1]; it waits for the device."""
        zeros: int = sum(int(ops.sum(ops.cast(ops.equal(each, 0), "int32"))) for each in self._trainable_variables)
        numbers: int = sum(math.prod(each.shape) for each in self._trainable_variables)
        return zeros / max(numbers, 1)

    def get_config(self) -> dict[str, Any]:
        """The arguments of the constructor."""
        kept = {key: value for key, value in super().get_config().items() if key not in _NOT_TAKEN}
        return {**kept, "c": self.c, "mu": self.mu}
