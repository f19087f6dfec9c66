"""What a pickle speaks of and nobody makes: names, calls of them, and long strings."""

from __future__ import annotations

from collections.abc import Callable
from dataclasses import dataclass
from typing import Any

from ..payload.pieces import Extent


@dataclass(frozen=True, slots=True)
class Global:
    """A name that a pickle mentions, and what calling it makes, if the caller's table says so."""

    module: str
    qualified: str
    make: Callable[..., Any] | None = None

    @property
    def name(self) -> str:
        """As the table has it. Not kept: a few bytes can mention two long strings together again and again."""
        return f"{self.module} {self.qualified}"

    @property
    def dotted(self) -> str:
        """As Python has it, for messages."""
        return f"{self.module}.{self.qualified}"


@dataclass(eq=False, slots=True)
class Record:
    """An object that was not made: whom the pickle calls, and what it gives. Nothing is done with it.

    Attributes
    ----------
    callee : a class or a function, by name only
    arguments : of the call
    offset : of the call in the file
    state : what BUILD brings, often the object's `__dict__`
    entries : what SETITEMS brings to a mapping, those whose keys are strings
    items : what APPENDS brings to a sequence
    """

    callee: Global
    arguments: tuple[Any, ...]
    offset: int = -1
    state: Any = None
    entries: dict[str, Any] | None = None
    items: list[Any] | None = None


@dataclass(frozen=True, slots=True)
class Payload:
    """Bytes, or the UTF-8 of a long string, where they lie in the file."""

    extent: Extent
    is_text: bool
