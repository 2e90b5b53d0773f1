"""The texts of a rule agree: C++ header, registry, Python's description, Triton's function, class."""

from __future__ import annotations

import inspect
import itertools
import re
from typing import Any

import pytest
import torch

import torchclip
from builders import OPTIMIZERS
from coefficient_grid import GRID, STEPS, flat_names
from places import ROOT
from rule_coefficients import COEFFICIENTS
from torchclip.backends.choice import unavailable_reason
from torchclip.backends.codes import CODES
from torchclip.distributed import cells
from torchclip.matrix import KINDS
from torchclip.rules.rule_spec import RuleSpec
from torchclip.rules.table import RULES
from torchclip.state.group_values import PIPELINE_KEYS, GroupKeys
from torchclip.step.fused_optimizer import FusedOptimizer

needs_extension = pytest.mark.skipif(
    unavailable_reason("cpu") is not None, reason=f"no compiled extension: {unavailable_reason('cpu')}"
)
needs_sources = pytest.mark.skipif(not (ROOT / "csrc").exists(), reason="the sources of the extension are not here")
each_rule = pytest.mark.parametrize("rule", RULES.values(), ids=RULES)


def algorithms() -> dict[str, dict[str, Any]]:
    """What the compiled rules say of themselves."""
    return torchclip._C.algorithms()


@needs_extension
def test_both_sides_have_the_same_rules() -> None:
    assert list(algorithms()) == list(RULES)


@needs_extension
@each_rule
def test_numbers_agree(rule: RuleSpec) -> None:
    """How many there are; that they come in the same order is what the coefficients show, and conformance."""
    compiled = algorithms()[rule.name]
    assert compiled["hyperparameters"] == len(flat_names(rule))
    assert compiled["scalars"] == len(rule.scalars)
    assert compiled["takes_complex"] == rule.takes_complex


@needs_extension
@pytest.mark.parametrize("cls", [cls for cls, _ in OPTIMIZERS.values()], ids=OPTIMIZERS)
def test_the_keys_of_a_class_hold_the_numbers_of_its_rule(cls: type[FusedOptimizer]) -> None:
    checks = GroupKeys.of(cls.__name__, cls.spec, cls.hyperparameter_checks, {}).checks
    assert tuple(checks)[:4] == PIPELINE_KEYS
    own = [key for key in checks if key in cls.spec.hyperparameters]
    assert own == list(cls.spec.hyperparameters) == list(checks)[4 : 4 + len(own)]
    assert sum(checks[key].count for key in own) == algorithms()[cls.spec.name]["hyperparameters"]


@needs_extension
@each_rule
def test_coefficients_agree(rule: RuleSpec) -> None:
    names = ["lr", *flat_names(rule)]
    for values in itertools.product(*(GRID[name] for name in names)):
        numbers = dict(zip(names, values))
        group: dict[str, Any] = {key: numbers[key] for key in ("lr", *rule.hyperparameters) if key != "betas"}
        if "betas" in rule.hyperparameters:
            group["betas"] = (numbers["beta1"], numbers["beta2"])
        for step, first in itertools.product(STEPS, (False, True)):
            expected = COEFFICIENTS[rule.name](group, step, first)
            assert len(expected) == algorithms()[rule.name]["coefficients"]
            scalars = [step - 1, *(scalar.initial for scalar in rule.scalars[1:])] if rule.scalars else []
            actual = torchclip._C.coefficients(rule.name, list(values), scalars, first)
            where = f"{rule.name}, {numbers}, {step=}, {first=}"
            # pow and sqrt of two maths libraries may differ in the last places; differences of powers lose some more.
            torch.testing.assert_close(
                torch.tensor(actual, dtype=torch.float64),
                torch.tensor(list(expected.values()), dtype=torch.float64),
                rtol=1e-11,
                atol=1e-15,
                equal_nan=True,
                msg=lambda text, where=where: f"{where}: {text}",
            )


@each_rule
def test_used_slots_are_slots(rule: RuleSpec) -> None:
    switches = {"momentum": (0.0, 0.9), "amsgrad": (False, True), "centered": (False, True)}
    keys = [key for key in switches if key in rule.hyperparameters]
    for values in itertools.product(*(switches[key] for key in keys)):
        used = rule.used_slots(dict(zip(keys, values)))
        assert list(used) == [slot.name for slot in rule.slots if slot.name in used]


