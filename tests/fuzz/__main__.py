"""Damages valid files in ways that know their structure, and looks what the readers make of them.

    python -m tests.fuzz READER --inputs N [--seed S] [--only I]

Other programs (torch, safetensors, protobuf, h5py, numpy) write the seeds. What has to hold for every input:

- what is raised is one of our errors; what is read lies in the files that were named, and can be laid out again such that
  protobuf parses it;
- nothing is imported, compiled or executed, and no other file is opened (audit events);
- it takes less than 20 s of processor time and a gigabyte.

What only `errors.judging` caught is counted, with its place: right for users, and worth a better message.
"""

from __future__ import annotations

import argparse
import collections
import io
import os
import resource
import signal
import sys
import tempfile
import traceback
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

from streamexport.errors import Error

from . import mutations, seeds

Check = Callable[[Path], None]
SECONDS, MEMORY = 20, 1 << 30

READERS: dict[str, tuple[str, Callable[[], list[bytes]], Callable[[mutations.Rng, bytes], bytes], Check]] = {
    "legacy": ("x.pth", lambda: seeds.torch_files(is_zip=False), mutations.pickled, seeds.use_torch_file),
    "zip": ("x.pth", lambda: seeds.torch_files(is_zip=True), mutations.zipped, seeds.use_torch_file),
    "pickle": ("x.pkl", seeds.numpy_pickles, mutations.pickled, seeds.use_weights),
    "npz": ("x.npz", seeds.npz_files, mutations.zipped, seeds.use_weights),
    "safetensors": ("x.safetensors", seeds.safetensors_files, mutations.in_safetensors, seeds.use_weights),
    "index": ("x.index.json", seeds.index_files, mutations.in_json, seeds.use_weights),
    "caffemodel": ("x.caffemodel", seeds.caffemodel_files, mutations.in_message, seeds.use_model),
    "v1": ("x.caffemodel", seeds.v1_files, mutations.in_message, seeds.use_model),
    "record": ("x.caffemodel", seeds.record_files, mutations.in_record, seeds.use_model),
    "hdf5": ("x.h5", seeds.hdf5_files, mutations.bent, seeds.use_model),
    "prototxt": ("x.prototxt", seeds.prototxt_files, mutations.in_words, seeds.use_prototxt),
    "lists": ("x.txt", seeds.list_files, mutations.in_words, seeds.use_list),
}


class Watch:
    """Audit events that reading has no need of, while it is on."""

    FORBIDDEN = (
        "import",
        "compile",
        "exec",
        "os.system",
        "os.exec",
        "os.posix_spawn",
        "subprocess",
        "socket",
        "ctypes",
    )

    def __init__(self, folder: Path) -> None:
        self.folder, self.is_on = str(folder), False
        self.seen: list[str] = []
        sys.addaudithook(self.hook)

    def hook(self, event: str, arguments: tuple[Any, ...]) -> None:
        if not self.is_on:
            return
        if event.startswith(self.FORBIDDEN) or (event == "open" and not self.is_named(arguments[0])):
            self.seen.append(f"{event} {arguments!r}"[:300])

    def is_named(self, path: object) -> bool:
        return isinstance(path, int) or os.path.dirname(os.fsdecode(path)) == self.folder  # type: ignore[arg-type]


class Forked:
    """The HDF5 worker as a fork of this process, which has h5py: a start takes milliseconds."""

    def __init__(self, model: str) -> None:
        from streamexport.caffe.hdf5 import worker as hdf5_worker

        reading, writing = os.pipe()
        self.number = os.fork()
        if not self.number:
            signal.setitimer(signal.ITIMER_PROF, 0)
            resource.setrlimit(resource.RLIMIT_CPU, (5, 6))
            with os.fdopen(writing, "w") as out:
                hdf5_worker.main(model, out)
                out.flush()
                os._exit(0)
        os.close(writing)
        self.stdout, self.stderr, self.status = os.fdopen(reading, "rb"), io.BytesIO(), 0

    def kill(self) -> None:
        if self.number:
            os.kill(self.number, signal.SIGKILL)

    def wait(self) -> int:
        if self.number:
            self.status = os.waitstatus_to_exitcode(os.waitpid(self.number, 0)[1])
            self.number = 0
        return self.status

    def communicate(self) -> None:
        self.wait()
        self.stdout.close()


