"""Valid files bent in ways that know their structure: each function makes one input of a seed."""

from __future__ import annotations

import io
import itertools
import json
import pickletools
import random
import re
import struct
import zipfile
from typing import Any

from streamexport.caffe import caffe_pb2

Rng = random.Random

NUMBERS = [0, 1, 2, 3, 7, 8, 127, 128, 255, 256, 65535, 2**31 - 1, 2**31, 2**32 - 1, 2**32, 2**63 - 1, 2**64 - 1]


def bent(rng: Rng, data: bytes) -> bytes:
    """A few bytes changed, moved, doubled or gone."""
    edited = bytearray(data)
    for _ in range(rng.choice((1, 1, 2, 4, 8))):
        at = rng.randrange(len(edited) + 1)
        length = rng.choice((1, 1, 2, 4, 8, 64))
        match rng.randrange(7):
            case 0:
                edited[at : at + 1] = bytes((rng.randrange(256),))
            case 1:
                edited[at : at + length] = rng.randbytes(length)
            case 2:
                del edited[at : at + length]
            case 3:
                edited[at:at] = edited[at : at + length]
            case 4:
                del edited[at:]
            case _:
                size = rng.choice((1, 2, 4, 8))
                number = rng.choice(NUMBERS) % (1 << 8 * size)
                edited[at : at + size] = number.to_bytes(size, rng.choice(("little", "big")))
    return bytes(edited)


OPS = [
    b"R",
    b"b",
    b"o",
    b"\x81",
    b"N",
    b")",
    b"(",
    b"t",
    b"\x85",
    b"d",
    b"}",
    b"u",
    b"s",
    b"0",
    b"2",
    b"1",
    b"Q",
    b"]",
    b"e",
]
OPS += [
    b"h\0",
    b"q\0",
    b"h\xff",
    b"K\x05",
    b"M\xff\xff",
    b"J\xff\xff\xff\xff",
    b"\x8b\xff\xff\xff\x7f",
    b"\x8a\x09" + b"\xff" * 9,
]
OPS += [b"cos\nsystem\n", b"cbuiltins\neval\n", b"cbuiltins\n__import__\n", b"ctorch\nload\n", b"c_codecs\nencode\n"]
OPS += [
    b"ccollections\nOrderedDict\n",
    b"ctorch._utils\n_rebuild_tensor_v2\n",
    b"X\x01\0\0\0w",
    b"G" + b"\x7f\xf0" + bytes(6),
]


def pickled(rng: Rng, data: bytes) -> bytes:
    """A stream of pickles with operations gone, doubled, changed places, or foreign."""
    starts, at = [], 0
    with_end = []
    while True:
        try:
            found = list(pickletools.genops(data[at:]))
        except Exception:
            break
        starts += [at + position for _, _, position in found]
        at += found[-1][2] + 1
        with_end.append(at)
        if at >= len(data):
            break
    bounds = [*starts, at]
    ops = [data[a:b] for a, b in itertools.pairwise(bounds)]
    if len(ops) < 2:
        return bent(rng, data)
    for _ in range(rng.choice((1, 1, 2, 5))):
        a, b = rng.randrange(len(ops)), rng.randrange(len(ops))
        match rng.randrange(6):
            case 0:
                ops[a] = b""
            case 1:
                ops[a] += ops[a]
            case 2:
                ops[a], ops[b] = ops[b], ops[a]
            case 3:
                ops[a] = bent(rng, ops[a])
            case _:
                ops[a] += rng.choice(OPS)
    return b"".join(ops) + data[at:]


def zipped(rng: Rng, data: bytes) -> bytes:
    """A zip archive whose members are bent, or its own bytes."""
    if rng.random() < 0.3:
        return bent(rng, data)
    out = io.BytesIO()
    with zipfile.ZipFile(io.BytesIO(data)) as old, zipfile.ZipFile(out, "w", rng.choice((0, 0, 0, 8))) as new:
        victim = rng.choice([n for n in old.namelist() if n.endswith(".pkl")] or old.namelist())
        if rng.random() < 0.2:
            victim = rng.choice(old.namelist())
        for name in old.namelist():
            content = old.read(name)
            if name == victim:
                content = (pickled if name.endswith(".pkl") else bent)(rng, content)
                if rng.random() < 0.05:
                    continue
            new.writestr(name, content)
    return out.getvalue()


ODD = [None, True, -1, 1.5, float("inf"), "", "w", "../x", "\0", "\ud800", [], {}, [[]], {"a": 1}, *NUMBERS, 10**30]


def restructured(rng: Rng, value: Any) -> Any:
    """A JSON value with something in it replaced, gone or doubled."""
    if isinstance(value, dict) and value and rng.random() < 0.9:
        changed = dict(value)
        key = rng.choice(list(changed))
        match rng.randrange(6):
            case 0:
                del changed[key]
            case 1:
                changed[rng.choice(("", "x", "w" * 300, "__metadata__"))] = changed[key]
            case _:
                changed[key] = restructured(rng, changed[key])
        return changed
    if isinstance(value, list) and value and rng.random() < 0.8:
        at = rng.randrange(len(value))
        return [*value[:at], restructured(rng, value[at]), *value[at + rng.choice((0, 1, 1, 1, 2)) :]]
    return rng.choice(ODD)


