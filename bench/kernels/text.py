"""The table of `python -m bench kernels`."""

from collections.abc import Mapping
from typing import Any

from bench.algorithm import OURS

LEGEND = """\
ps/element   time of one step over its elements, p50 (p20 to p80); every step starts outside the cache
B/element    bytes that a fused step must move: each pass reads the gradient, the last reads and writes the rest
% triad      of the bandwidth measured in the same rounds, by those bytes
beside       how many times as fast as it ours is, median of the ratios within rounds

type     kernel                        ps/element                  B/element     GB/s  % triad  beside"""


def format_kernel(entry: Mapping[str, Any]) -> str:
    """One line."""
    time = {name: value * 1e12 for name, value in entry["seconds_per_element"].items()}
    ours = entry["contenders"][OURS]
    others = ", ".join(
        f"{name} {each['speedup_of_ours']['p50']:.2f}" for name, each in entry["contenders"].items() if name != OURS
    )
    spread = f"{time['p50']:8.1f} ({time['p20']:.1f} to {time['p80']:.1f})"
    line = f"{entry['set']:<9}{entry['algorithm']:<30}{spread:<28}{entry['bytes_per_element']:>9.1f}"
    return f"{line}{ours['gigabytes_per_second']:>9.1f}{100 * ours['share_of_triad']:>9.1f}  {others}"
