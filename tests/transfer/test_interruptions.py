"""What the README promises of outputs, and nothing else, is seen after a kill, a signal or an error at any point."""

from __future__ import annotations

import errno
import fcntl
import json
import os
import re
import shutil
import signal
import stat
import subprocess
import sys
import threading
import time
from collections import Counter
from pathlib import Path

import pytest

import streamexport
from streamexport.errors import NetError, OutputError, SourceChangedError
from streamexport.payload.pieces import Extent, Layout, Literal
from streamexport.sources.local import LocalFile
from streamexport.transfer import staging
from streamexport.transfer.files import File, publish
from streamexport.transfer.interrupts import LateInterrupt
from tests.conftest import ROOT, assert_refused, run_cli
from tests.shared.interruptions import FORMS, command, every_point, litter, models, outputs, sets

ONE, NAMED, PARTS = FORMS[0], FORMS[1], FORMS[4]
POINTS = [(NAMED, True, what) for what in ("SIGKILL", "SIGINT", "SIGTERM", "EIO", "EIO on")]
POINTS += [(ONE, False, what) for what in ("SIGKILL", "EIO")]


@pytest.mark.parametrize(("form", "is_older", "what"), POINTS)
def test_nothing_else_is_seen_at_any_point(tmp_path, form, is_older, what):
    """All forms, and random kills: `python tests/shared/interruptions.py DIRECTORY`."""
    older, newer, limit = models(tmp_path, 100)
    work = tmp_path / "work"
    work.mkdir()
    old, new = sets(work, form, older, newer, limit)
    assert old.keys() == new.keys() == {"m.caffemodel", "m.prototxt"}
    seen = Counter(every_point(work, form, command(form, newer, limit), what, old if is_older else {}, new))
    assert sum(seen.values()) == 6
    assert ("mixed" in seen) == (what == "SIGKILL")
    assert "new" not in seen if form is ONE else seen["new"]


@pytest.fixture
def parts(tmp_path):
    """Seven parts of an older model, their contents, and the newer model with the limit that makes 13 of it."""
    older, newer, limit = models(tmp_path, 100)
    work = tmp_path / "work"
    work.mkdir()
    streamexport.convert([older], work / "m.caffemodel", max_file_size=2 * limit)
    return work, outputs(work), newer, limit


@pytest.mark.parametrize("call", ["link", "rename", "unlink", "fsync"])
def test_an_error_between_parts_puts_all_of_them_back(parts, monkeypatch, call):
    work, before, newer, limit = parts
    assert len(before) == 7
    whole, count = getattr(os, call), 0

    def failing(*given, **rest):
        nonlocal count
        count += 1
        if count == {"unlink": 5, "fsync": 14}.get(call, 9):
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        return whole(*given, **rest)

    monkeypatch.setattr(os, call, failing)
    with pytest.raises(OutputError, match="cannot be written: Input/output error$"):
        streamexport.convert([newer], work / "m.caffemodel", max_file_size=limit)
    monkeypatch.undo()
    assert (outputs(work), litter(work)) == (before, [])
    streamexport.convert([newer], work / "m.caffemodel", max_file_size=limit)
    assert len(outputs(work)) == 13


def test_older_parts_go_away_in_the_current_directory_too(parts, monkeypatch):
    work, before, newer, limit = parts
    monkeypatch.chdir(work)
    streamexport.convert([newer], "m.caffemodel", max_file_size=limit)
    assert len(outputs(work)) == 13
    assert not set(outputs(work)) & set(before)


def test_a_signal_between_parts_waits_until_they_are_there_and_is_not_lost(parts, monkeypatch):
    work, _, newer, limit = parts
    rename = os.rename

    def interrupted(*given, **rest):
        os.kill(os.getpid(), signal.SIGINT)
        return rename(*given, **rest)

    monkeypatch.setattr(os, "rename", interrupted)
    before = signal.signal(signal.SIGINT, signal.default_int_handler)  # a shell's background job ignores it
    try:
        with pytest.raises(LateInterrupt):
            streamexport.convert([newer], work / "m.caffemodel", max_file_size=limit)
        assert (len(outputs(work)), litter(work)) == (13, [])
        assert signal.getsignal(signal.SIGINT) is signal.default_int_handler
    finally:
        signal.signal(signal.SIGINT, before)


