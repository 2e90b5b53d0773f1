"""Prints docs/precision.md's table of maps for 8-bit codes, by what they do to moments of AdamW.

A GRU guesses the next character of a text for 300 steps; then the state of its larger tensors goes into blocks of 256
and back:

    python docs/_site/precision_maps.py TEXT
"""

from __future__ import annotations

import sys
from collections.abc import Callable
from pathlib import Path

import torch
from torch import Tensor, nn
from torch.nn.functional import cross_entropy

import torchclip
from torchclip.backends.reference.codecs import blocks_of, from_blocks, to_blocks

STEPS, LENGTH, BATCH, WIDTH, LR, EPS = 300, 32, 32, 128, 2e-3, 1e-8
SMALLEST = 4096

Map = Callable[[Tensor, bool], Tensor]
"""What becomes of values of blocks, [blocks, 256], of which the largest magnitude is 1; whether they have a sign."""


class Network(nn.Module):
    """[batch, length] character numbers -> [batch, length, characters] logits."""

    def __init__(self, characters: int) -> None:
        super().__init__()
        self.embedding = nn.Embedding(characters, WIDTH)
        self.hidden = nn.GRU(WIDTH, WIDTH, batch_first=True)
        self.logits = nn.Linear(WIDTH, characters)

    def forward(self, characters: Tensor) -> Tensor:
        hidden, _ = self.hidden(self.embedding(characters))
        return self.logits(hidden)


def moments(text: Tensor) -> list[tuple[Tensor, Tensor]]:
    """The first and second moments of a trained network's larger tensors."""
    torch.manual_seed(1)
    model = Network(int(text.max()) + 1)
    optimizer = torchclip.AdamW(model.parameters(), lr=LR)
    for _ in range(STEPS):
        places = torch.randint(len(text) - LENGTH - 1, (BATCH, 1)) + torch.arange(LENGTH + 1)
        batch = text[places]
        optimizer.zero_grad()
        cross_entropy(model(batch[:, :-1]).flatten(0, 1), batch[:, 1:].flatten()).backward()
        optimizer.step()
    held = [optimizer.state[parameter] for parameter in model.parameters() if parameter.numel() >= SMALLEST]
    return [(state["exp_avg"], state["exp_avg_sq"]) for state in held]


def dynamic_values(is_signed: bool) -> Tensor:
    """The values of Dettmers' map, [256]: in each of seven decades the middles of equal parts, twice as many as in the
    decade below."""
    values = [0.0, 1.0]
    for decade in range(7):
        parts = 2 ** (decade if is_signed else decade + 1)
        middles = [10.0 ** (decade - 6) * (0.1 + 0.9 * (part + 0.5) / parts) for part in range(parts)]
        values += [*middles, *(-middle for middle in middles)] if is_signed else middles
    return torch.tensor(sorted(values))


def dynamic(scaled: Tensor, is_signed: bool) -> Tensor:
    values = dynamic_values(is_signed)
    codes = torch.bucketize(scaled, (values[1:] + values[:-1]) / 2)
    return values[codes if is_signed else torch.where((codes == 0) & (scaled > 0), 1, codes)]


def linear(scaled: Tensor, is_signed: bool) -> Tensor:
    steps = 127 if is_signed else 255
    return (scaled * steps).round() / steps


def linear_of_the_root(scaled: Tensor, is_signed: bool) -> Tensor:
    return linear(scaled, True) if is_signed else linear(scaled.sqrt(), False).square()


def piecewise_root(scaled: Tensor, is_signed: bool) -> Tensor:
    codes, absmax = to_blocks(scaled, scaled, is_signed=is_signed)
    return from_blocks(codes, absmax, is_signed=is_signed)


MAPS: dict[str, Map] = {
    "dynamic": dynamic,
    "linear": linear,
    "linear; of √v": linear_of_the_root,
    "of piecewise linear roots": piecewise_root,
}


def through(map_of: Map, value: Tensor, is_signed: bool) -> Tensor:
    """[elements] of a tensor that was in blocks."""
    blocks = blocks_of(value, value)
    absmax = blocks.abs().amax(dim=1, keepdim=True)
    return (map_of(blocks / absmax.where(absmax > 0, 1.0), is_signed) * absmax).flatten()[: value.numel()]


def smallest(map_of: Map, is_signed: bool) -> float:
    """The smallest value above 0."""
    one_of_each = torch.logspace(-12, 0, 255 * 256).view(256, 255)
    values = map_of(torch.cat([one_of_each, torch.ones(256, 1)], dim=1), is_signed)
    return values[values > 0].min().item()


def main() -> None:
    characters = Path(sys.argv[1]).read_text()
    number = {character: place for place, character in enumerate(sorted(set(characters)))}
    held = moments(torch.tensor([number[character] for character in characters]))
    first, second = (torch.cat([each[place].flatten() for each in held]).double() for place in (0, 1))
    step = first / (second.sqrt() + EPS)
    print(f"{first.numel():,} elements in {len(held)} tensors; the last three columns are errors")
    print("| map | smallest value, m; v | m that became 0; v | m, of its norm | √v, median | step, of its norm |")
    print("|---|---|---|---|---|---|")
    for name, map_of in MAPS.items():
        m, v = (torch.cat([through(map_of, each[place], place == 0) for each in held]).double() for place in (0, 1))
        lost = [((new == 0) & (old != 0)).double().mean() for new, old in ((m, first), (v, second))]
        of_first = (m - first).norm() / first.norm()
        of_root = (v.sqrt() / second.sqrt() - 1)[second > 0].abs().median()
        of_step = (m / (v.sqrt() + EPS) - step).norm() / step.norm()
        print(
            f"| {name} | {smallest(map_of, True):.1e}; {smallest(map_of, False):.1e} | {lost[0]:.2%}; {lost[1]:.2%} "
            f"| {of_first:.2%} | {of_root:.2%} | {of_step:.2%} |"
        )


if __name__ == "__main__":
    main()
