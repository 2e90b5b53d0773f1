"""What every recipe's command line has in common, and how a run of it starts, goes on and ends."""

import argparse
import gc
import json
import os
import platform
import sys
from collections.abc import Callable
from functools import partial
from pathlib import Path
from typing import Any

import torch

import torchclip
from recipes.algorithms import SCHEDULES, Schedule, add_algorithm_options, epochs_of, make_optimizer
from recipes.data import RecipeDataError
from recipes.run_folder import CHECKPOINT, LOG, RunFolder, folder_name, read_log
from recipes.training import Task, Training, refuse_changes
from recipes.world import World

PRECISIONS = {"float32": torch.float32, "bfloat16": torch.bfloat16, "float16": torch.float16}
INTERRUPTED = 130  # the shell's exit status for SIGINT

# These may differ between the start of a run and its going on.
_FREE = ("resume", "overwrite", "result_dir", "data_dir", "quiet", "backend", "quick", "workers")

MakeTask = Callable[[argparse.Namespace, torch.device], Task]


def make_parser(recipe: str, description: str, epochs: str, algo: str = "sgd") -> argparse.ArgumentParser:
    """A parser with the options of every recipe; ``epochs`` and ``algo`` are the recipe's defaults."""
    parser = argparse.ArgumentParser(prog=f"python -m recipes {recipe}", description=description)
    add_algorithm_options(parser, algo)
    add = parser.add_argument_group("training").add_argument
    add("--epochs", type=epochs_of, default=epochs_of(epochs), metavar="80,120,150", help="milestones, then the end")
    add("--schedule", choices=SCHEDULES, default="milestones", help="of lr and gamma (default milestones)")
    add("--seed", type=partial(positive, least=0), default=0, help="of weights, batches and draws (default 0)")
    add("--precision", choices=tuple(PRECISIONS), default="float32", help="of autocast (default float32: none)")
    devices = ("cuda", "cpu") if torch.cuda.is_available() else ("cpu",)
    add("--device", choices=devices, default=devices[0], help="cuda where there is one, or cpu")
    add("--quick", action="store_true", help="less of everything: a run of a minute")
    files = parser.add_argument_group("files")
    add = files.add_argument
    add("--data-dir", type=Path, default=Path("data"), metavar="DIR", help="where data sets lie (default data)")
    add("--result-dir", type=Path, metavar="DIR", help="log, checkpoint (default results/RECIPE/what-ran)")
    either = files.add_mutually_exclusive_group().add_argument
    either("--resume", action="store_true", help="go on from the checkpoint, if there is one")
    either("--overwrite", action="store_true", help="start anew where a run already is")
    add("--quiet", action="store_true", help="no progress bar, no line for every epoch")
    return parser


def positive(text: str, least: int = 1) -> int:
    """A number of things, of which there must be one. For argparse."""
    if not text.strip().isdecimal() or int(text) < least:
        raise argparse.ArgumentTypeError(f"{text!r} is not a whole number of at least {least}")
    return int(text)


def lower(options: argparse.Namespace, **limits: int) -> None:
    """Lowers the options above these limits, and those that are not set, for ``--quick``."""
    for name, limit in limits.items():
        setattr(options, name, min(getattr(options, name) or limit, limit))


def _has_ended(options: argparse.Namespace, folder: Path, arguments: dict[str, Any], world: World) -> bool:
    """Whether the run that is to go on has ended. Raises ValueError where another run already is."""
    found = read_log(folder), (folder / CHECKPOINT).exists()
    # Nobody goes on, and so nobody writes here, before all have looked; and all decide as the first process does.
    rows, checkpoint = world.gather(found)[0]
    if (rows or checkpoint) and not (options.resume or options.overwrite):
        raise ValueError(f"{folder} holds a run already: --resume goes on with it, --overwrite starts anew")
    if not options.resume or not any(row["kind"] == "end" for row in rows):
        return False
    refuse_changes(folder, rows[0].get("arguments", {}), arguments)
    return True


def _start(
    recipe: str, options: argparse.Namespace, folder: Path, make_task: MakeTask, distributed: bool
) -> Training | None:
    """The run, at its start or where its checkpoint left it. None when it has already ended."""
    device = torch.device("cpu" if options.device == "cpu" else f"cuda:{os.environ.get('LOCAL_RANK', 0)}")
    world = World.join(device)
    # The options that make a run what it is, as JSON has them.
    arguments = {name: value for name, value in sorted(vars(options).items()) if name not in _FREE}
    arguments = json.loads(json.dumps(arguments, default=str))
    if _has_ended(options, folder, arguments, world):
        world.leave()
        return None
    if world.size > 1 and not distributed:
        raise ValueError(f"this recipe trains in one process, of which {world.size} run: start it without torchrun")
    stand_in = torch.nn.Linear(1, 1, device=device)  # so that what is wrong is said before data are read
    Schedule(options.schedule, make_optimizer(options, stand_in), options.epochs)
    torch.manual_seed(options.seed)
    task = make_task(options, device)
    optimizer = make_optimizer(options, task.model)
    schedule = Schedule(options.schedule, optimizer, options.epochs)
    writer = RunFolder(folder, writes=world.rank == 0)
    precision = PRECISIONS[options.precision]
    training = Training(task, optimizer, schedule, writer, device, precision, world, options.quiet)
    if not (options.resume and training.resume(arguments)):
        training.folder.restart()
        training.folder.append({
            "kind": "run",
            "recipe": recipe,
            "arguments": arguments,
            "parameters": sum(parameter.numel() for parameter in task.model.parameters()),
            "backend": optimizer.backend,
            "device": torch.cuda.get_device_name(device) if device.type == "cuda" else platform.machine(),
            "torch": str(torch.__version__),
            "torchclip": torchclip.__version__,
        })  # fmt: skip
        training.save()
    return training


def run_recipe(
    recipe: str, options: argparse.Namespace, name: str, make_task: MakeTask, distributed: bool = False
) -> int:
    """Trains as the options say, in results/RECIPE/``name`` unless they name a folder; ``make_task`` has the seed set.

    The exit status: 0, 2 for a mistake in the options or missing data, 130 when interrupted.
    """
    folder = options.result_dir or Path("results", recipe, folder_name(name))
    try:
        training = _start(recipe, options, folder, make_task, distributed)
    except (ValueError, TypeError, RecipeDataError) as error:
        print(f"python -m recipes {recipe}: {error}", file=sys.stderr)
        return 2
    if training is None:
        print(f"{folder}: the run has ended; --overwrite starts it anew")
        return 0
    world = training.world
    try:
        finished = training.run()
    except RecipeDataError as error:  # a file that only now was read
        print(f"python -m recipes {recipe}: {error}", file=sys.stderr)
        return 2
    finally:
        # DistributedDataParallel must go first: if it is the last to hold the process group, that one's threads wait
        # for Python's lock, which whoever ends it holds.
        del training
        gc.collect()
        world.leave()
    if world.rank == 0 and not finished:
        print(f"interrupted and saved; --resume goes on with {folder}", file=sys.stderr)
    elif world.rank == 0 and not options.quiet:
        print(f"{folder}/{LOG}")
    return 0 if finished else INTERRUPTED
