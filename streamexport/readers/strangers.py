"""Files that are given for checkpoints and are something else, by what they begin with: what they are, what to do."""

from __future__ import annotations

from ..errors import FormatError

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


def described(head: bytes) -> tuple[str, str] | None:
    """What a file is that begins like this, as a clause, and what to do about it; None if that is not known."""
    if head.lstrip(b"\xef\xbb\xbf \t\r\n").lower().startswith((b"<!doctype", b"<html", b"<head", b"<?xml")):
        return "is a web page", _WEB
    for offset, signature, what, advice in _SIGNATURES:
        if head[offset:].startswith(signature):
            return what, advice
    return None


def refuse(head: bytes, file: str) -> None:
    """FormatError if a file that begins like this is something that is known, and neither checkpoint nor model."""
    if (found := described(head)) is not None:
        what, advice = found
        raise FormatError(what, file=file, offset=0, advice=advice)
