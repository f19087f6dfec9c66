"""Multipart uploads to S3 part by part, from several processes or runs. By boto3: obstore sends none by itself."""

from __future__ import annotations

import platform
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from dataclasses import dataclass
from functools import cache
from typing import Any
from urllib.parse import urlsplit

from ..errors import OutputError
from ..sources.stores import Place

ABORTS = 5
"""Times that an upload is aborted at most: a part that is on its way meanwhile may be kept."""


@dataclass(frozen=True)
class Upload:
    """An upload that was begun: of what, and what the store calls it."""

    name: str
    bucket: str
    key: str
    number: str

    @property
    def words(self) -> dict[str, str]:
        return {"Bucket": self.bucket, "Key": self.key, "UploadId": self.number}


@dataclass(frozen=True)
class Part:
    """Bytes [start, stop) of an object, as the part of that number, from 1."""

    upload: Upload
    number: int
    start: int
    stop: int


@dataclass(frozen=True)
class Sent:
    """A part that the store has: its number, how many bytes it is, and what the store says of its content."""

    number: int
    size: int
    etag: str


def begin(place: Place) -> Upload:
    """OutputError if nothing can be uploaded there."""
    bucket = urlsplit(place.name).netloc
    with speaking_of(place.name):
        made = _client().create_multipart_upload(Bucket=bucket, Key=place.key)
    return Upload(place.name, bucket, place.key, made["UploadId"])


def unfinished(place: Place) -> tuple[Upload, dict[int, Sent]] | None:
    """The latest upload of an object that was begun and not completed, and its parts; None where there is none."""
    bucket = urlsplit(place.name).netloc
    with speaking_of(place.name):
        pages = _client().get_paginator("list_multipart_uploads").paginate(Bucket=bucket, Prefix=place.key)
        found = [made for page in pages for made in page.get("Uploads", []) if made["Key"] == place.key]
        if not found:
            return None
        upload = Upload(place.name, bucket, place.key, max(found, key=lambda made: made["Initiated"])["UploadId"])
        listed = _client().get_paginator("list_parts").paginate(**upload.words)
        parts = [part for page in listed for part in page.get("Parts", [])]
    return upload, {part["PartNumber"]: Sent(part["PartNumber"], part["Size"], part["ETag"]) for part in parts}


def send(part: Part, data: bytearray) -> Sent:
    """Has the store take a part, whose checksum boto3 sends along."""
    with speaking_of(part.upload.name):
        made = _client().upload_part(**part.upload.words, PartNumber=part.number, Body=data)
    return Sent(part.number, len(data), made["ETag"])


def complete(upload: Upload, parts: Sequence[Sent], force: bool) -> None:
    """Makes an object of the parts. OutputError if that cannot be done, or, unless `force`, if the key is taken."""
    made = [{"PartNumber": part.number, "ETag": part.etag} for part in sorted(parts, key=lambda part: part.number)]
    condition = {} if force else {"IfNoneMatch": "*"}
    with speaking_of(upload.name):
        _client().complete_multipart_upload(**upload.words, MultipartUpload={"Parts": made}, **condition)


def abort(upload: Upload) -> None:
    """Leaves nothing of an upload; one that is completed, or aborted, is none any more."""
    from botocore.exceptions import ClientError

    with speaking_of(upload.name):
        for _ in range(ABORTS):
            try:
                _client().abort_multipart_upload(**upload.words)
                _client().list_parts(**upload.words)
            except ClientError as error:
                if error.response.get("Error", {}).get("Code") == "NoSuchUpload":
                    return
                raise


@cache
def _client() -> Any:
    """That of a process: threads share it, and it keeps its connections."""
    from boto3.session import Session
    from botocore.config import Config

    return Session().client("s3", config=Config(retries={"mode": "standard", "max_attempts": 10}))


@contextmanager
def speaking_of(name: str) -> Iterator[None]:
    """Makes an OutputError of what boto3 says: its own errors cannot travel."""
    from botocore.exceptions import BotoCoreError, ClientError, NoCredentialsError

    try:
        yield
    except ClientError as error:
        said = error.response.get("Error", {})
        what = f"{said.get('Message') or 'the store refuses'} ({said.get('Code')})"
        raise OutputError(what, file=name) from None
    except NoCredentialsError:
        advice = "set AWS_ACCESS_KEY_ID and AWS_SECRET_ACCESS_KEY where it runs, too"
        raise OutputError(
            f"a process of {platform.node()} has no credentials for it", file=name, advice=advice
        ) from None
    except BotoCoreError as error:
        raise OutputError(str(error), file=name) from None
