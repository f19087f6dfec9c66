"""Writes a seeded random checkpoint of a built-in net, as torch.save would, without torch and in constant memory.

    python tools/make_checkpoint.py resnext101_32x48d_wsl ig_resnext101_32x48.pth            legacy stream, 3.3 GB
    python tools/make_checkpoint.py resnet18 resnet18.pth --format zip
    python tools/make_checkpoint.py --sparse --bytes 100GB huge.pth                          storages are holes

Values are such that activations stay tame: He-normal convolutions, BatchNorm weights in 0.5 to 1.5, those of the last
BatchNorm of each block a quarter of that.
"""

from __future__ import annotations

import argparse
import os
import random
import struct
import sys
import zipfile
from collections.abc import Iterator, Sequence
from dataclasses import replace
from math import prod
from pathlib import Path
from typing import TYPE_CHECKING, Any, BinaryIO

sys.path.insert(0, str(Path(__file__).resolve().parent.parent))

from streamexport.checkpoints.torch_legacy import PROTOCOL
from streamexport.cli.arguments import size
from streamexport.families import find
from streamexport.families.resnet import ResNet, Spec
from streamexport.payload.tensors import DTYPES, contiguous_strides
from streamexport.sources.signatures import TORCH_LEGACY

if TYPE_CHECKING:
    import numpy as np

CHUNK = 1 << 18  # elements made at a time
STORAGES = {"float32": b"FloatStorage", "int64": b"LongStorage"}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("net", nargs="?", default="resnext101_32x48d_wsl", metavar="NET", help="a built-in net")
    parser.add_argument("output", type=Path)
    parser.add_argument("--format", choices=("legacy", "zip"), default="legacy")
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--sparse", action="store_true", help="leave storages as holes (legacy only)")
    parser.add_argument("--bytes", type=size, metavar="SIZE", help="as many more blocks as make up SIZE")
    options = parser.parse_args()
    if options.sparse and options.format != "legacy":
        parser.error("--sparse makes legacy files only")
    net = find(options.net)
    if options.bytes:
        net = deepened(net, options.bytes)
    specs, last = list(net.specs()), ".bn3.weight" if net.bottleneck else ".bn2.weight"
    with options.output.open("wb") as file:
        if options.format == "zip":
            write_zip(file, specs, options.seed, last)
        else:
            write_legacy(file, specs, options.seed, last, options.sparse)


