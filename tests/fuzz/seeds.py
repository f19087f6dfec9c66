"""Small valid files of every kind, written by other programs, and what is done with an input made of them."""

from __future__ import annotations

import collections
import contextlib
import io
import itertools
import json
import pickle
import struct
from collections.abc import Callable
from pathlib import Path
from typing import Any

from streamexport.caffe import caffe_pb2
from streamexport.errors import Error
from streamexport.payload.pieces import Source
from streamexport.sources.local import LocalFile

from .mutations import varint


def torch_values() -> list[Any]:
    import torch

    weights = {"conv.weight": torch.arange(24.0).reshape(2, 3, 2, 2), "conv.bias": torch.ones(2)}
    views = {"a": torch.ones(3, 4).t(), "b": torch.ones(6)[1::2], "c": torch.ones(1).expand(5), "d": torch.tensor(3.0)}
    kinds = {str(d): torch.zeros(3).to(d) for d in (torch.half, torch.bfloat16, torch.double, torch.int64, torch.bool)}
    nested = {"epoch": 3, "state_dict": {f"module.{k}": v for k, v in weights.items()}, "optimizer": {"lr": [0.1]}}
    return [collections.OrderedDict(weights), views, kinds, nested, torch.nn.Sequential(torch.nn.Linear(2, 3))]


def torch_files(is_zip: bool) -> list[bytes]:
    import torch

    files = []
    for value in torch_values():
        out = io.BytesIO()
        torch.save(value, out, _use_new_zipfile_serialization=is_zip)
        files.append(out.getvalue())
    return files


def numpy_pickles() -> list[bytes]:
    import numpy as np

    weights = {"w": np.ones((2, 3), "f4"), "b": np.float32(1), "n": np.arange(3)}
    out = io.BytesIO()
    np.savez(out, **weights)
    return [pickle.dumps(weights, protocol) for protocol in (2, 4, 5)]


def npz_files() -> list[bytes]:
    import numpy as np

    out = io.BytesIO()
    np.savez(out, w=np.ones((2, 3), "f4"), b=np.float64(1), f=np.ones((3, 2), order="F"))
    return [out.getvalue()]


def safetensors_files() -> list[bytes]:
    import torch
    from safetensors.torch import save

    values = {"w": torch.ones(2, 3), "h": torch.ones(3).half(), "i": torch.arange(3), "e": torch.zeros(0)}
    return [save(values), save(values, {"format": "pt"})]


def index_files() -> list[bytes]:
    """Beside them lies `shard.safetensors`, see `fuzz`."""
    names = dict.fromkeys(("w", "h", "i", "e"), "shard.safetensors")
    return [json.dumps({"metadata": {"total_size": 1}, "weight_map": names}).encode()]


def caffemodel() -> caffe_pb2.NetParameter:
    net = caffe_pb2.NetParameter(name="net")
    net.layer.add(name="data", type="Input", top=["data"]).input_param.shape.add(dim=[1, 3, 4, 4])
    conv = net.layer.add(name="conv", type="Convolution", bottom=["data"], top=["conv"])
    conv.convolution_param.CopyFrom(caffe_pb2.ConvolutionParameter(num_output=2, kernel_size=[1], bias_term=True))
    for values, shape in ((range(6), (2, 3, 1, 1)), (range(2), (2,))):
        conv.blobs.add(data=values).shape.dim.extend(shape)
    conv.blobs.add(double_data=[1, 2], num=1, channels=1, height=1, width=2)
    conv.blobs.add(raw_data=bytes(4), raw_data_type=2).shape.dim.append(2)
    net.layer.add(name="relu", type="ReLU", bottom=["conv"], top=["conv"])
    return net


def caffemodel_files() -> list[bytes]:
    net = caffemodel()
    whole = net.SerializeToString()
    unknown = varint(5000 << 3 | 2) + b"\x04\x0a\x02ab"
    return [whole, whole + unknown, caffe_pb2.NetParameter(layer=net.layer[1:]).SerializeToString()]


def v1_files() -> list[bytes]:
    blob = caffe_pb2.BlobProto(data=range(6), num=2, channels=3, height=1, width=1).SerializeToString()
    unpacked = b"".join(b"\x2d" + struct.pack("<f", i) for i in range(6)) + b"\x08\x02\x10\x03\x18\x01\x20\x01"
    parameters = caffe_pb2.ConvolutionParameter(num_output=2, kernel_size=[1]).SerializeToString()
    fields = [(18, b"data"), (26, b"conv"), (34, b"conv"), (50, blob), (50, unpacked), (82, parameters)]
    layer = b"\x28\x04" + b"".join(varint(tag) + varint(len(value)) + value for tag, value in fields)
    return [b"\x0a\x03old\x12" + varint(len(layer)) + layer]


