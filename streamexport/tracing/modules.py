"""Modules of the user's, built without their weights.

`MODULE:CALLABLE` or `FILE.py:CALLABLE` names what builds a `torch.nn.Module`: a class or a function. It is called on the
meta device, where tensors have shapes and no elements. Some constructors cannot work there, because they compute with
tensors; and buffers that a checkpoint does not hold have no values there. Such modules are built a second time on the CPU,
where memory that nobody writes to is never resident: whatever would fill a large tensor is skipped.
"""

from __future__ import annotations

import importlib
import importlib.util
import itertools
import json
import sys
from collections.abc import Callable, Iterator, Mapping
from contextlib import contextmanager, redirect_stdout, suppress
from dataclasses import dataclass, field, replace
from difflib import get_close_matches
from functools import cached_property
from pathlib import Path
from typing import TYPE_CHECKING, Any, cast

from ..errors import Error, NetError, missing, reason
from ..net import fitting, inputs
from ..net.fitting import Bound, Shapes, Wanted
from ..net.graph import DEFAULT_SIZE, Refusal
from ..net.inputs import InputShape
from ..payload.pieces import BUFFER
from ..payload.tensors import Computed, Stored, Strided, Tensor

if TYPE_CHECKING:
    import torch
    from torch import nn

    from .operators.registry import Operator

LARGE = 1 << 14
"""Elements from which on a tensor is left as it is while a module is built on the CPU."""


def is_named(net: str) -> bool:
    """Whether `net` names a callable rather than a built-in net."""
    return ":" in net


Maker = Callable[[], "nn.Module"]


def find(net: str, arguments: str | None) -> Maker:
    """What builds the module that a callable stands for, in evaluation mode.

    What it is imported from stays in sys.modules, and the folders where it was found, or the outermost package around it
    is, and the working directory, in sys.path.

    Parameters
    ----------
    net : MODULE:CALLABLE or FILE.py:CALLABLE; modules are found in the working directory, too, and a file in packages is
        imported as a module of theirs
    arguments : JSON of an object, given as keywords

    Raises
    ------
    NetError : it cannot be found; or, when it is called, it fails, or builds no module
    """
    make, given = _callable(net), keywords(arguments, "net_args")
    return lambda: _made(net, make, given)


def own_operators(path: str) -> Mapping[str, Operator]:
    """What the operators in a file of the user's are expressed by, by name. The file is run.

    NetError if that fails, or if it expresses what is expressed already, and does not say that it means to.
    """
    from .operators import registry

    with registry.collected() as found:
        _imported(path, lambda: _from_path_alone(_located(Path(path))))
    if not found:
        raise NetError("registers no operator", file=path, advice="decorate functions with @operator(NAME)")
    return found


def on_meta(make: Maker) -> nn.Module:
    """The module without elements. NetError if it cannot be built so, or would lack what no checkpoint holds."""
    import torch

    with torch.device("meta"):
        module = make()
    held = module.state_dict(keep_vars=True)
    if lost := [name for name, buffer in module.named_buffers() if name not in held and buffer.is_meta]:
        raise NetError(f"has buffers that are in no state dict ({lost[0]})")
    return module


def on_cpu(make: Maker) -> nn.Module:
    """The module with weights that are allocated, but never written to: they take no memory.

    Where something else was left out, too, that no checkpoint holds, it is built once more with all that it writes.
    """
    import torch

    try:
        with _uninitialised() as left_out:
            module = make()
    except NetError:
        return make()
    held = (value for value in module.state_dict(keep_vars=True).values() if isinstance(value, torch.Tensor))
    if left_out.keys() - {
        value.untyped_storage().data_ptr() for value in held if not torch.nn.parameter.is_lazy(value)
    }:
        del module
        return make()
    return module


