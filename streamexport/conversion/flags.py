"""How options are called: messages of the library name its own, in backticks, and the command line shows its flags instead.

    choose with `key=`: state_dict, ema        choose with --key: state_dict, ema
    so say `end=layer4`                        so say --end layer4

What is written into files speaks as the command line does, whoever writes it: the same options give the same bytes.
"""

from __future__ import annotations

import re

FLAGS = {
    name: "--" + name.replace("_", "-")
    for name in (
        "align caffe_python check_hash dask dialect dtype end eps fold_input_scale force forward_args input_order input_shape"
        " key labels max_file_size mean names net net_args operators prefix std"
    ).split()
} | {"output": "-o"}
"""By option, as Python has it."""

VALUES = {"2147483646": "caffe", "536870912": "512MiB"}
"""What the command line has another word for."""

_OPTION = re.compile(rf"`({'|'.join(FLAGS)})=([^`]*)`")


def as_flags(message: str) -> str:
    """A message of the library's in the words of the command line."""
    return _OPTION.sub(lambda found: f"{FLAGS[found[1]]} {VALUES.get(found[2], found[2])}".rstrip(), message)
