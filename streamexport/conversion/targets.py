"""Where a conversion goes: what somebody names becomes a target, which says what its files are called, and how they appear.

    a file                      synced, or not there; its prototxt beside it
    a file that is cut          numbered parts, which replace those of an older run, whatever their number
    a directory                 one of these, called like the net
    standard output             the model alone, from where the output stands
    what is special             a pipe, /dev/null, a device: written in place, the model alone
    a URL                       an object in a store, or numbered ones; with / at its end they are called like the net

All but standard output and what is special keep the promise that a name holds all that was to be written, or what it held
before; stores keep it as far as they can. A new kind of target is a class here and a line in `at`.
"""

from __future__ import annotations

import os
from abc import ABC, abstractmethod
from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass, replace
from typing import ClassVar

from ..caffe import formats, identity
from ..caffe.formats import Format
from ..caffe.models import open_model
from ..errors import Error, OutputError
from ..sources import Path, stores
from ..transfer import files
from ..transfer.files import File
from . import names

STDOUT = "-"


class Place(ABC):
    """What somebody names as the output.

    Attributes
    ----------
    path : as it is named
    """

    path: str

    @property
    def formats(self) -> tuple[Format, ...]:
        """What its name asks for: the first of them that stock Caffe loads at the model's size, else the last."""
        return (formats.of_path(self.path),)

    @abstractmethod
    def target(self, name: str, form: Format) -> Target:
        """Where a model goes that is called `name` itself. OutputError if the name can be no file's there."""


class Target(Place):
    """What takes a model.

    Attributes
    ----------
    path : of the model, also where it is cut into parts
    at_offsets : whether its bytes may come in any order
    """

    at_offsets: ClassVar[bool] = False

    @property
    def description(self) -> str | None:
        """Where its prototxt goes if nobody says so; None for nowhere."""
        return None

    def target(self, name: str, form: Format) -> Target:
        return self

    def refuse(self, form: Format, align: int) -> None:
        """OutputError for a format that is of no use there, or where blocks cannot be shared with the checkpoint."""
        # most take all of them

    @abstractmethod
    def names(self, count: int) -> tuple[str, ...]:
        """What the files of a model are called that is cut into so many. OutputError if there is no room for several."""

    def in_order(self, model: Sequence[File], description: File | None) -> list[File]:
        """The files of a model, and its prototxt, as they appear: the last one tells that all are there."""
        return [*_given(description), *model]

    def older(self, count: int) -> Iterable[str]:
        """Parts of an older run that would stand among the `count` ones of this one, and go away as these appear.

        OutputError for what is only called like them.
        """
        return ()


@dataclass(frozen=True)
class OneFile(Target):
    """A model in a file."""

    at_offsets = True

    path: str

    @property
    def description(self) -> str:
        return names.stem(self.path) + ".prototxt"

    def names(self, count: int) -> tuple[str, ...]:
        return tuple(names.part_names(self.path, count))


@dataclass(frozen=True)
class Parts(OneFile):
    """A model that is cut into files."""

    def older(self, count: int) -> Iterator[str]:
        for found in names.older_parts(self.path, count):
            try:
                is_ours = bool(identity.read(open_model(found, sources=None).record))
            except Error:
                is_ours = False
            if not is_ours:
                advice = "move it away, or write to another name"
                raise OutputError("is called like a part of this model, and no part of ours", file=found, advice=advice)
            yield found


@dataclass(frozen=True)
class Stored(OneFile):
    """A model in a store: an object, or several where it is cut."""

    at_offsets = False

    def refuse(self, form: Format, align: int) -> None:
        if form is formats.LINKED:
            what = "an object in a store cannot be linked to files"
            raise OutputError(what, file=self.path, advice="use another format, which holds the weights")
        if align:
            what = "an object in a store shares no blocks with the checkpoint"
            raise OutputError(what, file=self.path, advice="leave out `align=`")

    def in_order(self, model: Sequence[File], description: File | None) -> list[File]:
        return [*model[:-1], *_given(description), model[-1]]  # each is seen at once, and this one takes no time


@dataclass(frozen=True)
class Special(Target):
    """What is no file that could be replaced, and is written to as it stands."""

    path: str

    def names(self, count: int) -> tuple[str, ...]:
        if count > 1:
            what = "takes one file, not several parts"
            raise OutputError(what, file=self.path, advice="leave out `max_file_size=`")
        return (self.path,)


@dataclass(frozen=True)
class Stdout(Special):
    """Standard output. Nothing can be taken back there, so the prototxt appears when all of the model is gone."""

    path: str = STDOUT

    def names(self, count: int) -> tuple[str, ...]:
        if count > 1:
            what = "standard output takes one file, not several parts"
            raise OutputError(what, advice="leave out `max_file_size=`")
        return (self.path,)

    def in_order(self, model: Sequence[File], description: File | None) -> list[File]:
        (file,) = model
        return [replace(file, path=files.STDOUTS[0]), *_given(description)]


@dataclass(frozen=True)
class Directory(Place):
    """A directory, or a URL that ends like one, for a model that is called like its net."""

    path: str
    is_cut: bool

    @property
    def formats(self) -> tuple[Format, ...]:
        return formats.CAFFEMODEL, formats.HDF5

    def target(self, name: str, form: Format) -> Target:
        return _named(os.path.join(self.path, names.component(name) + form.suffixes[0]), self.is_cut)


def at(output: Path, is_cut: bool) -> Place:
    """What an output's name stands for; `is_cut` says whether the model may become several files. OutputError for ""."""
    path = os.fspath(output)
    if not path:
        raise OutputError("the output has no name")
    if path == STDOUT or files.is_stdout(path):
        return Stdout()
    if path.endswith("/") or os.path.isdir(path):
        return Directory(path, is_cut)
    if os.path.exists(path) and not os.path.isfile(path):
        return Special(path)
    return _named(path, is_cut)


def _named(path: str, is_cut: bool) -> Target:
    if stores.is_url(path):
        return Stored(stores.to_write(path).name)
    return Parts(path) if is_cut else OneFile(path)


def _given(description: File | None) -> list[File]:
    return [description] if description is not None else []
