"""step() in a CUDA graph: replays do what eager steps do, bit for bit, with whatever changes between them."""

from __future__ import annotations

import pytest
import torch
from torch import Tensor

import torchclip
from gpu_runs import (
    BACKEND,
    COMBINATIONS,
    DEVICE,
    MIXES,
    assert_same,
    combined,
    loss_of,
    made,
    outcome,
    parameters,
    write_gradients,
)

WARM_UP, REPLAYS = 3, 5


def capture(optimizer: torch.optim.Optimizer, loss: Tensor) -> torch.cuda.CUDAGraph:
    """A graph of one step, which is recorded and not taken."""
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        optimizer.step(loss=loss)
    return graph


@pytest.mark.parametrize("combination", COMBINATIONS)
def test_replays_match_eager_steps(combination: str) -> None:
    """With a tensor lr, the loss and the gradients written anew between replays."""
    rates = [torch.full((), 0.1, device=DEVICE) for _ in range(2)]
    loss = torch.zeros((), device=DEVICE)
    captured_params, eager_params = parameters(), parameters()
    captured = combined(combination, captured_params, lr=rates[0])
    eager = combined(combination, eager_params, lr=rates[1])

    def write(step: int) -> None:
        write_gradients(step, captured_params, eager_params)
        loss.fill_(loss_of(step))
        for rate in rates:
            rate.fill_(0.1 / (1 + step))

    for step in range(WARM_UP):
        write(step)
        captured.step(loss=loss)
        eager.step(loss=loss)
    before = outcome(captured)
    assert_same(before, outcome(eager))
    graph = capture(captured, loss)
    assert_same(outcome(captured), before)
    for step in range(WARM_UP, WARM_UP + REPLAYS):
        write(step)
        graph.replay()
        eager.step(loss=loss)
        assert_same(outcome(captured), outcome(eager))
    moved = [not torch.equal(value, before[name]) for name, value in outcome(captured).items() if "parameter" in name]
    assert any(moved)


@pytest.mark.parametrize("mix", MIXES)
@pytest.mark.parametrize("name", ["sgd", "adamw", "mix_clip", "grda"])
def test_a_replay_heeds_the_grad_scaler(name: str, mix: str) -> None:
    """What GradScaler hands over as tensors: the scale, and whether to skip the step."""
    loss = torch.zeros((), device=DEVICE)
    captured_params, eager_params = parameters(), parameters()
    pair = [made(name, params, **MIXES[mix]) for params in (captured_params, eager_params)]
    scale, found_inf = torch.full((), 8.0, device=DEVICE), torch.zeros((), device=DEVICE)
    for optimizer in pair:
        optimizer.grad_scale, optimizer.found_inf = scale, found_inf
    captured, eager = pair
    for step in range(WARM_UP):
        write_gradients(step, captured_params, eager_params, scale=8.0)
        captured.step(loss=loss)
        eager.step(loss=loss)
    graph = capture(captured, loss)
    for step, (factor, overflows) in enumerate(((8.0, 0), (16.0, 1), (4.0, 0), (4.0, 2), (4.0, 0)), start=WARM_UP):
        write_gradients(step, captured_params, eager_params, scale=factor)
        scale.fill_(factor)
        found_inf.fill_(overflows)
        before = [param.detach().clone() for param in captured_params]
        graph.replay()
        eager.step(loss=loss)
        assert_same(outcome(captured), outcome(eager))
        stood = [torch.equal(param, start) for param, start in zip(captured_params, before)]
        assert all(stood) if overflows else not any(stood[:2])