def test_parts_of_two_runs_are_named(parts, tmp_path):
    work, _, newer, limit = parts
    other = tmp_path / "other"
    other.mkdir()
    streamexport.convert([newer], other / "m.caffemodel", max_file_size=2 * limit)
    names = sorted(work.iterdir())
    shutil.copy(other / names[3].name, names[3])
    with pytest.raises(NetError, match="00004-of-00007.caffemodel: is of another run than .*00001-of-00007"):
        streamexport.convert(names, tmp_path / "whole.caffemodel")
    assert "is of another run than" in assert_refused("convert", *names, "-o", tmp_path / "whole.caffemodel")


@pytest.mark.parametrize("where", ["FAT", "another user's"])
def test_where_files_have_no_second_names_an_error_says_what_is_new(tmp_path, monkeypatch, where):
    """link refuses the old files alone: new ones are given their names by it, too."""
    link, rename, renamed = os.link, os.rename, []

    def linking(source, *given, **rest):
        if not source.startswith("/proc"):
            raise OSError(errno.EPERM, os.strerror(errno.EPERM))
        return link(source, *given, **rest)

    def renaming(*given, **rest):
        if renamed:
            raise OSError(errno.EIO, os.strerror(errno.EIO))
        renamed.append(rename(*given, **rest))

    for name in ("a", "b"):
        (tmp_path / name).write_text("old")
    monkeypatch.setattr(os, "link", linking)
    both = [File(str(tmp_path / name), Layout.of([Literal(b"new")])) for name in ("a", "b")]
    if where == "FAT":
        monkeypatch.setattr(os, "rename", renaming)
        with pytest.raises(OutputError, match=r"could not be put back in \S*/a; convert again$"):
            publish(both)
        assert [(tmp_path / name).read_text() for name in ("a", "b")] == ["new", "old"]
    else:
        publish(both)
        assert [(tmp_path / name).read_text() for name in ("a", "b")] == ["new", "new"]
    assert sorted(p.name for p in tmp_path.iterdir()) == ["a", "b"]


def test_a_directory_s_lock_is_waited_for_and_not_for_ever(tmp_path, monkeypatch):
    one = [File(str(tmp_path / "a"), Layout.of([Literal(b"new")]))]
    held = os.open(tmp_path, os.O_RDONLY)
    fcntl.flock(held, fcntl.LOCK_EX)
    monkeypatch.setattr(staging, "PATIENCE", 0.1)
    with pytest.raises(OutputError, match=f"{tmp_path}: is locked by another program; run again when"):
        publish(one)
    monkeypatch.setattr(staging, "PATIENCE", 600)
    threading.Timer(0.2, os.close, [held]).start()
    publish(one)
    assert [p.name for p in tmp_path.iterdir()] == ["a"]


@pytest.mark.parametrize("is_named", [False, True])
def test_of_runs_to_the_same_names_one_is_seen_whole(tmp_path, is_named):
    code = """
import os, sys
sys.path[:0] = {path!r}
if {named}:
    del os.O_TMPFILE
from streamexport.payload.pieces import Layout, Literal
from streamexport.transfer.files import File, publish
for _ in range(10):
    publish([File(name, Layout.of([Literal(sys.argv[1].encode() * 1000)])) for name in "abcdefgh"])
"""
    code = code.format(path=sys.path, named=is_named)
    runs = [
        subprocess.Popen([sys.executable, "-c", code, str(n)], cwd=tmp_path, stderr=subprocess.PIPE) for n in range(5)
    ]
    assert [(run.communicate()[1], run.returncode) for run in runs] == [(b"", 0)] * 5
    assert sorted(p.name for p in tmp_path.iterdir()) == list("abcdefgh")
    assert len({p.read_bytes() for p in tmp_path.iterdir()}) == 1


def test_of_a_foreign_file_s_mode_nothing_is_kept_that_gives_rights(tmp_path):
    path = tmp_path / "model"
    path.write_text("old")
    path.chmod(0o6754)
    publish([File(str(path), Layout.of([Literal(b"new")]))])
    assert stat.S_IMODE(path.stat().st_mode) == 0o754


def test_a_source_whose_time_was_set_back_has_changed(tmp_path):
    path = tmp_path / "source"
    path.write_bytes(bytes(100))
    source = LocalFile.at(path)
    time.sleep(0.02)
    path.write_bytes(bytes([1] * 100))
    os.utime(path, ns=(source.mtime_ns, source.mtime_ns))
    with pytest.raises(SourceChangedError, match="size or times differ"):
        publish([File(str(tmp_path / "out"), Layout.of([Extent(source, 0, 100)]))])
    assert [p.name for p in tmp_path.iterdir()] == ["source"]


