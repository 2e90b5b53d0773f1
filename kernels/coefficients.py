"""From the numbers of a param group and the norms of a step to what a rule's update multiplies with.

One function for each rule, the counterpart of ``coefficients`` in ``csrc/rules/<rule>.h``: blocks of float64, one
number for each row of coefficients. ``h`` holds lr and the rule's other hyperparameters in the order of the C++ struct,
``scalars`` its numbers of state before the step. Returned are eight coefficients in the order of the family's function
in ``rules``, 0 where it has fewer, and the numbers of state after the step.
"""

from __future__ import annotations

import triton
import triton.language as tl

from .numbers import power, whole_power

HARD_EPS = tl.constexpr(1e-6)  # added to a norm by torch.nn.utils.clip_grad_norm_
ROW_EPS = tl.constexpr(1e-10)  # added to the root of a row's sum by AdaGradNorm's authors
NADAM_BASE = tl.constexpr(0.96)


@triton.jit
def coefficients(finish: tl.constexpr, h, scalars, first, norms):
    """Of the rule ``finish.rule``, its name in csrc/rules/registry.h: the one place that lists them.

    Args:
        finish: what the kernel is compiled for.
        h: a tuple of eight.
        scalars: a tuple of two.
        first: whether the state was made in this step.
        norms: of rules that clip themselves: of the gradient as the rule sees it, of its direction, and
            1 / sqrt(sum of the squared norms of all steps).
    """
    if finish.rule == "sgd":
        return sgd(h, first), scalars
    elif finish.rule == "normalized_sgd":
        return normalized_sgd(h, norms), scalars
    elif finish.rule == "mix_clip":
        return mix_clip(h, norms), scalars
    elif finish.rule == "adam":
        return adam(h, scalars)
    elif finish.rule == "nadam":
        return nadam(h, scalars)
    elif finish.rule == "radam":
        return radam(h, scalars)
    elif finish.rule == "rmsprop":
        return rmsprop(h, scalars)
    elif finish.rule == "adagrad":
        return adagrad(h, scalars)
    elif finish.rule == "adagrad_norm":
        return adagrad_norm(h, norms), scalars
    else:
        tl.static_assert(finish.rule == "grda")
        return grda(h, scalars)


@triton.jit
def direction_factor(finish: tl.constexpr, h, norms):
    """The factor on lr times the direction of a rule that clips itself."""
    if finish.rule == "normalized_sgd":
        return normalized_factor(h, norms)
    elif finish.rule == "mix_clip":
        return mix_clip_factor(h, norms)
    else:
        tl.static_assert(finish.rule == "adagrad_norm")
        _, _, root_factor = norms
        return root_factor


@triton.jit
def clipped_step_factor(norm, lr, gamma, smooth):
    """h(norm) / lr of Zhang et al. 2020: 1 / (1 + lr norm / gamma), or min(1, gamma / (lr norm)); 1 for a norm of 0."""
    ratio = lr * norm / gamma
    hard = tl.where(ratio <= 1.0, 1.0, 1.0 / ratio)
    return tl.where(smooth != 0, 1.0 / (1.0 + ratio), hard)


@triton.jit
def momentum_coefficients(momentum, gradient_weight, momentum_step, gradient_step):
    zero = tl.zeros_like(momentum)
    return momentum, gradient_weight, momentum_step, gradient_step, zero + ROW_EPS, zero, zero, zero


@triton.jit
def averaged_momentum(momentum, momentum_step, gradient_step):
    """An average of gradients has weight 1 - momentum; without a buffer both steps fall on the gradient."""
    none = momentum == 0
    return momentum_coefficients(
        momentum,
        1.0 - momentum,
        tl.where(none, 0.0, momentum_step),
        tl.where(none, momentum_step + gradient_step, gradient_step),
    )


@triton.jit
def sgd(h, first):
    """m <- g at first, then momentum m + (1 - dampening) g;  p <- p - lr m, or p - lr (g + momentum m)"""
    lr, momentum, dampening, nesterov, _, _, _, _ = h
    none = momentum == 0
    return momentum_coefficients(
        tl.where(first, 0.0, momentum),
        tl.where(first | none, 1.0, 1.0 - dampening),
        tl.where(none, 0.0, tl.where(nesterov != 0, lr * momentum, lr)),
        tl.where(none | (nesterov != 0), lr, 0.0),
    )


@triton.jit
def normalized_factor(h, norms):
    """1 / (|m| + eps); with eps = 0 a zero direction stays a zero step."""
    _, _, eps, _, _, _, _, _ = h
    _, direction_norm, _ = norms
    length = direction_norm + eps
    return tl.where(length == 0, 1.0, 1.0 / length)


@triton.jit
def normalized_sgd(h, norms):
    """p <- p - lr m / (|m| + eps)"""
    lr, momentum, _, _, _, _, _, _ = h
    return averaged_momentum(momentum, lr * normalized_factor(h, norms), tl.zeros_like(lr))


@triton.jit
def mix_clip_factor(h, norms):
    """h(|m|) / lr"""
    lr, _, gamma, _, smooth, _, _, _ = h
    _, direction_norm, _ = norms
    return clipped_step_factor(direction_norm, lr, gamma, smooth)