@each_rule
def test_slots_that_are_never_negative_are_so_in_functors(rule: RuleSpec) -> None:
    """Those of the rule: a functor's others serve other rules."""
    headers = [path.read_text() for path in (ROOT / "csrc/rules").glob("*.h")]
    own = next(text for text in headers if f'kName = "{rule.name}"' in text)
    functor = re.findall(r"using Functor = (\w+);", own)[own[: own.index(f'kName = "{rule.name}"')].count("kName")]
    text = next(text for text in headers if f"struct {functor} {{" in text)
    mask = int(re.findall(r"kNonNegativeSlots = (\w+);", text)[0], 0)
    assert [bool(mask >> number & 1) for number in range(len(rule.slots))] == [s.non_negative for s in rule.slots]


def rule_places(name: str) -> dict[str, bool]:
    """Whether the rule is in each place where every rule must be."""
    registry = (ROOT / "csrc/rules/registry.h").read_text()
    classes = [cls for cls in vars(torchclip).values() if inspect.isclass(cls)]
    return {
        f"csrc/rules/{name}.h": (ROOT / f"csrc/rules/{name}.h").exists(),
        "csrc/rules/registry.h": f'"{name}.h"' in registry,
        "torchclip/rules/table.py": name in RULES,
        "kernels/rules.py": f'finish.rule == "{name}"' in (ROOT / "kernels/rules.py").read_text(),
        "torchclip/optimizers": any(getattr(cls, "spec", None) is RULES.get(name, 0) for cls in classes),
    }


def every_rule_anywhere() -> list[str]:
    """The names of the rules that any of the places knows."""
    headers = {path.stem for path in (ROOT / "csrc/rules").glob("*.h")}
    # What the rules share: the functors of the families, the interface, the list itself.
    shared = {"momentum", "second_moment", "root_mean_square", "soft_threshold", "rule", "registry"}
    return sorted((headers - shared) | set(RULES))


@needs_sources
@pytest.mark.parametrize("name", every_rule_anywhere())
def test_rule_is_in_every_place(name: str) -> None:
    missing = [place for place, found in rule_places(name).items() if not found]
    assert not missing, f"rule {name!r} is missing in {', '.join(missing)}"


@each_rule
def test_every_rule_has_a_citation(rule: RuleSpec) -> None:
    assert re.search(r"\b(19|20)\d\d\b", rule.citation), f"{rule.name} has no source with a year"


@needs_sources
def test_every_policy_has_a_code() -> None:
    coded = [parts for kind, parts in KINDS.items() if kind != "precision"]  # of torchclip.backends.held
    assert set(CODES) == {part for parts in coded for part in parts}
    text = (ROOT / "csrc/step/modifier_fields.h").read_text()
    fields = re.findall(r"^TORCHCLIP_MODIFIER\((\w+), ", text, re.MULTILINE)
    assert {name for code in CODES.values() for name in (code.field, *code.others)} <= set(fields)


@needs_extension
def test_kernels_read_where_the_host_writes() -> None:
    """The places of fields in kernels/tables.py are those of the structs in csrc/step/device_tables.h."""
    tables = pytest.importorskip("torchclip.kernels.tables", reason="Triton is an optional dependency of the package")
    layout = torchclip._C.table_layout()
    prefixes = ("TENSOR_", "CHUNK_", "ROW_CHUNK_", "LONG_ROW_", "COEFFICIENTS_", "SOURCE_", "GROUP_", "STEP_")
    prefixes += ("POLICY_", "SUM_", "UNIT_SUM_", "PLACE_", "ZERO_", "BESIDE_", "SHARE_", "SHARED_")
    others = {"CHUNK_GRAIN"}
    named = {name for name in vars(tables) if name.startswith(prefixes)} - others
    assert named == set(layout)
    for name, (offset, size) in layout.items():
        if name.endswith("_WORDS"):
            assert size == 8 * getattr(tables, name).value, name
        else:
            assert size in (4, 8) and offset == size * getattr(tables, name).value, name


@needs_extension
def test_processes_add_up_what_the_host_hands_over() -> None:
    """The numbers in torchclip/distributed/cells.py are those of the structs in csrc/step/exchange_layout.h."""
    layout = torchclip._C.table_layout()
    sizes = [layout[name][1] for name in ("UNIT_SUM_WORDS", "SUM_WORDS", "ZERO_COUNT_WORDS")]
    assert sizes == [8 * words for words in (cells.IN_CELL, cells.IN_ROW, cells.IN_ZEROS)]
