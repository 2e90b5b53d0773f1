"""Attributes that an optimizer is given when it is made."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    given = property  # to which nothing is assigned
else:

    class given(property):
        """A property whose value is the constructor's: assigning to it is told the remedy."""

        def __set__(self, instance: Any, value: Any) -> None:
            name = self.fget.__name__
            raise AttributeError(
                f"{name} is given to the constructor, and not assigned: make the optimizer anew with {name}=..., and "
                "load what this one's state_dict() holds"
            )
