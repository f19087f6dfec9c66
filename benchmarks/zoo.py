"""torchvision's nets, converted in every dialect, and what Caffe, OpenCV and streamexport compute of them beside torch.

bash tools/zoo.sh [--nets REGEX] [--dialects portable,ssd] [--resume FILE]             all of it takes two hours

Every net gets seeded weights under which activations keep to about 1, and one seeded input. Whatever computes does so in
a process of its own, so that one that crashes is a result. Seconds and memory are the command's, in the first dialect;
the other conversions are forked from a process that has imported torch already, two nets at a time. Where two dialects say
the same of a net, an engine is asked once. A net passes where its answer is within 1e-4 of torch's, of the largest number
in it; or no farther from torch in double precision than four times what torch itself is.

Caffe is the one that tools/build_pycaffe.sh makes, of the SSD family. Of bvlc it is given a prototxt in which
`round_mode: FLOOR` is `ceil_mode: false`, as it calls the same. Where a dialect has layers that an engine lacks, the cell
says which ("no Clip"), and the others judge. Nets whose layers make more than 8 GiB, all together, are converted and not run.
"""

from __future__ import annotations

import argparse
import importlib
import json
import multiprocessing
import os
import re
import signal
from collections.abc import Callable, Mapping, Sequence
from concurrent.futures import ProcessPoolExecutor, as_completed
from dataclasses import dataclass, field
from pathlib import Path
from typing import TYPE_CHECKING, Any

import bench

import streamexport
from streamexport.counting.costs import costs

if TYPE_CHECKING:
    import torch

TOLERANCE, OF_TORCH = 1e-4, 4
CONSUMERS = {
    "portable": ("caffe", "opencv", "stream"),
    "bvlc": ("caffe", "stream"),
    "opencv": ("opencv", "stream"),
    "ssd": ("caffe", "opencv", "stream"),
}
FORK_LIMIT, OPENCV_LIMIT = 512 << 20, 2**31 - 2  # bytes of a caffemodel; the fork takes more than that as HDF5
ACTIVATIONS_LIMIT = 8 << 30  # bytes that a net's layers make
FOREIGN = {("bvlc", "caffe"): ("Clip",), ("ssd", "opencv"): ("Parameter", "Bias")}
"""Types of a dialect that one of its consumers lacks."""
BACKBONES = "torchvision.models.detection.backbone_utils"
Result = dict[str, Any]


@dataclass(frozen=True)
class ZooNet:
    """A name for the table, and what --net, --net-args and --input-shape say."""

    name: str
    group: str
    call: str
    arguments: Mapping[str, object] = field(default_factory=dict)
    size: int = 224

    @property
    def options(self) -> tuple[str, ...]:
        shape = f"1,3,{self.size},{self.size}"
        return "--net", self.call, "--net-args", json.dumps(self.arguments), "--input-shape", shape


def zoo() -> list[ZooNet]:
    from torchvision import models

    nets = []
    for name in models.list_models(module=models):
        size = 299 if name == "inception_v3" else 224
        nets.append(ZooNet(name, "classification", f"torchvision.models:{name}", size=size))
    for name in models.list_models(module=models.segmentation):
        nets.append(ZooNet(name, "segmentation", "benchmarks/zoo_nets.py:segmentation", {"name": name}))
    for name in [net.name for net in nets if re.match("(wide_)?resn", net.name)]:
        given = {"backbone_name": name, "weights": None}
        nets.append(ZooNet(f"{name} fpn", "detection backbones", f"{BACKBONES}:resnet_fpn_backbone", given))
    for name in [net.name for net in nets if net.name.startswith("mobilenet")]:
        for fpn in (False, True):
            given = {"backbone_name": name, "weights": None, "fpn": fpn}
            label = f"{name} {'fpn' if fpn else 'features'}"
            nets.append(ZooNet(label, "detection backbones", f"{BACKBONES}:mobilenet_backbone", given))
    return nets


# What runs in processes of its own