class TooLong(BaseException):
    pass


def time_out(*_: object) -> None:
    raise TooLong


def outcome(check: Check, path: Path) -> tuple[str, str]:
    """What became of an input: its kind, and for what should not be, where."""
    signal.setitimer(signal.ITIMER_PROF, SECONDS)
    try:
        check(path)
        return "read", ""
    except Error as error:
        cause = error.__cause__
        if isinstance(cause, MemoryError):
            return "WRONG", f"memory: {place(cause)}"
        if cause is not None and error.what.startswith("is malformed: "):
            return "caught by the rule", place(cause)
        return type(error).__name__, ""
    except TooLong as error:
        return "WRONG", f"more than {SECONDS} s: {place(error)}"
    except Exception as error:
        return "WRONG", place(error)
    finally:
        signal.setitimer(signal.ITIMER_PROF, 0)


def place(error: BaseException) -> str:
    """Where an error was raised; without its source text, which would have to be opened."""
    frame, line = [*traceback.walk_tb(error.__traceback__)][-1]
    return f"{type(error).__name__}: {str(error)[:120]!r}, {Path(frame.f_code.co_filename).name}:{line}"


def inputs(reader: str, seed: int, files: list[bytes], count: int, only: int | None) -> Iterator[tuple[int, bytes]]:
    """Numbered inputs, each made from its number alone."""
    mutate = READERS[reader][2]
    for number in range(count) if only is None else (only,):
        rng = mutations.Rng(f"{reader} {seed} {number}")
        yield number, mutate(rng, rng.choice(files))


def fuzz(reader: str, count: int, seed: int, folder: Path, only: int | None = None) -> dict[tuple[str, str], list[int]]:
    """Numbers of inputs by what became of them."""
    name, make, _, check = READERS[reader]
    files, path = make(), folder / name
    if reader == "index":
        (folder / "shard.safetensors").write_bytes(seeds.safetensors_files()[0])
    if reader == "hdf5":
        from streamexport.caffe.hdf5 import reading as hdf5

        hdf5.started = Forked  # type: ignore[assignment]
    watch = Watch(folder)
    for warm in (*files, *(data for _, data in inputs(reader, -1, files, 30, None))):  # imports what readers import
        path.write_bytes(warm)
        outcome(check, path)
    used = int(Path("/proc/self/statm").read_text().split()[0]) * resource.getpagesize()
    resource.setrlimit(resource.RLIMIT_AS, (used + MEMORY, resource.RLIM_INFINITY))
    signal.signal(signal.SIGPROF, time_out)
    found = collections.defaultdict(list)
    for number, data in inputs(reader, seed, files, count, only):
        path.write_bytes(data)
        watch.is_on, watch.seen = True, []
        became = outcome(check, path)
        watch.is_on = False
        found[("WRONG", watch.seen[0]) if watch.seen else became].append(number)
    return found


def main() -> int:
    parser = argparse.ArgumentParser(
        prog="python -m tests.fuzz", description=(__doc__ or "").split("\n", maxsplit=1)[0]
    )
    parser.add_argument("reader", choices=READERS)
    parser.add_argument("--inputs", type=int, default=2000)
    parser.add_argument("--seed", type=int, default=0)
    parser.add_argument("--only", type=int, help="this input alone; it stays in the working directory")
    given = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        found = fuzz(given.reader, given.inputs, given.seed, Path(os.path.realpath(folder)), given.only)
        if given.only is not None:
            name = READERS[given.reader][0]
            Path(name).write_bytes((Path(folder) / name).read_bytes())
    print(f"{given.reader}, seed {given.seed}: {sum(map(len, found.values()))} inputs")
    for (kind, where), numbers in sorted(found.items(), key=lambda item: -len(item[1])):
        print(f"  {len(numbers):>6}  {kind}  {where}" + (f"  (--only {numbers[0]})" if where else ""))
    return int(any(kind == "WRONG" for kind, _ in found))


if __name__ == "__main__":
    sys.exit(main())
