"""Settings of the stores: where, how to get there, and how much at once."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated, Any

from pydantic import AfterValidator, Field

from ion_core.contracts.settings import Duration, Settings

_URL = re.compile(r"(?P<protocol>[a-z][a-z0-9+.-]*)://(?P<place>.*)")
_UNCLEAR = re.compile(r"[\x00-\x1f\x7f\\*?#\[\]{}]")
_EXAMPLES = ["s3://bucket/ion", "gs://bucket/ion", "az://container/ion", "file:///srv/ion", "memory://ion"]


def _place(url: str) -> str:
    """One plain place: fsspec's chains, patterns and queries would let a name mean something else than it says."""
    match = _URL.fullmatch(url)
    if match is None or "::" in url or _UNCLEAR.search(url):
        raise ValueError(f"must be one plain address such as {_EXAMPLES[0]}, without ::, patterns or a query")
    if re.search(r"^[^/@]*:[^/@]*@", match["place"]):
        raise ValueError("must not have a password in it. Put it under options, as ${env:NAME}")
    if ".." in match["place"].split("/"):
        raise ValueError("must not have .. in it")
    if match["protocol"] in ("file", "local") and not match["place"].startswith("/"):
        raise ValueError("must be absolute, such as file:///srv/ion")
    if match["protocol"] not in ("file", "local", "memory") and not match["place"].strip("/"):
        raise ValueError("must name a bucket, container or host after ://")
    if len(match["place"].encode()) > 200:
        raise ValueError("must be at most 200 bytes long after ://, since names go behind it")
    return url.rstrip("/") if match["place"].strip("/") else url


class Place(Settings):
    """What both stores want to know."""

    url: Annotated[str, AfterValidator(_place)] = Field(
        description="Where: file://, memory://, s3://, gs://, az:// or another protocol of fsspec, and a prefix there.",
        examples=_EXAMPLES,
    )
    options: dict[str, Any] = Field(
        default_factory=dict,
        description="What the filesystem is made with, as its own documentation says, such as key, secret, "
        "endpoint_url for s3://. Take secrets from ${env:NAME}.",
    )
    parallel: int = Field(32, ge=1, le=256, description="How many calls to the backend are under way at a time.")

    @property
    def protocol(self) -> str:
        return self.url.partition("://")[0]


class FsspecBlobsSettings(Place):
    """Files in an object store or on any other filesystem that fsspec knows."""

    sign_for: Duration = Field(
        timedelta(hours=1),
        description="How long what is behind a signed URL can be read with it, where there are such.",
    )


class FsspecDocumentsSettings(Place):
    """JSON documents in an object store that can create exclusively."""
