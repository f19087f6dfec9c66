"""Whole conversions from URLs: the same bytes as from a file, or one line and no file, whatever the server does."""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
import threading
import time
from collections.abc import Callable
from datetime import timedelta
from pathlib import Path

import pytest
import safetensors.torch
import torch

from streamexport.cli import main
from streamexport.sources import remote, stores
from streamexport.transfer import fetching
from tests.shared.web import (
    Fault,
    after,
    another_etag,
    changed,
    closed_between,
    cut,
    drip,
    first,
    grown,
    loop,
    needs,
    no_content_length,
    no_etag,
    no_head,
    no_ranges,
    no_validators,
    of_another_total,
    redirect,
    reset,
    serving,
    shifted,
    signed,
    silence,
    stall,
    status,
    weak_etag,
    wider,
)

FORMS = {
    "caffemodel": ("m.caffemodel",),
    "HDF5": ("m.h5",),
    "pipe": ("-",),
    "float16": ("m.caffemodel", "--dtype", "float16"),
    "fold": ("m.caffemodel", "--fold-batchnorm"),
    "HDF5, both": ("m.h5", "--fold-batchnorm", "--dtype", "float16"),
    "parts": ("m.caffemodel", "--max-file-size", "20MB"),
    "aligned": ("m.caffemodel", "--align", "4096"),
}
ORDERS = {"scatter": "caffemodel", "ordered": "float16"}
"""A form for each order that payload is fetched in."""


