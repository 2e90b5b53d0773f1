"""Hyperparameters and steps at which the coefficients of C++, Python and Triton are compared."""

from __future__ import annotations

from torchclip.rules.rule_spec import RuleSpec


def flat_names(rule: RuleSpec) -> list[str]:
    """The rule's hyperparameters as C++ has them: one number each."""
    return [name for key in rule.hyperparameters for name in (("beta1", "beta2") if key == "betas" else (key,))]


# Values inside, at the edge of, and beyond what the branches of the coefficient functions look at.
GRID: dict[str, tuple[float, ...]] = {
    "lr": (0.0, 1e-3, 0.5),
    "momentum": (0.0, 0.5, 0.999),
    "dampening": (0.0, 0.3),
    "nesterov": (0.0, 1.0),
    "beta1": (0.0, 0.9),
    "beta2": (0.0, 0.999),
    "eps": (0.0, 1e-8, 0.1),
    "amsgrad": (0.0, 1.0),
    "gamma": (0.1, 10.0),
    "nu": (0.0, 0.7, 1.0),
    "smooth": (0.0, 1.0),
    "momentum_decay": (0.0, 4e-3),
    "alpha": (0.0, 0.99),
    "centered": (0.0, 1.0),
    "lr_decay": (0.0, 0.1),
    "c": (0.0, 0.01),
    "lam": (0.0, 0.3),
    "delta": (0.5, 1.0),
    "mu": (0.3, 0.7, 1.0),
}
STEPS = (1.0, 2.0, 5.0, 7.0, 1000.0)  # at the fifth RAdam's rho is between 4 and 5, for beta2 = .999