def hdf5_files() -> list[bytes]:
    import h5py
    import numpy as np

    files = []
    for version, kinds in itertools.product(("earliest", "latest"), ("plain", "chunked")):
        out = io.BytesIO()
        with h5py.File(out, "w", libver=version) as file:
            file.attrs["streamexport"], file.attrs["streamexport_sources"] = b"{}", "[]"
            group = file.create_group("data/conv")
            group.attrs["type"], group.attrs["position"] = "Convolution", 1
            if kinds == "plain":
                group["0"], group["1"] = np.arange(12, dtype="<f4"), np.float64(1)
                group.create_dataset("2", (2,), "<f8", fillvalue=2)
            else:
                group.create_dataset("0", data=np.ones((5, 4), ">f4"), chunks=(2, 3), compression="gzip", shuffle=True)
                group.create_dataset("1", data=np.ones(9, "<f2"), chunks=(4,), fletcher32=True)
            file["data/other/0"] = h5py.SoftLink("/data/conv/0")
        files.append(out.getvalue())
    return files


def prototxt_files() -> list[bytes]:
    from google.protobuf import text_format

    net = caffemodel()
    for layer in net.layer:
        del layer.blobs[:]
    pool = net.layer.add(name="pool", type="Pooling", bottom=["conv"], top=["pool"]).pooling_param
    pool.kernel_size, pool.stride = 2, 2
    net.layer.add(name="fc", type="InnerProduct", bottom=["pool"], top=["fc"]).inner_product_param.num_output = 3
    net.layer.add(name="prob", type="Softmax", bottom=["fc"], top=["prob"])
    old = 'name: "old"\ninput: "data"\ninput_dim: 1\ninput_dim: 3\ninput_dim: 4\ninput_dim: 4\n# more\n'
    return [text_format.MessageToString(net).encode(), old.encode()]


def record_files() -> list[bytes]:
    from dataclasses import asdict

    from streamexport import Options

    record = {"streamexport": "0", "options": asdict(Options()), "align": 0, "sources": [{"name": "c", "size": 1}]}
    record |= {"net": "0" * 16, "weights": "0" * 16, "limit": 5}
    net = caffemodel()
    net.streamexport_record = json.dumps(record).encode()
    return [net.SerializeToString()]


def list_files() -> list[bytes]:
    return [b"x.txt 0\nx.txt 1\n\nx.txt\t2\n", b"fox\nsetter\nterrier\n"]


# What is done with an input


def use_weights(path: Path) -> None:
    from streamexport import open_weights

    for tensor in open_weights(path).tensors.values():
        assert Path(tensor.extent.source.name).parent == path.parent, f"reads {tensor.extent.source.name}"
        if tensor.dtype.is_floating:
            touch(tensor.as_float32())


class Far(Source):
    """A file that is far away, as far as readers know. What is to be confirmed waits until all has been read."""

    is_far = True

    def __init__(self, path: Path) -> None:
        self.file = LocalFile.at(path)
        self.name, self.size = self.file.name, self.file.size
        self.awaited: list[tuple[int, int, Callable[[bytes], None]]] = []

    def read_into(self, offset: int, into: memoryview) -> None:
        self.file.read_into(offset, into)

    def confirm(self, offset: int, length: int, check: Callable[[bytes], None]) -> None:
        self.awaited.append((offset, length, check))

    def fileno(self) -> None:
        return None

    def check(self) -> None:
        self.file.check()


def use_torch_file(path: Path) -> None:
    """The same; and from afar, where more is taken for granted at first, it comes to the same in the end."""
    assert places(Far(path)) in (places(LocalFile.at(path)), "begins at another byte"), "is another file from afar"
    use_weights(path)


def places(source: Source) -> object:
    """Where each tensor lies, or None if that is an error."""
    from streamexport import open_weights

    try:
        tensors = open_weights(source).tensors.values()
        if isinstance(source, Far):
            for offset, length, check in source.awaited:
                check(source.read(offset, length))
    except Error as error:
        return "begins at another byte" if error.what.startswith("begins at byte") else None
    return [
        (tensor.name, tensor.shape, tensor.strides, tensor.extent.offset, tensor.extent.length) for tensor in tensors
    ]


def use_model(path: Path) -> None:
    from streamexport import layout, open_model
    from streamexport.caffe.prototxt import prototxt
    from streamexport.conversion.record import decode
    from streamexport.passes.precision import store

    net = open_model(path)
    for source in net.sources:
        assert source.name == str(path), f"reads {source.name}"
    for layer in net.layers:
        for blob in layer.blobs:
            touch(blob.values)
    decode(net.record)
    for made in (net, store(net, "float16")):
        laid = layout(made, made.record)
        if laid.size < 1 << 20:
            data = bytearray(laid.size)
            laid.render(0, laid.size, memoryview(data))
            caffe_pb2.NetParameter.FromString(bytes(data))
    prototxt(net)


def use_prototxt(path: Path) -> None:
    from streamexport.caffe.prototxt import is_prototxt, read_prototxt
    from streamexport.counting.costs import costs
    from streamexport.net.inference import infer

    if is_prototxt(path):
        infer(read_prototxt(path))
        costs(path)


def use_list(path: Path) -> None:
    from streamexport.evaluation.evaluate import class_names
    from streamexport.evaluation.images import open_images

    with contextlib.suppress(Error):
        class_names(3, path)
    open_images(path)


def touch(piece: Any) -> None:
    """Renders the first and the last bytes of a piece."""
    for start, stop in ((0, min(piece.size, 4096)), (max(0, piece.size - 100), piece.size)):
        piece.render(start, stop, memoryview(bytearray(stop - start)))