def in_json(rng: Rng, data: bytes) -> bytes:
    if rng.random() < 0.3:
        return bent(rng, data)
    return json.dumps(restructured(rng, json.loads(data))).encode()


def in_safetensors(rng: Rng, data: bytes) -> bytes:
    if rng.random() < 0.3:
        return bent(rng, data)
    (length,) = struct.unpack("<Q", data[:8])
    header = in_json(rng, data[8 : 8 + length])
    return struct.pack("<Q", len(header)) + header + data[8 + length :]


def varint(value: int, pad: int = 0) -> bytes:
    encoded = bytearray()
    while value > 0x7F or pad > 0:
        encoded.append(value & 0x7F | 0x80)
        value, pad = value >> 7, pad - 1
    return bytes((*encoded, value))


def unvarint(data: bytes, at: int) -> tuple[int, int]:
    value = shift = 0
    while True:
        value |= (data[at] & 0x7F) << shift
        shift, at = shift + 7, at + 1
        if data[at - 1] < 0x80:
            return value, at


def split_message(data: bytes) -> list[tuple[int, bytes]]:
    """Tags and values of a message's fields; ValueError or IndexError if it is none."""
    fields, at = [], 0
    while at < len(data):
        tag, at = unvarint(data, at)
        start = at
        match tag & 7:
            case 0:
                _, at = unvarint(data, at)
            case 1:
                at += 8
            case 2:
                length, start = unvarint(data, at)
                at = start + length
            case 5:
                at += 4
            case _:
                raise ValueError
        if not tag >> 3 or at > len(data):
            raise ValueError
        fields.append((tag, data[start:at]))
    return fields


def in_message(rng: Rng, data: bytes, depth: int = 0) -> bytes:
    """A message with fields gone, doubled, retyped, in other places or bent, at any depth; lengths as they should be."""
    try:
        fields = split_message(data)
    except (ValueError, IndexError):
        fields = []
    if not fields or (depth == 0 and rng.random() < 0.2):
        return bent(rng, data)
    at = rng.randrange(len(fields))
    if depth == 0 and rng.random() < 0.7:
        at = max(range(len(fields)), key=lambda i: len(fields[i][1]) * rng.random())
    tag, value = fields[at]
    match rng.randrange(8):
        case 0:
            del fields[at]
        case 1:
            fields.insert(rng.randrange(len(fields)), fields[at])
        case 2:
            fields[at] = rng.choice((tag ^ rng.randrange(8), rng.choice(NUMBERS) % (1 << 32) << 3 | tag & 7)), value
        case 3 if not tag & 7:
            fields[at] = tag, varint(rng.choice(NUMBERS))
        case _ if tag & 7 == 2:
            fields[at] = tag, in_message(rng, value, depth + 1)
        case _:
            fields[at] = tag, bent(rng, value)
    out = b""
    for tag, value in fields:
        pad = rng.choice((0, 0, 0, 0, 0, 0, 0, 4)) if rng.random() < 0.1 else 0
        out += varint(tag, pad) + (varint(len(value), pad) if tag & 7 == 2 else b"") + value
    return out


WORDS = [
    "{",
    "}",
    ":",
    "0",
    "-1",
    "1",
    "3000000000",
    "1048576",
    "1e999",
    "nan",
    '"',
    '""',
    '"x"',
    "true",
    "AVE",
    "layer",
    "dim",
]
WORDS += [
    "layers",
    "param",
    "#",
    "\n",
    "\0",
    "\\",
    "input_param",
    "shape",
    "<",
    ">",
    "[",
    "]",
    ",",
    '"\\377"',
    '"a\\n"',
    "99",
]


def in_words(rng: Rng, data: bytes) -> bytes:
    """A text with words gone, doubled, in other places or foreign."""
    if rng.random() < 0.2:
        return bent(rng, data)
    words = re.findall(r'"[^"\n]*"|\w+|\s+|.', data.decode("utf-8", "replace"))
    for _ in range(rng.choice((1, 1, 2, 5))):
        a, b = rng.randrange(len(words)), rng.randrange(len(words))
        match rng.randrange(5):
            case 0:
                words[a] = ""
            case 1:
                words[a], words[b] = words[b], words[a]
            case 2:
                words[a] += "".join(words[a : a + rng.randrange(20)])
            case _:
                words[a] = rng.choice(WORDS)
    return "".join(words).encode()


def in_record(rng: Rng, data: bytes) -> bytes:
    net = caffe_pb2.NetParameter.FromString(data)
    net.streamexport_record = in_json(rng, net.streamexport_record)
    return net.SerializeToString()
