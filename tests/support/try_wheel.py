"""``try_wheel.py WHEEL [--python PYTHON] [--torch FOLDER]``: installs a wheel in an empty environment, and steps there.

PYTHON makes the environment; FOLDER, the site-packages that has a torch for it, is lent to it: by default those that
run this. There is no compiler on the environment's PATH, and no other torchclip. It fails where the compiled parts are
not what runs, or a step differs from torch's.
"""

from __future__ import annotations

import argparse
import subprocess
import sys
import tempfile
import time
from pathlib import Path

STEP = """
import platform, sys, torch, torchclip
from torchclip import info
from torchclip.backends import native

torch.manual_seed(0)
lent = torch.nn.Linear(300, 20), torch.nn.Linear(300, 20)
lent[1].load_state_dict(lent[0].state_dict())
ours = torchclip.AdamW(lent[0].parameters(), lr=0.1, clip=0.1)
theirs = torch.optim.AdamW(lent[1].parameters(), lr=0.1)
for _ in range(5):
    data = torch.randn(8, 300)
    for model, optimizer in zip(lent, (ours, theirs)):
        optimizer.zero_grad()
        model(data).square().mean().backward()
    torch.nn.utils.clip_grad_norm_(lent[1].parameters(), 0.1)
    ours.step(), theirs.step()
torch.testing.assert_close(lent[0].weight, lent[1].weight, rtol=1e-5, atol=1e-6)
assert ours.backend == "cpu", ours.backend_reason
assert "DLPack" in info.report(), "the core for every torch reads by DLPack"
print(f"| {torch.__version__} | {platform.python_version()} | {native.NATIVE.reader()} |")
"""


def try_wheel(wheel: Path, python: str, torch_folder: str) -> str:
    """What the environment printed, and how long it took from the install to the first step."""
    with tempfile.TemporaryDirectory() as made:
        folder = Path(made)
        subprocess.run([python, "-m", "venv", folder], check=True)
        (site,) = folder.glob("lib/python*/site-packages")
        started = time.monotonic()
        own = folder / "bin" / "python"
        subprocess.run([own, "-m", "pip", "install", "-q", "--no-deps", "--no-index", wheel.resolve()], check=True)
        site.joinpath("torch_of_another.pth").write_text(torch_folder)  # behind what is installed here
        environment = {"PATH": str(folder / "bin"), "HOME": made}
        # No user's site, and no .pth of the lent folder is read: an editable torchclip of its own stays out.
        command = [own, "-W", "ignore", "-c", STEP]
        printed = subprocess.run(
            command, env=environment, cwd=made, check=True, stdout=subprocess.PIPE, text=True
        ).stdout
        return f"{printed.strip()}  {time.monotonic() - started:.1f} s from the install to the fifth step"


if __name__ == "__main__":
    import torch

    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("wheel", type=Path)
    parser.add_argument("--python", default=sys.executable)
    parser.add_argument("--torch", default=str(Path(torch.__file__).parents[1]), metavar="FOLDER")
    options = parser.parse_args()
    print(try_wheel(options.wheel, options.python, options.torch))
