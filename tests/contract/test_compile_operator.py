"""``torchclip::step``, the operator that a compiled graph calls for the step of a fused backend."""

from __future__ import annotations

import gc

import pytest
import torch
from torch import Tensor

import torchclip
from builders import build, copies_of, draw_gradients, leaves
from memory_guard import same_bits
from torchclip.distributed.device_flag import LeftOut
from torchclip.step import torch_compile as compiled

pytestmark = pytest.mark.usefixtures("forget_graphs")


def fused(backend: str) -> str:
    if backend == "reference":
        pytest.skip("the reference path is traced, and calls no operator of ours")
    return backend


def arguments(optimizer: torch.optim.Optimizer, params: list[torch.nn.Parameter]) -> tuple[object, ...]:
    """Those of the operator for a step of all parameters, as plain tensors."""
    shared = optimizer.param_groups[0].get("shared", {})
    held = [*shared.values(), *(value for p in params for value in optimizer.state[p].values())]
    grads = [p.grad for p in params]
    return optimizer._number, list(range(len(params))), [p.detach() for p in params], grads, held, None, None, None


@pytest.mark.parametrize("name", ["sgd", "adamw", "mix_clip", "grda", "ada_grad_norm"])
def test_opcheck(name: str, backend: str) -> None:
    params = leaves(4)
    extensions = () if name == "grda" else (torchclip.Lookahead(k=2),)
    optimizer = build(name, params, extensions=extensions, backend=fused(backend))
    optimizer.step()  # once there is state, the results depend on the arguments alone
    torch.library.opcheck(torch.ops.torchclip.step.default, arguments(optimizer, params))


def test_values_handed_over_in_copies(backend: str) -> None:
    """The step is that of the copies, and is written to them; the optimizer's own tensors stay."""
    params = leaves()
    others = copies_of(params)
    optimizer, expected = (build("adam", group, backend=fused(backend)) for group in (params, others))
    for each in (optimizer, expected):
        each.step()
    before = [p.detach().clone() for p in params]
    state_before = [value.clone() for p in params for value in optimizer.state[p].values()]
    number, positions, values, grads, held, *rest = arguments(optimizer, params)
    copies = [value.clone() for value in values]
    states = [value.clone() for value in held]
    torch.ops.torchclip.step(number, positions, copies, grads, states, *rest)
    expected.step()
    assert all(same_bits(p, b) for p, b in zip(params, before))
    assert all(same_bits(value, b) for value, b in zip(held, state_before))
    assert all(same_bits(copy, p) for copy, p in zip(copies, others))
    assert all(same_bits(s, v) for s, v in zip(states, (v for p in others for v in expected.state[p].values())))
    optimizer.step()
    assert all(same_bits(p, q) for p, q in zip(params, others))


def test_lent_gradients_are_handed_back(backend: str) -> None:
    """The step is that of the gradients it is given; what the parameters had is theirs again, after an error too."""
    params = leaves()
    others = copies_of(params)
    skip = torchclip.ClipByGlobalNorm(1.0, nonfinite="error")
    optimizer, expected = (build("adamw", group, clip=skip, backend=fused(backend)) for group in (params, others))
    for each in (optimizer, expected):
        each.step()
    number, positions, values, _, held, *rest = arguments(optimizer, params)
    before = [p.grad for p in params[:2]] + [None]
    params[2].grad = None
    for given in ([torch.randn_like(p) for p in params], [torch.full_like(p, torch.nan) for p in params]):
        for p, gradient in zip(others, given):
            p.grad = gradient.clone()
        if given[0].isnan().any():
            with pytest.raises(RuntimeError, match="norm"):
                torch.ops.torchclip.step(number, positions, values, given, held, *rest)
        else:
            torch.ops.torchclip.step(number, positions, values, given, held, *rest)
            expected.step()
        assert all(p.grad is b for p, b in zip(params, before))
        assert all(same_bits(p, q) for p, q in zip(params, others))


