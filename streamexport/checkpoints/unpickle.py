"""A pickle machine that builds plain data, what its caller allows, and inert records of everything else.

A pickle is a program for a stack machine: opcodes of one byte, each with its argument behind it (the pickletools module
of the standard library documents all of them). This one knows those that protocols 0 to 5 use for None, booleans,
numbers, strings, bytes, tuples, lists, sets and dicts, and the memo. What reaches beyond plain data is fenced in:

- GLOBAL, STACK_GLOBAL, INST and EXT only mention a name: nothing is looked up, nothing imported;
- REDUCE, NEWOBJ, NEWOBJ_EX, INST and OBJ call what the caller's table holds under that name. Of all other names they make
  a `Record`, which keeps what the name was given, and never asks anybody;
- BUILD, SETITEMS and APPENDS leave in a record what they bring; the state of anything else is dropped (OrderedDicts carry
  a `_metadata` attribute, nothing more is needed);
- BINPERSID hands a persistent id to the caller.

Bytes and long strings are not read, but jumped over: a `Payload` says where they lie. So a pickle of numpy arrays costs
memory by its objects, not by its size.

The standard unpickler is not used because its memo can be made to take memory without bound, because it has to find a
class before it can build anything, and because a refusal shall name the byte that it is about.
"""

from __future__ import annotations

import codecs
import struct
from collections.abc import Callable, Mapping
from typing import Any

from ..errors import Error, FormatError, TruncatedError, UnsafePickleError
from ..sources.cursor import Cursor
from .records import Global, Payload, Record

