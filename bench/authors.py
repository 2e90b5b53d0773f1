"""The papers' own optimizers as their authors run them: a torch loop over tensors, one operation at a time.

They keep what costs the originals their speed: a Python loop per tensor, a temporary per operation, a host
synchronisation per norm. Formulas: MixClip is Algorithm 1 of Zhang, Jin, Fang and Wang (NeurIPS 2020, arXiv 2010.02519)
with the smooth clipping of their code; gRDA is Chao, Wang, Xing and Cheng (NeurIPS 2020, Directional Pruning).
"""

import math
from collections.abc import Iterable

import torch
from torch import Tensor
from torch.optim import Optimizer


def _sum_of_squares(tensors: Iterable[Tensor]) -> Tensor:
    total = torch.zeros(())
    for tensor in tensors:
        flat = tensor.view(-1)
        total = total + flat.dot(flat)
    return total


class AuthorsMixClip(Optimizer):
    """m ← β m + (1 − β) g;  p ← p − ν h(‖m‖) m − (1 − ν) h(‖g‖) g;  h(r) = lr / (1 + lr·r/γ); norms per group.

    Each of the sums over tensors is a sweep of its own, and `math.sqrt` of a tensor waits for it on the host.
    """

    def __init__(
        self, params: Iterable[Tensor], lr: float, gamma: float, momentum: float = 0.999, nu: float = 0.7
    ) -> None:
        super().__init__(params, {"lr": lr, "gamma": gamma, "momentum": momentum, "nu": nu})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]  # the benchmark has no closures
        for group in self.param_groups:
            lr, gamma, beta, nu = group["lr"], group["gamma"], group["momentum"], group["nu"]
            params = [p for p in group["params"] if p.grad is not None]
            buffers = []
            for p in params:
                state = self.state[p]
                if "momentum_buffer" not in state:
                    state["momentum_buffer"] = torch.zeros_like(p)
                buffers.append(state["momentum_buffer"].mul_(beta).add_(p.grad, alpha=1 - beta))
            momentum_norm = math.sqrt(_sum_of_squares(buffers))
            grad_norm = math.sqrt(_sum_of_squares(p.grad for p in params))
            momentum_step = lr * nu / (1 + lr * momentum_norm / gamma)
            grad_step = lr * (1 - nu) / (1 + lr * grad_norm / gamma)
            for p, buffer in zip(params, buffers, strict=True):
                p.data.add_(buffer, alpha=-momentum_step)
                p.data.add_(p.grad, alpha=-grad_step)


class AuthorsGRDA(Optimizer):
    """a ← a − lr g;  l1 ← l1 + c lr^(μ+1/2) (t^μ − (t−1)^μ);  p ← sign(a) max(|a| − l1, 0), a new tensor each step."""

    def __init__(self, params: Iterable[Tensor], lr: float = 0.01, c: float = 0.0, mu: float = 0.7) -> None:
        super().__init__(params, {"lr": lr, "c": c, "mu": mu})

    @torch.no_grad()
    def step(self) -> None:  # type: ignore[override]  # the benchmark has no closures
        for group in self.param_groups:
            lr, c, mu = group["lr"], group["c"], group["mu"]
            for p in group["params"]:
                if p.grad is None:
                    continue
                state = self.state[p]
                if "accumulator" not in state:
                    state["step"] = torch.zeros((), dtype=p.dtype)
                    state["l1"] = torch.zeros((), dtype=p.dtype)
                    state["accumulator"] = p.detach().clone()
                step, accumulator = state["step"].add_(1), state["accumulator"]
                accumulator.add_(p.grad, alpha=-lr)
                growth = torch.pow(step, mu) - torch.pow(step - 1, mu)
                state["l1"] += c * torch.pow(torch.tensor(lr, dtype=p.dtype), mu + 0.5) * growth
                shrunk = torch.abs(accumulator) - state["l1"]
                p.data = torch.sign(accumulator) * shrunk.clamp(min=0)
