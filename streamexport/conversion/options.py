"""What a model depends on besides its checkpoint."""

from __future__ import annotations

from dataclasses import dataclass

from .. import families
from ..errors import NetError
from ..net.inputs import InputShape, joined
from ..passes import dialects, folding, naming, precision


@dataclass(frozen=True)
class Options:
    """What a model depends on besides its checkpoint. Recorded in the model.

    Attributes
    ----------
    net : a built-in net, "auto", or what builds a PyTorch module: MODULE:CALLABLE or FILE.py:CALLABLE
    net_args : its arguments, as a JSON object
    operators : a Python file that expresses operators of torch's, for what traces the module
    key : which state dict of the checkpoint, as a dotted path; None to find it
    prefix : what stands before the names of the net's tensors; None to find it
    dialect : whose Caffe the prototxt is for: portable, bvlc, opencv or ssd
    names : of layers: torch or classic
    dtype : of the weights of convolutions and inner products: float32 or float16; None for float32 from checkpoints, and
        for what is stored where a Caffe model is the input
    fold_batchnorm : whether BatchNorm and Scale are merged into the convolutions before them
    input_order : of the input's channels: rgb or bgr
    fold_input_scale : whether the first convolution takes in the scaling of the input, for pixels 0…255 less their mean
    end : the layers or modules to end with, by torch's names; none for the whole net
    softmax : whether outputs that are a softmax stay one
    in_place : whether layers write over their bottoms where they may
    input_shape : batch, channels, height, width; None for 1, what the weights say, 224, 224. For a module that takes several
        tensors one shape for each, by the names of the arguments or in their order
    forward_args : other arguments of the module's `forward`, as a JSON object
    mean, std : what is subtracted from the input's channels, from 0 to 1, and what they are divided by, as torchvision's
        Normalize has them; None for ImageNet's in built-in nets of three channels, and else for what nobody knows
    eps : epsilon of BatchNorm in built-in nets; None for 1e-5
    """

    net: str = families.AUTO
    net_args: str | None = None
    operators: str | None = None
    key: str | None = None
    prefix: str | None = None
    dialect: str = "portable"
    names: str = "torch"
    dtype: str | None = None
    fold_batchnorm: bool = False
    input_order: str = "rgb"
    fold_input_scale: bool = False
    end: tuple[str, ...] = ()
    softmax: bool = True
    in_place: bool = False
    input_shape: InputShape | None = None
    forward_args: str | None = None
    mean: tuple[float, ...] | None = None
    std: tuple[float, ...] | None = None
    eps: float | None = None

    def __post_init__(self) -> None:
        end = (self.end,) if isinstance(self.end, str) else tuple(self.end)  # a single name is one, not its letters
        object.__setattr__(self, "end", end)
        object.__setattr__(self, "input_shape", joined(self.input_shape))
        for what, value, known in (
            ("dialect", self.dialect, dialects.DIALECTS),
            ("style of names", self.names, naming.STYLES),
            ("dtype", self.dtype, (None, *precision.STORED)),
            ("order of channels", self.input_order, folding.ORDERS),
        ):
            if value not in known:
                choices = ", ".join(str(choice) for choice in known if choice)
                raise NetError(f"there is no {what} {value!r}", advice=f"choose from {choices}")


DEFAULTS = Options()
