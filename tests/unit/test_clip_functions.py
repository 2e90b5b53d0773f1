"""clip_grad_norm_ and get_total_norm against torch.nn.utils', and where they are better."""

from __future__ import annotations

import math
from typing import Any

import pytest
import torch
from torch import Tensor

import torchclip
from memory_guard import Guarded, largest_allocation, same_bits
from records import DTYPES, dtype_name
from torchclip.backends.choice import unavailable_reason
from torchclip.policies.clip import HARD_EPS

SHAPES = ((), (1,), (0,), (37,), (5, 7), (2, 3, 4, 5), (70_001,))
# 1, 2 and infinity have code of their own; 3 and 0.5 stand for every other order.
NORM_TYPES = (1.0, 2, 2.0, 3.0, 0.5, math.inf)


@pytest.fixture(params=["compiled", "torch"], autouse=True)
def implementation(request: pytest.FixtureRequest, monkeypatch: pytest.MonkeyPatch) -> str:
    """The compiled passes, and what runs in an install without them."""
    if request.param == "torch":
        monkeypatch.setattr("torchclip.backends.native.NATIVE", None)
    elif unavailable_reason("cpu") is not None:
        pytest.skip(f"no compiled extension: {unavailable_reason('cpu')}")
    return request.param


each_dtype = pytest.mark.parametrize("dtype", DTYPES, ids=dtype_name)
each_norm_type = pytest.mark.parametrize("norm_type", NORM_TYPES)


def parameters(dtype: torch.dtype, scale: float = 1.0) -> list[torch.nn.Parameter]:
    """Parameters with gradients, and one without."""
    generator = torch.Generator().manual_seed(3)
    params = [torch.nn.Parameter(torch.zeros(shape, dtype=dtype)) for shape in (*SHAPES, (3,))]
    for p in params[:-1]:
        p.grad = (torch.randn(p.shape, generator=generator) * scale).to(dtype)
    return params


def gradients(params: list[torch.nn.Parameter]) -> list[Tensor]:
    """Those there are."""
    return [p.grad for p in params if p.grad is not None]


def exact_norm(grads: list[Tensor], norm_type: float) -> Tensor:
    """The norm of the elements, summed exactly."""
    sizes = torch.cat([g.double().abs().flatten() for g in grads]).tolist()
    norm = max(sizes) if norm_type == math.inf else math.fsum(size**norm_type for size in sizes) ** (1 / norm_type)
    return torch.tensor(norm, dtype=torch.float64)


def check_norm(value: Tensor, grads: list[Tensor], norm_type: float) -> None:
    """Twice torch's own error on these gradients in the type of the result is allowed, and four roundings.

    Empty gradients are for us alone: they have no infinity norm in torch, which raises.
    """
    exact = exact_norm(grads, norm_type)
    torchs = torch.nn.utils.get_total_norm([g.to(value.dtype) for g in grads if g.numel()], norm_type)
    allowed = 2 * float((torchs.double() - exact).abs() / exact) + 4 * torch.finfo(value.dtype).eps
    torch.testing.assert_close(value.double(), exact, rtol=allowed, atol=0.0)


@each_norm_type
@each_dtype
def test_total_norm(dtype: torch.dtype, norm_type: float) -> None:
    grads = gradients(parameters(dtype, scale=0.01))
    norm = torchclip.get_total_norm(grads, norm_type)
    assert norm.shape == ()
    assert norm.dtype == torch.promote_types(dtype, torch.float32)
    check_norm(norm, grads, norm_type)


@each_norm_type
@each_dtype
@pytest.mark.parametrize("share", [0.25, 4.0], ids=["clips", "leaves alone"])
def test_clips_as_torch_does(dtype: torch.dtype, norm_type: float, share: float) -> None:
    ours, theirs, exact = (parameters(dtype, scale=0.01) for _ in range(3))
    norm = float(exact_norm(gradients(exact), norm_type))
    bound = share * norm
    total = torchclip.clip_grad_norm_(ours, bound, norm_type)
    expected = torch.nn.utils.clip_grad_norm_([p for p in theirs if p.numel()], bound, norm_type)
    check_norm(total, gradients(exact), norm_type)
    for p, q, r in zip(ours, theirs, exact):
        if r.grad is None:
            assert p.grad is None
            continue
        # Both round the scaled gradient once; torch also rounds its factor to the dtype.
        factor = min(1.0, bound / (norm + HARD_EPS))
        torch.testing.assert_close(p.grad.double(), r.grad.double() * factor, rtol=2 * _eps(dtype), atol=1e-7)
        if expected.isfinite():  # torch's norms of order 1/2 leave the range of float16
            torch.testing.assert_close(p.grad, q.grad, rtol=4 * _eps(dtype), atol=1e-7)


