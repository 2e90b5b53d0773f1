"""`python -m bench step --precision`: rules in fewer bytes, each form in turns with our float32 step and the triad."""

import gc
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import torch
from tabulate import tabulate
from torch.nn import Parameter

import torchclip
from bench.bandwidth import TRIAD, BandwidthProbe
from bench.cases import ADAMW_ARGUMENTS, RULES
from bench.competitors import made
from bench.measure import Settings, Timed, clock_of, interleave, percentiles, round_ratios
from bench.shapes import SHAPE_SETS, Shapes, element_count
from bench.workload import GRADIENT_AMPLITUDE

_HALF, _CODES = torchclip.StateDtype("bfloat16"), torchclip.Blockwise8bit()
_CODE = (2 + 2 * 4 / 256) / 4  # words of a byte, and of an absmax for 256, read and written
_BASE, _TORCH = "float32", "torch fused"


@dataclass(frozen=True)
class Form:
    """An optimizer, and how it holds things.

    Args:
        name: of the form.
        module: of its class.
        cls: the name of that.
        words: of 4 bytes that a step must move for a parameter, with a gradient of the parameter's type; None where a
            library does not say what it holds.
        dtype: of parameters and gradients.
        arguments: of the class.
    """

    name: str
    module: str
    cls: str
    words: float | None
    dtype: torch.dtype = torch.float32
    arguments: Mapping[str, Any] = field(default_factory=lambda: ADAMW_ARGUMENTS)

    def step(self, shapes: Shapes, device: torch.device) -> Callable[[], object]:
        """The step of an optimizer with parameters of its own; the first one is taken.

        Raises:
            Exception: whatever a library raises where it does not fit the machine.
        """
        # So small that bfloat16 has numbers a step away.
        params = [Parameter(torch.full(shape, 0.1, dtype=self.dtype, device=device)) for shape in shapes]
        before = float(params[0].detach().flatten()[0])
        for param in params:
            param.grad = torch.randn_like(param) * GRADIENT_AMPLITUDE
        optimizer = made(self.module, self.cls, params, self.arguments)
        optimizer.step()
        if not all((param != before).any() and param.isfinite().all() for param in params):
            raise RuntimeError("its step wrote nothing, or what is not finite")
        step: Callable[[], object] = optimizer.step
        return step


# Words that a step moves of a parameter, its gradient and what is beside it; and of one state slot.
_OURS = (
    (_BASE, 3, 2, torch.float32, None),
    ("StateDtype(bfloat16)", 3, 1, torch.float32, _HALF),
    ("StateDtype(bfloat16, stochastic)", 3, 1, torch.float32, torchclip.StateDtype("bfloat16", stochastic=True)),
    ("Blockwise8bit", 3, _CODE, torch.float32, _CODES),
    ("bfloat16", 1.5, 1, torch.bfloat16, None),
    ("bfloat16, SplitMaster", 2.5, 2, torch.bfloat16, torchclip.SplitMaster()),
    ("bfloat16, SplitMaster, StateDtype", 2.5, 1, torch.bfloat16, torchclip.SplitMaster(state=_HALF)),
    ("bfloat16, SplitMaster, Blockwise8bit", 2.5, _CODE, torch.bfloat16, torchclip.SplitMaster(state=_CODES)),
    ("float16, MasterWeights", 3, 2, torch.float16, torchclip.MasterWeights()),
    ("bfloat16, StochasticRounding", 1.5, 2, torch.bfloat16, torchclip.StochasticRounding()),
)


_CLASSES = {"adamw": "AdamW", "sgd": "SGD"}  # by rule


def _ours(rule: str) -> list[Form]:
    """Our forms of a rule, that of float32 first."""
    arguments, slots, cls = RULES[rule].of(0.0), RULES[rule].state, _CLASSES[rule]
    return [
        Form(name, "torchclip", cls, moved + slots * slot, dtype, {**arguments, "precision": precision})
        for name, moved, slot, dtype, precision in _OURS
    ]


