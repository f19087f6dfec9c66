"""Ranges of objects behind URLs, from servers that go wrong: the bytes that are there, or an error that says what is wrong."""

from __future__ import annotations

import pickle
import socket
import threading
from datetime import timedelta

import numpy as np
import pytest

from streamexport.errors import FormatError, SourceChangedError, SourceError
from streamexport.sources import open_source, remote, stores
from streamexport.sources.remote import BLOCK, RemoteFile
from tests.shared.certificates import Authority
from tests.shared.web import (
    after,
    another_etag,
    changed,
    closed_between,
    cut,
    drip,
    first,
    grown,
    gzipped,
    header,
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

DATA = np.random.default_rng(0).bytes(3 * BLOCK + 12_345)
START, LENGTH = BLOCK + 1000, BLOCK + 7
"""A range that is not at hand once a source is opened."""
RANGE = DATA[START : START + LENGTH]


@pytest.fixture(autouse=True)
def short_waits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(remote, "FIRST_WAIT", 0.005)
    monkeypatch.setattr(remote, "BUSY_WAIT", 0.01)
    monkeypatch.setattr(remote, "LONGEST_WAIT", 0.02)
    monkeypatch.setenv("NO_PROXY", "127.0.0.1")
    stores._store.cache_clear()  # another test's server may have had the same port


@pytest.fixture
def impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    """A stall is soon taken for one."""
    monkeypatch.setattr(stores, "STALLED", timedelta(seconds=0.3))


def test_a_source_is_known_by_one_request_which_brings_its_first_bytes():
    with serving(DATA) as server:
        source = open_source(server.url)
        assert isinstance(source, RemoteFile)
        assert (source.name, source.size, source.etag, source.retries) == (server.url, len(DATA), '"one"', 0)
        assert source.read(0, BLOCK) == DATA[:BLOCK]
        assert [request.method for request in server.requests] == ["GET"]


@pytest.mark.parametrize(
    ("offset", "length"), [(0, 1), (BLOCK - 1, 2), (START, LENGTH), (len(DATA) - 1, 1), (5, 3 * BLOCK)]
)
def test_any_range_is_what_is_there(offset, length):
    with serving(DATA) as server:
        source = open_source(server.url)
        assert source.read(offset, length) == DATA[offset : offset + length]
        assert source.fetch(offset, length) == DATA[offset : offset + length]


def test_small_reads_share_requests():
    with serving(DATA) as server:
        source = open_source(server.url)
        for offset in range(BLOCK, 3 * BLOCK, 4099):
            assert source.read(offset, 64) == DATA[offset : offset + 64]
        assert len(server.requests) == 3


def test_an_object_may_be_small_but_not_empty():
    with serving({"one": b"x", "none": b""}) as server:
        source = open_source(server.at("one"))
        assert (source.size, source.read(0, 1)) == (1, b"x")
        with pytest.raises(SourceError, match="it is empty"):
            open_source(server.at("none"))


def test_a_source_travels_as_what_it_is_and_no_more():
    with serving(DATA) as server:
        source = open_source(server.url)
        travelled = pickle.dumps(source)
        assert len(travelled) < 500
        assert pickle.loads(travelled) == source
        assert hash(pickle.loads(travelled)) == hash(source)
        assert pickle.loads(travelled).read(START, LENGTH) == RANGE


PASSING = {
    "a reset": (reset, 1),
    "three resets": (reset, 3),
    "a cut body": (cut, 1),
    "three cut bodies": (cut, 3),
    "a reset without a byte": (changed(share=0, end="reset"), 2),
    "503": (status(503), 2),
    "503 with Retry-After": (status(503, retry_after="0"), 2),
    "500": (status(500), 1),
    "502": (status(502), 2),
    "504": (status(504), 1),
    "408": (status(408), 2),
    "429": (status(429), 2),
    "429 with Retry-After": (status(429, retry_after="0"), 2),
    "a body longer than said": (header("Content-Length", "7"), 1),
    "a body shorter than said": (changed(headers={"Content-Length": str(2 * BLOCK)}, end="close"), 1),
}


@pytest.mark.parametrize("fault, times", PASSING.values(), ids=PASSING)
@pytest.mark.parametrize("opening", [False, True], ids=["in a range", "at once"])
def test_what_passes_is_asked_for_again(fault, times, opening):
    number = iter(range(100))

    def some(answer):
        if (next(number) - (not opening)) in range(times):
            fault(answer)

    with serving(DATA, some) as server:
        source = open_source(server.url)
        assert source.fetch(START, LENGTH) == RANGE
        assert source.size == len(DATA)
        assert (len(server.requests), source.retries) == (2 + times, times)


def test_a_body_that_is_cut_is_asked_for_again_without_an_etag_too():
    with serving(DATA, no_etag, first(1, cut), after(2, first(2, cut))) as server:
        source = open_source(server.url)
        assert source.fetch(START, LENGTH) == RANGE
        assert source.retries == 3


@pytest.mark.parametrize("fault", [stall, silence], ids=["in mid-body", "before it"])
def test_a_server_that_stalls_is_asked_again_and_at_last_given_up(fault, impatient, monkeypatch):
    with serving(DATA, first(1, fault), after(2, first(1, fault))) as server:
        source = open_source(server.url)
        assert source.fetch(START, LENGTH) == RANGE
        assert source.retries >= 2  # more where the machine is busy
    monkeypatch.setattr(remote, "RETRIES", 1)
    with serving(DATA, after(1, fault)) as server:
        source = open_source(server.url)
        with pytest.raises(SourceError, match="does not answer, or stops in the middle of an answer"):
            source.fetch(START, LENGTH)


def test_few_bytes_all_the_time_are_no_stall(impatient):
    with serving(DATA, after(1, drip(20, 0.03))) as server:  # together longer than a stall may be
        assert open_source(server.url).fetch(START, LENGTH) == RANGE


HARMLESS = {
    "connections closed between requests": closed_between,
    "a weak ETag": weak_etag,
    "no ETag": no_etag,
    "neither ETag nor Last-Modified": no_validators,
    "HEAD refused": no_head(403),
    "HEAD not known": no_head(405),
    "a redirect of every range": redirect("/elsewhere/net.pth"),
}


@pytest.mark.parametrize("fault", HARMLESS.values(), ids=HARMLESS)
def test_what_servers_may_do_does_no_harm(fault):
    with serving(DATA, fault) as server:
        source = open_source(server.url)
        assert source.fetch(START, LENGTH) == RANGE
        assert source.read(len(DATA) - 5, 5) == DATA[-5:]
        assert source.retries == 0 or fault is closed_between  # it may be noticed only by what is sent on it
        assert not any("W/" in request.headers.get("if-match", "") for request in server.requests)


def test_every_range_names_the_etag_that_was_found():
    with serving(DATA) as server:
        open_source(server.url).fetch(START, LENGTH)
        assert [request.headers.get("if-match") for request in server.requests] == [None, '"one"']


WRONG = {
    "ranges ignored": (no_ranges, "does not send ranges"),
    "another range": (shifted, "another range"),
    "a wider range": (wider, "another range"),
    "401": (status(401), "401"),
    "403": (status(403), "403"),
    "404": (status(404), "404|not found|no such"),
    "410": (status(410), "410"),
    "416": (status(416), "416|smaller"),
    "400": (status(400), "400"),
    "304": (status(304), "304"),
    "204": (status(204), "does not send ranges"),
    "a redirect for ever": (loop, "one place to the next"),
    "a redirect to nowhere": (redirect(None), "one place to the next"),
    "no Content-Length": (no_content_length, "lacks a header"),
    "no Content-Range": (header("Content-Range", None), "lacks a header"),
    "Content-Range of nobody knows how much": (header("Content-Range", "bytes 0-9/*"), "malformed"),
    "a time that is none": (changed(modified="junk"), "malformed"),
    "compressed": (gzipped, "compressed"),
}


@pytest.mark.parametrize("fault, said", WRONG.values(), ids=WRONG)
@pytest.mark.parametrize("opening", [False, True], ids=["in a range", "at once"])
def test_what_does_not_pass_is_refused_at_once(fault, said, opening):
    with serving(DATA, fault if opening else after(1, fault)) as server:
        with pytest.raises(SourceError, match=said) as refusal:
            open_source(server.url).fetch(START, LENGTH)
        followed = 11 if fault is loop else 1
        assert len(server.requests) == followed + (not opening)
    assert refusal.value.file == server.url
    assert refusal.value.offset == (None if opening else START)
    assert len(str(refusal.value)) < 300


CHANGED = {
    "another ETag": another_etag,
    "another weak ETag": changed(etag='W/"two"'),
    "no ETag any more": no_etag,
    "a weak one instead": weak_etag,
    "longer, the same ETag": grown,
    "another total": of_another_total,
    "shorter": changed(data=DATA[:-1]),
    "another time": changed(modified="Wed, 25 Nov 2026 09:00:00 GMT"),
}


@pytest.mark.parametrize("fault", CHANGED.values(), ids=CHANGED)
def test_a_changed_object_is_noticed_by_the_next_range(fault):
    with serving(DATA, after(1, fault)) as server:
        source = open_source(server.url)
        with pytest.raises(SourceChangedError, match="changed while it was read"):
            source.fetch(START, LENGTH)
        assert len(server.requests) == 2


@pytest.mark.parametrize("validators", [weak_etag, no_etag], ids=["weak", "none"])
def test_a_changed_object_is_noticed_by_what_there_is(validators):
    new = changed(etag='W/"two"') if validators is weak_etag else changed(modified="Wed, 25 Nov 2026 09:00:00 GMT")
    with serving(DATA, validators, after(2, new)) as server:
        source = open_source(server.url)
        assert source.fetch(START, LENGTH) == RANGE
        with pytest.raises(SourceChangedError):
            source.fetch(START, LENGTH)


NEVER = {
    "cut": (cut, "breaks off in the middle"),
    "reset": (reset, "breaks off in the middle"),
    "503": (status(503), "503 Service Unavailable"),
}


@pytest.mark.parametrize("fault, said", NEVER.values(), ids=NEVER)
def test_what_never_passes_is_given_up(fault, said, monkeypatch):
    monkeypatch.setattr(remote, "RETRIES", 2)
    with serving(DATA, after(1, fault)) as server:
        source = open_source(server.url)
        with pytest.raises(SourceError, match=said) as refusal:
            source.fetch(START, LENGTH)
        assert (len(server.requests), source.retries) == (4, 2)
    assert "\n" not in str(refusal.value)
    assert refusal.value.offset == START


def test_a_signed_url_that_expires_says_so_and_keeps_its_signature_to_itself():
    with serving(DATA, signed("X-Amz-Signature=secret&X-Amz-Expires=60"), after(2, status(403))) as server:
        source = open_source(f"{server.url}?X-Amz-Signature=secret&X-Amz-Expires=60")
        assert source.fetch(START, LENGTH) == RANGE
        with pytest.raises(SourceError, match="403.*expired") as refusal:
            source.fetch(START, LENGTH)
        assert source.name == server.url
        for shown in (str(refusal.value), repr(refusal.value), repr(source)):
            assert "secret" not in shown


def test_password_and_user_of_a_url_are_sent_to_its_host_alone_and_shown_to_nobody():
    word = needs("Authorization", "Basic dXNlcjpzZWNyZXQ=")
    with serving(DATA) as other, serving(DATA, word, redirect(other.url)) as server:
        url = server.url.replace("//", "//user:secret@")
        source = open_source(url)
        assert source.fetch(START, LENGTH) == RANGE
        assert len(other.requests) == len(server.requests) == 2
        assert not any("authorization" in request.headers for request in other.requests)
        assert "secret" not in repr(source)
        assert source.name == server.url


@pytest.mark.parametrize(
    "options, known, said",
    [
        ({}, True, None),
        ({}, False, "certificate"),
        ({"host": "127.0.0.2"}, True, "certificate"),
        ({"expired": True}, True, "certificate"),
    ],
    ids=["right", "of an authority that nobody knows", "of another host", "expired"],
)
def test_certificates(tmp_path, monkeypatch, options, known, said):
    authority = Authority(tmp_path)
    with serving(DATA, tls=authority.context(**options)) as server:
        if known:
            monkeypatch.setenv("SSL_CERT_FILE", str(authority.certificate))
        if said is None:
            assert open_source(server.url).fetch(START, LENGTH) == RANGE
        else:
            with pytest.raises(SourceError, match=said):
                open_source(server.url)
            assert server.requests == []


def test_a_server_that_speaks_no_tls():
    with serving(DATA) as server:
        with pytest.raises(SourceError, match="does not speak TLS.*is it http://?"):
            open_source(server.url.replace("http:", "https:"))
        assert server.requests == []


def test_a_server_that_speaks_no_http():
    with socket.create_server(("127.0.0.1", 0)) as listening:

        def answer() -> None:
            connection, _ = listening.accept()
            with connection:
                connection.recv(1 << 16)  # what was not read would have the connection reset
                connection.sendall(b"SSH-2.0-none\r\n")

        thread = threading.Thread(target=answer)
        thread.start()
        with pytest.raises(SourceError, match="does not speak HTTP"):
            open_source(f"http://127.0.0.1:{listening.getsockname()[1]}/net.pth")
        thread.join()


@pytest.mark.parametrize("code", [403, 407])
def test_a_proxy_that_refuses_is_no_server_that_does(monkeypatch, code):
    with serving(b"", status(code)) as proxy, serving(DATA) as server:
        monkeypatch.setenv("HTTP_PROXY", f"http://127.0.0.1:{proxy.server_port}")
        monkeypatch.delenv("NO_PROXY", raising=False)
        with pytest.raises(SourceError, match=str(code)):
            open_source(server.url)
        assert (len(proxy.requests), len(server.requests)) == (1, 0)


def test_nobody_listens():
    with serving(DATA) as server:
        url = server.url
    with pytest.raises(SourceError, match="takes no connections") as refusal:
        open_source(url)
    assert refusal.value.file == url


@pytest.mark.parametrize(
    "url, said",
    [
        ("ftp://host/net.pth", "http, https, s3, gs, az"),
        ("http://", "no object's name"),
        ("s3://bucket", "no object's name"),
        ("s3:///net.pth", "no object's name"),
        ("s3://bucket/a//net.pth", "no part of it may be empty"),
        ("http://host/..?secret", "no object's name"),
        ("http://user:secret@host:port/net.pth?secret", "no object's name"),
        ("http://[::1/net.pth", "no object's name"),
        ("http://host:port/net.pth", "no object's name"),
        ("http://host.invalid/net.pth?secret", "its host is not known"),
    ],
)
def test_names_that_are_no_objects(url, said):
    with pytest.raises(SourceError, match=said) as refusal:
        open_source(url)
    assert "secret" not in str(refusal.value)


@pytest.mark.parametrize("key", ["a b/ü%20+&#.pth", "net.pth"])
def test_keys_of_any_letters(key, s3):
    from urllib.parse import quote

    s3.put_object(Bucket="models", Key=key, Body=DATA)
    source = open_source(f"s3://models/{quote(key)}")
    assert source.fetch(START, LENGTH) == RANGE


def test_what_s3_refuses(s3, monkeypatch):
    with pytest.raises(SourceError, match="404|no such|not found"):
        open_source("s3://models/net.pth")
    with pytest.raises(SourceError, match="bucket does not exist"):
        open_source("s3://nothing/net.pth")


def test_an_object_of_s3_that_is_replaced(s3):
    s3.put_object(Bucket="models", Key="net.pth", Body=DATA)
    source = open_source("s3://models/net.pth")
    s3.put_object(Bucket="models", Key="net.pth", Body=DATA[::-1])
    with pytest.raises(SourceChangedError):
        source.fetch(START, LENGTH)


class SeenError(FormatError):
    """Told of bytes."""


def test_what_was_taken_for_granted_is_compared_as_it_passes_by():
    with serving(DATA) as server:
        source, seen = open_source(server.url), []
        source.confirm(START + 10, 8, seen.append)
        source.confirm(START - 8, 8, seen.append)
        source.confirm(START + LENGTH - 4, 8, seen.append)
        assert (len(server.requests), seen) == (1, [])
        assert source.fetch(START, LENGTH) == RANGE
        places = (START - 8, START + 10, START + LENGTH - 4)
        assert sorted(seen) == sorted(DATA[at : at + 8] for at in places)
        source.fetch(START, LENGTH)
        assert (len(server.requests), len(seen)) == (3, 3)


def test_what_is_to_be_compared_may_come_in_any_pieces_and_from_the_start_again():
    """Chunks of a quarter of a MiB end within it, and an answer that is cut has brought a part of it."""
    edge, length = START + (256 << 10) + 3, 2 * BLOCK
    with serving(DATA, after(1, first(2, cut))) as server:
        source, seen, taken = open_source(server.url), [], bytearray(length)
        for at in range(START + 5, START + length - 20_000, 9_973):
            source.confirm(at, 9_001, seen.append)

        def take(at: int, part: memoryview) -> None:
            taken[at - START : at - START + len(part)] = part

        source.pass_by(START, length, take, threading.Event())
        assert taken == DATA[START : START + length]
        assert seen == [DATA[at : at + 9_001] for at in range(START + 5, START + length - 20_000, 9_973)]
        assert any(at < edge < at + 9_001 for at in range(START + 5, START + length, 9_973))


def test_what_is_not_as_it_was_taken_for_is_an_error_of_who_took_it():
    def refuse(data: bytes) -> None:
        raise SeenError(f"found {data.hex()}")

    with serving(DATA) as server:
        source = open_source(server.url)
        source.confirm(START + 10, 2, refuse)
        with pytest.raises(SeenError, match=DATA[START + 10 : START + 12].hex()):
            source.fetch(START, LENGTH)


def test_many_threads_read_one_source():
    with serving(DATA, first(5, status(503))) as server:
        source, wrong = open_source(server.url), []

        def read(offset: int) -> None:
            if source.fetch(offset, BLOCK) != DATA[offset : offset + BLOCK]:
                wrong.append(offset)

        threads = [threading.Thread(target=read, args=(offset,)) for offset in range(0, 2 * BLOCK, 99_991)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert wrong == []
        assert source.retries == 5
