"""What PyTorch itself computes, with the weights of a checkpoint that is never loaded as a whole.

The module runs eagerly, on the CPU. It is built with weights that are allocated and never written to; wherever one of them
is handed to a function of torch's, the checkpoint's tensor is read and handed over in its place, and forgotten afterwards.
What the process needs is torch, the activations, and the largest weight.
"""

from __future__ import annotations

import tempfile
from collections.abc import Callable, Collection, Hashable, Iterator, Mapping
from contextlib import contextmanager
from typing import TYPE_CHECKING, Any

from ..errors import NetError, reason
from ..net.graph import Call
from ..net.inputs import Arguments
from ..payload.tensors import Tensor
from ..tracing.modules import Maker, loaded, on_cpu

if TYPE_CHECKING:
    import torch

    from ..payload.tensors import Array

LOOKED_AT = ("size", "dim", "numel", "stride", "is_floating_point", "type", "__len__")
"""Methods of tensors that do not ask for elements."""


class Outputs:
    """Arrays by what made them, kept in a temporary file: those of all layers together take more memory than a net does.

    Attributes
    ----------
    last : what the net as a whole returned, in order
    """

    def __init__(self) -> None:
        self._file = tempfile.TemporaryFile()  # noqa: SIM115 # it lives as long as this
        self._places: dict[Hashable, tuple[int, tuple[int, ...], str]] = {}
        self.last: list[Array] = []

    def __del__(self) -> None:
        self._file.close()

    def __contains__(self, maker: Hashable) -> bool:
        return maker in self._places

    def __getitem__(self, maker: Hashable) -> Array:
        import numpy as np

        place, shape, dtype = self._places[maker]
        self._file.seek(place)
        array: Array = np.empty(shape, dtype)
        self._file.readinto(array.reshape(-1).view(np.uint8).data)
        return array

    def __setitem__(self, maker: Hashable, array: Array) -> None:
        place = self._file.seek(0, 2)
        self._file.write(array.tobytes())
        self._places[maker] = (place, array.shape, array.dtype.str)


def run(
    make: Maker,
    tensors: Mapping[str, Tensor],
    given: Arguments,
    inputs: Mapping[str, Array],
    watched: Collection[str],
    dtype: str = "float32",
    halved: Collection[str] = (),
) -> Outputs:
    """What the module computes of its inputs, and all calls of some modules inside it.

    Parameters
    ----------
    make : builds the module
    tensors : its state dict
    given : what its `forward` is given
    inputs : the tensors among that, by name
    watched : paths of the modules whose results are kept, where these are single tensors
    dtype : float32, or float64: what every number is computed in
    halved : tensors that are rounded to half floats first, as a model holds them

    Raises
    ------
    NetError : the module fails
    """
    import torch
    from torch.utils._pytree import tree_leaves

    module = on_cpu(make)
    outputs = Outputs()
    precision: torch.dtype = getattr(torch, dtype)
    counts: dict[str, int] = {}

    def hook(path: str) -> Callable[[Any, Any, Any], None]:
        def keep(_module: Any, _inputs: Any, made: Any) -> None:
            call = Call(path, counts.get(path, 0))
            counts[path] = call.number + 1
            if isinstance(made, torch.Tensor):
                outputs[call] = _numbers(made)

        return keep

    for path, inner in module.named_modules():
        if path in watched:
            inner.register_forward_hook(hook(path))
    try:
        with torch.no_grad(), _streamed(module, tensors, precision, halved):
            args, kwargs = given.filled(
                lambda argument: torch.from_numpy(inputs[argument.name]).to(
                    precision, copy=True
                )  # it may be changed in place
            )
            made = module(*args, **kwargs)
        outputs.last = [_numbers(leaf) for leaf in tree_leaves(made) if isinstance(leaf, torch.Tensor)]
    except (Exception, SystemExit) as error:  # whatever the user's code raises
        raise NetError(f"the module fails: {type(error).__name__}: {reason(error)}") from error
    return outputs


def _numbers(made: torch.Tensor) -> Array:
    """A result as floats: truth values are 1 and 0 in a net."""
    return (made if made.is_floating_point() else made.float()).detach().numpy()


@contextmanager
def _streamed(
    module: torch.nn.Module, tensors: Mapping[str, Tensor], precision: torch.dtype, halved: Collection[str]
) -> Iterator[None]:
    """Hands the checkpoint's tensors to torch's functions in place of the module's."""
    import torch
    from torch.overrides import TorchFunctionMode
    from torch.utils._pytree import tree_map

    held = module.state_dict(keep_vars=True)
    names = {id(value): name for name, value in held.items() if name in tensors}

    def put(leaf: Any) -> Any:
        if not isinstance(leaf, torch.Tensor):
            return leaf
        name = names.get(id(leaf))
        value = leaf if name is None else loaded(tensors[name])
        if name in halved:
            value = value.half()
        return value.to(precision) if value.is_floating_point() else value

    class Streamed(TorchFunctionMode):
        def __torch_function__(self, func: Any, types: Any, args: Any = (), kwargs: Any = None) -> Any:
            name = getattr(func, "__name__", "")
            if name in LOOKED_AT:
                return func(*args, **(kwargs or {}))
            if name == "__get__":  # an attribute: of its own, unless it is made of elements, like `T`
                found = func(*args)
                return func(*tree_map(put, args)) if isinstance(found, torch.Tensor) else found
            if name.endswith("_") and not name.endswith("__"):  # in place: what is changed has to stay itself
                return func(args[0], *tree_map(put, args[1:]), **tree_map(put, kwargs or {}))
            return func(*tree_map(put, args), **tree_map(put, kwargs or {}))

    with Streamed():
        yield
