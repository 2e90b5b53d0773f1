"""Which code was measured."""

import hashlib
import os
import subprocess
from pathlib import Path

_ROOT = Path(__file__).resolve().parent.parent
# What a number can depend on. Results are left out: writing them must not look like a change of the code.
_MEASURED = ("bench", "csrc", "kernels", "recipes", "setup.py", "torchclip", ":(exclude)bench/results")
_UNKNOWN = "unknown"


def _git(*arguments: str) -> str | None:
    """What git prints, or None where there is no git or no repository."""
    try:
        finished = subprocess.run(["git", "-C", str(_ROOT), *arguments], capture_output=True, check=True)
    except (OSError, subprocess.CalledProcessError):
        return None
    return finished.stdout.decode(errors="replace")


def describe_commit() -> str:
    """The commit, with a digest of what differs from it in the tree.

    TORCHCLIP_COMMIT goes before it, for a machine that was given a copy of the files; "unknown" outside a repository.
    """
    given = os.environ.get("TORCHCLIP_COMMIT")
    if given:
        return given
    commit = _git("rev-parse", "HEAD")
    difference = _git("diff", "HEAD", "--", *_MEASURED)
    added = _git("ls-files", "--others", "--exclude-standard", "--", *_MEASURED)
    if commit is None or difference is None or added is None:
        return _UNKNOWN
    if not difference and not added:
        return commit.strip()
    digest = hashlib.sha256(difference.encode())
    for name in added.splitlines():
        digest.update(name.encode() + (_ROOT / name).read_bytes())
    return f"{commit.strip()}+{digest.hexdigest()[:12]}"
