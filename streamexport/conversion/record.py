"""What a model says of its making, as JSON, and how far it is believed.

A record is data out of a file. `decode` makes options of it that a version of ours could have written, or none; `trusted`
refuses those that name code: which code is run, only who runs this may say.
"""

from __future__ import annotations

import json
import os
from collections.abc import Container, Mapping, Sequence
from dataclasses import asdict
from typing import Any

from .._version import __version__
from ..caffe import identity
from ..errors import NetError
from ..net.graph import Net
from ..payload.pieces import Source
from ..sources import Path
from ..tracing import modules
from .options import Options

LISTS = {"end": (str,), "mean": (int, float), "std": (int, float)}
TYPES = {
    **dict.fromkeys(("softmax", "fold_batchnorm", "fold_input_scale", "in_place"), bool),
    **dict.fromkeys(LISTS, tuple),
    "eps": float,
}
"""Of the options in a record: of what lists are, and of what type others than strings."""


def encode(net: Net, options: Options, sources: Sequence[Source], align: int) -> bytes:
    """What `verify` needs to plan again. Of the sources only what stays the same wherever they lie."""
    identities = [{"name": os.path.basename(source.name), "size": source.size} for source in sources]
    made = {"streamexport": __version__, "options": asdict(options), "align": align, "sources": identities}
    return identity.encoded({**made, **identity.of(net)})


def decode(record: bytes) -> Options | None:
    """The options that a model was made with; None if it does not say, or says what no version of ours would."""
    try:
        return _validated(json.loads(record.decode())["options"])
    except (ValueError, KeyError, TypeError, AttributeError, RecursionError):
        return None


def trusted(model: Net, file: Path, said: Container[str] = ()) -> Options:
    """The options that a model says it was made with, to be used without being asked for, but for those that were said.

    NetError if it does not say; or if it names code, `net` or `operators`: a file must not choose which code is run.
    """
    options = decode(model.record)
    if options is None:
        advice = "say how it was made: `net=`, `names=`, `dtype=`, ..."
        raise NetError("has no record of how it was made", file=os.fspath(file), advice=advice)
    for name, code in (
        ("net", options.net if modules.is_named(options.net) else None),
        ("operators", options.operators),
    ):
        if code is not None and name not in said:
            what = f"was made with `{name}={code}`, which is code, and no file may choose what is run"
            raise NetError(what, file=os.fspath(file), advice=f"if you know that code, say so: `{name}={code}`")
    return options


def with_dtype(record: bytes, dtype: str) -> bytes:
    """The record of a model whose weights are stored as `dtype` now; as it is, if it is not one of ours."""
    if decode(record) is None:
        return record
    fields = json.loads(record)
    fields["options"]["dtype"] = dtype
    return identity.encoded(fields)


def _validated(fields: Mapping[str, Any]) -> Options:
    """Options of the types that they have. ValueError for others."""
    end = fields.get("end")
    given = {**fields, "end": [end] if isinstance(end, str) else end or []}  # older ones hold a single name, or null
    if type(given["net"]) is not str:
        raise ValueError(given["net"])
    for name, kinds in LISTS.items():
        if given.get(name) is not None:
            if not all(type(item) in kinds for item in given[name]):
                raise ValueError(name)
            given[name] = tuple(given[name])
    shape = given.pop("input_shape", None)
    if not all(type(size) is int for sizes in _shapes(shape) for size in sizes):
        raise ValueError(shape)
    if any(type(value) is not TYPES.get(name, str) for name, value in given.items() if value is not None):
        raise ValueError(given)
    return Options(**given, input_shape=shape)


def _shapes(held: Any) -> Sequence[Any]:
    """Each shape of what is recorded: a single one, a list of them, or an object."""
    if isinstance(held, Mapping):
        return [*held.values()]
    return held if held and isinstance(held[0], list) else [held or ()]
