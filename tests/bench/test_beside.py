"""Competitors that are asked for: other libraries, torch's compiled form, steps replayed from CUDA graphs."""

from __future__ import annotations

import functools
import sys
from collections.abc import Iterator
from contextlib import contextmanager
from types import ModuleType
from typing import Any

import pytest
import torch

import torchclip
from bench import __main__ as command
from bench import beside, graphs, peers, step
from bench.algorithm import TORCH_FORMS
from bench.bandwidth import BandwidthProbe
from bench.beside import with_contenders
from bench.cases import ALGORITHMS
from bench.compiled import COMPILED
from bench.peers import PEERS, Peer, missing_reason, with_peers
from tiny_bench import CPU, SETTINGS, shrink

OPTIMI = next(peer for peer in PEERS if peer.name == "optimi")


class Still(torch.optim.SGD):
    """An optimizer that writes nothing."""

    def step(self, closure: object = None) -> None: ...


@pytest.fixture
def probe(monkeypatch: pytest.MonkeyPatch) -> Iterator[BandwidthProbe]:
    yield shrink(monkeypatch)
    peers.peers_here.cache_clear()


@pytest.fixture
def optimi(monkeypatch: pytest.MonkeyPatch) -> ModuleType:
    """A library of that name whose optimizers are torch's."""
    module: Any = ModuleType("optimi")
    module.SGD, module.AdamW, module.RAdam = torch.optim.SGD, torch.optim.AdamW, torch.optim.RAdam
    monkeypatch.setitem(sys.modules, "optimi", module)
    return module


@pytest.fixture
def dynamo_settings() -> Iterator[None]:
    """Puts back what the compiled form sets for its process."""
    with torch._dynamo.config.patch(fail_on_recompile_limit_hit=False):
        yield


@pytest.mark.parametrize("name", ["clip_sgd", "clip_adamw", "sgd", "adamw", "radam"])
def test_a_peer_is_measured_and_checked(name: str, probe: BandwidthProbe, optimi: ModuleType) -> None:
    assert missing_reason(OPTIMI, CPU) is None
    algorithm = with_peers(ALGORITHMS[name], [OPTIMI])
    row = step.measure_row("small", algorithm, probe, SETTINGS, lambda fraction: None)
    assert not row.failures
    assert "optimi" in row.measured.device
    assert ("optimi" in row.checks["ours"].differences) != (name in OPTIMI.differences)


def test_a_peer_with_another_result_is_found_out(probe: BandwidthProbe, optimi: Any) -> None:
    optimi.SGD = functools.partial(torch.optim.SGD, nesterov=True)
    row = step.measure_row("small", with_peers(ALGORITHMS["sgd"], [OPTIMI]), probe, SETTINGS, lambda fraction: None)
    assert row.failures and all("optimi" in failure for failure in row.failures)
    said = Peer("optimi", "optimi", OPTIMI.make, differences={"sgd": "Nesterov"})
    row = step.measure_row("small", with_peers(ALGORITHMS["sgd"], [said]), probe, SETTINGS, lambda fraction: None)
    assert not row.failures


def test_a_row_without_peers_stays_as_it_is() -> None:
    assert with_peers(ALGORITHMS["grda"], PEERS).contenders == ALGORITHMS["grda"].contenders


@pytest.mark.parametrize(
    ("module", "optimizer", "words"),
    [
        (None, None, "it does not serve cuda"),
        ("absent_library", None, "ModuleNotFoundError"),
        ("optimi", Still, "its sgd wrote nothing"),
        ("optimi", lambda parameters, **arguments: 1 / 0, "ZeroDivisionError"),
    ],
)
def test_why_a_peer_is_left_out(module: str | None, optimizer: Any, words: str, optimi: Any) -> None:
    optimi.SGD = optimizer
    peer = Peer("peer", module or "optimi", OPTIMI.make, devices=("cpu",))
    assert words in str(missing_reason(peer, torch.device("cuda") if module is None else CPU))


