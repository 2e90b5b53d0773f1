"""The share of the memory's bandwidth that each rule, type and addition reaches."""

from pathlib import Path

from bench.algorithm import OURS
from bench.plots.style import GREY, MARKERS, SERIES, Entry, new_figure, save, tidy


def draw_kernels(document: Entry, folder: Path, stem: str) -> list[Path]:
    """One panel for each type; a line for each rule, a mark for each addition."""
    rows = document["rows"]
    types = list(dict.fromkeys(row["set"] for row in rows))
    rules = list(dict.fromkeys(row["algorithm"].partition("+")[0] for row in rows))
    additions = list(dict.fromkeys(row["algorithm"].partition("+")[2] or "plain" for row in rows))
    figure, panels = new_figure(1, len(types), 2.2 + 3.8 * len(types), 1.4 + 0.32 * len(rules), share=True)
    for axes, dtype in zip(panels, types, strict=True):
        for index, addition in enumerate(additions):
            points = [
                (100 * row["contenders"][OURS]["share_of_triad"], rules.index(rule))
                for row in rows
                if row["set"] == dtype
                for rule, _, other in [row["algorithm"].partition("+")]
                if (other or "plain") == addition
            ]
            # Marks of one rule side by side, since many have the same share.
            offset = 0.6 * (index / max(1, len(additions) - 1) - 0.5)
            axes.scatter(
                [x for x, _ in points],
                [y + offset for _, y in points],
                s=22,
                color=SERIES[index % len(SERIES)],
                marker=MARKERS[index % len(MARKERS)],
                label=addition.replace("_", " "),
            )
        axes.axvline(100, color=GREY, linestyle="--", linewidth=1)
        axes.set_yticks(range(len(rules)), rules)
        axes.set_ylim(len(rules) - 0.5, -0.5)
        axes.set_xlim(left=0)
        axes.set_xlabel("% of the triad's bandwidth, by the\nbytes that must move")
        axes.set_title(dtype, loc="left")
        tidy(axes, "both")
    figure.legend(*panels[0].get_legend_handles_labels(), loc="outside upper right", frameon=False, fontsize=8,
                  ncols=len(additions))  # fmt: skip
    return [save(figure, folder / f"{stem}-kernels.png", document)]
