"""The weights of the built-in nets as they were published: torchvision's, which are its IMAGENET1K_V1, and the WSL nets'."""

from __future__ import annotations

import re

from ..errors import NetError
from ..tracing import modules
from . import AUTO, find

BASE = "https://download.pytorch.org/models/"
FILES = {
    "resnet18": "resnet18-f37072fd.pth",
    "resnet34": "resnet34-b627a593.pth",
    "resnet50": "resnet50-0676ba61.pth",
    "resnet101": "resnet101-63fe2227.pth",
    "resnet152": "resnet152-394f9c45.pth",
    "wide_resnet50_2": "wide_resnet50_2-95faca4d.pth",
    "wide_resnet101_2": "wide_resnet101_2-32ee1156.pth",
    "resnext50_32x4d": "resnext50_32x4d-7cdf4587.pth",
    "resnext101_32x8d": "resnext101_32x8d-8ba56ff5.pth",
    "resnext101_64x4d": "resnext101_64x4d-173b62eb.pth",
    "resnext101_32x8d_wsl": "ig_resnext101_32x8-c38310e5.pth",
    "resnext101_32x16d_wsl": "ig_resnext101_32x16-c6f796b0.pth",
    "resnext101_32x32d_wsl": "ig_resnext101_32x32-e4b90b00.pth",
    "resnext101_32x48d_wsl": "ig_resnext101_32x48-3e41cc8a.pth",
}
"""By net; the suffix is the beginning of the file's SHA-256. Learnt from torchvision's `models/resnet.py`, and from the
`hubconf.py` of facebookresearch/WSL-Images."""


def url(name: str) -> str:
    """Where the weights of the built-in net of that name are, see `find`. NetError if there is none."""
    if name == AUTO or modules.is_named(name):
        what = "no net is named" if name == AUTO else f"{name} builds a module, of which nobody published a checkpoint"
        raise NetError(what, advice="name one that is built in, or a checkpoint; `streamexport nets` lists them")
    return BASE + FILES[find(name).name]


def digest(file: str) -> str | None:
    """How the SHA-256 of a file begins, by its name: `-3e41cc8a` before the suffix, as torch.hub has it; None if it says none.

    torch.hub takes fewer digits than 8, and none, which would fit any file.
    """
    found = re.fullmatch(r".*-([0-9a-f]{8,64})\.[^-]*", file)
    return found[1] if found else None