def make(net: ZooNet, work: Path) -> Result:
    """Writes c.pth, and truth.npz: the input `x` and torch's answers, single0, double0, single1, ..."""
    import numpy as np
    import torch
    from torch.utils.flop_counter import FlopCounterMode

    torch.manual_seed(0)
    module, callable_ = net.call.split(":")
    source = importlib.import_module(Path(module).stem if module.endswith(".py") else module)
    model = getattr(source, callable_)(**net.arguments).eval()
    coarse = torch.randn(2, 3, 9, 9)
    x = torch.nn.functional.interpolate(coarse, net.size, mode="bilinear") + torch.randn(2, 3, net.size, net.size) / 4
    with torch.inference_mode():
        temper(model, x)
    torch.save(model.state_dict(), work / "c.pth")
    parameters = sum(tensor.numel() for tensor in model.parameters())
    with torch.inference_mode():
        with FlopCounterMode(display=False) as counter:
            one = answers(model, x[:1])
        other = answers(model, x[1:])
        exact = answers(model.double(), x[:1].double())
    contrast = min(relative(b, a) for a, b in zip(one, other, strict=True))
    spread = min(float(a.std() / np.abs(a).max()) for a in one)
    if not (contrast > 0.05 and spread > 0.05):
        raise RuntimeError(f"degenerate: answers to two inputs differ by {contrast:.1e}, their spread is {spread:.1e}")
    singles = {f"single{index}": a for index, a in enumerate(one)}
    doubles = {f"double{index}": a for index, a in enumerate(exact)}
    np.savez(work / "truth.npz", x=x[:1].numpy(), **singles, **doubles)
    own = max(relative(a, b) for a, b in zip(one, exact, strict=True))
    multiply_adds = counter.get_total_flops() // 2
    return {
        "parameters": parameters,
        "multiply_adds": multiply_adds,
        "own": own,
        "contrast": contrast,
        "spread": spread,
    }


def temper(model: torch.nn.Module, x: torch.Tensor) -> None:
    """Gives a net normal weights, scaled layer by layer as `x` runs through, and the statistics that it then meets.

    What torchvision starts with does not do: heads of zeros, blocks scaled by 1e-6, BatchNorms that change nothing.
    """
    import torch

    def scale(layer: Any, _: object, y: torch.Tensor) -> torch.Tensor:
        is_image = isinstance(layer, torch.nn.Conv2d)
        deviation = y.std()
        layer.weight.div_(deviation)
        y = y / deviation
        if layer.bias is None:
            return y
        mean = y.mean((0, 2, 3) if is_image else tuple(range(y.ndim - 1)))
        shift = torch.randn_like(mean) / 8 - mean / 2
        layer.bias.div_(deviation).add_(shift)
        return y + (shift[:, None, None] if is_image else shift)

    def meet(norm: Any, inputs: tuple[torch.Tensor]) -> None:
        mean, variance = inputs[0].mean((0, 2, 3)), inputs[0].var((0, 2, 3))
        norm.running_mean.copy_(mean + variance.sqrt() * torch.randn_like(mean) / 8)
        norm.running_var.copy_((variance + variance.mean() / 8) * torch.empty_like(mean).uniform_(0.5, 1.5))

    handles = []
    for name, values in (*model.named_parameters(), *model.named_buffers()):
        if values.is_floating_point() and values.ndim == 1:  # of a norm, or a bias
            # Biases above zero make ReLUs cut off less: in deep nets, rounding then grows less, too.
            _ = values.uniform_(0.5, 1.5) if name.endswith("weight") else values.normal_(1 / 2, 1 / 4)
        elif name.endswith("layer_scale"):
            values.uniform_(0.1, 0.5)
        elif isinstance(values, torch.nn.Parameter):
            values.normal_(0, values[0].numel() ** -0.5)
    for part in model.modules():
        if isinstance(part, torch.nn.Conv2d | torch.nn.Linear):
            handles.append(part.register_forward_hook(scale))
        elif "BatchNorm" in type(part).__name__:
            handles.append(part.register_forward_pre_hook(meet))
    model(x)
    for handle in handles:
        handle.remove()


def answers(model: torch.nn.Module, x: torch.Tensor) -> list[Any]:
    """Of the net, as arrays: one, or those of its dictionary."""
    y = model(x)
    return [tensor.numpy() for tensor in (y.values() if isinstance(y, dict) else [y])]


