"""Two thousand damaged inputs for each reader; `python -m tests.fuzz READER --inputs N --seed S` tries more."""

from __future__ import annotations

import os
import subprocess
import sys
from pathlib import Path

import pytest

from streamexport import open_model
from streamexport.errors import FormatError
from tests.conftest import ROOT
from tests.fuzz.__main__ import READERS, Watch, outcome


@pytest.mark.parametrize("reader", READERS)
def test_damaged_files_are_errors_of_ours_or_read(reader):
    command = [sys.executable, "-m", "tests.fuzz", reader, "--inputs", "2000"]
    done = subprocess.run(command, cwd=ROOT, capture_output=True, text=True, env={**os.environ, "OMP_NUM_THREADS": "1"})
    print(done.stdout)
    assert done.returncode == 0, done.stdout + done.stderr
    assert f"{reader}, seed 0: 2000 inputs" in done.stdout
    assert "read" in done.stdout
    assert "Error" in done.stdout or reader == "record"


def test_a_reader_that_fails_otherwise_is_noticed(tmp_path):
    def fails(_: Path) -> None:
        raise KeyError("k")

    def refuses(_: Path) -> None:
        raise FormatError("bad")

    assert outcome(fails, tmp_path)[0] == "WRONG"
    assert outcome(refuses, tmp_path) == ("FormatError", "")
    (tmp_path / "m.caffemodel").write_bytes(b"\x0a\x01n")
    assert outcome(open_model, tmp_path / "m.caffemodel") == ("read", "")


def test_what_reading_has_no_need_of_is_noticed(tmp_path):
    (tmp_path / "in").write_bytes(b"")
    watch = Watch(tmp_path)
    watch.is_on = True
    try:
        with (tmp_path / "in").open("rb"):
            assert watch.seen == []
        with Path(os.devnull).open("rb"):
            pass
        eval("1")
    finally:
        watch.is_on = False
    assert [event.split()[0] for event in watch.seen] == ["open", "compile", "exec"]
