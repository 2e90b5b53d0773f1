"""Beside torch.optim on a GPU: its results, its checkpoints, its compiler, its autocast, its processes."""

from __future__ import annotations

import copy
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest
import torch
from torch.distributed.fsdp import fully_shard
from torch.nn.utils import clip_grad_norm_

import torchclip
from builders import NAMESAKES, each_namesake
from gpu_runs import BACKEND, DEVICE, assert_same, loss_of, made, outcome, parameters, write_gradients

CLOSE = {"rtol": 1e-4, "atol": 1e-5}
"""For float32: products are contracted and norms are summed otherwise there; where momentum cancels, it shows."""


def classifier() -> torch.nn.Module:
    torch.manual_seed(5)
    return torch.nn.Sequential(
        torch.nn.Conv2d(3, 16, 3), torch.nn.ReLU(), torch.nn.Flatten(), torch.nn.Linear(16 * 36, 10)
    ).to(DEVICE)


def batch(step: int) -> tuple[torch.Tensor, torch.Tensor]:
    draws = torch.Generator().manual_seed(step)
    images, labels = torch.randn(32, 3, 8, 8, generator=draws), torch.randint(10, (32,), generator=draws)
    return images.to(DEVICE), labels.to(DEVICE)


def cross_entropy(model: torch.nn.Module, step: int) -> torch.Tensor:
    images, labels = batch(step)
    return torch.nn.functional.cross_entropy(model(images), labels)


@pytest.mark.parametrize("clips", [False, True], ids=["", "clip"])
@each_namesake
def test_steps_are_those_of_torch(name: str, clips: bool) -> None:
    ours, theirs, options = NAMESAKES[name]
    params, copies = parameters(), parameters()
    clip = {"clip": 0.5} if clips else {}
    tested, plain = ours(params, **options, **clip, backend=BACKEND), theirs(copies, **options)
    for step in range(4):
        write_gradients(step, params, copies)
        tested.step()
        if clips:
            norm = clip_grad_norm_(copies, 0.5)
            torch.testing.assert_close(tested.grad_norm, norm, **CLOSE)
        plain.step()
    torch.testing.assert_close(params, copies, **CLOSE)


@pytest.mark.parametrize("form", [{"fused": True}, {"capturable": True}, {"foreach": True}], ids=str)
def test_a_checkpoint_of_torch_goes_on(form: dict[str, bool]) -> None:
    params, copies = parameters(), parameters()
    theirs = torch.optim.AdamW(copies, lr=0.1, **form)
    for step in range(3):
        write_gradients(step, copies)
        theirs.step()
    ours = torchclip.AdamW(params, lr=0.1, backend=BACKEND)
    with torch.no_grad():
        for param, source in zip(params, copies):
            param.copy_(source)
    ours.load_state_dict(copy.deepcopy(theirs.state_dict()))
    for step in range(3, 6):
        write_gradients(step, params, copies)
        ours.step()
        theirs.step()
    torch.testing.assert_close(params, copies, **CLOSE)
    back = torch.optim.AdamW(copies, lr=0.1, **form)
    back.load_state_dict(copy.deepcopy(ours.state_dict()))
    for step in range(6, 8):
        write_gradients(step, params, copies)
        ours.step()
        back.step()
    torch.testing.assert_close(params, copies, **CLOSE)


@pytest.mark.parametrize("name", ["sgd", "adamw", "mix_clip", "ada_loss", "ada_grad_norm_row"])
def test_a_saved_run_goes_on_bit_for_bit(name: str, tmp_path: Path) -> None:
    extensions = {"extensions": (torchclip.GradientNoise(eta=0.01), torchclip.LRDropout(0.5)), "clip": 1.0}
    params, copies = parameters(), parameters()
    whole = made(name, params, **extensions)
    first = made(name, copies, **extensions)
    for step in range(3):
        write_gradients(step, params, copies)
        whole.step(loss=loss_of(step))
        first.step(loss=loss_of(step))
    torch.save(first.state_dict(), tmp_path / "optimizer.pt")
    rest = made(name, copies, **extensions)
    rest.load_state_dict(torch.load(tmp_path / "optimizer.pt", weights_only=True))
    for step in range(3, 6):
        write_gradients(step, params, copies)
        whole.step(loss=loss_of(step))
        rest.step(loss=loss_of(step))
    values = [{key: value for key, value in outcome(one).items() if "fraction" not in key} for one in (whole, rest)]
    assert_same(*values)


