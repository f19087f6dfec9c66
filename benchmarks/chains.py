"""Random chains of layers, converted as any module is, and computed by our own engine, OpenCV and Caffe beside torch.

    python benchmarks/chains.py --images 1500 --vectors 500 --tokens 1000 --first 0

Each chain (`chain_modules`) has a seed, from which its module, its weights, its input and its options follow: some are
folded, some write in place, and each dialect gets a third of them. A chain that departs from torch is printed with its seed
and its layers, and is run again by `--images 1 --vectors 0 --tokens 0 --first SEED`. Chains that are refused, or whose answer
rounding decides, are left out and counted by reason. Caffe runs in the interpreter that STREAMEXPORT_CAFFE_PYTHON names, in a
process of its own that is started once; without one nobody asks it.

An answer departs if it is off by more than 3e-5 of the largest number, and by more than ten times what floats lose in this
chain (`expected`): a difference of what is nearly equal, or a square root near zero, makes much of the last bit, and of what
is no more exact than docs/tracing.md says: GELU, erf, and OpenCV's functions where they are small.
"""

from __future__ import annotations

import argparse
import contextlib
import json
import os
import re
import subprocess
import sys
import tempfile
import time
from collections import Counter
from collections.abc import Callable, Iterator, Mapping
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    import numpy as np
    import torch

    Array = np.ndarray[Any, np.dtype[Any]]
    Answers = Mapping[str, Array]

TOLERANCE, ROUNDINGS = 3e-5, 10
ULP, DRAWS = 2.0**-23, 5
MOST_ROUNDING = 1e-3
"""What rounding may make of an answer, in parts of its largest number: any answer would do where that is more, as where
torch's own is zero."""
APPROXIMATED = {"elu": 5e-8, "erf": 1.5e-6, "gelu": 3.1e-6, "mish": 2e-7, "sigmoid": 1e-7, "silu": 1e-7, "tanh": 2e-7}
"""Operators that are not exact in every dialect, or that OpenCV computes so, and what they are off by at most."""
SELECTING = ("amax", "amin", "max", "min")
"""Operators whose results are some of their elements, which nothing rounds: a maximum is equal to one of what it is of."""

READERS = {"portable": ("stream", "opencv", "caffe"), "opencv": ("stream", "opencv"), "ssd": ("stream", "caffe")}
"""Who computes what is written in a dialect. The Caffe that is asked is SSD's fork; none of BVLC's is asked for `bvlc`."""
PYTHON = os.environ.get("STREAMEXPORT_CAFFE_PYTHON")


def main() -> None:
    parser = argparse.ArgumentParser(description="Random chains of layers, beside torch.")
    parser.add_argument("--images", type=int, default=300, help="chains on images")
    parser.add_argument("--vectors", type=int, default=100, help="chains on vectors and sequences")
    parser.add_argument("--tokens", type=int, default=100, help="chains on tokens")
    parser.add_argument("--first", type=int, default=0, help="seed of the first chain of each kind")
    given = parser.parse_args()
    import torch

    torch.set_num_threads(1)
    wrong = 0
    with caffe() as ask_caffe:
        engines = {"stream": stream, "opencv": opencv} | ({"caffe": ask_caffe} if ask_caffe else {})
        print(f"seeds from {given.first}, in {', '.join(engines)}", flush=True)
        for kind in ("images", "vectors", "tokens"):
            wrong += run(kind, range(given.first, given.first + getattr(given, kind)), engines)
    sys.exit(bool(wrong))


def run(kind: str, seeds: range, engines: Mapping[str, Callable[[Path, Array], Array]]) -> int:
    """Runs the chains of a kind, prints what departs and a summary; how many departed."""
    start, left_out, wrong, excused, worst = time.monotonic(), Counter[str](), 0, 0, dict.fromkeys(engines, 0.0)
    for done, seed in enumerate(seeds, 1):
        with tempfile.TemporaryDirectory(dir=SHARED) as directory:
            errors, chain, reason = tried(kind, seed, engines, Path(directory))
        left_out.update([reason] if reason else [])
        for engine, error in errors.items():
            if isinstance(error, str):
                wrong += 1
                print(f"{kind} {seed} in {engine}: {error}\n    {chain}", flush=True)
            elif error > TOLERANCE:
                excused += 1
            else:
                worst[engine] = max(worst[engine], error)
        if done % 100 == 0:
            print(f"{kind}: {done} of {len(seeds)}, {time.monotonic() - start:.0f} s", file=sys.stderr, flush=True)
    if seeds:
        held = ", ".join(f"{engine} {error:.1e}" for engine, error in worst.items())
        found = f"{sum(left_out.values())} left out, {wrong} answers wrong, {excused} as far off as floats make them"
        print(f"{kind}: {len(seeds)} chains, {found}, the others within {held}", flush=True)
        for reason, count in left_out.most_common():
            print(f"    {count}: {reason}")
    return wrong


