"""Cases of tests/distributed on the backends of GPUs, emulated and interpreted: the sum over processes lies between the
norm pass and the update.

What they are compared with is a step of one process on the same kernels.
"""

from __future__ import annotations

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from functools import partial
from typing import Any

import device_agreement_cases
import emulated
import interpreted
import norm_group_cases
import precision_cases
import sharded_cases
import shared_step_cases
from sharded_twins import compiled_by

OF = {
    sharded_cases: (
        *("rules", "policies", "zeros", "split_rows", "every_scope", "groups_of_their_own", "every_rule"),
        *("nothing_is_sent_without_norms", "draws", "losses", "every_type", "channels_last"),
        *("meshes_without_a_root", "ten_steps"),
    ),
    shared_step_cases: ("steps_that_are_not_taken",),
    device_agreement_cases: device_agreement_cases.CASES,
    norm_group_cases: ("stages", "experts"),
    precision_cases: (
        *("saved_by_two_and_loaded_by_others", "every_policy_saved_and_loaded"),
        *("stages_of_every_policy", "any_layout", "other_gradients"),
    ),
}


def prepare(names: list[str]) -> None:
    """Before the processes start, of which each would do it."""
    if any("cuda" in name for name in names):
        emulated.load()
    if any("triton" in name for name in names):
        interpreted.hasten()


@contextmanager
def _served_by(backend: str) -> Iterator[None]:
    if backend == "triton":
        with compiled_by(backend):
            yield
        return
    with emulated.emulated(), compiled_by(backend):
        yield


def _run(case: Callable[[], None], backend: str) -> None:
    with _served_by(backend):
        getattr(case, "__wrapped__", case)()


def __getattr__(name: str) -> Any:
    """The case of a name and a backend: ``rules_cuda``."""
    own, _, backend = name.rpartition("_")
    found = [module for module, names in OF.items() if own in names]
    if not found or backend not in ("cuda", "triton"):
        raise AttributeError(name)
    return partial(_run, getattr(found[0], own), backend)


CASES = tuple(
    f"{name}_{backend}"
    for module, names in OF.items()
    for name in names
    for backend in ("cuda", "triton")
    # The optimizers of norm_group_cases choose their backend, and no interpreted kernels; ten interpreted steps of
    # every rule would take minutes of each process; when the hosts hear is no matter of the kernels.
    if backend == "cuda" or (module is not norm_group_cases and name not in ("ten_steps", "heard_when_promised"))
)
"""Every one by its name."""
