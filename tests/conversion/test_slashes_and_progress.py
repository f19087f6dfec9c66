"""Names that HDF5 cannot hold, with the way out that is true; and a progress bar that counts one thing."""

from __future__ import annotations

from collections import OrderedDict

import pytest
import torch
from torch import nn

import streamexport
from streamexport import Options
from streamexport.errors import NetError


def slashed() -> nn.Module:
    """For --net: layers called as GoogLeNet's are."""
    net = nn.Sequential()
    net._modules = OrderedDict({"conv1/7x7_s2": nn.Conv2d(3, 4, 3), "conv1/bn": nn.BatchNorm2d(4)})
    return net.eval()


def test_names_with_slashes_are_refused_with_a_way_out_that_works(tmp_path):
    torch.save(slashed().state_dict(), tmp_path / "c.pth")
    options = {"net": f"{__file__}:slashed", "input_shape": (1, 3, 5, 6)}
    with pytest.raises(
        NetError, match="cannot be a group's in an HDF5 file; .* with `names=classic`, or write a .caffe"
    ):
        streamexport.convert([tmp_path / "c.pth"], tmp_path / "m.caffemodel.h5", Options(**options))
    streamexport.convert([tmp_path / "c.pth"], tmp_path / "m.caffemodel.h5", Options(**options, names="classic"))
    names = [layer.name for layer in streamexport.open_model(tmp_path / "m.caffemodel.h5").layers]
    assert names == ["conv1", "batch_norm1", "bn_scale1"]
    streamexport.convert([tmp_path / "c.pth"], tmp_path / "m.caffemodel", Options(**options))


@pytest.mark.parametrize("options", [{}, {"dtype": "float16"}, {"max_file_size": 20_000_000}])
def test_progress_ends_at_what_was_announced(tmp_path, checkpoint, options):
    announced, moved = [], []
    form = {key: options.pop(key) for key in ("max_file_size",) if key in options}
    streamexport.convert(
        [checkpoint("resnet18")],
        tmp_path / "m.caffemodel",
        Options(**options),
        progress=moved.append,
        planned=announced.append,
        **form,
    )
    (total,) = announced
    assert sum(moved) == total == sum(path.stat().st_size for path in tmp_path.iterdir())