def deepened(net: ResNet, bytes_wanted: int) -> ResNet:
    """`net` with so many blocks in its last stage that its tensors take at least as many bytes."""

    def count(depth: int) -> int:
        deeper = replace(net, depths=(*net.depths[:-1], depth))
        return sum(prod(shape) * DTYPES[dtype].itemsize for _, dtype, shape in deeper.specs())

    short, a_block = bytes_wanted - count(2), count(3) - count(2)
    return replace(net, depths=(*net.depths[:-1], 2 + max(0, -(-short // a_block))))


def write_legacy(file: BinaryIO, specs: Sequence[Spec], seed: int, last: str, sparse: bool = False) -> None:
    """The legacy stream. Storages stand in the order of their keys, which is not that of the tensors."""
    keys = [str(94_000_000_000_000 + 64 * n) for n in random.Random(seed).sample(range(10**9), len(specs))]
    file.write(TORCH_LEGACY + b".")
    file.write(b"\x80\x02M" + struct.pack("<H", PROTOCOL) + b".")
    sizes = b"".join(_text(name) + b"K" + bytes([n]) for name, n in (("short", 2), ("int", 4), ("long", 4)))
    system = _text("protocol_version") + b"M" + struct.pack("<H", PROTOCOL) + _text("little_endian") + b"\x88"
    file.write(b"\x80\x02}(" + system + _text("type_sizes") + b"}(" + sizes + b"uu.")
    file.writelines(_state_dict(specs, keys, b"N"))
    order = sorted(range(len(specs)), key=keys.__getitem__)
    file.write(b"\x80\x02](" + b"".join(_text(keys[index]) for index in order) + b"e.")
    for index in order:
        name, dtype, shape = specs[index]
        file.write(struct.pack("<q", prod(shape)))
        if sparse:
            file.seek(prod(shape) * DTYPES[dtype].itemsize, os.SEEK_CUR)
        else:
            file.writelines(_values(name, dtype, shape, seed, last))
    file.truncate()


def write_zip(file: BinaryIO, specs: Sequence[Spec], seed: int, last: str) -> None:
    """The zip archive: members stored, data at multiples of 64 bytes, as torch pads them."""
    keys = [str(index) for index in range(len(specs))]
    with zipfile.ZipFile(file, "w") as archive:
        _add(file, archive, "data.pkl", _state_dict(specs, keys, None))
        _add(file, archive, "byteorder", [b"little"])
        for key, (name, dtype, shape) in zip(keys, specs, strict=True):
            _add(file, archive, f"data/{key}", _values(name, dtype, shape, seed, last))
        _add(file, archive, "version", [b"3\n"])


def _add(file: BinaryIO, archive: zipfile.ZipFile, name: str, chunks: Any) -> None:
    info = zipfile.ZipInfo(f"archive/{name}")
    header = 30 + len(info.filename) + 20  # zipfile adds a zip64 field of 20 bytes
    padding = -(file.tell() + header + 4) % 64
    info.extra = b"FB" + struct.pack("<H", padding) + bytes(padding)
    with archive.open(info, "w", force_zip64=True) as member:
        for chunk in chunks:
            member.write(chunk)


def _state_dict(specs: Sequence[Spec], keys: Sequence[str], view_metadata: bytes | None) -> Iterator[bytes]:
    """The pickle of an OrderedDict of tensors, one storage each; view metadata only in the legacy format."""
    yield b"\x80\x02ccollections\nOrderedDict\n)R("
    for key, (name, dtype, shape) in zip(keys, specs, strict=True):
        storage = b"(" + _text("storage") + b"ctorch\n" + STORAGES[dtype] + b"\n" + _text(key) + _text("cpu")
        storage += _integer(prod(shape)) + (view_metadata or b"") + b"tQ"
        sizes = b"(" + b"".join(map(_integer, shape)) + b"t"
        strides = b"(" + b"".join(map(_integer, contiguous_strides(shape))) + b"t"
        hooks = b"ccollections\nOrderedDict\n)R"
        tensor = b"(" + storage + b"K\x00" + sizes + strides + b"\x89" + hooks + b"t"
        yield _text(name) + b"ctorch._utils\n_rebuild_tensor_v2\n" + tensor + b"R"
    yield b"u."


def _text(value: str) -> bytes:
    return b"X" + struct.pack("<I", len(value.encode())) + value.encode()


def _integer(value: int) -> bytes:
    return b"J" + struct.pack("<i", value)


def _values(name: str, dtype: str, shape: Sequence[int], seed: int, last: str) -> Iterator[bytes]:
    """A tensor's elements, the same in both formats; `last` ends the names to be quartered."""
    import numpy as np

    if dtype == "int64":
        yield np.full(shape, 1000, "<i8").tobytes()
        return
    generator = np.random.default_rng([seed, *name.encode()])
    for start in range(0, prod(shape), CHUNK):
        yield _drawn(generator, name, shape, min(CHUNK, prod(shape) - start), last).astype("<f4").tobytes()


def _drawn(
    generator: np.random.Generator, name: str, shape: Sequence[int], count: int, last: str
) -> np.ndarray[Any, np.dtype[np.floating[Any]]]:
    import numpy as np

    if len(shape) == 4:
        deviation = (2 / prod(shape[1:])) ** 0.5
    elif name == "fc.weight":
        deviation = shape[1] ** -0.5
    elif name.endswith(("running_var", "weight")):
        return generator.uniform(0.5, 1.5, count) * (0.25 if name.endswith(last) else 1.0)
    else:
        deviation = 0.1
    return generator.standard_normal(count, np.float32) * np.float32(deviation)


if __name__ == "__main__":
    main()
