"""State as bitsandbytes and TransformerEngine save it, under the names and in the types that it has here."""

from __future__ import annotations

from collections.abc import Mapping
from typing import Any

import torch
from torch import Tensor

from torchclip.backends.reference import codecs
from torchclip.policies.precision.codec import MASTER, REMAINDER
from torchclip.rules.rule_spec import RuleSpec

NESTED = "__bnb_optimizer_quant_state__"
"""Where bitsandbytes keeps its tensors in a parameter's state; in older releases' checkpoints they are not apart."""

SLOTS = {"state1": ("exp_avg", "square_avg", "sum", "momentum_buffer"), "state2": ("exp_avg_sq",)}
"""bitsandbytes' names of state, and the first of these slots that a rule has: what it is here."""

SCRATCH = "unorm_vec"
"""A norm that each of bitsandbytes' steps takes anew."""

BLOCKS = (256, 2048)
"""Elements of a block in bitsandbytes, and in its older releases."""

MASTERS = {torch.float32: MASTER, torch.int16: REMAINDER}
"""What ``master_param`` of TransformerEngine's FusedAdam is here; its remainders are those of SplitMaster."""


def translated(spec: RuleSpec, name: str, saved: Mapping[Any, Any]) -> dict[Any, Any]:
    """The state of one parameter as this library saves it; what no other library has made is as it was.

    Codes of 8 bits become float32.

    Args:
        spec: the rule that it is loaded into.
        name: what errors call the parameter.
        saved: the state of the checkpoint; it is not changed.

    Raises:
        RuntimeError: for codes that do not fit their map or their absmax, for a master of another type than
            TransformerEngine saves, and for more state than the rule has.
    """
    entries = dict(saved)
    nested = entries.pop(NESTED, None)
    if isinstance(nested, Mapping):
        entries |= nested
    own = {slot.name for slot in spec.slots}
    for key, slots in SLOTS.items():
        slot = next((slot for slot in slots if slot in own), None)
        if not isinstance(entries.get(key), Tensor) or slot in entries:
            continue
        if slot is None:
            raise RuntimeError(
                f"the checkpoint's state of {name} is that of another rule: it has {key!r}, bitsandbytes' name of "
                f"{' or '.join(slots)}, which {spec.name} has not: load it into the optimizer of its name here"
            )
        number, value = key.removeprefix("state"), entries.pop(key)
        codebook, absmax = entries.pop(f"qmap{number}", None), entries.pop(f"absmax{number}", None)
        entries[slot] = _decoded(key, name, value, codebook, absmax) if value.dtype is torch.uint8 else value
        entries.pop(SCRATCH, None)
    master = entries.get("master_param")
    if isinstance(master, Tensor):
        if master.dtype not in MASTERS:
            raise RuntimeError(
                f"the checkpoint's state 'master_param' of {name} is {master.dtype}, and TransformerEngine's "
                f"state_dict() has one of {' or '.join(map(str, MASTERS))}: cast it, undoing its scale if it has one"
            )
        entries[MASTERS[master.dtype]] = entries.pop("master_param")
    return entries


def _decoded(key: str, name: str, codes: Tensor, codebook: Any, absmax: Any) -> Tensor:
    """float32, of bitsandbytes' codes, each block with an absmax."""

    def came(value: Any) -> str:
        return f"of shape {tuple(value.shape)}" if isinstance(value, Tensor) else f"{type(value).__name__}"

    counts = {-(-codes.numel() // block): block for block in reversed(BLOCKS)}
    fits = isinstance(codebook, Tensor) and codebook.shape == (256,) and isinstance(absmax, Tensor)
    if not fits or absmax.ndim != 1 or len(absmax) not in counts:
        number = key.removeprefix("state")
        raise RuntimeError(
            f"the checkpoint's state {key!r} of {name} is in bitsandbytes' codes of 8 bits, 'qmap{number}' is "
            f"{came(codebook)} and 'absmax{number}' {came(absmax)}: (256,) and one of {[(n,) for n in counts]} are "
            "wanted, a number for each block; save the state of an optimizer with block_wise=True, or of one of 32 bits"
        )
    values, scale = (each.detach().to(codes.device, torch.float32) for each in (codebook, absmax))
    return codecs.decoded(codes.detach(), scale, values, counts[len(absmax)])
