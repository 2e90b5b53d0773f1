"""One step of an optimizer at a time."""

from __future__ import annotations

from threading import Lock

IN_A_STEP = (
    "this optimizer is in a step already, of another thread or one that this call comes from: take the steps of an "
    "optimizer one after the other"
)


def claimed(lock: Lock) -> Lock:
    """The lock of a step in Python, for a ``with``, which lets go of it whatever comes.

    A step within a step would wait for itself. Where two threads ask at the same time, one waits.

    Raises:
        RuntimeError: when it is taken.
    """
    if lock.locked():
        raise RuntimeError(IN_A_STEP)
    return lock