@pytest.fixture(autouse=True)
def small_ranges_and_short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    """So that even a small net takes many requests, and that what goes wrong goes wrong soon."""
    monkeypatch.setattr(fetching, "RANGE", 1 << 20)
    monkeypatch.setattr(fetching, "LONGEST", (1 << 20) + (1 << 17))
    monkeypatch.setattr(fetching, "IN_FLIGHT", 4 << 20)
    monkeypatch.setattr(remote, "FIRST_WAIT", 0.005)
    monkeypatch.setattr(remote, "BUSY_WAIT", 0.01)
    monkeypatch.setattr(remote, "LONGEST_WAIT", 0.02)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    stores._store.cache_clear()  # another test's server may have had the same port


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stall is soon taken for one."""
    monkeypatch.setattr(stores, "STALLED", timedelta(seconds=0.3))


@pytest.fixture(scope="module")
def data(checkpoint) -> bytes:
    return checkpoint("resnet18").read_bytes()


@pytest.fixture(scope="module")
def local(data, tmp_path_factory) -> Callable[[str], dict[str, bytes]]:
    """What a form is made of the same checkpoint as a file, by the names of the files."""
    made: dict[str, dict[str, bytes]] = {}

    def make(form: str) -> dict[str, bytes]:
        if form not in made:
            folder = tmp_path_factory.mktemp("local")
            (folder / "net.pth").write_bytes(data)
            (folder / "out").mkdir()
            assert converted(folder / "net.pth", folder / "out", form) == 0
            made[form] = files(folder / "out")
        return made[form]

    return make


def converted(name: object, folder: Path, form: str, *options: str) -> int:
    """Runs the command; what it writes to a pipe goes to a file of the folder."""
    output, *others = FORMS[form]
    if output == "-":
        with (folder / "piped").open("wb") as file:
            return _with_output(file.fileno(), ["convert", str(name), "-o", "-", *others, *options])
    return main(["convert", str(name), "-o", str(folder / output), *others, *options])


def _with_output(descriptor: int, words: list[str]) -> int:
    kept = os.dup(1)
    os.dup2(descriptor, 1)
    try:
        return main(words)
    finally:
        os.dup2(kept, 1)
        os.close(kept)


def files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted(folder.iterdir())}


def refused(capsys: pytest.CaptureFixture[str], url: str, folder: Path, form: str) -> str:
    """Runs a conversion that must fail with one line and leave nothing behind; returns that line."""
    capsys.readouterr()
    assert converted(url, folder, form, "--quiet") == 1
    (line,) = capsys.readouterr().err.splitlines()
    assert line.startswith("streamexport: ")
    assert files(folder) == {}
    return line


@pytest.mark.parametrize("form", FORMS)
def test_every_form_is_the_same_as_from_a_file(data, local, tmp_path, form):
    with serving(data) as server:
        assert converted(server.url, tmp_path, form) == 0
    assert files(tmp_path) == local(form)


def every_other(fault: Fault) -> Fault:
    """Of every second request."""
    number = iter(range(1 << 20))
    return lambda answer: fault(answer) if next(number) % 2 else None


def in_turn(*faults: Fault) -> Fault:
    """One after the other, in the first requests but the very first, and each but once."""
    left = [*faults]
    return after(1, lambda answer: left.pop()(answer) if left else None)


def both(*faults: Fault) -> Fault:
    def change(answer) -> None:
        for fault in faults:
            fault(answer)

    return change


EXACT: dict[str, Callable[[], Fault]] = {  # made for each test, since they count
    "resets": lambda: first(9, reset),
    "cut bodies": lambda: first(9, cut),
    "every other body cut": lambda: every_other(cut),
    "statuses that pass": lambda: in_turn(status(503), status(429, retry_after="0"), status(408), status(502)),
    "drips": lambda: drip(4, 0.01),
    "closed connections": lambda: closed_between,
    "a weak ETag": lambda: weak_etag,
    "no ETag, cut bodies": lambda: both(no_etag, every_other(cut)),
    "no validators": lambda: no_validators,
    "no HEAD": lambda: no_head(403),
    "redirects": lambda: redirect("/elsewhere/net.pth"),
}


@pytest.mark.parametrize("form", ORDERS.values(), ids=ORDERS)
@pytest.mark.parametrize("fault", EXACT.values(), ids=EXACT)
def test_what_servers_do_at_times_changes_no_byte(data, local, tmp_path, form, fault):
    with serving(data, fault()) as server:
        assert converted(server.url, tmp_path, form) == 0
    assert files(tmp_path) == local(form)


REFUSED: dict[str, tuple[Callable[[], Fault], str]] = {
    "ranges ignored": (lambda: no_ranges, "does not send ranges, but the whole; fetch the file and name it"),
    "ranges ignored later": (lambda: after(5, no_ranges), "does not send ranges"),
    "another range": (lambda: after(5, shifted), "another range than was asked for"),
    "a wider range": (lambda: after(5, wider), "another range than was asked for"),
    "another total": (lambda: after(5, of_another_total), "changed while it was read"),
    "another ETag": (lambda: after(5, another_etag), "changed while it was read"),
    "grown": (lambda: after(5, grown), "changed while it was read"),
    "another time, no ETag": (lambda: both(no_etag, after(5, changed(modified=LATER))), "changed while it was read"),
    "no Content-Length": (lambda: after(5, no_content_length), "lacks a header"),
    "expired": (lambda: after(5, status(403)), "403 Forbidden (at byte"),
    "401": (lambda: status(401), "401 Unauthorized"),
    "404": (lambda: status(404), "404 Not Found"),
    "gone": (lambda: after(5, status(404)), "404 Not Found (at byte"),
    "a redirect for ever": (lambda: loop, "from one place to the next"),
    "resets for ever": (lambda: after(5, reset), "breaks off"),
    "503 for ever": (lambda: after(5, status(503)), "503 Service Unavailable"),
}
LATER = "Wed, 25 Nov 2026 09:00:00 GMT"


@pytest.mark.parametrize("form", ORDERS.values(), ids=ORDERS)
@pytest.mark.parametrize("fault, said", REFUSED.values(), ids=REFUSED)
def test_what_cannot_be_had_is_one_line_and_no_file(data, tmp_path, monkeypatch, capsys, form, fault, said):
    monkeypatch.setattr(remote, "RETRIES", 2)
    with serving(data, fault()) as server:
        line = refused(capsys, server.url, tmp_path, form)
    assert line.startswith(f"streamexport: {server.url}: ")
    assert said in line


@pytest.mark.parametrize("form", ORDERS.values(), ids=ORDERS)
@pytest.mark.parametrize("fault", [stall, silence], ids=["in mid-body", "before it"])
def test_a_server_that_stalls_is_asked_again_and_at_last_given_up(
    data, local, tmp_path, monkeypatch, capsys, impatient, form, fault
):
    with serving(data, after(3, first(2, fault))) as server:
        assert converted(server.url, tmp_path, form) == 0
    assert files(tmp_path) == local(form)
    (tmp_path / "again").mkdir()
    monkeypatch.setattr(remote, "RETRIES", 1)
    with serving(data, after(3, fault)) as server:
        assert "does not answer, or stops" in refused(capsys, server.url, tmp_path / "again", form)


def test_a_pipe_ends_early_with_an_error(data, tmp_path, capsys):
    with serving(data, after(20, another_etag)) as server:
        assert converted(server.url, tmp_path, "pipe", "--quiet") == 1
    assert "changed while it was read" in capsys.readouterr().err


QUERY = "X-Amz-Credential=keyword&X-Amz-Signature=secret"


@pytest.mark.parametrize("form", FORMS)
def test_a_signature_is_sent_with_every_request_and_written_nowhere(data, local, tmp_path, capsys, form):
    with serving(data, signed(QUERY)) as server:
        assert converted(f"{server.url}?{QUERY}", tmp_path, form) == 0
    assert files(tmp_path) == local(form)  # in which there is none
    assert not any(word in content for content in local(form).values() for word in (b"secret", b"keyword", b"http:"))
    said = capsys.readouterr()
    assert not any(word in said.out + said.err for word in ("secret", "keyword"))


def test_a_signature_is_in_no_message_either(data, tmp_path, capsys):
    checkpoint = b"no checkpoint"
    for served, fault in ((data, after(5, status(403))), (data, no_ranges), (data, loop), (checkpoint, weak_etag)):
        with serving(served, fault) as server:
            line = refused(capsys, f"{server.url}?{QUERY}", tmp_path, "caffemodel")
        assert server.url in line
        assert not any(word in line for word in ("secret", "keyword", "?"))
    for command in (["inspect"], ["inspect", "--json"], ["verify", str(tmp_path / "m.caffemodel")]):
        with serving(data) as server:
            main([*command, f"{server.url}?{QUERY}"])
        said = capsys.readouterr()
        assert not any(word in said.out + said.err for word in ("secret", "keyword"))


def test_a_password_goes_to_its_own_host_only(data, local, tmp_path, capsys):
    word = needs("Authorization", "Basic dXNlcjpzZWNyZXQ=")
    with serving(data) as other, serving(data, word, redirect(other.url)) as server:
        assert converted(server.url.replace("//", "//user:secret@"), tmp_path, "caffemodel") == 0
        assert len(other.requests) == len(server.requests) > 40
        assert not any("authorization" in request.headers for request in other.requests)
    assert files(tmp_path) == local("caffemodel")
    assert "secret" not in capsys.readouterr().err


def test_what_was_tried_again_is_told(data, tmp_path, capsys):
    with serving(data, after(3, first(3, cut))) as server:
        assert converted(server.url, tmp_path, "caffemodel") == 0
    assert "3 retries" in capsys.readouterr().err


@pytest.fixture(scope="module")
def stored(checkpoint, tmp_path_factory) -> dict[str, bytes]:
    """The same weights in every container that is read, and as a set of shards."""
    folder = tmp_path_factory.mktemp("stored")
    state = torch.load(checkpoint("resnet18"))
    torch.save(state, folder / "net.pt")
    safetensors.torch.save_file(state, folder / "net.safetensors")
    names = [*state]
    shards = {"net-1.safetensors": names[:40], "net-2.safetensors": names[40:]}
    for shard, part in shards.items():
        safetensors.torch.save_file({name: state[name] for name in part}, folder / shard)
    index = {"weight_map": {name: shard for shard, part in shards.items() for name in part}}
    (folder / "net.safetensors.index.json").write_text(json.dumps(index))
    return files(folder)


@pytest.mark.parametrize("name", ["net.pt", "net.safetensors", "net.safetensors.index.json"])
@pytest.mark.parametrize("form", ORDERS.values(), ids=ORDERS)
def test_every_container_is_read_from_a_url(stored, tmp_path, name, form):
    (tmp_path / "local").mkdir()
    (tmp_path / "out").mkdir()
    for file, content in stored.items():
        (tmp_path / file).write_bytes(content)
    assert converted(tmp_path / name, tmp_path / "local", form) == 0
    with serving(stored, signed(QUERY)) as server:
        assert converted(f"{server.at(name)}?{QUERY}", tmp_path / "out", form) == 0
    assert files(tmp_path / "out") == files(tmp_path / "local")


def test_a_shard_that_changes_leaves_no_file(stored, tmp_path, capsys):
    def change(answer) -> None:
        if answer.request.target.endswith("net-2.safetensors"):
            another_etag(answer)

    with serving(stored, after(12, change)) as server:
        line = refused(capsys, server.at("net.safetensors.index.json"), tmp_path, "caffemodel")
    assert line.startswith(f"streamexport: {server.at('net-2.safetensors')}: changed while it was read")


def test_models_and_checkpoints_are_verified_and_inspected_where_they_lie(data, local, tmp_path, capsys):
    with serving({"net.pth": data, **local("caffemodel")}) as server:
        checkpoint, model = server.at("net.pth"), server.at("m.caffemodel")
        assert main(["inspect", checkpoint]) == main(["inspect", model]) == 0
        assert main(["verify", checkpoint, model]) == 0
    damaged = bytearray(local("caffemodel")["m.caffemodel"])
    damaged[len(damaged) // 2] ^= 1
    with serving({"net.pth": data, "m.caffemodel": bytes(damaged)}) as server:
        assert main(["verify", server.at("net.pth"), server.at("m.caffemodel")]) == 1


def test_from_store_to_store(data, local, tmp_path, s3):
    s3.put_object(Bucket="models", Key="in/net.pth", Body=data)
    assert main(["convert", "s3://models/in/net.pth", "-o", "s3://models/out/m.caffemodel"]) == 0
    there = {key["Key"]: key for key in s3.list_objects_v2(Bucket="models", Prefix="out/")["Contents"]}
    assert sorted(there) == ["out/m.caffemodel", "out/m.prototxt"]
    for name, content in local("caffemodel").items():
        assert s3.get_object(Bucket="models", Key=f"out/{name}")["Body"].read() == content


def test_a_model_is_not_linked_to_a_url(data, tmp_path, capsys):
    with serving(data) as server:
        assert main(["convert", server.url, "-o", str(tmp_path / "m.h5"), "--format", "linked"]) == 1
    assert "linked to files, not to what lies behind a URL" in capsys.readouterr().err
    assert files(tmp_path) == {}


@pytest.mark.parametrize("form", ORDERS.values(), ids=ORDERS)
def test_what_is_cut_off_is_gone_on_with_if_that_was_asked_for(data, local, tmp_path, capsys, form):
    with serving(data) as server:
        assert converted(server.url, tmp_path, form) == 0
        requests = len(server.requests)
    for path in tmp_path.iterdir():
        path.unlink()
    with serving(data, after(30, status(403))) as server:
        assert converted(server.url, tmp_path, form, "--resume") == 1
        assert [path.name for path in tmp_path.iterdir()] == [".m.caffemodel.streamexport-partial"]
        server.faults, before = (), len(server.requests)
        capsys.readouterr()
        assert converted(server.url, tmp_path, form, "--resume") == 0
        assert len(server.requests) - before < requests
    assert "m.caffemodel: went on where it had been cut off" in capsys.readouterr().err
    assert files(tmp_path) == local(form)


def test_retries_are_told(data, tmp_path, capsys):
    with serving(data, after(3, first(3, reset))) as server:
        assert converted(server.url, tmp_path, "caffemodel") == 0
    assert f"3 retries: {server.url}" in capsys.readouterr().err


RUN = """
import signal, sys
signal.signal(signal.SIGINT, signal.default_int_handler)  # it is ignored where these tests run in the background
from streamexport.cli import main
sys.exit(main(sys.argv[1:]))
"""


@pytest.mark.parametrize("number, before", [(signal.SIGINT, 3), (signal.SIGTERM, 0)], ids=["payload", "headers"])
def test_who_ends_a_run_does_not_wait_for_a_server_that_stalls(data, tmp_path, number, before):
    """Which would take half a minute; what is waited for here is the interpreter's end."""
    words = ["convert", "--quiet", "-o", str(tmp_path / "m.caffemodel")]
    with serving(data, after(before, stall)) as server:
        command = [sys.executable, "-c", RUN, *words, server.url]
        with subprocess.Popen(command, stderr=subprocess.PIPE) as process:
            while len(server.requests) <= before:
                time.sleep(0.01)
            process.send_signal(number)
            try:
                status = process.wait(20)
            finally:
                process.kill()
    assert status == 128 + number
    assert files(tmp_path) == {}


def test_an_error_does_not_wait_for_a_server_that_stalls(data, tmp_path, capsys, monkeypatch):
    """In this process, where a stall is taken for one after half a minute, and threads that were left behind can be seen."""
    pass_by, stalled = remote.RemoteFile.pass_by, threading.Event()

    def fault(answer) -> None:
        start = int(answer.request.headers["range"].removeprefix("bytes=").split("-")[0])
        if start % remote.BLOCK:  # no block of headers
            (status(403) if start < 1 << 20 else stall)(answer)
            stalled.set()

    def passing(self, offset, *others) -> None:
        if 0 < offset < 1 << 20:  # the first range of payload is asked for when another one is
            stalled.wait()
        pass_by(self, offset, *others)

    monkeypatch.setattr(remote.RemoteFile, "pass_by", passing)
    with serving(data, fault) as server:
        assert "403 Forbidden" in refused(capsys, server.url, tmp_path, "caffemodel")
        assert any(thread.daemon and thread.name.endswith("(_work)") for thread in threading.enumerate())
