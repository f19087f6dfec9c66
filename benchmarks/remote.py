"""From URLs, and to stores, on loopback against real servers (see servers.py): time beside curl, requests, peak memory.

python benchmarks/remote.py                        about half an hour, 20 GB of disk; curl, Debian's apt-get, npm
python benchmarks/remote.py PART ... --rounds 3    one part or several, medians of fewer rounds

Each part prints the bounds that it is held to. Requests are those of the server's own log.
"""

from __future__ import annotations

import argparse
import os
import shutil
import statistics
import subprocess
from collections.abc import Sequence
from dataclasses import dataclass
from pathlib import Path

import bench
import servers

NET, LARGE = bench.WSL[1], bench.WSL[3]
RANGE = 8 << 20
"""Bytes of a request, which the bounds are in."""
CAGE = 128 << 20


@dataclass(frozen=True)
class Place:
    """Where things lie: a working directory, what is served of it, by whom, and how many rounds are run."""

    work: Path
    root: Path
    server: servers.Nginx
    rounds: int

    @property
    def model(self) -> Path:
        return self.work / "m.caffemodel"

    def served(self, net: str, *arguments: str) -> str:
        """A checkpoint in the root, made once; its name has the first digits of its SHA-256, as official ones have."""
        stem = "-".join((net, *arguments)).replace("--", "")
        found = [*self.root.glob(f"{stem}-????????.pth")]
        if not found:
            made = bench.make_checkpoint(self.root / "making", *arguments, net)
            digest = subprocess.check_output(["sha256sum", made], text=True)
            found = [made.rename(self.root / f"{stem}-{digest[:8]}.pth")]
        return found[0].name

    def beside_curl(self, title: str, base: str, *options: str) -> None:
        """A conversion to a synced file, in turn with curl and sync of the checkpoint."""
        url, copy = f"{base}/{self.served(NET)}", self.work / "copy"

        def curl() -> None:
            subprocess.run(["curl", "-sSf", "-o", copy, url], check=True)
            subprocess.run(["sync", copy], check=True)

        def ours() -> None:
            bench.streamexport("convert", url, "-o", self.model, *options)

        bench.alternate(title, "curl -o; sync", curl, ours, copy, self.model, rounds=self.rounds)
        copy.unlink(missing_ok=True)
        self.model.unlink(missing_ok=True)


def file(place: Place) -> None:
    place.beside_curl("32x16d, 777 MB, by HTTP to a synced file: at most 1.1", place.server.fast)


def hashed(place: Place) -> None:
    place.beside_curl("The same with --check-hash: at most 1.25", place.server.fast, "--check-hash")


def held(place: Place) -> None:
    title = f"The same, each answer held to {servers.HELD >> 20} MiB/s: at most 0.35"
    place.beside_curl(title, place.server.held)


def late(place: Place) -> None:
    title = f"The same, {servers.LATE * 1000:.0f} ms before each answer besides: at most 0.5"
    place.beside_curl(title, place.server.late)


def linked(place: Place) -> None:
    url = f"{place.server.fast}/{place.served(NET)}"
    command = ("convert", url, "-o", place.work / "m.h5", "--format", "linked")
    done = bench.run((bench.PYTHON, "-m", "streamexport", *command))
    left = [path.name for path in place.work.glob("m.h5*")]
    print(f"\nLinked from a URL: status {done.status}, {left or 'no'} files: {done.stderr.strip()}")


def planning(place: Place) -> None:
    """How many requests it takes to know every byte of the output."""
    rows = []
    for name in (place.served(LARGE), place.served(LARGE, "--format", "zip")):
        before = len(place.server.requests())
        done = bench.streamexport("convert", f"{place.server.fast}/{name}", "-o", place.model, "--dry-run")
        asked = place.server.requests()[before:]
        sent = sum(int(line.split()[3]) for line in asked)
        rows.append((name, len(asked), f"{sent / 2**20:.1f}", f"{done.seconds:.2f}"))
    bench.print_table("Planning 32x48d: at most 8 requests", ("", "requests", "MiB", "s"), rows)


FORMS: dict[str, tuple[str, Sequence[str]]] = {
    "caffemodel": ("m.caffemodel", ()),
    "caffemodel, --check-hash": ("m.caffemodel", ("--check-hash",)),
    "caffemodel to a pipe": ("-", ()),
    "HDF5": ("m.h5", ()),
    "caffemodel, --dtype float16": ("m.caffemodel", ("--dtype", "float16")),
    "caffemodel, --fold-batchnorm": ("m.caffemodel", ("--fold-batchnorm",)),
    "HDF5, both": ("m.h5", ("--fold-batchnorm", "--dtype", "float16")),
}


