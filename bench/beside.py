"""What is measured beside the usual competitors when it is asked for."""

from collections.abc import Collection

import torch

from bench.algorithm import Algorithm
from bench.compiled import with_compiled
from bench.graphs import with_graphs
from bench.peers import peers_here, with_peers

COMPILED_FORM, GRAPHS, PEERS = "compiled", "graphs", "peers"
KINDS = (COMPILED_FORM, GRAPHS, PEERS)


def check_kinds(kinds: Collection[str], device: torch.device) -> None:
    """ValueError when one of them cannot be had on the device."""
    if GRAPHS in kinds and device.type != "cuda":
        raise ValueError(f"--beside {GRAPHS} needs --device cuda")


def with_contenders(algorithm: Algorithm, kinds: Collection[str], tensors: int, device: torch.device) -> Algorithm:
    """The row with more contenders.

    Args:
        algorithm: the row.
        kinds: of `KINDS`.
        tensors: in its set.
        device: where it runs.
    """
    if COMPILED_FORM in kinds:
        algorithm = with_compiled(algorithm, tensors, device)
    if GRAPHS in kinds:
        algorithm = with_graphs(algorithm)
    if PEERS in kinds:
        algorithm = with_peers(algorithm, peers_here(device)[0])
    return algorithm


def absent_peers(kinds: Collection[str], device: torch.device) -> list[str]:
    """A line for each peer that was asked for and cannot be measured."""
    absent = peers_here(device)[1] if PEERS in kinds else {}
    return [f"Left out: {name}: {reason}" for name, reason in absent.items()]
