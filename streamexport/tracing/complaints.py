"""Why torch could not trace a module, in words of what the module does rather than of torch's inside."""

from __future__ import annotations

from ..errors import reason

HIDDEN = (
    "it takes elements out of torch's sight, as x.data, Variable(x.data) and x.numpy() do",
    "write x, or x.detach(), instead",
)
GPU = ("it asks for a GPU", "take the device from the input, as x.device, and leave out .cuda()")
INTEGERS = (
    "it takes integers as an input, which choose among others",
    "blobs are float32: let a module around it take floats, and give it x.long()",
)
BOOLEANS = (
    "it takes booleans as an input",
    "blobs are float32: give a mask as 0 and 1, and write x * mask + y * (1 - mask)",
)
KNOWN = {
    "fake tensor in the exported program": HIDDEN,
    ".numpy() is not supported": HIDDEN,
    "data-dependent": (
        "its control flow or its shapes depend on values",
        "write it without branches, with torch.where for one",
    ),
    "scalar types: Long, Int": INTEGERS,
    "used as indices must be": INTEGERS,
    "dtype int32/int64 for index": INTEGERS,
    "predicate to be bool": BOOLEANS,
    "to be a boolean tensor": BOOLEANS,
    "support for cuda devices": GPU,
    "not compiled with CUDA": GPU,
    "cuda:": GPU,
    "ScriptModule": ("a part of it is TorchScript", "build it without torch.jit"),
}
"""What torch's message contains; what it means, and what to do."""
OTHERWISE = (
    "it has to take float32 tensors of these shapes (`input_shape=`), and its control flow must not depend on values"
)


def explained(error: BaseException) -> tuple[str, str]:
    """What is wrong with a module that torch failed on, and what to do; for what is not known, torch's own first line."""
    said = f"{type(error).__name__}: {reason(error)}".strip()
    known = next((meant for part, meant in KNOWN.items() if part in said), None)
    return known or (said.splitlines()[0], OTHERWISE)
