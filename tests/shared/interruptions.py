"""Runs that are killed, interrupted, or fail at every link, rename and unlink; and what is to be seen afterwards.

    python tests/shared/interruptions.py DIRECTORY --kills 200      every point, and kills at random times; prints figures

`tests/transfer/test_interruptions.py` runs a small systematic part of it. A run is a process of its own, in which `os` is
wrapped so that at the n-th call something happens: SIGKILL, a signal, or an EIO instead of the call.
"""

from __future__ import annotations

import argparse
import os
import random
import re
import signal
import subprocess
import sys
import time
from collections import Counter
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass
from pathlib import Path

from streamexport.caffe import caffe_pb2
from streamexport.caffe.models import open_models
from streamexport.errors import NetError

TEMPORARY = re.compile(r"\..*\.streamexport-[0-9a-f]{8}")

INJECTED = """
import errno, os, signal, sys
what, at, named, arguments = sys.argv[1], int(sys.argv[2]), sys.argv[3] == "named", sys.argv[4:]
if named:
    del os.O_TMPFILE  # as on file systems without
count = 0
def wrapped(call):
    def calling(*given, **rest):
        global count
        count += 1
        if count == at or (what == "EIO on" and count > at):
            if what.startswith("EIO"):
                raise OSError(errno.EIO, os.strerror(errno.EIO))
            os.kill(os.getpid(), getattr(signal, what))
        return call(*given, **rest)
    return calling
signal.signal(signal.SIGINT, signal.default_int_handler)
for name in ("link", "rename", "unlink"):
    setattr(os, name, wrapped(getattr(os, name)))
from streamexport.cli import main
status = main(arguments)
sys.stderr.flush()
print(count)
raise SystemExit(status)
"""


@dataclass(frozen=True)
class Form:
    """A way to write a model: the arguments behind `convert MODEL`, in a directory that holds an `out`.

    Attributes
    ----------
    is_named : whether nameless files are not to be had
    older_limit : how much larger the parts of the older set are
    """

    name: str
    arguments: tuple[str, ...]
    is_named: bool = False
    older_limit: int = 1


BESIDE = ("--prototxt", "m.prototxt")
FORMS = (
    Form("caffemodel", ("-o", "m.caffemodel", *BESIDE)),
    Form("temporary names", ("-o", "m.caffemodel", *BESIDE), is_named=True),
    Form("HDF5", ("-o", "m.caffemodel.h5", *BESIDE)),
    Form("linked", ("-o", "m.caffemodel.h5", "--format", "linked", *BESIDE)),
    Form("13 parts over 7", ("-o", "m.caffemodel", "--max-file-size", "{limit}", *BESIDE), older_limit=2),
    Form("13 parts over 13", ("-o", "m.caffemodel", "--max-file-size", "{limit}", *BESIDE)),
    Form("DIR/", ("-o", "out/", "--prototxt", "out/net.prototxt")),
    Form("prototxt elsewhere", ("-o", "m.caffemodel", "--prototxt", "out/p.prototxt")),
)
LAYERS = 26
Set = Mapping[str, bytes]


def models(directory: Path, floats: int) -> tuple[Path, Path, int]:
    """Two models of a net that is in all its layers the same but for the numbers, and the limit that makes 13 parts of it.

    Twice that makes 7. For both, a layer has to be larger than what a file holds besides.
    """
    made = []
    for number, name in enumerate(("older", "newer")):
        net = caffe_pb2.NetParameter(name="net")
        for index in range(LAYERS):
            layer = net.layer.add(name=f"fc{index}", type="InnerProduct", bottom=["x"], top=[f"y{index}"])
            layer.inner_product_param.num_output = 1
            layer.blobs.add(shape={"dim": [1, floats]}, data=[number + index / 32] * floats)
        made.append(directory / f"{name}.caffemodel")
        made[-1].write_bytes(net.SerializeToString())
    return made[0], made[1], 2 * net.layer[-1].ByteSize() + 200


def outputs(directory: Path) -> dict[str, bytes]:
    """What is there under names that are not temporary."""
    found = (p for p in sorted(directory.rglob("*")) if p.is_file() and not TEMPORARY.fullmatch(p.name))
    return {str(p.relative_to(directory)): p.read_bytes() for p in found}


def litter(directory: Path) -> list[str]:
    return [p.name for p in directory.rglob("*") if TEMPORARY.fullmatch(p.name)]


def command(form: Form, model: Path, limit: int) -> list[str]:
    return ["convert", str(model), *(argument.format(limit=limit) for argument in form.arguments), "--quiet"]


def injected(
    directory: Path, form: Form, arguments: Sequence[str], what: str, at: int
) -> subprocess.CompletedProcess[str]:
    """Runs the command with something happening at its n-th link, rename or unlink."""
    named = "named" if form.is_named else "nameless"
    start = [sys.executable, "-c", INJECTED, what, str(at), named, *arguments]
    environment = {**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))}
    return subprocess.run(start, cwd=directory, capture_output=True, text=True, env=environment)