def requests(place: Place) -> None:
    """Of whole conversions, in both orders: the first two in the source's, the others in the output's."""
    name = place.served(NET)
    size = (place.root / name).stat().st_size
    rows = []
    for form, (output, options) in FORMS.items():
        rows.append((form, *_converted(place, f"{place.server.fast}/{name}", output, options)))
    bound = 1.3 * size / RANGE + 24
    title = f"Requests, at most {bound:.0f}, and peak memory (VmHWM), at most 96 MiB"
    bench.print_table(title, ("32x16d, 777 MB, by HTTP to", "requests", "MiB", "peak MiB", "s"), rows)


def _converted(place: Place, url: str, output: str, options: Sequence[str]) -> tuple[object, ...]:
    """Requests, MiB that were sent, peak memory in MiB and seconds of a conversion."""
    bench.settle()
    before, target = len(place.server.requests()), output if output == "-" else place.work / output
    command = (bench.PYTHON, "-m", "streamexport", "convert", url, "-o", target, *options)
    if output == "-":
        command = ("sh", "-c", '"$@" | cat > /dev/null', "sh", *command)
    done = bench.run(command)
    if done.status:
        raise RuntimeError(f"{output} {' '.join(options)}: {done.stderr}")
    asked = place.server.requests()[before:]
    sent = sum(int(line.split()[3]) for line in asked)
    if output != "-":
        (place.work / output).unlink()
    return len(asked), f"{sent / 2**20:.0f}", f"{done.peak:.1f}", f"{done.seconds:.2f}"


def caged(place: Place) -> None:
    """The command alone is in the cage, with the page cache of what it writes; the server is outside."""
    url = f"{place.server.fast}/{place.served(NET)}"
    with bench.cage(CAGE) as enter:
        if enter is None:
            print("\nNo memory cgroup can be made here (it needs root): the cage is left out.")
            return
        rows = []
        for form, (output, options) in FORMS.items():
            target = "/dev/null" if output == "-" else place.work / output
            runs = []
            for _ in range(place.rounds):
                bench.settle()
                done = bench.run((bench.PYTHON, "-m", "streamexport", "convert", url, "-o", target, *options), enter)
                if done.status:
                    raise RuntimeError(f"{form} in the cage: status {done.status} {done.stderr}")
                runs.append(done)
            times = [run.seconds for run in runs]
            peak = f"{max(run.peak for run in runs):.1f}"
            rows.append((form, f"{statistics.median(times):.2f}", peak, " ".join(f"{t:.2f}" for t in times)))
    title = f"32x16d by HTTP in a cage of {CAGE >> 20} MiB, page cache included"
    bench.print_table(title, ("to", "median, s", "peak MiB", "runs, s"), rows)


def s3(place: Place) -> None:
    name = place.served(LARGE)
    with servers.s3(place.work / "s3server", "models") as store:
        os.environ.update(store.environment)
        subprocess.run([bench.PYTHON, "-c", UPLOAD, place.root / name, "models", name], check=True)
        done = bench.streamexport("convert", f"s3://models/{name}", "-o", "s3://models/m.caffemodel")
        bench.streamexport("verify", f"s3://models/{name}", "s3://models/m.caffemodel")
        rows = [(f"{done.seconds:.1f}", f"{done.peak:.1f}")]
    bench.print_table(f"32x48d, 3.3 GB, S3 to S3 ({store.name}): at most 128 MiB", ("s", "peak MiB"), rows)


UPLOAD = """
import sys, boto3
boto3.client("s3").upload_file(*sys.argv[1:])
"""

PARTS = {
    "file": file,
    "hash": hashed,
    "held": held,
    "late": late,
    "linked": linked,
    "planning": planning,
    "requests": requests,
    "cage": caged,
    "s3": s3,
}


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__, formatter_class=argparse.RawDescriptionHelpFormatter)
    parser.add_argument("parts", nargs="*", metavar="PART", help=f"{', '.join(PARTS)}; all by default")
    parser.add_argument("--rounds", type=int, default=bench.PAIRS)
    options = parser.parse_args()
    if unknown := set(options.parts) - set(PARTS):
        parser.error(f"no such part: {', '.join(sorted(unknown))}")
    if not shutil.which("curl"):
        raise SystemExit("curl is not there")
    with bench.workspace(20 << 30) as directory:
        (root := directory / "root").mkdir()
        (own := directory / "nginx").mkdir()
        with servers.nginx(own, root) as server:
            place = Place(directory, root, server, options.rounds)
            for part in options.parts or PARTS:
                PARTS[part](place)


if __name__ == "__main__":
    main()
