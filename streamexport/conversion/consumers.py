"""Who runs what is written as it is: by dialect, format, precision, size, parts, and the layers that a reader has.

The table is what `docs/deploy.md` measures, and what the programs themselves list as their layers. It is no proof that they
compute what torch computes: `verify --forward --engine all` asks those that are installed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from ..writers.caffemodel import CAFFE_LIMIT

FORK_LIMIT = 512 << 20
"""Bytes of the largest file that some forks of Caffe load, those of the SSD family among them."""

CAFFES = frozenset(
    "AbsVal ArgMax BNLL BatchNorm BatchReindex Bias Concat Convolution Crop Deconvolution Dropout ELU Eltwise Embed Exp Filter"
    " Flatten Im2col InnerProduct Input LRN LSTM Log MVN PReLU Parameter Pooling Power RNN ReLU Reduction Reshape SPP Scale"
    " Sigmoid Silence Slice Softmax Split TanH Threshold Tile".split()
)
"""Layers of Caffe 1.0, which its forks have kept."""
OPENCVS = frozenset(
    "AbsVal BNLL BatchNorm Concat Convolution Crop Deconvolution DetectionOutput Dropout ELU Eltwise Exp Flatten InnerProduct"
    " Input LRN Log MVN Normalize PReLU Permute Pooling Power PriorBox ReLU ReLU6 Reshape Scale Sigmoid Silence Slice Softmax"
    " Split Swish TanH".split()
)
"""Layers that OpenCV 4 takes from a prototxt; it has more, which take their parameters from elsewhere."""


@dataclass(frozen=True)
class Written:
    """What is to be run.

    Attributes
    ----------
    form : caffemodel, hdf5 or linked
    sizes : bytes of each file
    types : of the layers
    """

    dialect: str
    form: str
    is_half: bool
    sizes: Sequence[int]
    types: Collection[str]


@dataclass(frozen=True)
class Reader:
    """A program that runs Caffe models.

    Attributes
    ----------
    names : what it is called, by the dialects that it reads
    types : of the layers that it has
    takes_halves : whether it reads half floats in a caffemodel
    takes_parts, takes_hdf5 : whether it reads them
    """

    names: Mapping[str, str]
    types: frozenset[str]
    takes_full: bool = True
    takes_halves: bool = False
    takes_parts: bool = True
    takes_hdf5: bool = True

    def lacks(self, written: Written) -> Iterator[str]:
        """What keeps it from running that."""
        if written.form != "caffemodel" and not self.takes_hdf5:
            yield "reads no HDF5"
        if len(written.sizes) > 1 and not self.takes_parts:
            yield f"takes one file, not {len(written.sizes)} parts"
        if written.form == "caffemodel" and max(written.sizes) > CAFFE_LIMIT:
            yield f"stops at {CAFFE_LIMIT} bytes a file"
        if written.form == "caffemodel" and not (self.takes_halves if written.is_half else self.takes_full):
            yield f"is not for {'float16' if written.is_half else 'float32'} caffemodels"
        if missing := sorted(set(written.types) - self.types):
            yield f"lacks {', '.join(missing)}"


OPENCV = Reader(
    dict.fromkeys(("portable", "opencv", "ssd"), "OpenCV 4"),
    OPENCVS,
    takes_halves=True,
    takes_parts=False,
    takes_hdf5=False,
)
SSD = "Caffes of the SSD family"
READERS = (
    Reader({"portable": "Caffe", "bvlc": "BVLC's Caffe"}, CAFFES | {"Clip", "Swish"}),
    Reader(
        {"portable": "its forks", "opencv": SSD, "ssd": SSD},
        CAFFES | {"DetectionOutput", "Normalize", "Permute", "PriorBox", "ReLU6"},
    ),
    OPENCV,
    Reader(
        dict.fromkeys(("portable",), "NVIDIA's Caffe"), CAFFES, takes_full=False, takes_halves=True, takes_hdf5=False
    ),
)
"""NVIDIA's is one of the forks; what it has alone are half floats in a caffemodel."""


def runs_in(written: Written) -> Iterator[str]:
    """Who can run it as it is, who cannot, and what to do about it; a sentence each."""
    largest, is_caffemodel = max(written.sizes), written.form == "caffemodel"
    speaking = [reader for reader in READERS if written.dialect in reader.names]
    names = [reader.names[written.dialect] for reader in speaking if not any(reader.lacks(written))]
    if names:
        yield f"runs in {', '.join(names)}"
    for reader in speaking:
        if len(written.sizes) > 1 and not reader.takes_parts and is_caffemodel:
            yield f"{reader.names[written.dialect]} takes one file, not {len(written.sizes)} parts"
        if missing := sorted(set(written.types) - reader.types):
            yield f"{reader.names[written.dialect]} lacks {', '.join(missing)}"
    if written.form == "linked":
        yield "linked: the checkpoint has to stay where and as it is; Caffe reads a shortened one as zeros, without a word"
    if not is_caffemodel:
        return
    if written.is_half:
        yield "float16 caffemodel: stock Caffe aborts on it; it reads float16 HDF5 (-o NAME.caffemodel.h5)"
    if largest > CAFFE_LIMIT:
        yield (
            f"{largest} bytes in one file: stock Caffe and OpenCV stop at {CAFFE_LIMIT};"
            " use HDF5 (-o NAME.caffemodel.h5) or --max-file-size caffe"
        )
    elif largest > FORK_LIMIT:
        yield f"some forks of Caffe stop at {FORK_LIMIT} bytes a file; for them use HDF5 or --max-file-size 512MiB"