PICKLE_LIMIT = 256 << 20
"""Bytes that one pickle may take, payloads aside. A tensor takes about 200, so this is a million of them."""
LONG = 1 << 10
"""Bytes above which a string is a payload. No name is as long."""
LINE = 1 << 16
"""Bytes that a string of protocol 0, which is a line, may take."""

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
        self._start, self._jumped, self._copied = cursor.offset, 0, 0
        self._at = cursor.offset
        self._stack: list[Any] = []
        self._memo: dict[int, Any] = {}

    def load(self) -> Any:
        """The object. FormatError if the pickle is malformed, UnsafePickleError if it calls what is no name."""
        cursor = self._cursor
        while True:
            self._at = at = cursor.offset
            if self._read() > PICKLE_LIMIT:
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

    def _read(self) -> int:
        """Bytes of the pickle that were read, and not jumped over."""
        return self._cursor.offset - self._start - self._jumped

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

    def _number(self, form: str) -> Any:
        return struct.unpack(form, self._cursor.read(struct.calcsize(form)))[0]

    def _payload(self, length: int, is_text: bool) -> None:
        self._jumped += length
        self._push(Payload(self._cursor.skip(length), is_text))

    def _length(self, form: str) -> int:
        length: int = self._number(form)
        if length < 0:
            raise ValueError("length")
        return length

    def _bytes(self, form: str) -> None:
        self._payload(self._length(form), False)

    def _text(self, form: str) -> None:
        length = self._length(form)
        if length > LONG:
            self._payload(length, True)
        else:
            self._push(self._cursor.read(length).decode("utf-8", "surrogatepass"))

    def _old_string(self, form: str) -> None:  # written by Python 2: bytes or text, as it knew no difference
        length = self._length(form)
        if length > LONG:
            self._payload(length, False)
        else:
            self._push(self._cursor.read(length).decode("latin-1"))

    def _long_line(self) -> bytes:
        try:
            return self._cursor.line(LINE)
        except TruncatedError as error:
            error.advice = "save it again with a pickle protocol above 1"
            raise

    def _quoted(self) -> None:
        line = self._long_line()
        if len(line) < 2 or line[:1] != line[-1:] or line[:1] not in (b"'", b'"'):
            raise ValueError("quotes")
        self._push(codecs.escape_decode(line[1:-1])[0].decode("latin-1"))

    def _escaped(self) -> None:
        self._push(self._long_line().decode("raw-unicode-escape"))

    def _long(self, form: str) -> None:
        length = self._length(form)
        if length > PICKLE_LIMIT:
            raise ValueError("length")
        self._push(int.from_bytes(self._cursor.read(length), "little", signed=True))

    def _int(self) -> None:
        line = self._line()
        self._push({"00": False, "01": True}[line] if line in ("00", "01") else int(line))

    def _find(self, module: str, name: str) -> Global:
        return self._globals.get(f"{module} {name}") or Global(module, name)

    def _line(self) -> str:
        return self._cursor.line().decode("utf-8")

    def _global(self) -> None:
        self._push(self._find(self._line(), self._line()))

    def _stack_global(self) -> None:
        name, module = self._stack.pop(), self._stack.pop()
        if type(name) is not str or type(module) is not str:
            raise TypeError("name")
        self._push(self._find(module, name))

    def _extension(self, form: str) -> None:
        self._push(self._find("copyreg", f"extension {self._number(form)}"))

    def _reduce(self) -> None:
        arguments, callee = self._stack.pop(), self._stack.pop()
        self._call(callee, arguments)

    def _new_with_keywords(self) -> None:
        keywords, arguments, callee = self._stack.pop(), self._stack.pop(), self._stack.pop()
        if type(keywords) is not dict:
            raise TypeError("keywords")
        self._call(callee, arguments)

    def _instance(self) -> None:
        callee = self._find(self._line(), self._line())
        self._call(callee, tuple(self._pop_mark()))

    def _object(self) -> None:
        callee, *arguments = self._pop_mark()
        self._call(callee, tuple(arguments))

    def _call(self, callee: Any, arguments: Any) -> None:
        if type(callee) not in (Global, Record):
            what = "a mark" if callee is _MARK else type(callee).__name__
            raise UnsafePickleError(f"its pickle calls {what}, and nothing was executed")
        if type(arguments) is not tuple:
            raise TypeError("arguments")
        named = callee.callee if type(callee) is Record else callee
        make = named.make if named is callee else None
        made = self._made(make, arguments) if make else Record(named, arguments)
        if type(made) is Record and made.offset < 0:
            made.offset = self._at
        self._push(made)

    def _made(self, make: Callable[..., Any], arguments: tuple[Any, ...]) -> Any:
        if len(arguments) > 16:
            raise TypeError("arguments")
        # Calls copy what they are given. What torch writes is given to one call; a memo could give it to a million.
        self._copied += sum(len(argument) for argument in arguments if type(argument) in (str, list, tuple, dict))
        if self._copied > self._read():
            raise ValueError("copies")
        return make(*arguments)

    def _build(self) -> None:
        state = self._stack.pop()
        if self._stack[-1] is _MARK:
            raise TypeError("mark")
        if type(self._stack[-1]) is Record:
            self._stack[-1].state = state

    def _persistent_id(self) -> None:
        if self._persistent_load is None:
            raise ValueError("persistent id")
        self._push(self._persistent_load(self._stack.pop()))

    def _set_items(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if type(target) is Record:
            if target.entries is None:
                target.entries = {}
            target = target.entries
        if type(target) is not dict:
            raise TypeError("no dict")
        if len(items) % 2:
            raise ValueError("odd")
        for key, value in zip(items[::2], items[1::2], strict=True):
            # Other keys (an optimizer's numbers) lead to nothing that is read, and may be slow to hash.
            if type(key) is str:
                target[key] = value

    def _set_item(self) -> None:
        value, key = self._stack.pop(), self._stack.pop()
        self._set_items([key, value])

    def _extend(self, items: list[Any]) -> None:
        target = self._stack[-1]
        if type(target) is Record:
            if target.items is None:
                target.items = []
            target = target.items
        if type(target) is not list:
            raise TypeError("no list")
        target.extend(items)

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
        "S": lambda u: u._quoted(),
        "V": lambda u: u._escaped(),
        "U": lambda u: u._old_string("<B"),
        "T": lambda u: u._old_string("<i"),
        "X": lambda u: u._text("<I"),
        "\x8c": lambda u: u._text("<B"),
        "\x8d": lambda u: u._text("<Q"),
        "B": lambda u: u._bytes("<I"),
        "C": lambda u: u._bytes("<B"),
        "\x8e": lambda u: u._bytes("<Q"),
        "\x96": lambda u: u._bytes("<Q"),  # BYTEARRAY8
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
        "\x91": lambda u: u._push(u._pop_mark()),  # FROZENSET
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
        "\x82": lambda u: u._extension("<B"),
        "\x83": lambda u: u._extension("<H"),
        "\x84": lambda u: u._extension("<i"),
        "R": lambda u: u._reduce(),
        "\x81": lambda u: u._reduce(),  # NEWOBJ: the same as a call, for what the table holds
        "\x92": lambda u: u._new_with_keywords(),
        "i": lambda u: u._instance(),
        "o": lambda u: u._object(),
        "b": lambda u: u._build(),
        "Q": lambda u: u._persistent_id(),
    }.items()
}