def _eps(dtype: torch.dtype) -> float:
    return max(torch.finfo(dtype).eps, 32 * torch.finfo(torch.promote_types(dtype, torch.float32)).eps)


def test_gradients_are_scaled_in_place() -> None:
    params = parameters(torch.float32)
    grads = [p.grad for p in params]
    versions = [g._version for g in grads if g is not None]
    torchclip.clip_grad_norm_(params, 0.1)
    assert all(p.grad is g for p, g in zip(params, grads))
    assert all(g._version > v for g, v in zip((g for g in grads if g is not None), versions))


def test_gradients_with_gaps_are_clipped_and_neighbours_left_alone() -> None:
    values = torch.randn(6, 10)
    guards = [Guarded.of(values, (16, 1)), Guarded.of(values, (1, 7)), Guarded.of(values[0], (3,), offset=1)]
    params = [torch.nn.Parameter(torch.zeros(guard.view.shape)) for guard in guards]
    originals = [guard.view.clone() for guard in guards]
    for param, guard in zip(params, guards):
        param.grad = guard.view
    exact = exact_norm(originals, 2.0)
    total = torchclip.clip_grad_norm_(params, 1.0)
    torch.testing.assert_close(total.double(), exact, rtol=1e-6, atol=0.0)
    for guard, original in zip(guards, originals):
        guard.check("gradient")
        torch.testing.assert_close(guard.view.double(), original.double() / (exact + 1e-6), rtol=1e-5, atol=1e-8)


def test_gradients_of_several_dtypes_have_one_norm() -> None:
    params = [p for dtype in DTYPES for p in parameters(dtype)]
    exact = exact_norm(gradients(params), 2.0)
    total = torchclip.clip_grad_norm_(params, 1.0)
    torch.testing.assert_close(total.double(), exact, rtol=1e-2, atol=0.0)
    after = exact_norm(gradients(params), 2.0)
    torch.testing.assert_close(after, torch.ones_like(after), rtol=1e-2, atol=0.0)


@each_norm_type
@pytest.mark.parametrize("dtype", (torch.complex64, torch.complex128), ids=dtype_name)
def test_complex_gradients(dtype: torch.dtype, norm_type: float) -> None:
    """Norms are of magnitudes; a lazily conjugated gradient is not read, or written, as what lies in memory."""
    values = torch.randn(6, 10, dtype=dtype)
    guards = [Guarded.of(values, (16, 1)), Guarded.of(values, (1, 7)), Guarded.of(values[0], (3,), offset=1)]
    real = torch.randn(5)
    grads = [*(guard.view for guard in guards), values.clone().conj(), real.clone()]
    params = [torch.nn.Parameter(torch.zeros_like(grad)) for grad in grads]
    for grads_now in (grads[:3], grads):  # of memory that can be read, and with one that cannot
        for param, grad in zip(params, grads_now):
            param.grad = grad
        originals = [grad.clone() for grad in grads_now]
        expected = torch.nn.utils.get_total_norm(originals, norm_type)
        total = torchclip.clip_grad_norm_(params, 0.25 * float(expected), norm_type)
        assert total.dtype == expected.dtype
        close = {"rtol": 1e-5, "atol": 0.0} if dtype is torch.complex64 else {"rtol": 1e-6, "atol": 0.0}
        torch.testing.assert_close(total, expected, **close)
        for param, original in zip(params, originals):
            torch.testing.assert_close(param.grad, (0.25 * original).to(original.dtype), rtol=1e-4, atol=1e-7)
    for guard in guards:
        guard.check("gradient")


def test_an_expanded_gradient_is_counted_whole() -> None:
    param = torch.nn.Parameter(torch.zeros(4, 9))
    param.grad = torch.ones(1, 9).expand(4, 9)
    torch.testing.assert_close(torchclip.get_total_norm([param.grad]), torch.tensor(6.0))


def test_a_single_tensor_a_generator_and_nothing() -> None:
    param = torch.nn.Parameter(torch.zeros(4))
    param.grad = torch.full((4,), 2.0)
    torch.testing.assert_close(torchclip.get_total_norm(param.grad), torch.tensor(4.0))
    torch.testing.assert_close(torchclip.clip_grad_norm_(param, 2.0), torch.tensor(4.0))
    torch.testing.assert_close(torchclip.clip_grad_norm_((p for p in [param]), 1.0), torch.tensor(2.0))
    torch.testing.assert_close(param.grad, torch.full((4,), 0.5))
    for nothing in ([], iter(()), [torch.nn.Parameter(torch.zeros(3))]):
        assert torchclip.clip_grad_norm_(nothing, 1.0).item() == 0.0
    assert torchclip.get_total_norm([]).item() == 0.0


