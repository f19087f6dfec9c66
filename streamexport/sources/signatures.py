"""What a file is, by the bytes that it begins with: a checkpoint, a Caffe model, or what people take for one.

Checkpoints and models know nothing of each other; what tells them apart stands here. The content decides, never the suffix.
"""

from __future__ import annotations

import struct
from collections.abc import Callable, Sequence

from ..errors import FormatError
from ..payload.pieces import Source
from . import Path, open_source

HEAD = 512
"""Bytes that are looked at."""

TORCH_LEGACY = b"\x80\x02\x8a\x0a\x6c\xfc\x9c\x46\xf9\x20\x6a\xa8\x50\x19"
"""The pickle of torch's magic number, without its STOP."""
ZIP = b"PK\x03\x04"
NUMPY = b"\x93NUMPY"
NUMPY_SUFFIX = ".npy"
HDF5 = b"\x89HDF\r\n\x1a\n"
_PICKLES = (*(b"\x80%c" % protocol for protocol in range(2, 6)), b"(dp", b"}q\x00", b"}q\x01", b"ccollections\n")
"""A pickle of protocol 2 or later begins with 0x80 and the protocol, an older one with whatever opcode comes first: of
those, dicts are known."""
_SAFETENSORS_LIMIT = 100_000_000  # the reference reader's, for the header
_NET_PARAMETER = (b"\x0a", b"\x12", b"\x1a", b"\x22", b"\x28", b"\x32", b"\x38", b"\x42", b"\xa2\x06")
"""The tags of NetParameter's fields."""


def _is_npz(head: bytes) -> bool:
    if not head.startswith(ZIP) or len(head) < 30:
        return False
    (length,) = struct.unpack_from("<H", head, 26)
    return head[30 : 30 + length].decode("utf-8", "replace").endswith(NUMPY_SUFFIX)


def _is_safetensors(head: bytes) -> bool:
    return len(head) > 8 and head[8:9] == b"{" and struct.unpack("<Q", head[:8])[0] <= _SAFETENSORS_LIMIT


CHECKPOINTS: dict[str, Callable[[bytes], bool]] = {
    "torch legacy": lambda head: head.startswith(TORCH_LEGACY),
    "numpy": lambda head: head.startswith(NUMPY) or _is_npz(head),
    "torch zip": lambda head: head.startswith(ZIP),
    "pickle": lambda head: head.startswith(_PICKLES),
    "safetensors": _is_safetensors,
    "index": lambda head: head.lstrip()[:1] == b"{",
}
MODELS: dict[str, Callable[[bytes], bool]] = {
    "hdf5": lambda head: head.startswith(HDF5),
    "caffemodel": lambda head: head.startswith(_NET_PARAMETER),
}
"""Whether a file may be of a format, in the order in which they are asked; models behind all others."""


def kind_of(source: Source) -> str:
    """The format of a file, a key of CHECKPOINTS or MODELS; "" if it is none of them. FormatError if it is empty."""
    head = _head(source)
    for name, begins in CHECKPOINTS.items():
        if begins(head):
            return name
    return next((name for name, begins in MODELS.items() if begins(head)), "") if _stranger(head) is None else ""


def is_model(path: Path) -> bool:
    """Whether a file looks like a Caffe model rather than a checkpoint."""
    return kind_of(open_source(path)) in MODELS


def split(paths: Sequence[Path]) -> tuple[list[Source], list[Source]]:
    """Models, and the checkpoints that are named beside them; what is neither, or alone, counts as a model."""
    named = [open_source(path) for path in paths]
    checkpoints = [source for source in named if kind_of(source) in CHECKPOINTS] if len(named) > 1 else []
    models = [source for source in named if source not in checkpoints]
    return (models, checkpoints) if models else (named, [])


def refusal(source: Source, otherwise: str) -> FormatError:
    """What is to be said of a file that is neither; `otherwise` if nobody knows what it is."""
    what, advice = _stranger(_head(source)) or (otherwise, None)
    return FormatError(what, file=source.name, offset=0, advice=advice)


def _head(source: Source) -> bytes:
    if not source.size:
        raise FormatError("is empty", file=source.name)
    return source.read(0, min(source.size, HEAD))


_UNPACK = "unpack it first"
_WEB = "fetch the file itself: where that page came from there is a link to it, or a login before it"
_SIGNATURES = (
    (0, b"version https://git-lfs", "is a Git LFS pointer: the file itself was not fetched", "git lfs pull"),
    (0, b"\x1f\x8b", "is compressed with gzip", _UNPACK),
    (0, b"\xfd7zXZ\0", "is compressed with xz", _UNPACK),
    (0, b"BZh", "is compressed with bzip2", _UNPACK),
    (0, b"\x28\xb5\x2f\xfd", "is compressed with zstd", _UNPACK),
    (0, b"7z\xbc\xaf\x27\x1c", "is a 7z archive", _UNPACK),
    (0, b"Rar!\x1a\x07", "is a rar archive", _UNPACK),
    (
        257,
        b"ustar",
        "is a tar archive",
        "unpack it; a checkpoint of torch 0.1, which is one, has to be saved again with a newer torch",
    ),
    (
        4,
        b"PTMF",
        "is a module of torch for mobile devices, without names for its weights",
        "convert the checkpoint that it was made from",
    ),
    (4, b"TFL3", "is a TensorFlow Lite model", "convert the PyTorch checkpoint that it was made from"),
    (0, b"\x08\x01\x12", "is a TensorFlow SavedModel", "only PyTorch's checkpoints are converted"),
    (0, b"MATLAB", "is a MATLAB file", "save its arrays as .npz"),
    *(
        (0, bytes((8, version, tag)), "is an ONNX model", "convert the PyTorch checkpoint that it was made from")
        for version in range(2, 20)
        for tag in (0x12, 0x1A, 0x22, 0x3A, 0x42)
    ),
)


def _stranger(head: bytes) -> tuple[str, str] | None:
    """What a file is that begins like this, as a clause, and what to do about it; None if that is not known."""
    if head.lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith((b"<!doctype", b"<html", b"<head", b"<?xml")):
        return "is a web page", _WEB
    for offset, signature, what, advice in _SIGNATURES:
        if head[offset:].startswith(signature):
            return what, advice
    return None
