"""``python -m recipes compare spikes``: what one bad batch costs, under every policy that could stand in its way.

A model trains for ``before`` steps. From there it goes on several times, on the same batches: once undisturbed, and
once for every fault, which strikes in the first step alone: the gradients are multiplied by 10, 100 or 1,000, or are
all infinite or NaN, or the batch is noise with labels drawn at random. The loss that a policy sees is that of the
batch, so that a scaled gradient shows in its norm alone. Every policy has its defaults, and every one the optimizer
and the lr that the model is trained with unclipped::

    python -m recipes compare spikes --data-dir DIR       # with tiny_shakespeare.txt and cifar10_subset.npz in it

What was run already is not run again; ``--draw`` runs nothing.
"""

import argparse
import copy
import json
import math
import sys
from collections.abc import Callable, Mapping, Sequence
from dataclasses import dataclass
from functools import partial
from itertools import product
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy
from tqdm import tqdm

import torchclip
from recipes.command import positive
from recipes.comparison.spike_report import report
from recipes.data import RecipeDataError
from recipes.data.corpus import Corpus
from recipes.data.images import ImageBatches, generator, load_images
from recipes.models.images import make_model
from recipes.models.transformer import Transformer
from recipes.run_folder import folder_name

_NOISE = 1  # what a generator is for, beside the batches
_CONTEXT, _BATCH = 32, 16  # characters, and stretches of them, of a batch of text
_IMAGES = 32  # of a batch

# What each gradient is multiplied by; None: the batch is noise. What is not finite takes the gradient's place.
FAULTS: Mapping[str, float | None] = {
    "×10": 10.0,
    "×100": 100.0,
    "×1000": 1000.0,
    "Inf": math.inf,
    "NaN": math.nan,
    "noise": None,
}
POLICIES: Mapping[str, Mapping[str, Any]] = {
    "no clipping": {},
    "global clip": {"clip": 1.0},
    'global clip, nonfinite="skip"': {"clip": torchclip.ClipByGlobalNorm(1.0, nonfinite="skip")},
    "AdaptiveGradientClip": {"clip": torchclip.AdaptiveGradientClip()},
    "AutoClip": {"clip": torchclip.AutoClip()},
    "ZClip": {"clip": torchclip.ZClip()},
    "AdaGC": {"clip": torchclip.AdaGC()},
    "SkipSpikes": {"skip": torchclip.SkipSpikes()},
    "SkipSpikes + AdaGC": {"clip": torchclip.AdaGC(), "skip": torchclip.SkipSpikes()},
}
Batch = tuple[Tensor, Tensor]


@dataclass(frozen=True)
class Workload:
    """A model at its start, the batch of every step, and a batch of noise."""

    model: nn.Module
    batch: Callable[[int], Batch]
    noise: Batch
    optimizer: Callable[..., Any]  # of the parameters and the policy's arguments


def text(data_dir: Path, seed: int) -> Workload:
    """A transformer of two blocks on tiny Shakespeare by characters, by AdamW."""
    corpus = Corpus.load(data_dir / "tiny_shakespeare.txt", "character")
    size = len(corpus.vocabulary)

    def stretches(tokens: Tensor, draws: torch.Generator) -> Batch:
        starts = torch.randint(len(tokens) - _CONTEXT, (_BATCH, 1), generator=draws)
        chosen = tokens[starts + torch.arange(_CONTEXT + 1)]
        return chosen[:, :-1], chosen[:, 1:]

    noise = torch.randint(size, (4 * _CONTEXT,), generator=generator(_NOISE, seed))
    return Workload(
        Transformer(size, _CONTEXT),
        lambda step: stretches(corpus.train, generator(0, seed, step)),
        stretches(noise, generator(_NOISE, seed, 0)),
        partial(torchclip.AdamW, lr=2e-3),
    )


def images(data_dir: Path, seed: int) -> Workload:
    """LeNet on a fifth of CIFAR-10, by SGD with momentum."""
    data = load_images("cifar10_subset", data_dir)
    batches = ImageBatches(data.train_images, data.train_labels, _IMAGES, seed, *data.moments())
    draws = generator(_NOISE, seed)
    noise = torch.randn(_IMAGES, *data.shape, generator=draws)
    return Workload(
        make_model("lenet", data.shape, data.classes),
        lambda step: batches.batch(*divmod(step, len(batches))),
        (noise, torch.randint(data.classes, (_IMAGES,), generator=draws)),
        partial(torchclip.SGD, lr=0.03, momentum=0.9),
    )


