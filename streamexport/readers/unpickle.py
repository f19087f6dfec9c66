"""A pickle machine that can only build plain data and what its caller allows.

A pickle is a program for a stack machine: opcodes of one byte, each with its argument behind it (the pickletools module
of the standard library documents all of them). This one knows the opcodes that protocols 0 to 5 use for None, booleans,
numbers, strings, bytes, tuples, lists, sets and dicts, the memo, and four ways to reach beyond plain data, which are
fenced in:

- GLOBAL and STACK_GLOBAL look a name up in the caller's table and nowhere else: nothing is imported;
- REDUCE and NEWOBJ call only what came out of that table;
- BUILD drops the state that it is given: OrderedDicts carry a `_metadata` attribute, nothing more is needed;
- BINPERSID hands a persistent id to the caller.

The standard unpickler is not used because its memo can be made to take memory without bound, and because a refusal
shall name the byte that it is about.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Mapping
from dataclasses import dataclass
from typing import Any

from ..errors import Error, FormatError, UnsafePickleError
from .cursor import Cursor

PICKLE_LIMIT = 256 << 20
"""Bytes that one pickle may take. A tensor takes about 200, so this is a million of them."""


@dataclass(frozen=True, slots=True)
class Global:
    """A name that a pickle may mention, and what calling it makes; `make` is None for names that only stand there."""

    name: str
    make: Callable[..., Any] | None = None


_MARK = object()
_MALFORMED = (
    *(IndexError, KeyError, TypeError, ValueError, AttributeError, OverflowError, struct.error),
    *(RecursionError, MemoryError),
)


class Unpickler:
    """Reads one pickle at the cursor.

    Parameters
    ----------
    globals_ : "module name" → what it stands for
    persistent_load : makes the object that a persistent id names
    """

    def __init__(
        self, cursor: Cursor, globals_: Mapping[str, Global], persistent_load: Callable[[Any], Any] | None = None
    ) -> None:
        self._cursor, self._globals, self._persistent_load = cursor, globals_, persistent_load
        self._start, self._copied = cursor.offset, 0
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def load(self) -> Any:
        """The object. FormatError if the pickle is malformed, UnsafePickleError if it reaches for more than data."""
        cursor, start = self._cursor, self._start
        while True:
            at = cursor.offset
            if at - start > PICKLE_LIMIT:
                raise self._error(f"a pickle goes on for more than {PICKLE_LIMIT} bytes", at)
            code = cursor.byte()
            if code == 0x2E:  # STOP
                break
            operation = _OPERATIONS.get(code)
            if operation is None:
                raise self._error(f"pickle opcode 0x{code:02x} has no place in a checkpoint", at)
            try:
                operation(self)
            except Error as error:
                if error.offset is None:
                    error.file, error.offset = cursor.source.name, at
                raise
            except _MALFORMED as error:
                raise self._error(f"malformed pickle at opcode 0x{code:02x} ({type(error).__name__})", at) from error
        if len(self._stack) != 1:
            raise self._error("malformed pickle: it does not end with one object", at)
        return self._stack.pop()

    def _error(self, what: str, at: int) -> FormatError:
        return FormatError(what, file=self._cursor.source.name, offset=at)

    # What the opcodes do, in the words of pickletools.

    def _push(self, value: Any) -> None:
        self._stack.append(value)

    def _pop_mark(self) -> list[Any]:
        stack = self._stack
        at = len(stack) - 1
        while stack[at] is not _MARK:
            at -= 1
            if at < 0:
                raise IndexError("no mark")
        items = stack[at + 1 :]
        del stack[at:]
        return items

    def _top(self, kind: type) -> Any:
        if type(self._stack[-1]) is not kind:
            raise TypeError(f"not a {kind.__name__}")
        return self._stack[-1]

    def _number(self, form: str) -> Any:
        return struct.unpack(form, self._cursor.read(struct.calcsize(form)))[0]

    def _counted(self, form: str) -> bytes:
        length = self._number(form)
        if not 0 <= length <= PICKLE_LIMIT:
            raise ValueError("length")
        return self._cursor.read(length)

    def _text(self, form: str) -> None:
        self._push(self._counted(form).decode("utf-8", "surrogatepass"))

    def _old_string(self, form: str) -> None:
        self._push(self._counted(form).decode("latin-1"))  # written by Python 2: names of keys, mostly

    def _long(self, form: str) -> None:
        self._push(int.from_bytes(self._counted(form), "little", signed=True))

    def _int(self) -> None:
        line = self._line()
        self._push({"00": False, "01": True}[line] if line in ("00", "01") else int(line))

    def _find(self, module: str, name: str) -> None:
        found = self._globals.get(f"{module} {name}")
        if found is None:
            raise UnsafePickleError(
                f"its pickle asks for {module}.{name}, which is not plain data, and nothing was executed",
                advice="if you trust the file, load it with torch and save only the state dict:"
                " torch.save(model.state_dict(), ...)",
            )
        self._push(found)

    def _line(self) -> str:
        return self._cursor.line().decode("utf-8")

    def _global(self) -> None:
        self._find(self._line(), self._line())

    def _stack_global(self) -> None:
        name, module = self._stack.pop(), self._stack.pop()
        if type(name) is not str or type(module) is not str:
            raise TypeError("name")
        self._find(module, name)

    def _reduce(self) -> None:
        arguments, callee = self._stack.pop(), self._stack.pop()
        if type(callee) is not Global or callee.make is None:
            what = callee.name if type(callee) is Global else type(callee).__name__
            raise UnsafePickleError(f"its pickle calls {what}, and nothing was executed")
        if type(arguments) is not tuple or len(arguments) > 16:
            raise TypeError("arguments")
        # Calls copy what they are given. What torch writes is given to one call; a memo could give it to a million.
        self._copied += sum(len(argument) for argument in arguments if type(argument) in (str, list, tuple, dict))
        if self._copied > self._cursor.offset - self._start:
            raise ValueError("copies")
        self._push(callee.make(*arguments))

    def _build(self) -> None:
        self._stack.pop()
        if self._stack[-1] is _MARK:
            raise TypeError("mark")

    def _persistent_id(self) -> None:
        if self._persistent_load is None:
            raise ValueError("persistent id")
        self._push(self._persistent_load(self._stack.pop()))

    def _set_items(self, items: list[Any]) -> None:
        target = self._top(dict)
        if len(items) % 2:
            raise ValueError("odd")
        for key, value in zip(items[::2], items[1::2], strict=True):
            if (
                type(key) is str
            ):  # others (an optimizer's numbers) lead to nothing that is read, and may be slow to hash
                target[key] = value

    def _set_item(self) -> None:
        value, key = self._stack.pop(), self._stack.pop()
        self._set_items([key, value])

    def _extend(self, items: list[Any]) -> None:
        self._top(list).extend(items)

    def _tuple(self, count: int) -> None:
        items = tuple(self._stack[-count:])
        if len(items) != count or any(item is _MARK for item in items):
            raise IndexError("tuple")
        self._stack[-count:] = [items]

    def _put(self, index: int) -> None:
        if self._stack[-1] is _MARK:
            raise TypeError("mark")
        if not 0 <= index < 1 << 32:
            raise ValueError("memo")
        self._memo[index] = self._stack[-1]

    def _dict_of(self, items: list[Any]) -> None:
        self._push({})
        self._set_items(items)


_OPERATIONS: dict[int, Callable[[Unpickler], Any]] = {
    ord(code): operation
    for code, operation in {
        "\x80": lambda u: u._cursor.byte(),  # PROTO
        "\x95": lambda u: u._cursor.read(8),  # FRAME: a hint about buffering, ours is not needed
        "(": lambda u: u._push(_MARK),
        "0": lambda u: u._stack.pop(),
        "1": lambda u: u._pop_mark(),
        "2": lambda u: u._push(u._stack[-1]),
        "N": lambda u: u._push(None),
        "\x88": lambda u: u._push(True),
        "\x89": lambda u: u._push(False),
        "I": lambda u: u._int(),
        "J": lambda u: u._push(u._number("<i")),
        "K": lambda u: u._push(u._number("<B")),
        "M": lambda u: u._push(u._number("<H")),
        "L": lambda u: u._push(int(u._line().rstrip("L"))),
        "\x8a": lambda u: u._long("<B"),
        "\x8b": lambda u: u._long("<i"),
        "F": lambda u: u._push(float(u._line())),
        "G": lambda u: u._push(u._number(">d")),
        "U": lambda u: u._old_string("<B"),
        "T": lambda u: u._old_string("<i"),
        "X": lambda u: u._text("<I"),
        "\x8c": lambda u: u._text("<B"),
        "\x8d": lambda u: u._text("<Q"),
        "B": lambda u: u._push(u._counted("<I")),
        "C": lambda u: u._push(u._counted("<B")),
        "\x8e": lambda u: u._push(u._counted("<Q")),
        ")": lambda u: u._push(()),
        "t": lambda u: u._push(tuple(u._pop_mark())),
        "\x85": lambda u: u._tuple(1),
        "\x86": lambda u: u._tuple(2),
        "\x87": lambda u: u._tuple(3),
        "]": lambda u: u._push([]),
        "l": lambda u: u._push(u._pop_mark()),
        "a": lambda u: u._extend([u._stack.pop()]),
        "e": lambda u: u._extend(u._pop_mark()),
        "\x8f": lambda u: u._push([]),  # EMPTY_SET: a list does, nobody asks it for membership
        "\x90": lambda u: u._extend(u._pop_mark()),
        "}": lambda u: u._push({}),
        "d": lambda u: u._dict_of(u._pop_mark()),
        "s": lambda u: u._set_item(),
        "u": lambda u: u._set_items(u._pop_mark()),
        "p": lambda u: u._put(int(u._line())),
        "q": lambda u: u._put(u._number("<B")),
        "r": lambda u: u._put(u._number("<I")),
        "\x94": lambda u: u._put(len(u._memo)),
        "g": lambda u: u._push(u._memo[int(u._line())]),
        "h": lambda u: u._push(u._memo[u._number("<B")]),
        "j": lambda u: u._push(u._memo[u._number("<I")]),
        "c": lambda u: u._global(),
        "\x93": lambda u: u._stack_global(),
        "R": lambda u: u._reduce(),
        "\x81": lambda u: u._reduce(),  # NEWOBJ: the same as a call, for what the table holds
        "b": lambda u: u._build(),
        "Q": lambda u: u._persistent_id(),
    }.items()
}