def test_the_default_compiler_hands_over_the_tensors_themselves(backend: str, monkeypatch: pytest.MonkeyPatch) -> None:
    lent: list[Tensor] = []
    lend = compiled._lend_values

    def watched(mine: Tensor, given: Tensor, afterwards: object) -> None:
        if mine.data_ptr() != given.data_ptr():
            lent.append(mine)
        lend(mine, given, afterwards)

    monkeypatch.setattr(compiled, "_lend_values", watched)
    params = leaves()
    optimizer = build("adamw", params, clip=1.0, backend=fused(backend))
    step = torch.compile(lambda: optimizer.step(), fullgraph=True)
    for number in range(3):
        draw_gradients(number, params)
        step()
    assert not lent
    torch._dynamo.reset()
    torch.compile(lambda: optimizer.step(), backend="aot_eager", fullgraph=True)()
    assert lent  # which shows that the test can fail


def test_parameter_without_a_gradient_in_the_graph(backend: str) -> None:
    """Each graph is of the parameters that had a gradient; another one is another graph."""
    params = leaves()
    copies = copies_of(params)
    plain, tested = (build("adamw", group, clip=1.0, backend=backend) for group in (params, copies))
    compiler = "eager" if backend == "reference" else "aot_eager"  # which shows the operator to the compiler
    step = torch.compile(lambda: tested.step(), backend=compiler, fullgraph=True)
    for number in range(4):
        draw_gradients(number, params, copies)
        for group in (params, copies):
            group[number % 2].grad = None
        plain.step()
        step()
    torch.testing.assert_close(copies, params, rtol=1e-5, atol=1e-6)


def test_complex_parameters_in_a_graph(backend: str) -> None:
    params = [torch.nn.Parameter(torch.randn(5, dtype=torch.complex64)), torch.nn.Parameter(torch.randn(3))]
    copies = copies_of(params)
    plain, tested = (build("adamw", group, clip=1.0, backend=backend) for group in (params, copies))
    step = torch.compile(lambda: tested.step(), backend="aot_eager", fullgraph=True)
    for _ in range(3):
        for p, q in zip(params, copies):
            p.grad = torch.randn_like(p)
            q.grad = p.grad.clone()
        plain.step()
        step()
    torch.testing.assert_close(copies, params, rtol=1e-5, atol=1e-6)


def test_a_step_that_is_left_out_within_a_graph(monkeypatch: pytest.MonkeyPatch) -> None:
    """As where this process alone has changed what it sends, and the others will hear of it."""

    def leaves_out(*given: object) -> None:
        raise LeftOut

    params = leaves(1)
    optimizer = torchclip.SGD(params, lr=0.1, clip=1.0, backend="cpu")
    step = torch.compile(optimizer.step, backend="eager")
    step()
    before = params[0].detach().clone()
    monkeypatch.setattr(optimizer, "_run", leaves_out)
    step()
    assert optimizer.step_was_skipped and torch.equal(params[0], before)


def test_no_gradient_at_all(backend: str) -> None:
    params = leaves()
    optimizer = build("adamw", params, clip=1.0, backend=backend)
    optimizer.zero_grad()
    before = [p.detach().clone() for p in params]
    torch.compile(lambda: optimizer.step(), backend="aot_eager", fullgraph=True)()
    assert all(same_bits(p, b) for p, b in zip(params, before)) and not optimizer.state


def test_an_optimizer_that_is_gone(backend: str) -> None:
    params = leaves(1)
    optimizer = build("sgd", params, backend=fused(backend))
    optimizer.step()
    given = arguments(optimizer, params)
    del optimizer
    gc.collect()
    with pytest.raises(RuntimeError, match="its optimizer was deleted: keep a reference"):
        torch.ops.torchclip.step(*given)


def test_gradient_made_in_the_graph(backend: str) -> None:
    params = leaves(1)
    copies = copies_of(params)
    plain, tested = (build("sgd", group, backend=backend) for group in (params, copies))

    def descend() -> None:
        copies[0].grad = copies[0].detach() * 2
        tested.step()
        copies[0].grad = None

    step = torch.compile(descend, backend="aot_eager", fullgraph=True)
    for _ in range(3):
        params[0].grad = params[0].detach() * 2
        plain.step()
        step()
        assert copies[0].grad is None
    torch.testing.assert_close(copies, params)