WORKLOADS: Mapping[str, Callable[[Path, int], Workload]] = {"transformer, AdamW": text, "LeNet, SGD": images}


def train(work: Workload, optimizer: Any, steps: range, fault: str | None = None) -> list[float]:
    """The loss of every step's batch; of a batch of noise too. The fault strikes in the first."""
    losses = []
    for step in steps:
        struck = fault is not None and step == steps.start
        scale = FAULTS[fault] if struck and fault is not None else 1.0
        inputs, labels = work.noise if scale is None else work.batch(step)
        optimizer.zero_grad()
        loss = cross_entropy(work.model(inputs).flatten(0, -2), labels.flatten())
        losses.append(float(loss.detach()))
        if not math.isfinite(losses[-1]):
            return losses + [math.nan] * (steps.stop - step - 1)
        loss.backward()
        for parameter in work.model.parameters() if struck and scale is not None else ():
            assert parameter.grad is not None and scale is not None
            parameter.grad.mul_(scale) if math.isfinite(scale) else parameter.grad.fill_(scale)
        optimizer.step(loss=loss.detach())
    return losses


def drill(work: Workload, policy: Mapping[str, Any], before: int, after: int) -> dict[str, Any]:
    """The losses of the ``after`` steps behind the one in which each fault strikes, and of the same steps without."""
    optimizer = work.optimizer(work.model.parameters(), **policy)
    train(work, optimizer, range(before))
    at = copy.deepcopy((work.model.state_dict(), optimizer.state_dict()))
    branches: dict[str, Any] = {}
    for fault in (None, *FAULTS):
        work.model.load_state_dict(at[0])
        optimizer.load_state_dict(copy.deepcopy(at[1]))
        losses = train(work, optimizer, range(before, before + 1 + after), fault)[1:]
        bad = sum(int((~parameter.isfinite()).sum()) for parameter in work.model.parameters())
        poisoned = bad / sum(parameter.numel() for parameter in work.model.parameters())
        found = [loss if math.isfinite(loss) else None for loss in losses]  # JSON has no NaN
        branches[fault or "none"] = {"losses": found, "poisoned": poisoned}
    return branches


def main(arguments: Sequence[str] | None = None) -> int:
    parser = argparse.ArgumentParser(
        prog="python -m recipes compare spikes", description="What one bad batch costs, by policy."
    )
    add = parser.add_argument
    add("--seeds", type=partial(positive, least=0), nargs="+", default=[0, 1, 2], help="default 0 1 2")
    add("--before", type=positive, default=200, help="steps before the fault (default 200)")
    add("--after", type=positive, default=150, help="steps after it (default 150)")
    add("--data-dir", type=Path, default=Path("data"), help="where the data lie (default data)")
    add("--result-dir", type=Path, default=Path("results/compare/spikes"), help="default results/compare/spikes")
    add("--draw", action="store_true", help="run nothing: figure and tables of what there is")
    options = parser.parse_args(arguments)
    folder: Path = options.result_dir
    folder.mkdir(parents=True, exist_ok=True)
    found = []
    for seed, model, policy in tqdm(list(product(options.seeds, WORKLOADS, POLICIES)), unit="run", disable=None):
        path = folder / folder_name(f"{model}-{policy}-{options.before}-{options.after}-seed{seed}.json")
        if not path.exists() and options.draw:
            continue
        if not path.exists():
            torch.manual_seed(seed)
            try:
                workload = WORKLOADS[model](options.data_dir, seed)
            except RecipeDataError as error:
                print(f"python -m recipes compare spikes: {error}", file=sys.stderr)
                return 2
            branches = drill(workload, POLICIES[policy], options.before, options.after)
            run = {"model": model, "policy": policy, "seed": seed, "branches": branches}
            path.write_text(json.dumps(run, allow_nan=False))
        found.append(json.loads(path.read_text()))
    if not found:
        print(f"{folder} has no run of {options.before} and {options.after} steps yet")
        return 1
    print(report(found, folder))
    return 0