@dataclass(frozen=True)
class UserNet:
    """A net that a module of the user's is: what builds it, and it itself, built once, when it is first asked for.

    Attributes
    ----------
    name : MODULE:CALLABLE or FILE.py:CALLABLE
    make : builds the module, see `find`
    end, refusal : where the net ends, see `walk.bind`
    operators : the user's own, see `own_operators`
    others : what `forward` is given besides tensors
    """

    name: str
    make: Maker
    end: tuple[str, ...] = ()
    refusal: Refusal = lambda _: None
    operators: Mapping[str, Operator] = field(default_factory=dict)
    others: Mapping[str, Any] = field(default_factory=dict)

    @cached_property
    def built(self) -> tuple[nn.Module, str]:
        """The module without weights; and why it could not be built on the meta device, "" if it is there."""
        try:
            return on_meta(self.make), ""
        except NetError as error:
            return on_cpu(self.make), error.what

    @cached_property
    def wanted(self) -> Wanted:
        """The module's tensors."""
        held = {
            name: value for name, value in self.built[0].state_dict(keep_vars=True).items() if hasattr(value, "shape")
        }
        names: dict[int, list[str]] = {}  # by parameter: one that has several names is one tensor
        for name, value in held.items():
            names.setdefault(id(value), []).append(name)
        shapes = {name: tuple(value.shape) for name, value in held.items()}
        return Wanted(shapes, tuple(group for group in names.values() if len(group) > 1))

    def fits(self, tensors: Shapes) -> bool:
        return any(not fit.misfits for fit in self._fits(tensors))

    def bind(self, tensors: Mapping[str, Tensor], input_shape: InputShape | None) -> Bound:
        from . import walk

        fit = fitting.only(self._fits(tensors), tensors, self.name)
        held = fitting.bound(fit, tensors)
        misfits = [*fit.misfits, *self._differing(held)]
        if misfits:
            found = fitting.listed([*misfits, *(f"{name} is not expected" for name in fit.extra)], fitting.MOST)
            advice = "`net=` and `net_args=` have to build the module that was trained"
            raise NetError(f"does not fit {self.name}: {found}", advice=advice)
        shape = (1, 3, *DEFAULT_SIZE) if input_shape is None else input_shape
        given = inputs.arguments(self.built[0], self.name, shape, self.others)
        net = walk.bind(held, self, given)
        return Bound(replace(net, notes=(*net.notes, *fit.notes(self.name))), held, self.make, given)

    def _fits(self, tensors: Shapes) -> list[fitting.Fit]:
        return fitting.fits(tensors, fitting.prefixes(self.wanted.shapes, tensors), lambda _: self.wanted)

    def _differing(self, held: Mapping[str, Tensor]) -> Iterator[str]:
        """Names that are one tensor in the module, and not in the checkpoint."""
        for first, *others in self.wanted.tied:
            for name in others:
                if {first, name} <= held.keys() and not _is_same(held[name], held[first]):
                    yield f"{name} is not {first}, which are one tensor in the module"


def _is_same(tensor: Tensor, other: Tensor) -> bool:
    """Whether two tensors are one, or copies; read a buffer at a time."""
    is_judged_elsewhere = tensor.shape != other.shape or not (tensor.dtype.is_floating and other.dtype.is_floating)
    if is_judged_elsewhere or (tensor.extent, tensor.strides) == (other.extent, other.strides):
        return True
    ours, theirs = tensor.as_float32(), other.as_float32()
    for start in range(0, ours.size, BUFFER):
        stop = min(start + BUFFER, ours.size)
        parts = bytearray(stop - start), bytearray(stop - start)
        ours.render(start, stop, memoryview(parts[0]))
        theirs.render(start, stop, memoryview(parts[1]))
        if parts[0] != parts[1]:
            return False
    return True


def loaded(tensor: Tensor) -> torch.Tensor:
    """A tensor's elements: floating-point ones as float32."""
    import torch

    if tensor.dtype.is_floating:
        values = tensor.as_float32()
        data = bytearray(values.size)
        values.render(0, values.size, memoryview(data))
        return torch.frombuffer(data, dtype=torch.float32).reshape(tensor.shape) if data else torch.empty(tensor.shape)
    elements: Computed = Stored(tensor.extent, tensor.dtype, tensor.name) if tensor.is_contiguous else Strided(tensor)
    return torch.from_numpy(elements.elements(0, tensor.numel)).reshape(tensor.shape)


def keywords(arguments: str | None, option: str) -> dict[str, Any]:
    """Keyword arguments as JSON. NetError, which names the option that has them, if they are no object."""
    advice = """write it like '{"name": 10}'"""
    try:
        found = json.loads(arguments or "{}")
    except (ValueError, RecursionError) as error:
        raise NetError(f"`{option}=` is not JSON: {error}", advice=advice) from error
    if not isinstance(found, dict):
        raise NetError(f"`{option}=` is no JSON object", advice=advice)
    return found


def _callable(net: str) -> Callable[..., object]:
    place, _, name = net.rpartition(":")
    module = _imported(place, lambda: _from_file(Path(place)) if place.endswith(".py") else _from_path(place))
    found: Any = module
    for part in name.split("."):
        found = getattr(found, part, None)
    if not callable(found):
        near = get_close_matches(name, [key for key, value in vars(module).items() if callable(value)], 3, 0.5)
        advice = f"did you mean {' or '.join(near)}?" if near else "name a class or a function that builds the module"
        raise NetError(f"{place} has no callable {name!r}", advice=advice)
    return cast("Callable[..., object]", found)