# Model and prototxt


@pytest.fixture(scope="module")
def pair(checkpoint, tmp_path_factory) -> Path:
    """A directory with old.* and new.*, of nets that differ in what they expect."""
    directory = tmp_path_factory.mktemp("pair")
    for name, options in (("old", {}), ("new", {"input_order": "bgr"})):
        streamexport.convert(
            [checkpoint("resnet18")], directory / f"{name}.caffemodel", streamexport.Options(**options)
        )
    return directory


def test_a_prototxt_of_another_net_is_named_by_all_who_read_both(pair, tmp_path, checkpoint):
    """Blobs have the same names and shapes: nothing else would tell."""
    shutil.copy(pair / "new.prototxt", tmp_path / "m.prototxt")
    shutil.copy(pair / "old.caffemodel", tmp_path / "m.caffemodel")
    what = (
        r"m.prototxt: describes another net than \S*m.caffemodel was made with; give the one that was written with it"
    )
    both = ("--proto", tmp_path / "m.prototxt", "--model", tmp_path / "m.caffemodel")
    image = ROOT / "tests" / "shared" / "attacks" / "ok.png"
    for engine in ("stream", "opencv"):
        assert re.search(what, assert_refused("eval", *both, "--image", image, "--engine", engine))
    with pytest.raises(NetError, match=what):
        streamexport.forward(tmp_path / "m.prototxt", [tmp_path / "m.caffemodel"], {})
    done = run_cli("verify", checkpoint("resnet18"), tmp_path / "m.caffemodel")
    assert done.returncode == 1
    assert "m.prototxt: is of another run than the model" in done.stdout
    assert run_cli("verify", checkpoint("resnet18"), pair / "old.caffemodel").returncode == 0


def test_what_is_said_of_the_making_depends_on_what_is_made_alone(pair, tmp_path, checkpoint):
    source = tmp_path / "resnet18.pth"
    shutil.copy(checkpoint("resnet18"), source)
    streamexport.convert([source], tmp_path / "m.caffemodel")
    assert (tmp_path / "m.caffemodel").read_bytes() == (pair / "old.caffemodel").read_bytes()
    records = [json.loads(streamexport.open_model(pair / f"{name}.caffemodel").record) for name in ("old", "new")]
    assert records[0]["net"] != records[1]["net"]
    other = checkpoint("resnet18", "--seed", "1")
    streamexport.convert([other], tmp_path / "o.caffemodel")
    record = json.loads(streamexport.open_model(tmp_path / "o.caffemodel").record)
    assert (record["net"] == records[0]["net"], record["weights"] == records[0]["weights"]) == (True, False)
    streamexport.convert([tmp_path / "o.caffemodel"], tmp_path / "o.h5", streamexport.Options(dtype="float16"))
    assert json.loads(streamexport.open_model(tmp_path / "o.h5").record)["net"] == record["net"]


# The command

LAUNCHER = """
import os, signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)
class Interrupting:
    names = []
    def find_spec(self, name, path=None, target=None):
        if name.startswith("streamexport."):
            self.names.append(name)
            if self.names[-1 - int(sys.argv[2]):][:1] == sys.argv[1:2]:
                os.kill(os.getpid(), signal.SIGINT)
sys.meta_path.insert(0, Interrupting())
from streamexport.cli import main
raise SystemExit(main(["nets"]))
"""


GUARD, COMMAND = "streamexport.starting", "streamexport.cli.nets"


@pytest.mark.parametrize(
    ("first", "later", "said"),
    [
        *((GUARD, later, "") for later in (1, 2, 3)),
        *((COMMAND, later, "streamexport: interrupted; outputs are what they were\n") for later in (0, 2, 6)),
    ],
)
def test_an_interrupt_while_the_command_is_loaded_is_130_without_a_traceback(tmp_path, first, later, said):
    """While a module is looked for, so many after the one that guards the others, or after the command's own."""
    done = launched(tmp_path, LAUNCHER, first, later)
    assert (done.returncode, done.stdout, done.stderr) == (130, "", said)


def test_a_command_that_is_not_interrupted_while_it_is_loaded_runs(tmp_path):
    assert launched(tmp_path, LAUNCHER, COMMAND, 100_000).returncode == 0