def check(directory: Path, old: Set, new: Set, status: int, said: str, what: str) -> str:
    """What is seen after a run to which something happened, in one word. AssertionError for what may not be seen."""
    seen = outputs(directory)
    assert seen.keys() <= old.keys() | new.keys(), seen.keys()
    for name, content in seen.items():
        assert content in (old.get(name), new.get(name)), f"{name} is neither the old file nor the new one"
    assert seen.keys() >= old.keys() & new.keys(), "a name holds nothing"
    state = "new" if seen == new else "old" if seen == old else "mixed"
    assert "Traceback" not in said, said
    if what == "SIGKILL":
        assert status == -signal.SIGKILL
        if state == "mixed":
            check_named(directory, seen, old, new)
        return state
    if what == "EIO on" and state == "mixed":
        assert "what was there could not be put back in" in said
        return "mixed, and said so"
    assert state != "mixed", (state, said)
    assert len(said.splitlines()) == (status != 0), said
    if what.startswith("EIO"):
        assert (status, state) in ((0, "new"), (1, "old")), (status, state, said)
    else:
        assert status == 128 + getattr(signal, what), (status, said)
        assert said.endswith("outputs are complete\n" if state == "new" else "outputs are what they were\n"), said
        assert litter(directory) == []
    return state


def check_named(directory: Path, seen: Set, old: Set, new: Set) -> None:
    """Parts of two runs are refused as such, whoever reads them."""
    parts = [name for name in seen if "-of-" in name]
    if any(seen[name] != new.get(name) for name in parts) and any(seen[name] != old.get(name) for name in parts):
        try:
            open_models([directory / name for name in parts])
        except NetError as error:
            assert "is of another run" in str(error)
        else:
            raise AssertionError("parts of two runs were taken for one model")


def every_point(directory: Path, form: Form, arguments: Sequence[str], what: str, old: Set, new: Set) -> Iterator[str]:
    """Lets it happen at each call in turn until a run has no more; what is seen after each, and that the next run mends it."""
    for at in range(1, 200):
        restore(directory, old)
        done = injected(directory, form, arguments, what, at)
        if done.returncode == 0 and int(done.stdout.split()[-1]) < at:
            return
        yield check(directory, old, new, done.returncode, done.stderr, what)
        if at % 5 == 1:
            after = injected(directory, form, arguments, "nothing", 0)
            assert after.returncode == 0, after.stderr
            assert outputs(directory) == new
            assert litter(directory) == []
    raise AssertionError("never ends")


def restore(directory: Path, old: Set) -> None:
    """Makes the directory hold the older set, and nothing else."""
    for path in directory.rglob("*"):
        if path.is_file():
            path.unlink()
    (directory / "out").mkdir(exist_ok=True)
    for name, content in old.items():
        (directory / name).write_bytes(content)


def sets(directory: Path, form: Form, older: Path, newer: Path, limit: int) -> tuple[Set, Set]:
    """What a run makes of the older model, and of the newer one."""
    made = []
    for model, size in ((older, limit * form.older_limit), (newer, limit)):
        restore(directory, {})
        done = injected(directory, form, command(form, model, size), "nothing", 0)
        assert done.returncode == 0, done.stderr
        assert litter(directory) == []
        made.append(outputs(directory))
    return made[0], made[1]


def random_kill(directory: Path, form: Form, arguments: Sequence[str], old: Set, new: Set, longest: float) -> str:
    restore(directory, old)
    process = subprocess.Popen(
        [sys.executable, "-c", INJECTED, "nothing", "0", "named" if form.is_named else "nameless", *arguments],
        cwd=directory,
        stdout=subprocess.DEVNULL,
        stderr=subprocess.DEVNULL,
        env={**os.environ, "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )
    time.sleep(random.uniform(0.5, 1) * longest)
    process.kill()
    if process.wait() == 0:
        return "done"
    return check(directory, old, new, -signal.SIGKILL, "", "SIGKILL")


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__.splitlines()[0])
    parser.add_argument("directory", type=Path, help="an empty one to work in")
    parser.add_argument("--floats", type=int, default=250_000, help="of each of the 26 layers")
    parser.add_argument("--kills", type=int, default=200)
    parser.add_argument("--seed", type=int, default=0)
    given = parser.parse_args()
    random.seed(given.seed)
    older, newer, limit = models(given.directory.resolve(), given.floats)
    work = given.directory / "work"
    work.mkdir(exist_ok=True)
    for form in FORMS:
        old, new = sets(work, form, older, newer, limit)
        arguments = command(form, newer, limit)
        for before in ({}, old):
            for what in ("SIGKILL", "SIGINT", "SIGTERM", "SIGHUP", "EIO", "EIO on"):
                seen = Counter(every_point(work, form, arguments, what, before, new))
                print(f"{form.name}, {len(new)} files over {len(before)}, {what}: {dict(seen)}", flush=True)
        restore(work, {})
        start = time.monotonic()
        injected(work, form, arguments, "nothing", 0)
        longest = time.monotonic() - start
        kills = -(-given.kills // len(FORMS))
        seen = Counter(random_kill(work, form, arguments, random.choice(({}, old)), new, longest) for _ in range(kills))
        injected(work, form, arguments, "nothing", 0)
        assert (outputs(work), litter(work)) == (new, [])
        print(f"{form.name}, {kills} random kills: {dict(seen)}", flush=True)


if __name__ == "__main__":
    main()