@pytest.mark.parametrize("name", ["sgd", "adamw", "mix_clip"])
def test_a_step_within_a_compiled_function(name: str) -> None:
    params, copies = parameters(), parameters()
    tested, plain = made(name, params, clip=1.0), made(name, copies, clip=1.0)

    @torch.compile(fullgraph=True)
    def step() -> None:
        tested.step()

    for number in range(3):
        write_gradients(number, params, copies)
        step()
        plain.step()
    torch.testing.assert_close(params, copies, **CLOSE)


def test_a_compiled_model_in_half_precision_with_a_scaler() -> None:
    """Training as users write it; the loss falls, and torch's optimizer comes to the same."""
    ends = []
    for make in (torchclip.AdamW, torch.optim.AdamW):
        model = classifier()
        options: dict[str, Any] = {"backend": BACKEND} if make is torchclip.AdamW else {}
        optimizer, scaler = make(model.parameters(), lr=1e-2, **options), torch.amp.GradScaler("cuda")
        compiled, losses = torch.compile(model), []
        for _ in range(12):
            optimizer.zero_grad()
            with torch.autocast("cuda", torch.float16):
                loss = cross_entropy(compiled, 0)
            scaler.scale(loss).backward()
            scaler.step(optimizer)
            scaler.update()
            losses.append(loss.detach())
        ends.append(torch.stack(losses).tolist())
    assert ends[0][-1] < 0.5 * ends[0][0]
    assert ends[0] == pytest.approx(ends[1], rel=0.05)


def test_steps_in_the_backward_pass() -> None:
    """Each parameter's step runs in the stream of its gradient, while the pass goes on."""
    models = [classifier(), classifier()]
    hooked = {
        param: torchclip.AdamW([param], lr=0.01, clip=torchclip.ClipByTensorNorm(1.0), backend=BACKEND)
        for param in models[0].parameters()
    }

    def step_and_forget(param: torch.Tensor) -> None:
        hooked[param].step()
        param.grad = None

    for param in models[0].parameters():
        param.register_post_accumulate_grad_hook(step_and_forget)
    plain = torchclip.AdamW(models[1].parameters(), lr=0.01, clip=torchclip.ClipByTensorNorm(1.0), backend=BACKEND)
    for step in range(4):
        cross_entropy(models[0], step).backward()
        plain.zero_grad()
        cross_entropy(models[1], step).backward()
        plain.step()
    torch.testing.assert_close(list(models[0].parameters()), list(models[1].parameters()), **CLOSE)


@pytest.fixture
def alone(tmp_path: Path) -> Iterator[None]:
    """A process group of one process, whose collectives are NCCL's."""
    torch.distributed.init_process_group(
        "nccl", init_method=f"file://{tmp_path}/store", rank=0, world_size=1, device_id=torch.device(DEVICE, 0)
    )
    yield
    torch.distributed.destroy_process_group()


def train_beside(wrapped: torch.nn.Module, plain: torch.nn.Module, **options: Any) -> list[torch.optim.Optimizer]:
    """Three steps of a model that torch has wrapped, and of one that it has not."""
    models = (wrapped, plain)
    optimizers = [torchclip.AdamW(model.parameters(), lr=0.01, **options) for model in models]
    for step in range(3):
        for model, optimizer in zip(models, optimizers):
            optimizer.zero_grad()
            cross_entropy(model, step).backward()
            optimizer.step()
    return optimizers


@pytest.mark.usefixtures("alone")
def test_a_data_parallel_model() -> None:
    models = [classifier(), classifier()]
    wrapped = torch.nn.parallel.DistributedDataParallel(models[0])
    tested, plain = train_beside(wrapped, models[1], clip=0.1, backend=BACKEND)
    torch.testing.assert_close(list(models[0].parameters()), list(models[1].parameters()), **CLOSE)
    torch.testing.assert_close(tested.grad_norm, plain.grad_norm, **CLOSE)


@pytest.mark.usefixtures("alone")
def test_a_sharded_model() -> None:
    """On its local parts."""
    sharded, plain = classifier(), classifier()
    fully_shard(sharded)
    tested, _ = train_beside(sharded, plain, clip=0.1, backend=BACKEND)
    assert tested.backend == BACKEND
    for left, right in zip(sharded.parameters(), plain.parameters()):
        torch.testing.assert_close(left.full_tensor(), right, **CLOSE)
