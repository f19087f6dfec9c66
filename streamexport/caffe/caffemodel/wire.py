"""Protocol buffers' wire format as pieces of known size.

A message is a sequence of fields, each a tag and a value. The tag is the varint `number << 3 | type`; of the types we
write 2 only: a length (a varint) and that many bytes, for strings, packed numbers and messages alike. A varint holds 7
bits a byte, lowest first, with the top bit set on all but the last. Learnt from the encoding page of protobuf's
documentation.

Fields are lists of pieces, so a message's length is the sum of its pieces' sizes: it is known, and written, before any
byte of its content is, and cannot disagree with it.
"""

from __future__ import annotations

from collections.abc import Iterable

from ...payload.pieces import Literal, Piece

VARINT, FIXED64, DELIMITED, FIXED32 = 0, 1, 2, 5


def varint(value: int, width: int = 1) -> bytes:
    """A natural number in base 128, lowest digits first; negative ones as the 64 bits of their two's complement.

    It takes `width` bytes at least, by zeros in front, which every reader allows.
    """
    if value < 0:
        value += 1 << 64
    encoded = bytearray()
    while value > 0x7F or len(encoded) + 1 < width:
        encoded.append(value & 0x7F | 0x80)
        value >>= 7
    encoded.append(value)
    return bytes(encoded)


def tag(number: int, wire_type: int = DELIMITED) -> bytes:
    return varint(number << 3 | wire_type)


def delimited(number: int, pieces: Iterable[Piece]) -> list[Piece]:
    """A field whose content is `pieces`: tag, length, content."""
    content = list(pieces)
    return [Literal(tag(number) + varint(size(content))), *content]


def size(pieces: Iterable[Piece]) -> int:
    return sum(piece.size for piece in pieces)
