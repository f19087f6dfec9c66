"""What the benchmarks share: seeded checkpoints, commands in fresh processes and in memory cages, tables."""

from __future__ import annotations

import contextlib
import os
import re
import shutil
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parent.parent
PYTHON = sys.executable
PAIRS = 7
os.environ.pop("PYTHONDONTWRITEBYTECODE", None)  # what is installed is compiled, too
WSL = tuple(f"resnext101_32x{width}d_wsl" for width in (8, 16, 32, 48))


@dataclass(frozen=True)
class Run:
    """A command that ended: its status, wall time in seconds, and what it printed."""

    status: int
    seconds: float
    stdout: str
    stderr: str

    @property
    def peak(self) -> float:
        """Peak resident memory in MiB, VmHWM as the command itself read it last of all."""
        found = re.findall(r"peak memory ([\d.]+) MiB", self.stderr + self.stdout)
        if not found:
            raise RuntimeError(f"status {self.status}, no peak memory in: {self.stderr[-2000:]}")
        return float(found[-1])


def run(command: Sequence[object], shell_prefix: str = "") -> Run:
    """Runs a command in a fresh process; `shell_prefix` is run before it by a shell that becomes the command."""
    words = list(map(str, command))
    if shell_prefix:
        words = ["sh", "-c", f'{shell_prefix}; exec "$@"', "sh", *words]
    start = time.monotonic()
    done = subprocess.run(words, capture_output=True, text=True)
    return Run(done.returncode, time.monotonic() - start, done.stdout, done.stderr)


def streamexport(*arguments: object, shell_prefix: str = "") -> Run:
    """The command line; RuntimeError if it fails."""
    done = run((PYTHON, "-m", "streamexport", *arguments), shell_prefix)
    if done.status:
        raise RuntimeError(done.stderr)
    return done


@contextlib.contextmanager
def workspace(needed: int) -> Iterator[Path]:
    """A temporary directory on a file system with `needed` bytes free, emptied afterwards."""
    directory = Path(tempfile.mkdtemp(prefix="streamexport-bench-"))
    try:
        if shutil.disk_usage(directory).free < needed:
            raise SystemExit(f"{directory} has no {needed >> 30} GiB free; set TMPDIR to a larger disk")
        yield directory
    finally:
        shutil.rmtree(directory)


def make_checkpoint(path: Path, *arguments: object) -> Path:
    subprocess.run([PYTHON, ROOT / "tools" / "make_checkpoint.py", *map(str, arguments), path], check=True)
    return path


@contextlib.contextmanager
def cage(limit: int) -> Iterator[str | None]:
    """A cgroup of `limit` bytes of memory, page cache included: a shell line that enters it; None where none can be had."""
    root = Path("/sys/fs/cgroup")
    version1 = (root / "memory").is_dir()
    group = (root / "memory" if version1 else root) / f"streamexport-bench-{os.getpid()}"
    limits = ("memory.limit_in_bytes", "memory.memsw.limit_in_bytes") if version1 else ("memory.max", "memory.swap.max")
    try:
        group.mkdir()
        (group / limits[0]).write_text(str(limit))
        with contextlib.suppress(OSError):  # not every kernel accounts for swap
            (group / limits[1]).write_text(str(limit) if version1 else "0")
    except OSError:
        yield None
        return
    try:
        yield f"echo $$ > {group}/cgroup.procs"
    finally:
        for _ in range(50):  # the kernel needs a moment to let go of what ran in it
            try:
                group.rmdir()
                break
            except OSError:
                time.sleep(0.1)


def settle() -> None:
    """Lets what was written and deleted before reach the disk, so that it does not weigh on what is measured next."""
    os.sync()
    time.sleep(1)


def seconds(command: Callable[[], object]) -> float:
    start = time.monotonic()
    command()
    return time.monotonic() - start


def alternate(
    title: str,
    peer: str,
    run_peer: Callable[[], object],
    run_ours: Callable[[], object],
    *outputs: Path,
    rounds: int = PAIRS,
) -> None:
    """Times both in turn, settled before each, and prints medians and their ratio.

    Outputs are removed before, so that neither replaces a file: cp would truncate its own first, while we keep the old one
    until the new one is complete.
    """
    times: dict[str, list[float]] = {peer: [], "streamexport": []}
    for _ in range(rounds):
        for name, command in ((peer, run_peer), ("streamexport", run_ours)):
            for output in outputs:
                output.unlink(missing_ok=True)
            settle()
            times[name].append(seconds(command))
    medians = {name: statistics.median(values) for name, values in times.items()}
    rows = [(name, f"{medians[name]:.2f}", " ".join(f"{t:.2f}" for t in values)) for name, values in times.items()]
    rows.append(("ratio", f"{medians['streamexport'] / medians[peer]:.2f}", ""))
    print_table(title, ("", "median, s", "runs, s"), rows)


def print_table(title: str, header: Sequence[str], rows: Sequence[Sequence[object]]) -> None:
    """A Markdown table."""
    print(f"\n### {title}\n")
    print("| " + " | ".join(header) + " |")
    print("|" + "---|" * len(header))
    for row in rows:
        print("| " + " | ".join(map(str, row)) + " |")
    sys.stdout.flush()
