"""How pytest-xdist hands out tests: those of one group to one worker, all others a few at a time."""

from __future__ import annotations

from typing import Any

from xdist.scheduler import LoadGroupScheduling

CHUNK = 4
"""Less than most groups have: pytest-xdist hands out what is of many tests first, and such a group must not be last."""


class Chunks(LoadGroupScheduling):
    """With every test a scope of its own, and each looked at again whenever a test ends, the scheduler would take a
    minute for 18,000 tests."""

    def __init__(self, *arguments: Any) -> None:
        super().__init__(*arguments)
        self._chunks: dict[str, str] = {}

    def _split_scope(self, nodeid: str) -> str:
        scope = str(super()._split_scope(nodeid))
        if scope != nodeid:
            return scope  # of a group
        return self._chunks.setdefault(nodeid, f"chunk {len(self._chunks) // CHUNK}")

    def mark_test_complete(self, node: Any, item_index: int, duration: float = 0) -> None:
        super().mark_test_complete(node, item_index, duration)
        work = self.assigned_work[node]
        scope = self._split_scope(self.registered_collections[node][item_index])
        if all(work[scope].values()):
            del work[scope]