def _torchs(rule: str) -> list[Form]:
    """torch's fused forms of a rule, that of float32 first."""
    arguments, slots, cls = {**RULES[rule].of(0.0), "fused": True}, RULES[rule].state, _CLASSES[rule]
    return [
        Form(_TORCH, "torch.optim", cls, 3 + slots * 2, torch.float32, arguments),
        Form(f"{_TORCH}, bfloat16", "torch.optim", cls, 1.5 + slots, torch.bfloat16, arguments),
    ]


_THEIRS = (
    Form("bitsandbytes AdamW8bit", "bitsandbytes.optim", "AdamW8bit", None),
    Form("torchao AdamW8bit", "torchao.optim", "AdamW8bit", None),
    Form(
        "torchao AdamW, bfloat16, stochastic",
        "torchao.optim",
        "_AdamW",
        None,
        torch.bfloat16,
        {**ADAMW_ARGUMENTS, "bf16_stochastic_round": True},
    ),
    Form(
        "optimi AdamW, bfloat16, Kahan",
        "optimi",
        "AdamW",
        None,
        torch.bfloat16,
        {**ADAMW_ARGUMENTS, "kahan_sum": True},
    ),
    Form(
        "heavyball AdamW, bfloat16 state",
        "heavyball",
        "AdamW",
        None,
        arguments={**ADAMW_ARGUMENTS, "storage_dtype": "bfloat16"},
    ),
    Form("flashoptim FlashAdamW", "flashoptim", "FlashAdamW", None, torch.bfloat16),
)


def _timed(form: Form, shapes: Shapes, probe: BandwidthProbe) -> Timed:
    return Timed(form.name, lambda index: None, form.step(shapes, probe.device))


def _row(
    form: Form, beside: Sequence[Timed], shapes: Shapes, probe: BandwidthProbe, settings: Settings
) -> Sequence[Any]:
    """Median milliseconds, speed as a multiple of the steps' beside it, and bandwidth as a part of the triad's."""
    steps = [*beside]
    if form.name not in {each.name for each in beside}:
        steps.append(_timed(form, shapes, probe))
    triad = next(entry for entry in probe.entries() if entry.name == TRIAD)
    device = interleave([*steps, triad], settings, clock_of(probe.device)).device
    bandwidth = None
    if form.words is not None:
        moved = 4 * form.words * element_count(shapes) / probe.bytes_moved(TRIAD)
        bandwidth = f"{moved * round_ratios(device[TRIAD], device[form.name])['p50']:.0%}"
    speeds = [f"{round_ratios(device[each.name], device[form.name])['p50']:.2f}" for each in beside]
    return form.name, f"{1e3 * percentiles(device[form.name])['p50']:.1f}", *speeds, form.words, bandwidth


def _table(rule: str, theirs: Sequence[Form], shapes: Shapes, probe: BandwidthProbe, settings: Settings) -> str:
    """The rows of a rule; prints what a machine lacks, and why."""
    (base, *ours), torchs = _ours(rule), _torchs(rule)
    beside = [_timed(form, shapes, probe) for form in (base, torchs[0])]
    rows = []
    for form in (*ours, *torchs, *theirs):
        try:
            rows.append(_row(form, beside, shapes, probe, settings))
        except Exception as error:  # whatever a library raises where it does not fit the machine
            if form in ours:
                raise
            print(f"Left out: {form.name}: {type(error).__name__}: {str(error).strip().partition(chr(10))[0]}")
        gc.collect()
    names = (RULES[rule].title, "ms a step", "speed, our float32 = 1", f"{_TORCH} = 1", "words", "of the triad")
    return str(tabulate(rows, names, tablefmt="github"))


def measure_precision(set_name: str, device: torch.device, settings: Settings) -> int:
    """Prints a table for each rule; what a machine lacks, and why."""
    shapes, probe = SHAPE_SETS[set_name](), BandwidthProbe(device)
    tables = [_table(rule, theirs, shapes, probe, settings) for rule, theirs in (("adamw", _THEIRS), ("sgd", ()))]
    print(f"{set_name}, {torch.get_num_threads()} threads", *tables, sep="\n\n")
    return 0
