"""`python -m bench step --precision`: AdamW in fewer bytes, each form in turns with our float32 step and the triad."""

import gc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from tabulate import tabulate
from torch.nn import Parameter

import torchclip
from bench.bandwidth import TRIAD, BandwidthProbe
from bench.cases import ADAMW_ARGUMENTS
from bench.competitors import made
from bench.measure import Settings, Timed, clock_of, interleave, percentiles, round_ratios
from bench.shapes import SHAPE_SETS, Shapes, element_count

_HALF, _CODES = torchclip.StateDtype("bfloat16"), torchclip.Blockwise8bit()
_BASE = "float32"


@dataclass(frozen=True)
class Form:
    """AdamW, and how it holds things.

    Args:
        name: of the form.
        module: of its class.
        cls: the name of that.
        words: of 4 bytes that a step must move for a parameter, with a gradient of the parameter's type; None where a
            library does not say what it holds.
        dtype: of parameters and gradients.
        more: arguments beside AdamW's.
    """

    name: str
    module: str
    cls: str
    words: float | None
    dtype: torch.dtype = torch.float32
    more: Mapping[str, Any] = field(default_factory=dict)

    def step(self, shapes: Shapes, device: torch.device) -> Callable[[], object]:
        """The step of an optimizer with parameters of its own; the first one is taken.

        Raises:
            Exception: whatever a library raises where it does not fit the machine.
        """
        # So small that bfloat16 has numbers a step away.
        params = [Parameter(torch.full(shape, 0.1, dtype=self.dtype, device=device)) for shape in shapes]
        before = float(params[0].detach().flatten()[0])
        for param in params:
            param.grad = torch.randn_like(param)
        optimizer = made(self.module, self.cls, params, {**ADAMW_ARGUMENTS, **self.more})
        optimizer.step()
        if not all((param != before).any() and param.isfinite().all() for param in params):
            raise RuntimeError("its step wrote nothing, or what is not finite")
        step: Callable[[], object] = optimizer.step
        return step


def _ours(name: str, words: float, dtype: torch.dtype = torch.float32, **more: Any) -> Form:
    return Form(name, "torchclip", "AdamW", words, dtype, more)


_OURS = (
    _ours("StateDtype(bfloat16)", 5, precision=_HALF),
    _ours("StateDtype(bfloat16, stochastic)", 5, precision=torchclip.StateDtype("bfloat16", stochastic=True)),
    _ours("Blockwise8bit", 4 + 2 * 2 / 256, precision=_CODES),
    _ours("bfloat16", 3.5, torch.bfloat16),
    _ours("bfloat16, SplitMaster", 6.5, torch.bfloat16, precision=torchclip.SplitMaster()),
    _ours("bfloat16, SplitMaster, StateDtype", 4.5, torch.bfloat16, precision=torchclip.SplitMaster(state=_HALF)),
    _ours(
        "bfloat16, SplitMaster, Blockwise8bit",
        3.5 + 2 * 2 / 256,
        torch.bfloat16,
        precision=torchclip.SplitMaster(state=_CODES),
    ),
    _ours("float16, MasterWeights", 7, torch.float16, precision=torchclip.MasterWeights()),
    _ours("bfloat16, StochasticRounding", 5.5, torch.bfloat16, precision=torchclip.StochasticRounding()),
)
_THEIRS = (
    Form("torch fused", "torch.optim", "AdamW", 7, more={"fused": True}),
    Form("torch fused, bfloat16", "torch.optim", "AdamW", 3.5, torch.bfloat16, {"fused": True}),
    Form("bitsandbytes AdamW8bit", "bitsandbytes.optim", "AdamW8bit", None),
    Form("torchao AdamW8bit", "torchao.optim", "AdamW8bit", None),
    Form(
        "torchao AdamW, bfloat16, stochastic",
        "torchao.optim",
        "_AdamW",
        None,
        torch.bfloat16,
        {"bf16_stochastic_round": True},
    ),
    Form("optimi AdamW, bfloat16, Kahan", "optimi", "AdamW", None, torch.bfloat16, {"kahan_sum": True}),
    Form("heavyball AdamW, bfloat16 state", "heavyball", "AdamW", None, more={"storage_dtype": "bfloat16"}),
    Form("flashoptim FlashAdamW", "flashoptim", "FlashAdamW", None, torch.bfloat16),
)


def _row(form: Form, shapes: Shapes, probe: BandwidthProbe, settings: Settings) -> Sequence[Any]:
    """Median milliseconds, speed as a multiple of our float32 step's, and bandwidth as a part of the triad's."""
    built = {
        _BASE: _ours(_BASE, 7).step(shapes, probe.device),
        form.name: form.step(shapes, probe.device),
    }
    steps = [Timed(name, lambda index: None, step) for name, step in built.items()]
    triad = next(entry for entry in probe.entries() if entry.name == TRIAD)
    device = interleave([*steps, triad], settings, clock_of(probe.device)).device
    bandwidth = None
    if form.words is not None:
        moved = 4 * form.words * element_count(shapes) / probe.bytes_moved(TRIAD)
        bandwidth = f"{moved * round_ratios(device[TRIAD], device[form.name])['p50']:.0%}"
    speed = round_ratios(device[_BASE], device[form.name])["p50"]
    return form.name, f"{1e3 * percentiles(device[form.name])['p50']:.1f}", f"{speed:.2f}", form.words, bandwidth


def measure_precision(set_name: str, device: torch.device, settings: Settings) -> int:
    """Prints a table; what a machine lacks, and why."""
    shapes, probe, rows = SHAPE_SETS[set_name](), BandwidthProbe(device), []
    for form in _OURS:
        rows.append(_row(form, shapes, probe, settings))
        gc.collect()
    for form in _THEIRS:
        try:
            rows.append(_row(form, shapes, probe, settings))
        except Exception as error:  # whatever a library raises where it does not fit the machine
            print(f"Left out: {form.name}: {type(error).__name__}: {str(error).strip().partition(chr(10))[0]}")
        gc.collect()
    names = ("AdamW", "ms a step", "speed, our float32 = 1", "words", "of the triad")
    print(f"{set_name}, {torch.get_num_threads()} threads", tabulate(rows, names, tablefmt="github"), sep="\n\n")
    return 0