@triton.jit
def mix_clip(h, norms):
    """p <- p - nu h(|m|) m - (1 - nu) h(|g|) g"""
    lr, momentum, gamma, nu, smooth, _, _, _ = h
    gradient_norm, _, _ = norms
    gradient_factor = clipped_step_factor(gradient_norm, lr, gamma, smooth)
    # At nu = 1 the gradient term is left out: 0 times an infinite norm's factor must not reach the parameters.
    gradient_step = tl.where(nu == 1.0, 0.0, (1.0 - nu) * lr * gradient_factor)
    return averaged_momentum(momentum, nu * lr * mix_clip_factor(h, norms), gradient_step)


@triton.jit
def adam(h, scalars):
    """p <- p - lr / (1 - beta1^t) m / (sqrt(v) / sqrt(1 - beta2^t) + eps)"""
    lr, beta1, beta2, eps, _, _, _, _ = h
    step, unused = scalars
    step = step + 1.0
    root_scale = 1.0 / tl.sqrt(1.0 - whole_power(beta2, step))
    momentum_step = lr / (1.0 - whole_power(beta1, step))
    zero = tl.zeros_like(lr)
    return (beta1, 1.0 - beta1, beta2, 1.0 - beta2, momentum_step, zero, root_scale, eps), (step, unused)


@triton.jit
def nadam(h, scalars):
    """mu_t = beta1 (1 - 0.96^(t momentum_decay) / 2)
    p <- p - lr (mu_(t+1) m / (1 - mu_product_(t+1)) + (1 - mu_t) g / (1 - mu_product_t))
             / (sqrt(v / (1 - beta2^t)) + eps)
    """
    lr, beta1, beta2, eps, momentum_decay, _, _, _ = h
    step, mu_product = scalars
    step = step + 1.0
    base = tl.zeros_like(lr) + NADAM_BASE
    momentum = beta1 * (1.0 - 0.5 * power(base, step * momentum_decay))
    following = beta1 * (1.0 - 0.5 * power(base, (step + 1.0) * momentum_decay))
    mu_product = mu_product * momentum
    momentum_step = lr * following / (1.0 - mu_product * following)
    gradient_step = lr * (1.0 - momentum) / (1.0 - mu_product)
    root_scale = 1.0 / tl.sqrt(1.0 - whole_power(beta2, step))
    return (beta1, 1.0 - beta1, beta2, 1.0 - beta2, momentum_step, gradient_step, root_scale, eps), (step, mu_product)


@triton.jit
def radam(h, scalars):
    """rho_t = rho_inf - 2 t beta2^t / (1 - beta2^t);  Adam times r_t where rho_t > 5, momentum alone before"""
    lr, beta1, beta2, eps, _, _, _, _ = h
    step, unused = scalars
    step = step + 1.0
    power2 = whole_power(beta2, step)
    correction2 = 1.0 - power2
    rho_inf = 2.0 / (1.0 - beta2) - 1.0
    rho = rho_inf - 2.0 * step * power2 / correction2
    rectified = rho > 5.0
    known = tl.where(rectified, rho, 6.0)  # of which the root below is real
    ratio = (known - 4.0) * (known - 2.0) * rho_inf / ((rho_inf - 4.0) * (rho_inf - 2.0) * known)
    rectification = tl.sqrt(tl.where(rectified, ratio, 1.0)) * tl.sqrt(correction2)
    momentum_step = lr / (1.0 - whole_power(beta1, step)) * tl.where(rectified, rectification, 1.0)
    zero = tl.zeros_like(lr)
    root_scale = tl.where(rectified, 1.0, zero)
    root_offset = tl.where(rectified, eps, 1.0)
    return (beta1, 1.0 - beta1, beta2, 1.0 - beta2, momentum_step, zero, root_scale, root_offset), (step, unused)


@triton.jit
def rmsprop(h, scalars):
    """s <- alpha s + (1 - alpha) g^2"""
    lr, alpha, eps, momentum, _, _, _, _ = h
    step, unused = scalars
    zero = tl.zeros_like(lr)
    return (alpha, 1.0 - alpha, momentum, lr, eps, zero, zero, zero), (step + 1.0, unused)


@triton.jit
def adagrad(h, scalars):
    """p <- p - lr / (1 + (t - 1) lr_decay) g / (sqrt(sum) + eps)"""
    lr, lr_decay, eps, _, _, _, _, _ = h
    step, unused = scalars
    zero = tl.zeros_like(lr)
    one = zero + 1.0
    # As many steps as were taken before this one: t - 1.
    return (one, one, zero, lr / (1.0 + step * lr_decay), eps, zero, zero, zero), (step + 1.0, unused)


@triton.jit
def adagrad_norm(h, norms):
    """p <- p - lr m / sqrt(s)"""
    lr, momentum, _, _, _, _, _, _ = h
    _, _, root_factor = norms
    return averaged_momentum(momentum, lr * root_factor, tl.zeros_like(lr))


@triton.jit
def grda(h, scalars):
    """l1 <- l1 + c lr^(mu + 1/2) (t^mu - (t - 1)^mu)"""
    lr, c, mu, _, _, _, _, _ = h
    step, l1 = scalars
    growth = power(step + 1.0, mu) - power(step, mu)
    l1 = l1 + c * power(lr, mu + 0.5) * growth
    zero = tl.zeros_like(lr)
    return (lr, l1, zero, zero, zero, zero, zero, zero), (step + 1.0, l1)