def test_a_replay_skips_a_norm_that_is_not_finite() -> None:
    params = parameters()
    optimizer = made("adamw", params, clip=torchclip.ClipByGlobalNorm(1.0, nonfinite="skip"))
    loss = torch.zeros((), device=DEVICE)
    optimizer.step()
    graph = capture(optimizer, loss)
    before = outcome(optimizer)
    params[1].grad[3] = torch.inf
    graph.replay()
    after = outcome(optimizer)
    kept = [name for name in before if not name.startswith("metrics")]
    assert_same({name: after[name] for name in kept}, {name: before[name] for name in kept})
    assert not torch.isfinite(optimizer.grad_norm)
    write_gradients(1, params)
    graph.replay()
    assert torch.isfinite(optimizer.grad_norm)
    assert not torch.equal(params[0].detach(), before["parameter 0 0"])


def test_forward_backward_and_step_in_one_graph() -> None:
    """As a training loop captures them: gradients in memory of the graph's own."""
    models = []
    for _ in range(2):
        torch.manual_seed(3)
        models.append(torch.nn.Sequential(torch.nn.Linear(20, 30), torch.nn.Tanh(), torch.nn.Linear(30, 1)).to(DEVICE))
    captured, eager = (torchclip.AdamW(model.parameters(), lr=0.01, clip=0.5, backend=BACKEND) for model in models)
    inputs = torch.zeros(64, 20, device=DEVICE)

    def train(model: torch.nn.Module, optimizer: torch.optim.Optimizer) -> None:
        optimizer.zero_grad(set_to_none=False)
        model(inputs).square().mean().backward()
        optimizer.step()

    def draw(step: int) -> None:
        inputs.copy_(torch.randn(64, 20, generator=torch.Generator().manual_seed(step)))

    side = torch.cuda.Stream()
    side.wait_stream(torch.cuda.current_stream())
    with torch.cuda.stream(side):
        for step in range(WARM_UP):
            draw(step)
            train(models[0], captured)
            train(models[1], eager)
    torch.cuda.current_stream().wait_stream(side)
    graph = torch.cuda.CUDAGraph()
    with torch.cuda.graph(graph):
        train(models[0], captured)
    for step in range(WARM_UP, WARM_UP + REPLAYS):
        draw(step)
        graph.replay()
        train(models[1], eager)
    for ours, theirs in zip(models[0].parameters(), models[1].parameters()):
        torch.testing.assert_close(ours, theirs)
    torch.testing.assert_close(captured.grad_norm, eager.grad_norm)


@pytest.mark.parametrize(
    ("options", "message"),
    [
        pytest.param({"clip": 1.0}, "take one step", id="no_step_before"),
        pytest.param({"clip": torchclip.ClipByGlobalNorm(1.0, nonfinite="error")}, "waits for the device", id="error"),
    ],
)
def test_what_cannot_be_captured_is_an_error_and_harms_nothing(options: dict[str, object], message: str) -> None:
    params, copies = parameters(), parameters()
    optimizer, twin = made("adamw", params, **options), made("adamw", copies, **options)
    if "take" not in message:
        optimizer.step()
        twin.step()
    with pytest.raises(RuntimeError, match=message), torch.cuda.graph(torch.cuda.CUDAGraph()):
        optimizer.step()
    for step in range(2):
        write_gradients(step, params, copies)
        optimizer.step()
        twin.step()
    assert_same(outcome(optimizer), outcome(twin))


@pytest.mark.parametrize("name", ["sgd", "adamw", "mix_clip"])
def test_two_graphs_with_no_step_between_their_captures(name: str) -> None:
    loss = torch.zeros((), device=DEVICE)
    captured_params, eager_params = parameters(), parameters()
    captured, eager = (made(name, params, clip=1.0) for params in (captured_params, eager_params))
    for step in range(WARM_UP):
        write_gradients(step, captured_params, eager_params)
        captured.step(loss=loss)
        eager.step(loss=loss)
    graphs = [capture(captured, loss) for _ in range(2)]
    for step, which in enumerate((0, 1, 1, 0, None, 1), start=WARM_UP):
        write_gradients(step, captured_params, eager_params)
        if which is None:
            captured.step(loss=loss)
        else:
            graphs[which].replay()
        eager.step(loss=loss)
        assert_same(outcome(captured), outcome(eager))