def relative(found: Any, expected: Any) -> float:
    import numpy as np

    return float(np.abs(found.astype(np.float64) - expected).max() / np.abs(expected).max())


def compare(engine: str, prototxt: str, model: str, truth: Path) -> Result:
    """What an engine answers beside torch. Several answers are told apart by shape, and by value where that is the same."""
    import numpy as np

    from streamexport.caffe.prototxt import read_prototxt
    from streamexport.running.engines import open_engine

    known = np.load(truth)
    named = re.search("^# outputs, in torch's order: (.*)$", Path(prototxt).read_text(), re.M)
    blobs = named[1].split(", ") if named else list(read_prototxt(prototxt).ends)
    with open_engine(engine, prototxt, [model], blobs) as compute:
        found = compute(known["x"])
    single, double = 0.0, 0.0
    for index, blob in enumerate(blobs):
        single = max(single, relative(found[blob], known[f"single{index}"]))
        double = max(double, relative(found[blob], known[f"double{index}"]))
    return {"single": single, "double": double}


def rewritten(net: ZooNet, dialect: str, work: Path, model: Path) -> Result:
    """Another conversion of the same net."""
    options = streamexport.Options(
        net=net.call, net_args=json.dumps(net.arguments), input_shape=(1, 3, net.size, net.size), dialect=dialect
    )
    streamexport.convert([work / "c.pth"], model, options)
    return {}


# What runs them

FORKED = multiprocessing.get_context("fork")


def apart(function: Callable[..., Result], *arguments: object) -> Result:
    """What a function returns in a process of its own; {"failed": why} where it fails, or the process dies."""
    receiver, sender = FORKED.Pipe(duplex=False)
    process = FORKED.Process(target=answer, args=(sender, function, *arguments))
    process.start()
    sender.close()
    try:
        result: Result = receiver.recv()
    except EOFError:
        process.join()
        code = process.exitcode or 0
        result = {"failed": signal.Signals(-code).name if code < 0 else f"status {code}"}
    process.join()
    return result


def answer(sender: Any, function: Callable[..., Result], *arguments: object) -> None:
    try:
        sender.send(function(*arguments))
    except streamexport.Error as error:
        sender.send({"failed": str(error)})
    except Exception as error:
        sender.send({"failed": f"crashed: {type(error).__name__}: {error}"})


def converted(net: ZooNet, dialect: str, work: Path, model: Path) -> Result:
    """The command's conversion, how long it takes and how much memory; or {"failed": why}."""
    options = (*net.options, "--dialect", dialect)
    done = bench.run((bench.PYTHON, "-m", "streamexport", "convert", work / "c.pth", *options, "-o", model))
    if done.status:
        what = "crashed: " if "Traceback" in done.stderr else ""
        return {"failed": what + last_line(done.stderr).removeprefix("streamexport: ")}
    return {"seconds": done.seconds, "peak": done.peak}


def last_line(text: str) -> str:
    return next((line.strip() for line in reversed(text.splitlines()) if line.strip()), "without a word")


def convert(net: ZooNet, dialect: str, work: Path, is_timed: bool, answered: dict[tuple[str, str], Result]) -> Result:
    """One dialect: the conversion, and its consumers. `answered`: what engines made of other prototxts of the net."""
    model = work / "m.caffemodel"
    result = converted(net, dialect, work, model) if is_timed else apart(rewritten, net, dialect, work, model)
    if "failed" in result:
        return {"refused": result["failed"].removeprefix(f"{work}/c.pth: ")}
    result["bytes"] = model.stat().st_size
    spent = costs(model.with_suffix(".prototxt"))
    result["multiply_adds"] = sum(cost.multiply_adds for cost in spent)
    result["activation_bytes"] = sum(cost.activation_bytes for cost in spent)
    lines = model.with_suffix(".prototxt").read_text().splitlines()
    said = "\n".join(line for line in lines if not line.startswith("#"))
    for engine in CONSUMERS[dialect]:
        heard = understood(said, engine)
        if (heard, engine) not in answered:
            reason = skipped(result, said, dialect, engine)
            answered[heard, engine] = {"skipped": reason} if reason else ask(net, dialect, work, model, engine)
        result[engine] = answered[heard, engine]
    model.unlink()
    return result