@pytest.mark.parametrize(
    ("line", "first"),
    [("from streamexport import convert", "streamexport.conversion"), ("import streamexport.cli", GUARD)],
)
def test_whoever_imports_the_package_hears_of_an_interrupt_as_ever(tmp_path, line, first):
    code = LAUNCHER.replace("from streamexport.cli import main", line)
    assert launched(tmp_path, code, first, 1, "other.py").stderr.endswith("KeyboardInterrupt\n")


def launched(
    directory: Path, code: str, first: str, later: int, name: str = "streamexport"
) -> subprocess.CompletedProcess[str]:
    """Runs LAUNCHER, or the like, as a script of this name."""
    (directory / name).write_text(code)
    command = [sys.executable, directory / name, first, str(later)]
    return subprocess.run(command, capture_output=True, text=True, env={**os.environ, "PYTHONPATH": str(ROOT)})


@pytest.mark.parametrize("number", [signal.SIGINT, signal.SIGTERM, signal.SIGHUP])
def test_a_run_that_is_told_to_end_clears_up_and_says_so_in_its_status(tmp_path, checkpoint, number):
    os.mkfifo(tmp_path / "fifo")
    arguments = [checkpoint("resnet18"), "-o", tmp_path / "fifo", "--prototxt", tmp_path / "p"]
    start = [sys.executable, "-m", "streamexport", "convert", *map(str, arguments)]

    def hear() -> None:
        for heard in (signal.SIGINT, signal.SIGHUP):
            signal.signal(heard, signal.SIG_DFL)

    with subprocess.Popen(start, stderr=subprocess.PIPE, text=True, preexec_fn=hear) as run:
        with (tmp_path / "fifo").open("rb") as reader:
            reader.read(1)
            run.send_signal(number)
            assert run.wait() == 128 + number
        assert run.stderr.read() == "streamexport: interrupted; outputs are what they were\n"
    assert [p.name for p in tmp_path.iterdir()] == ["fifo"]


@pytest.mark.parametrize("name", ["/dev/stdout", "/dev/fd/1", "/proc/self/fd/1", "/dev//stdout"])
def test_the_names_of_standard_output_are_standard_output(tmp_path, name):
    older, _, _ = models(tmp_path, 100)
    (tmp_path / "work").mkdir()
    with (tmp_path / "work" / "piped").open("wb") as out:
        out.write(b"before ")
        out.flush()
        done = run_cli("convert", older, "-o", name, stdout=out, stderr=subprocess.PIPE, capture_output=False)
    assert done.returncode == 0, done.stderr
    assert list(outputs(tmp_path / "work")) == ["piped"]
    assert (tmp_path / "work" / "piped").read_bytes().removeprefix(b"before ")[:4] == b"\x0a\x03ne"
    with (tmp_path / "work" / "text").open("wb") as out:
        arguments = ("convert", older, "-o", tmp_path / "m.caffemodel", "--prototxt", name)
        assert run_cli(*arguments, stdout=out, stderr=subprocess.PIPE, capture_output=False).returncode == 0
    assert (tmp_path / "work" / "text").read_text().startswith("# taken from older.caffemodel")


@pytest.mark.parametrize("state", ["full", "closed"])
def test_what_becomes_of_standard_error_does_not_change_the_status(tmp_path, state):
    older, _, _ = models(tmp_path, 100)
    shell = {"full": "2>/dev/full", "closed": "2>&-"}[state]
    for arguments, status in (
        (f"convert {older} -o {tmp_path}/m.caffemodel", 0),
        (f"convert {older} -o {tmp_path}/none/m.caffemodel", 1),
        ("convert", 2),
    ):
        done = subprocess.run(f"{sys.executable} -m streamexport {arguments} {shell}", shell=True, cwd=ROOT)
        assert done.returncode == status, arguments
    assert (tmp_path / "m.caffemodel").exists()


@pytest.mark.parametrize("shell", [">/dev/full", ">&-"])
def test_a_standard_output_that_takes_nothing_is_status_1(tmp_path, shell):
    older, _, _ = models(tmp_path, 100)
    for arguments in (f"inspect {older}", f"convert {older} -o -", "nets"):
        command = f"{sys.executable} -m streamexport {arguments} {shell}"
        done = subprocess.run(command, shell=True, cwd=ROOT, stderr=subprocess.PIPE, text=True)
        assert done.returncode == 1, arguments
        assert re.fullmatch(r"streamexport: .*\n", done.stderr), done.stderr
