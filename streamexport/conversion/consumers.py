"""Who runs what is written as it is: by dialect, format, precision, size, parts, and the layers that a reader has.

The table is what `docs/deploy.md` measures, and what the programs themselves list as their layers. It is no proof that they
compute what torch computes: `verify` with all engines asks those that are installed.
"""

from __future__ import annotations

from collections.abc import Collection, Iterator, Mapping, Sequence
from dataclasses import dataclass

from ..caffe.formats import CAFFEMODEL, FORMATS, HDF5, LINKED, Format
from ..net.graph import Layer
from ..net.operations import LSTM, Deconvolution

FORK_LIMIT = 512 << 20
"""Bytes of the largest file that some forks of Caffe load, those of the SSD family among them."""

SHARED = "shared weights"
"""Blobs that layers have in common by a name. OpenCV does not look for them."""
VOLUMES = "Deconvolution of volumes"
"""Caffe's. OpenCV stops at it when it is run."""
CAFFES = frozenset(
    "AbsVal ArgMax BNLL BatchNorm BatchReindex Bias Concat Convolution Crop Deconvolution Dropout DummyData ELU Eltwise"
    " Embed Exp Filter Flatten Im2col InnerProduct Input LRN LSTM Log MVN PReLU Parameter Pooling Power RNN ReLU Reduction"
    " Reshape SPP Scale Sigmoid Silence Slice Softmax Split TanH Threshold Tile".split()
) | {SHARED, VOLUMES}
"""Layers of Caffe 1.0, which its forks have kept."""
OWN_LSTM = "LSTM of one bottom"
"""OpenCV's. It crashes on Caffe's own, and Caffe on that one: their blobs are others."""
OPENCVS = frozenset(
    "AbsVal BNLL BatchNorm Concat Const Convolution Crop Deconvolution DetectionOutput Dropout ELU Eltwise Exp Flatten GRU"
    " Gelu InnerProduct Input LRN Log MVN MatMul Normalize PReLU Permute Pooling Power PriorBox ReLU ReLU6 Reshape Scale"
    " Sigmoid Silence Slice Softmax Split Swish TanH".split()
) | {OWN_LSTM}
"""Layers that OpenCV 4 takes from a prototxt; it has more, which take their parameters from elsewhere."""


def types(layers: Sequence[Layer]) -> set[str]:
    """Of layers, as readers have them or not."""
    found = set(map(_type, layers))
    return found | {SHARED} if any(layer.shared for layer in layers) else found


def _type(layer: Layer) -> str:
    operation = layer.operation
    if isinstance(operation, LSTM) and len(layer.bottoms) == 1:
        return OWN_LSTM
    if isinstance(operation, Deconvolution) and len(operation.window.axes) > 2:
        return VOLUMES
    return layer.type


@dataclass(frozen=True)
class Written:
    """What is to be run.

    Attributes
    ----------
    form : of the files
    is_half : whether weights are half floats
    sizes : bytes of each file
    types : of the layers, see `types`
    """

    dialect: str
    form: Format
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
    full, halves : the formats in which it reads float32, and those in which it reads float16
    takes_parts : whether it reads a model in several files
    """

    names: Mapping[str, str]
    types: frozenset[str]
    full: tuple[Format, ...] = FORMATS
    halves: tuple[Format, ...] = (HDF5, LINKED)
    takes_parts: bool = True

    def reads(self, form: Format) -> bool:
        """Whether it reads some models of a format."""
        return form in (*self.full, *self.halves)

    def lacks(self, written: Written) -> Iterator[str]:
        """What keeps it from running that."""
        form, dtype = written.form, "float16" if written.is_half else "float32"
        if not self.reads(form):
            yield f"reads no {form.files}"
        elif form not in (self.halves if written.is_half else self.full):
            yield f"is not for {dtype} {form.files}"
        if len(written.sizes) > 1 and not self.takes_parts:
            yield f"takes one file, not {len(written.sizes)} parts"
        if not form.holds(max(written.sizes)):
            yield f"stops at {form.limit} bytes a file"
        if missing := sorted(set(written.types) - self.types):
            yield f"lacks {', '.join(missing)}"


CAFFE = Reader({"portable": "Caffe", "bvlc": "BVLC's Caffe"}, CAFFES | {"Clip", "Swish"})
OPENCV = Reader(
    dict.fromkeys(("portable", "opencv", "ssd"), "OpenCV 4"),
    OPENCVS,
    full=(CAFFEMODEL,),
    halves=(CAFFEMODEL,),
    takes_parts=False,
)
SSD = "Caffes of the SSD family"
READERS = (
    CAFFE,
    Reader(
        {"portable": "its forks", "opencv": SSD, "ssd": SSD},
        CAFFES | {"DetectionOutput", "Normalize", "Permute", "PriorBox", "ReLU6"},
    ),
    OPENCV,
    Reader({"portable": "NVIDIA's Caffe"}, CAFFES, full=(), halves=(CAFFEMODEL,)),
)
"""NVIDIA's is one of the forks; what it has alone are half floats in a caffemodel."""


def runs_in(written: Written) -> Iterator[str]:
    """Who can run it as it is, who cannot, and what to do about it; a sentence each."""
    form, largest, count = written.form, max(written.sizes), len(written.sizes)
    speaking = [reader for reader in READERS if written.dialect in reader.names]
    names = [reader.names[written.dialect] for reader in speaking if not any(reader.lacks(written))]
    if names:
        yield f"runs in {', '.join(names)}"
    for reader in speaking:
        if count > 1 and not reader.takes_parts and reader.reads(form):
            yield f"{reader.names[written.dialect]} takes one file, not {count} parts"
        if missing := sorted(set(written.types) - reader.types):
            yield f"{reader.names[written.dialect]} lacks {', '.join(missing)}"
    if form.warning:
        yield form.warning
    if written.is_half and form not in CAFFE.halves:
        yield f"float16 {form.name}: stock Caffe aborts on it; it reads float16 HDF5 (`output=NAME.caffemodel.h5`)"
    if not form.holds(largest):
        yield (
            f"{largest} bytes in one file: stock Caffe and OpenCV stop at {form.limit};"
            f" use HDF5 (`output=NAME.caffemodel.h5`) or `max_file_size={form.limit}`"
        )
    elif form.limit is not None and largest > FORK_LIMIT:
        cut = f"`max_file_size={FORK_LIMIT}`"
        yield f"some forks of Caffe stop at {FORK_LIMIT} bytes a file; for them use HDF5 or {cut}"