def understood(prototxt: str, engine: str) -> str:
    """In the words of the Caffe that is asked."""
    return prototxt.replace("round_mode: FLOOR", "ceil_mode: false") if engine == "caffe" else prototxt


def skipped(result: Result, said: str, dialect: str, engine: str) -> str:
    """Why an engine is not asked about a prototxt; "" if it is."""
    if missing := [word for word in FOREIGN.get((dialect, engine), ()) if f'"{word}"' in said]:
        return f"no {', '.join(missing)}"
    if result["activation_bytes"] > ACTIVATIONS_LIMIT:
        return f"makes {result['activation_bytes'] / 2**30:.0f} GiB"
    return "above 2 GiB" if engine == "opencv" and result["bytes"] > OPENCV_LIMIT else ""


def ask(net: ZooNet, dialect: str, work: Path, model: Path, engine: str) -> Result:
    """What an engine answers, in a process of its own; Caffe gets as HDF5 what is more than it takes otherwise."""
    chosen = model
    if engine == "caffe" and model.stat().st_size > FORK_LIMIT:
        chosen = model.with_suffix(".caffemodel.h5")
        if "failed" in (again := apart(rewritten, net, dialect, work, chosen)):
            return again
    prototxt = work / "heard.prototxt"
    prototxt.write_text(understood(model.with_suffix(".prototxt").read_text(), engine))
    result = apart(compare, engine, str(prototxt), str(chosen), work / "truth.npz")
    if chosen != model:
        chosen.unlink()
    return result


def examined(net: ZooNet, missing: Sequence[str], earlier: Result) -> Result:
    """A net's results: those that are there, and those of the dialects that are missing."""
    with bench.workspace(12 << 30) as work:
        result = {**earlier, **apart(make, net, work)}
        answered: dict[tuple[str, str], Result] = {}
        for dialect in () if "failed" in result else missing:
            result[dialect] = convert(net, dialect, work, dialect == missing[0], answered)
    return result


def passes(result: Result, own: float) -> bool:
    """`own`: how far torch is from itself in double precision."""
    return "single" in result and (result["single"] <= TOLERANCE or result["double"] <= OF_TORCH * own)


def cell(result: Result, engine: str, own: float) -> str:
    if "refused" in result:
        return "refused"
    found = result.get(engine, {})
    if "single" in found:
        return f"{found['single']:.0e}" if passes(found, own) else f"**{found['single']:.0e}**"
    return found.get("skipped") or ("**fails**" if found else "")


def report(nets: Sequence[ZooNet], results: Mapping[str, Result], dialects: Sequence[str]) -> str:
    """The table, the totals, and whatever is not as it should be, as Markdown."""
    columns = [(dialect, engine) for dialect in dialects for engine in CONSUMERS[dialect]]
    said = [line for paragraph in __doc__.split("\n\n")[2:] for line in (*paragraph.splitlines(), "")]
    lines = ["# torchvision's nets beside torch", "", *said]
    lines += ["Numbers are the largest difference from torch, of the largest number; bold where that is too much.", ""]
    header = ["net", "million parameters", *(f"{d}: {e}" for d, e in columns), "torch to double"]
    header += ["multiply-adds, of torch's", "s", "MiB"]
    for group in dict.fromkeys(net.group for net in nets):
        ours = [net for net in nets if net.group == group and net.name in results]
        lines += [f"## {group}", "", "| " + " | ".join(header) + " |", "|---" * len(header) + "|"]
        for net in ours:
            lines.append("| " + " | ".join(row(net.name, results[net.name], columns)) + " |")
        lines += ["", *totals(ours, results, columns), ""]
    lines += ["## Refused, or wrong", ""]
    for net in nets:
        lines += [f"- {net.name}: {why}" for why in problems(results.get(net.name, {}), columns)]
    return "\n".join(lines) + "\n"


