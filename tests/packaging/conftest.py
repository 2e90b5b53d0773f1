"""The sources that several tests build."""

from __future__ import annotations

from pathlib import Path

import pytest

from package_builds import COPIED, files
from places import ROOT


@pytest.fixture(scope="session")
def tree(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """The sources as a clone has them, without what was built."""
    tree = tmp_path_factory.mktemp("tree")
    names = {name for folder in COPIED for name in files(ROOT / folder)}
    names |= {path.name for path in ROOT.iterdir() if path.is_file()}
    for name in names:
        (tree / name).parent.mkdir(parents=True, exist_ok=True)
        (tree / name).write_bytes((ROOT / name).read_bytes())
    return tree
