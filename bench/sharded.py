"""`python -m bench step --sharded`: steps of DTensors in two processes with gloo, ours beside torch's."""

import tempfile
import time
from collections.abc import Callable
from functools import partial
from statistics import median

import torch
import torch.distributed as dist
from torch.distributed.device_mesh import init_device_mesh
from torch.distributed.tensor import Shard, distribute_tensor
from torch.multiprocessing.spawn import spawn
from torch.nn.utils import clip_grad_norm_

import torchclip

PROCESSES = 2
SENT = 10  # float64 numbers in a step with one norm
SETS = {"148 tensors of 512": ((64, 8), 148), "12 tensors of 1 M": ((1024, 1024), 12)}


def _step(kind: str, shape: tuple[int, int], count: int) -> Callable[[], object]:
    mesh = init_device_mesh("cpu", (PROCESSES,))
    params = [torch.nn.Parameter(distribute_tensor(torch.randn(shape), mesh, [Shard(0)])) for _ in range(count)]
    for param in params:
        param.grad = distribute_tensor(torch.randn(shape), mesh, [Shard(0)])
    if kind == "ours":
        return torchclip.AdamW(params, lr=1e-3, clip=1.0).step
    theirs = torch.optim.AdamW(params, lr=1e-3, **{kind: True})  # type: ignore[arg-type]
    return lambda: (clip_grad_norm_(params, 1.0), theirs.step())


def _work(rank: int, folder: str, rounds: int) -> None:
    torch.set_num_threads(1)
    dist.init_process_group("gloo", init_method=f"file://{folder}/store", rank=rank, world_size=PROCESSES)
    for name, (shape, count) in SETS.items():
        steps = {f"AdamW + clip, {kind}": _step(kind, shape, count) for kind in ("ours", "fused", "foreach")}
        steps["gloo's all-reduce alone"] = partial(dist.all_reduce, torch.zeros(SENT, dtype=torch.float64))
        seconds: dict[str, list[tuple[float, float]]] = {kind: [] for kind in steps}
        for _ in range(rounds):
            for kind, step in steps.items():
                dist.barrier()
                began, busy_before = time.perf_counter(), time.thread_time()
                step()
                seconds[kind].append((time.perf_counter() - began, time.thread_time() - busy_before))
        medians = {kind: [median(each) for each in zip(*taken, strict=True)] for kind, taken in seconds.items()}
        of_ours = medians["AdamW + clip, ours"]
        for kind, of_kind in medians.items() if rank == 0 else ():
            ratios = [other / own for other, own in zip(of_kind, of_ours, strict=True)]
            print(
                f"{name}, {kind}: {1e3 * of_kind[0]:.3f} ms, {ratios[0]:.2f} x ours, at the least "
                f"{1e3 * min(seconds[kind])[0]:.3f} ms; busy {1e3 * of_kind[1]:.3f} ms, {ratios[1]:.2f} x ours",
                flush=True,
            )
    dist.destroy_process_group()


def measure_sharded(rounds: int = 40) -> int:
    """Prints the medians of a step in the first process: how long it takes, and how long it keeps the calling thread
    busy, which is less by what the others are waited for; beside them those of the collective alone."""
    with tempfile.TemporaryDirectory() as folder:
        spawn(partial(_work, folder=folder, rounds=rounds), nprocs=PROCESSES)
    return 0