# foreach has no say: there is one implementation. The argument is there because torch has it.
@pytest.mark.parametrize("foreach", [None, True, False])
def test_foreach_is_accepted(foreach: bool | None) -> None:
    params = parameters(torch.float32)
    originals = [g.clone() for g in gradients(params)]
    check_norm(torchclip.get_total_norm(originals, foreach=foreach), originals, 2.0)
    check_norm(torchclip.clip_grad_norm_(params, 1.0, foreach=foreach), originals, 2.0)


@pytest.mark.parametrize("value", [math.nan, math.inf, -math.inf])
@pytest.mark.parametrize("norm_type", [1.0, 2.0, 3.0, math.inf])
def test_error_if_nonfinite(value: float, norm_type: float) -> None:
    ours, theirs = parameters(torch.float32), parameters(torch.float32)
    for params in (ours, theirs):
        params[-2].grad[5] = value
    originals = [None if p.grad is None else p.grad.clone() for p in ours]
    with pytest.raises(RuntimeError, match="non-finite.*error_if_nonfinite=False"):
        torchclip.clip_grad_norm_(ours, 1.0, norm_type, error_if_nonfinite=True)
    with pytest.raises(RuntimeError, match="non-finite.*error_if_nonfinite=False"):
        torchclip.get_total_norm(gradients(ours), norm_type, error_if_nonfinite=True)
    assert all(g is None or same_bits(p.grad, g) for p, g in zip(ours, originals))
    total = torchclip.clip_grad_norm_(ours, 1.0, norm_type)
    expected = torch.nn.utils.clip_grad_norm_([p for p in theirs if p.numel()], 1.0, norm_type)
    torch.testing.assert_close(total, expected, equal_nan=True)
    for p, q in zip(ours[:-1], theirs[:-1]):
        torch.testing.assert_close(p.grad, q.grad, equal_nan=True)


def test_float16_norm_beyond_its_range() -> None:
    """torch returns inf and writes zeros."""
    param = torch.nn.Parameter(torch.zeros(10_000, dtype=torch.float16))
    param.grad = torch.full_like(param, 60_000.0)  # norm 6,000,000
    total = torchclip.clip_grad_norm_([param], 600.0)
    torch.testing.assert_close(total.double(), torch.tensor(6e6, dtype=torch.float64), rtol=1e-4, atol=0.0)
    torch.testing.assert_close(param.grad, torch.full_like(param, 6.0))


def test_a_tensor_may_be_the_bound() -> None:
    params = parameters(torch.float32)
    torchclip.clip_grad_norm_(params, torch.tensor(1.0))
    after = exact_norm(gradients(params), 2.0)
    torch.testing.assert_close(after, torch.ones_like(after), rtol=1e-5, atol=0.0)


@pytest.mark.parametrize("max_norm", [-1.0, math.nan])
def test_a_bound_that_is_none(max_norm: float) -> None:
    params = parameters(torch.float32)
    originals = [None if p.grad is None else p.grad.clone() for p in params]
    with pytest.raises(ValueError, match="Invalid max_norm"):
        torchclip.clip_grad_norm_(params, max_norm)
    assert all(g is None or same_bits(p.grad, g) for p, g in zip(params, originals))


def test_no_gradient_is_copied(implementation: str) -> None:
    if implementation == "torch":
        pytest.skip("torch makes copies")
    param = torch.nn.Parameter(torch.zeros(100_000))
    param.grad = torch.ones_like(param)
    assert largest_allocation(lambda: param.grad.clone()) == 400_000
    assert largest_allocation(lambda: torchclip.clip_grad_norm_([param], 1.0)) < 400_000


@pytest.mark.parametrize("value", [None, "large", [1.0, 2.0], torch.ones(2)], ids=["none", "text", "list", "tensor"])
def test_the_clip_functions_name_what_is_no_number(value: Any) -> None:
    params = [torch.nn.Parameter(torch.ones(2))]
    with pytest.raises(TypeError, match=r"^max_norm=.* must be a number, got \w+: math\.inf clips nothing"):
        torchclip.clip_grad_norm_(params, value)
    for call in (torchclip.get_total_norm, lambda params, order: torchclip.clip_grad_norm_(params, 1.0, order)):
        with pytest.raises(TypeError, match=r"^norm_type=.* must be a number, got \w+: 2\.0 is the Euclidean norm"):
            call(params, value)
