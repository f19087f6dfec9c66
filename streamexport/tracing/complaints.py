"""Why torch could not trace a module, in words of what the module does rather than of torch's inside."""

from __future__ import annotations

from ..errors import reason

HIDDEN = (
    "it takes elements out of torch's sight, as x.data, Variable(x.data) and x.numpy() do",
    "write x, or x.detach(), instead",
)
GPU = ("it asks for a GPU", "take the device from the input, as x.device, and leave out .cuda()")
KNOWN = {
    "fake tensor in the exported program": HIDDEN,
    ".numpy() is not supported": HIDDEN,
    "data-dependent": (
        "its control flow or its shapes depend on values",
        "write it without branches, with torch.where for one",
    ),
    "missing a required argument": ("it takes more than one tensor", "name what builds a module of one input"),
    "support for cuda devices": GPU,
    "not compiled with CUDA": GPU,
    "ScriptModule": ("a part of it is TorchScript", "build it without torch.jit"),
}
"""What torch's message contains; what it means, and what to do."""
OTHERWISE = "it has to take one tensor of that shape (`input_shape=`), and its control flow must not depend on values"


def explained(error: BaseException) -> tuple[str, str]:
    """What is wrong with a module that torch failed on, and what to do; for what is not known, torch's own first line."""
    said = f"{type(error).__name__}: {reason(error)}".strip()
    known = next((meant for part, meant in KNOWN.items() if part in said), None)
    return known or (said.splitlines()[0], OTHERWISE)