def row(name: str, result: Result, columns: Sequence[tuple[str, str]]) -> list[str]:
    if "failed" in result:
        return [name, "torch fails", *[""] * (len(columns) + 4)]
    cells = [cell(result.get(dialect, {}), engine, result["own"]) for dialect, engine in columns]
    made = [result[d] for d in dict(columns) if "bytes" in result.get(d, {})]
    ratio = f"{min(m['multiply_adds'] for m in made) / result['multiply_adds']:.4g}" if made else ""
    timed = next((m for m in made if "seconds" in m), None)
    times = [f"{timed['seconds']:.1f}", f"{timed['peak']:.0f}"] if timed else ["", ""]
    return [name, f"{result['parameters'] / 1e6:.1f}", *cells, f"{result['own']:.0e}", ratio, *times]


def totals(nets: Sequence[ZooNet], results: Mapping[str, Result], columns: Sequence[tuple[str, str]]) -> list[str]:
    lines = []
    for dialect in dict(columns):
        made = [results[net.name] for net in nets if "bytes" in results[net.name].get(dialect, {})]
        verdicts: list[list[bool | None]] = []  # for each engine, net by net: None where it was not asked
        said = []
        for engine in (engine for other, engine in columns if other == dialect):
            found = [(result[dialect].get(engine, {}), result["own"]) for result in made]
            verdicts.append([None if "skipped" in one else passes(one, own) for one, own in found])
            said.append(f"{verdicts[-1].count(True)} of {len(made) - verdicts[-1].count(None)} agree in {engine}")
        every = sum(False not in ones and True in ones for ones in zip(*verdicts, strict=True))
        agreeing = ", ".join(said)
        lines.append(f"- {dialect}: of {len(nets)}, {len(made)} convert; {agreeing}; {every} wherever they were run")
    return lines


def problems(result: Result, columns: Sequence[tuple[str, str]]) -> list[str]:
    if "failed" in result:
        return [f"torch: {result['failed']}"]
    found: dict[str, list[str]] = {}  # what went wrong, and where: mostly the same in all dialects
    for dialect in dict(columns):
        if why := result.get(dialect, {}).get("refused"):
            found.setdefault(f"refused: {why}", []).append(dialect)
    for dialect, engine in columns:
        it = result.get(dialect, {}).get(engine, {})
        if it and not passes(it, result["own"]) and "skipped" not in it:
            far = f"{it.get('single', 0):.1e} from torch, {it.get('double', 0):.1e} from double ({result['own']:.1e})"
            found.setdefault(it.get("failed", far), []).append(f"{dialect} {engine}")
    return [f"{why} ({', '.join(where)})" for why, where in found.items()]


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("--nets", default="", metavar="REGEX", help="only those in whose names it is found")
    parser.add_argument("--dialects", default=",".join(CONSUMERS), help="some of %(default)s")
    parser.add_argument("--resume", type=Path, metavar="FILE", help="results as JSON; what is in it is not done again")
    parser.add_argument("-o", "--output", type=Path, default=bench.ROOT / "benchmarks" / "zoo.md", help="the table")
    given = parser.parse_args()
    nets = [net for net in zoo() if re.search(given.nets, net.name)]
    results: dict[str, Result] = {}
    if given.resume and given.resume.exists():
        results = json.loads(given.resume.read_text())
    dialects = given.dialects.split(",")
    missing = {net.name: [d for d in dialects if d not in results.get(net.name, {})] for net in nets}
    import torch  # before workers are forked, which have it then

    torch.set_num_threads(1)
    with ProcessPoolExecutor(os.cpu_count(), FORKED) as pool:
        examinations = {
            pool.submit(examined, net, missing[net.name], of_dialects(results.get(net.name, {}))): net.name
            for net in nets
            if missing[net.name]
        }
        for done in as_completed(examinations):
            name = examinations[done]
            results[name] = done.result()
            print(name, json.dumps(results[name]), flush=True)
            if given.resume:
                written = given.resume.with_suffix(".new")
                written.write_text(json.dumps(results, indent=1))
                written.replace(given.resume)
            given.output.write_text(report(nets, results, dialects))
    whole = report(nets, results, dialects)
    given.output.write_text(whole)
    print(whole)


def of_dialects(result: Result) -> Result:
    return {key: found for key, found in result.items() if key in CONSUMERS}


if __name__ == "__main__":
    main()
