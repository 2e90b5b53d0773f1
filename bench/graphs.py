"""Steps replayed from a CUDA graph: what is left of a step when the host has nothing to do but to start it."""

from collections.abc import Callable, Mapping, Sequence
from dataclasses import replace
from types import MappingProxyType
from typing import Any

import torch
from torch.nn import Parameter
from torch.nn.utils import clip_grad_norm_
from torch.optim import Optimizer

import torchclip
from bench.algorithm import ADAMW_ARGUMENTS, SGD_ARGUMENTS, Algorithm, Build, Step

OURS_GRAPH = "ours_graph"
FUSED_GRAPH = "fused_graph"


class Replayed:
    """A step that runs as it is once, which makes its state; is captured at its second call; and replayed from then on.

    Every call takes one step, so that the results stay comparable. Gradients must stay where they are.
    """

    def __init__(self, step: Step) -> None:
        self._step = step
        self._has_state = False
        self._graph: torch.cuda.CUDAGraph | None = None

    def __call__(self) -> None:
        if not self._has_state:
            self._step()
            self._has_state = True
            return
        if self._graph is None:
            graph = torch.cuda.CUDAGraph()
            with torch.cuda.graph(graph):  # which runs nothing
                self._step()
            self._graph = graph
        self._graph.replay()


def _ours(optimizer: Callable[..., Optimizer], arguments: Mapping[str, Any], clips: bool) -> Build:
    def build(parameters: Sequence[Parameter], grad_norm: float) -> Step:
        return Replayed(optimizer(parameters, **arguments, clip=grad_norm if clips else None).step)

    return build


def _fused(optimizer: Callable[..., Optimizer], arguments: Mapping[str, Any], clips: bool) -> Build:
    def build(parameters: Sequence[Parameter], grad_norm: float) -> Step:
        step = optimizer(parameters, **arguments, fused=True).step

        def clip_and_step() -> None:
            if clips:
                clip_grad_norm_(parameters, grad_norm, foreach=True)
            step()

        return Replayed(clip_and_step)

    return build


def with_graphs(algorithm: Algorithm) -> Algorithm:
    """The row with ours and torch's fused form replayed, where it is a row of torch's rules."""
    rule = algorithm.name.removeprefix("clip_")
    clips = rule != algorithm.name
    # Adam's step count, which the host keeps otherwise, has to be on the device; SGD counts none.
    capturable = {**ADAMW_ARGUMENTS, "capturable": True}
    contenders: dict[str, Build] = {}
    if rule == "sgd":
        contenders = {
            OURS_GRAPH: _ours(torchclip.SGD, SGD_ARGUMENTS, clips),
            FUSED_GRAPH: _fused(torch.optim.SGD, SGD_ARGUMENTS, clips),
        }
    elif rule == "adamw":
        contenders = {
            OURS_GRAPH: _ours(torchclip.AdamW, capturable, clips),
            FUSED_GRAPH: _fused(torch.optim.AdamW, capturable, clips),
        }
    return replace(algorithm, contenders=MappingProxyType({**algorithm.contenders, **contenders}))