def test_the_command_says_who_is_absent(
    probe: BandwidthProbe, optimi: ModuleType, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(peers, "PEERS", (OPTIMI, Peer("nobody", "absent_library", OPTIMI.make)))
    peers.peers_here.cache_clear()
    arguments = ["step", "--sets", "small", "--algorithms", "sgd", "--seconds", "0.001", "--beside", "peers"]
    assert command.main(arguments) == 0
    out = capsys.readouterr().out
    assert "Left out: nobody: ModuleNotFoundError" in out
    assert "\n  optimi " in out


@pytest.mark.parametrize("name", ["clip_sgd", "clip_adamw", "radam"])
def test_the_compiled_form_agrees(
    name: str, probe: BandwidthProbe, dynamo_settings: None, monkeypatch: pytest.MonkeyPatch
) -> None:
    # What is traced is what is compiled; compiling takes a minute.
    monkeypatch.setattr(torch, "compile", functools.partial(torch.compile, backend="eager"))
    algorithm = with_contenders(ALGORITHMS[name], [beside.COMPILED_FORM], 4, CPU)
    row = step.measure_row("small", algorithm, probe, SETTINGS, lambda fraction: None)
    assert not row.failures
    assert COMPILED in row.measured.device and COMPILED in TORCH_FORMS
    assert torch._dynamo.config.fail_on_recompile_limit_hit, "a form that is no longer compiled would be timed"
    assert (COMPILED in row.checks["ours"].errors) == (name != "radam")


def test_what_would_compile_for_minutes_is_left_out() -> None:
    assert COMPILED not in with_contenders(ALGORITHMS["sgd"], [beside.COMPILED_FORM], 1000, CPU).contenders
    on_cuda = with_contenders(ALGORITHMS["sgd"], [beside.COMPILED_FORM], 1000, torch.device("cuda"))
    assert COMPILED in on_cuda.contenders


@pytest.mark.parametrize("name", ["clip_sgd", "clip_adamw", "sgd", "adamw"])
def test_every_call_of_a_replayed_step_is_one_step(
    name: str, probe: BandwidthProbe, monkeypatch: pytest.MonkeyPatch
) -> None:
    """With a stand-in for CUDA graphs that keeps what it should capture and runs it at every replay."""
    captured: list[graphs.Replayed] = []

    class Graph:
        def replay(self) -> None:
            captured[-1]()

    @contextmanager
    def capture(graph: Graph) -> Iterator[None]:
        yield

    class Replayed(graphs.Replayed):
        def __init__(self, step: Any) -> None:
            self.calls = 0

            def recorded() -> None:
                self.calls += 1
                if self.calls != 2:  # the second is the capture's
                    step()

            super().__init__(recorded)

        def __call__(self) -> None:
            captured.append(self._step)  # type: ignore[arg-type]
            super().__call__()

    monkeypatch.setattr(torch.cuda, "CUDAGraph", Graph)
    monkeypatch.setattr(torch.cuda, "graph", capture)
    monkeypatch.setattr(graphs, "Replayed", Replayed)
    adamw = torchclip.AdamW  # which takes capturable on a GPU alone
    monkeypatch.setattr(torchclip, "AdamW", lambda parameters, capturable, **others: adamw(parameters, **others))
    algorithm = graphs.with_graphs(ALGORITHMS[name])
    row = step.measure_row("small", algorithm, probe, SETTINGS, lambda fraction: None)
    assert not row.failures
    assert {graphs.OURS_GRAPH, graphs.FUSED_GRAPH} <= set(row.measured.device)


def test_graphs_without_a_gpu_are_an_error(probe: BandwidthProbe, capsys: pytest.CaptureFixture[str]) -> None:
    with pytest.raises(SystemExit):
        command.main(["step", "--sets", "small", "--beside", "graphs"])
    assert "--beside graphs needs --device cuda" in capsys.readouterr().err