def _imported(place: str, importing: Callable[[], object]) -> object:
    """What the user's code makes. NetError if it fails."""
    try:
        with redirect_stdout(sys.stderr):  # standard output may be where the model goes
            return importing()
    except Error:
        raise
    except (Exception, SystemExit) as error:  # whatever the user's code raises while it is imported
        absent = missing(error) if isinstance(error, ImportError) else None
        raise absent or NetError(f"{place} cannot be imported: {_said(error)}") from error


def _from_path(place: str) -> object:
    _look_in("")
    return importlib.import_module(place)


def _located(path: Path) -> Path:
    """A file, once what it imports from the working directory and from beside it is found."""
    if not path.is_file():
        raise NetError("no such file", file=str(path), advice="`net=` and `operators=` name files that are run")
    import torch  # noqa: F401 # before files beside it can be taken for what torch imports

    _look_in("")
    return path.resolve()


def _from_file(path: Path) -> object:
    path = _located(path)
    packages = [folder.name for folder in _packages(path)]
    _look_in(str(path.parents[len(packages)]))  # for what it imports from beside it, or from the packages around
    if not packages:
        return _from_path_alone(path)
    try:
        return _from_package(path, ".".join((*packages, path.stem)))
    except ImportError as error:  # perhaps of a package around it, which asks for what the file does without
        with suppress(ImportError):
            return _from_path_alone(path)
        raise error


def _from_path_alone(path: Path) -> object:
    """The file as a module of no package."""
    name = path.stem if path.stem not in sys.modules else f"{path.stem} of {path.parent}"
    spec = importlib.util.spec_from_file_location(name, path)
    if spec is None or spec.loader is None:
        raise NetError("is no file of Python's", file=str(path), advice="name a .py")
    module = importlib.util.module_from_spec(spec)
    sys.modules[name] = module  # dataclasses and pickles of the file look it up there
    spec.loader.exec_module(module)
    return module


def _packages(path: Path) -> list[Path]:
    """The folders around a file that are packages, from the outermost in: the file is a module of theirs."""
    around = itertools.takewhile(lambda folder: (folder / "__init__.py").is_file(), path.parents)
    return list(around)[::-1]


def _from_package(path: Path, name: str) -> object:
    module = importlib.import_module(name.removesuffix(".__init__"))
    if Path(module.__file__ or "").resolve() != path:
        what = f"is module {name}, of which another one is imported already: {module.__file__}"
        raise NetError(what, file=str(path), advice="rename the package around it")
    return module


def _look_in(folder: str) -> None:
    """Puts a folder where modules are looked for first; it stays there, since modules import while they run, too."""
    if folder not in sys.path:
        sys.path.insert(0, folder)


def _made(net: str, make: Callable[..., object], keywords: Mapping[str, Any]) -> nn.Module:
    from torch import nn

    try:
        with redirect_stdout(sys.stderr):
            made = make(**keywords)
        if isinstance(made, nn.Module):
            return made.eval().requires_grad_(False)
    except (Exception, SystemExit) as error:  # whatever the user's code raises
        advice = "give arguments with `net_args=`" if isinstance(error, TypeError) else None
        raise NetError(f"cannot be built: {_said(error)}", advice=advice) from error
    raise NetError(f"builds a {type(made).__name__}, not a torch.nn.Module")


def _said(error: BaseException) -> str:
    return f"{type(error).__name__}: {reason(error)}"


@contextmanager
def _uninitialised() -> Iterator[dict[int, torch.UntypedStorage]]:
    """Leaves large tensors as they are allocated: what an operator would write into them in place is left out.

    Yields their storages by address; they are kept, so that no other one gets it.
    """
    from torch.utils._python_dispatch import TorchDispatchMode

    left_out: dict[int, torch.UntypedStorage] = {}

    class Skip(TorchDispatchMode):  # type: ignore[no-untyped-call]
        def __torch_dispatch__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            if func._schema.name.endswith("_") and args[0].numel() >= LARGE:
                storage = args[0].untyped_storage()
                left_out[storage.data_ptr()] = storage
                return args[0]
            return func(*args, **(kwargs or {}))

    with Skip():  # type: ignore[no-untyped-call]
        yield left_out