def tried(
    kind: str, seed: int, engines: Mapping[str, Callable[[Path, Array], Array]], directory: Path
) -> tuple[dict[str, float | str], str, str]:
    """How far each engine is from torch, or what is wrong; the chain, for people; and why it was left out, if it was."""
    import torch

    import streamexport

    module, x = reference(kind, seed)
    chain = f"{described(module)}\n    {options(seed)}"
    torch.save(module.state_dict(), directory / "w.pth")
    net = streamexport.Options(
        net=f"chain_modules:{kind}",
        net_args=json.dumps({"seed": seed}),
        input_shape=tuple(x.shape),
        **options(seed),
    )
    try:
        streamexport.convert([directory / "w.pth"], directory / "net.caffemodel", net)
    except streamexport.Error as error:
        return {}, chain, re.sub(r"\d+", "n", re.sub(r"\S*\bsteps\.\S*|\S+\.py:\d+", "…", error.what))[:160]
    double, lost = expected(module, x)
    scale = float(double.abs().max())
    if not lost < MOST_ROUNDING * scale:
        return {}, chain, "rounding decides what it answers"
    errors: dict[str, float | str] = {}
    for name in engines.keys() & READERS[net.dialect]:
        try:
            found = torch.from_numpy(engines[name](directory, x.numpy()))
        except (streamexport.Error, ValueError) as gives_up:
            errors[name] = str(gives_up)
            continue
        if found.shape != double.shape:
            errors[name] = f"has shape {tuple(found.shape)}, not {tuple(double.shape)}"
            continue
        error = float((found - double).abs().max())
        errors[name] = f"departs by {error / scale:.1e}" if departs(error, scale, lost) else error / scale
    return errors, chain, ""


def departs(error: float, scale: float, lost: float) -> bool:
    """Whether an answer is wrong, that is so far off where the largest number is `scale` and floats lose so much."""
    return not error <= max(TOLERANCE * scale, ROUNDINGS * lost)


