"""Settings of the stores: where, how to get there, and how much at once."""

from __future__ import annotations

import re
from datetime import timedelta
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, model_validator

from ion_core.contracts.provider import Location, Reach
from ion_core.contracts.settings import Duration, Settings, Unfit
from ion_fsspec_storage.choosing import PROTOCOLS, misfit
from ion_fsspec_storage.protocols import SHARED, refusal, refusal_of_documents

_URL = re.compile(r"(?P<protocol>[a-z][a-z0-9+.-]*)://(?P<place>.*)")
_UNCLEAR = re.compile(r"[\x00-\x1f\x7f\\*?#\[\]{}]")
_CONNECTIONS = 8
_EXAMPLES = ["s3://bucket/ion", "gs://bucket/ion", "az://container/ion", "file:///srv/ion", "memory://ion"]


def _place(url: str) -> str:
    """One plain place: fsspec's chains, patterns and queries would let a name mean something else than it says."""
    match = _URL.fullmatch(url)
    if match is None or "::" in url or _UNCLEAR.search(url):
        raise Unfit(f"must be one plain address such as {_EXAMPLES[0]}, without ::, patterns or a query")
    if re.search(r"^[^/@]*:[^/@]*@", match["place"]):
        raise Unfit("must not have a password in it. Put it under options, as ${env:NAME}")
    if why := refusal(match["protocol"]):
        raise ValueError(why)
    if ".." in match["place"].split("/"):
        raise Unfit("must not have .. in it")
    if match["protocol"] in ("file", "local") and not match["place"].startswith("/"):
        raise Unfit("must be absolute, such as file:///srv/ion")
    if match["protocol"] not in ("file", "local", "memory") and not match["place"].strip("/"):
        raise Unfit("must name a bucket, container or host after ://")
    if len(match["place"].encode()) > 200:
        raise Unfit("must be at most 200 bytes long after ://, since names go behind it")
    return url.rstrip("/") if match["place"].strip("/") else url


def _exclusive(url: str) -> str:
    """Before ``_place``, whose advice is for files."""
    match = _URL.fullmatch(url)
    if match is not None and (why := refusal_of_documents(match["protocol"])):
        raise ValueError(why)
    return url


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
    parallel: int = Field(
        32,
        ge=1,
        le=256,
        description="How many calls to the backend are under way at a time. Where each takes a connection of its own "
        "(sftp://, and whatever is not known), no more than 8 unless this is set.",
    )

    driver: Literal["auto", "obstore", "fsspec"] = Field(
        "auto",
        description="What makes the requests. auto: of s3:// and az://, obstore where these settings mean the same to "
        "it as to s3fs and adlfs, else those. obstore: that or nothing, with credentials where it looks for them. "
        "fsspec: fsspec's.",
    )

    @model_validator(mode="after")
    def _has_its_driver(self) -> Place:
        if self.driver == "obstore":
            if self.protocol not in PROTOCOLS:
                raise Unfit(f"driver: obstore is for s3:// and az:// alone, this is {self.protocol}://. Leave it out")
            if (found := misfit(self.protocol, self.url, self.options)) is not None:
                raise Unfit(f"{found[0]} does not go with driver: obstore: {found[1]}. Change it, or use driver: auto")
        return self

    @model_validator(mode="after")
    def _has_a_server(self) -> Place:
        if self.protocol in ("webdav", "dav") and "base_url" not in self.options:
            raise ValueError(
                "options must have base_url, the server's address such as https://cloud.example.org/dav: what stands "
                f"after {self.protocol}:// is a directory below it"
            )
        return self

    @property
    def at_once(self) -> int:
        """``parallel``, or as many connections as a server takes from one client."""
        few = self.protocol not in SHARED and "parallel" not in self.model_fields_set
        return min(self.parallel, _CONNECTIONS) if few else self.parallel

    @property
    def protocol(self) -> str:
        return self.url.partition("://")[0]

    def location(self) -> Location:
        """A directory may be mounted on other machines, too, which nobody can tell by its name."""
        reach = {"memory": Reach.PROCESS, "file": None, "local": None}.get(self.protocol, Reach.NETWORK)
        return Location(where=self.url, reach=reach)


class FsspecBlobsSettings(Place):
    """Files in an object store or on any other filesystem that fsspec knows."""

    sign_for: Duration = Field(
        timedelta(hours=1),
        description="How long what is behind a signed URL can be read with it, where there are such.",
    )


class FsspecDocumentsSettings(Place):
    """JSON documents in an object store that can create exclusively."""

    url: Annotated[str, AfterValidator(_exclusive), AfterValidator(_place)] = Field(
        description="Where: file://, memory://, s3://, gs:// or az://, and a prefix there.", examples=_EXAMPLES
    )