def options(seed: int) -> dict[str, Any]:
    dialect = tuple(READERS)[seed // 4 % len(READERS)]
    return {"dialect": dialect, "fold_batchnorm": seed % 4 in (1, 3), "in_place": seed % 4 in (2, 3)}


def reference(kind: str, seed: int) -> tuple[torch.nn.Module, torch.Tensor]:
    """The module with seeded weights, and its input."""
    import chain_modules
    import torch

    with torch.device("meta"):
        module = getattr(chain_modules, kind)(seed)
    module = module.to_empty(device="cpu").requires_grad_(False)
    generator = torch.Generator().manual_seed(seed)
    for name, value in module.state_dict().items():
        if not value.is_floating_point():
            value.zero_()
        elif name.endswith("running_var"):
            value.uniform_(0.5, 1.5, generator=generator)
        elif name.endswith(("bias", "running_mean")):
            value.normal_(0, 0.3, generator=generator)
        elif value.dim() > 1 and value[0].numel() > 1:
            value.normal_(0, value[0].numel() ** -0.5, generator=generator)
        else:
            value.uniform_(0.5, 1.5, generator=generator)
    return module, torch.randn(chain_modules.IMAGE, generator=generator)


def expected(module: torch.nn.Module, x: torch.Tensor) -> tuple[torch.Tensor, float]:
    """What torch makes of it in float64; and what floats lose: how far off torch is in float32, or in float64 where every
    operator's result is one ulp off, up or down, or a tenth of what an approximation is; the most of several such draws."""
    import torch
    from torch.utils._python_dispatch import TorchDispatchMode

    class Rounded(TorchDispatchMode):
        """Every operator's result is off, up or down."""

        def __torch_dispatch__(self, function: Any, _: Any, args: Any = (), kwargs: Any = None) -> Any:
            made, name = function(*args, **(kwargs or {})), function.name().removeprefix("aten::")
            if name.startswith(SELECTING):
                return made
            off = partial(rounded, off=APPROXIMATED.get(name, 0) / ROUNDINGS)
            return torch.utils._pytree.tree_map_only(torch.Tensor, off, made)

    def rounded(made: torch.Tensor, off: float) -> torch.Tensor:
        if not made.is_floating_point():
            return made
        signs = torch.randint(0, 2, made.shape, generator=generator) * 2 - 1
        return made + (made * ULP + off) * signs

    generator = torch.Generator().manual_seed(0)
    with torch.no_grad():
        others = [module(x).double()]
        double = module.double()(x.double())
        for _ in range(DRAWS):
            with Rounded():
                others.append(module(x.double()))
    return double, max(float((other - double).abs().max()) for other in others)


def described(module: torch.nn.Module) -> str:
    """Its steps on one line."""
    import chain_modules

    if isinstance(module, chain_modules.Chain):
        return ", ".join(map(described, module.steps))
    if isinstance(module, chain_modules.Joined):
        return f"{module.name} of [{'] and ['.join(map(described, module.branches))}]"
    return module.name if isinstance(module, chain_modules.Function) else " ".join(str(module).split())


def stream(directory: Path, x: Array) -> Array:
    return engine("stream", directory, x)


def opencv(directory: Path, x: Array) -> Array:
    return engine("opencv", directory, x)


def engine(name: str, directory: Path, x: Array) -> Array:
    from streamexport.running.engines import open_engine

    model, text = directory / "net.caffemodel", directory / "net.prototxt"
    (output,) = outputs(text)
    with open_engine(name, text, [model], [output]) as compute:
        return compute(x)[output]


def outputs(text: Path) -> tuple[str, ...]:
    from streamexport.caffe.prototxt import read_prototxt

    return read_prototxt(text).ends


SHARED = "/dev/shm" if os.path.isdir("/dev/shm") else None
"""Where syncing a file takes no time."""


@contextlib.contextmanager
def caffe() -> Iterator[Callable[[Path, Array], Array] | None]:
    """Asks a Caffe that is started once, see `worker`; None where there is none."""
    import numpy as np

    if not PYTHON:
        yield None
        return
    quiet = {**os.environ, "GLOG_minloglevel": "4", "PYTHONPATH": "", "OMP_NUM_THREADS": "1"}
    command = [PYTHON, __file__, "worker"]
    with subprocess.Popen(
        command, stdin=subprocess.PIPE, stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=quiet
    ) as process:
        asked, answered = process.stdin, process.stdout
        assert asked is not None
        assert answered is not None

        def ask(directory: Path, x: Array) -> Array:
            (output,) = outputs(directory / "net.prototxt")
            np.save(directory / "x.npy", x)
            print(directory, output, file=asked, flush=True)
            if answered.readline() != "0\n":
                raise ValueError("Caffe gives up")
            made: Array = np.load(directory / "y.npy")
            return made

        yield ask
        asked.close()


def worker() -> None:
    """Caffe's side: a line with a directory and a blob in, the status of who computed it out. Caffe ends the process where it
    refuses a net, so each net has one to itself, forked from one that has Caffe."""
    replies = os.fdopen(os.dup(1), "w")
    os.dup2(2, 1)
    import caffe
    import numpy as np

    for line in sys.stdin:
        directory, _, output = line.rstrip("\n").partition(" ")
        child = os.fork()
        if not child:
            net = caffe.Net(f"{directory}/net.prototxt", f"{directory}/net.caffemodel", caffe.TEST)
            net.blobs[net.inputs[0]].data[...] = np.load(f"{directory}/x.npy")
            net.forward()
            np.save(f"{directory}/y.npy", net.blobs[output].data)
            os._exit(0)
        print(os.waitpid(child, 0)[1], file=replies, flush=True)


if __name__ == "__main__":
    worker() if sys.argv[1:] == ["worker"] else main()
