"""Settings of the service ``watch``."""

from __future__ import annotations

import re
from collections.abc import Iterator
from datetime import timedelta
from pathlib import Path, PurePosixPath
from typing import Annotated, Any, Literal

from pydantic import AfterValidator, Field, TypeAdapter, ValidationInfo, field_validator, model_validator

from ion_core.contracts.provider import Finding
from ion_core.contracts.settings import ConfigPath, Duration, Section, Settings, StatePath
from ion_gateway.settings import checked_name, checked_type
from ion_gateway.watching.entries import Source
from ion_gateway.watching.local import LocalFolder
from ion_gateway.watching.patterns import Patterns, pattern_problem
from ion_gateway.watching.remote import OBJECTS, RemoteFolder

ADDED = ("folder", "path")
"""Pairs that every event has besides those of its folder."""
STABLE = timedelta(seconds=10)

_URL = re.compile(r"(?P<protocol>[a-z][a-z0-9+.-]*)://(?P<place>[^\x00-\x1f\x7f\\*?#\[\]{}]*)")
_UNFIT = ("ftp", "http", "https", "simplecache", "filecache", "blockcache", "cached", "dir", "zip", "tar", "reference")


def _plain_url(url: str) -> str:
    match = _URL.fullmatch(url)
    if match is None or "::" in url or ".." in match["place"].split("/"):
        raise ValueError("must be one plain address such as s3://bucket/in, without ::, .., patterns or a query")
    if re.search(r"^[^/@]*:[^/@]*@", match["place"]):
        raise ValueError("must not have a password in it. Put it under options, as ${env:NAME}")
    if match["protocol"] in _UNFIT:
        raise ValueError(
            f"{match['protocol']}:// cannot be watched. Use s3://, gs://, az://, sftp://, webdav:// or path"
        )
    if match["protocol"] in ("file", "local") and not match["place"].startswith("/"):
        raise ValueError("must be absolute, such as file:///srv/in")
    if not match["place"].strip("/"):
        raise ValueError("must name a bucket, container, host or directory after ://")
    return url.rstrip("/")


def _pattern(pattern: str) -> str:
    if problem := pattern_problem(pattern):
        raise ValueError(problem)
    return pattern


def _ending(value: str) -> str:
    if not re.fullmatch(r"[.~_-][A-Za-z0-9._~-]{0,30}", value):
        raise ValueError(f"must be an ending such as .done (got {value!r})")
    return value


class Folder(Settings):
    """One folder: where it is, when a file in it is complete, the event that is published then, what comes after."""

    path: ConfigPath | None = Field(None, description="A directory of this machine, also one that is mounted.")
    url: Annotated[str, AfterValidator(_plain_url)] | None = Field(
        None, description="Or a place that fsspec knows: s3://, gs://, az://, sftp://, file://.", examples=["s3://b/in"]
    )
    options: dict[str, Any] = Field(default={}, description="Of url: what its filesystem is made with.")
    type: Annotated[str, AfterValidator(checked_type)] = Field(
        description="The event's type.", examples=["photo.received"]
    )
    data: dict[str, str] = Field(default={}, description="Its pairs. folder and path are added.")
    patterns: list[Annotated[str, AfterValidator(_pattern)]] = Field(
        ["**"], description="Which files, by their paths in the folder.", min_length=1, examples=[["*.jpg", "*/*.png"]]
    )
    stable: Duration | None = Field(
        None,
        description="For how long a file must not have changed; 0s where files are renamed in. Default: 10s, and 0s of "
        "object stores, where files appear whole.",
    )
    done: Annotated[str, AfterValidator(_ending)] | None = Field(
        None,
        description="Instead of stable: a file is complete once there is one with this ending beside it.",
        examples=[".done"],
    )
    after: Literal["keep", "move", "delete"] = Field("keep", description="What becomes of a file that was published.")
    to: str | None = Field(None, description="Where it is moved: a directory, or a URL of the same protocol.")
    every: Duration = Field(timedelta(seconds=30), description="How often the folder is listed, whatever it says.")

    @field_validator("data")
    @classmethod
    def _not_ours(cls, value: dict[str, str]) -> dict[str, str]:
        for name in ADDED:
            if name in value:
                raise ValueError(f"{name} is added to every event. Choose another key")
        return value

    @field_validator("every")
    @classmethod
    def _not_too_often(cls, value: timedelta) -> timedelta:
        if value < timedelta(seconds=1):
            raise ValueError("must be at least 1s")
        return value

    @field_validator("to")
    @classmethod
    def _somewhere(cls, value: str | None, info: ValidationInfo) -> str | None:
        if value is None:
            return None
        if "://" in value:
            return _plain_url(value)
        return str(TypeAdapter(ConfigPath).validate_python(value, context=info.context))

    @model_validator(mode="after")
    def _one_place(self) -> Folder:
        if (self.path is None) == (self.url is None):
            raise ValueError("path or url is required, and only one of them")
        if self.options and self.url is None:
            raise ValueError("options are for url. Leave them out")
        if self.done is not None and self.stable is not None:
            raise ValueError("stable or done: where there are marks, nothing is waited for. Leave one out")
        return self

    @model_validator(mode="after")
    def _a_place_to_go(self) -> Folder:
        if (self.after == "move") != (self.to is not None):
            raise ValueError("after: move and to belong together: to says where files are moved")
        if self.to is None:
            return self
        if self.url is None and "://" in self.to:
            raise ValueError("to must be a directory, as path is one")
        if self.url is not None and self.to.partition("://")[0] != self.protocol:
            raise ValueError(f"to must be a URL of {self.protocol}://, as url is one")
        place = str(self.path) if self.url is None else self.url
        inside = PurePosixPath(self.to)
        if inside.is_relative_to(place) and not any(part.startswith(".") for part in inside.relative_to(place).parts):
            raise ValueError(
                "to must not lie in the folder that is watched, unless hidden. Name one outside, or one such as "
                f"{place}/.taken"
            )
        return self

    def source(self, name: str, section: Section) -> Source:
        """Of the folder that the settings in ``section`` call so."""
        key = f"folders.{name}"
        if self.url is not None:
            return RemoteFolder(self.url, self.options, self.compiled, section, key, self.to)
        assert self.path is not None
        to = None if self.to is None else Path(self.to)
        return LocalFolder(self.path, self.compiled, section, f"{key}.path", to)

    @property
    def protocol(self) -> str:
        """Of the URL; '' of a path."""
        return "" if self.url is None else self.url.partition("://")[0]

    @property
    def waits(self) -> float:
        """Seconds for which a file must not have changed."""
        if self.stable is not None:
            return self.stable.total_seconds()
        return 0.0 if self.done is not None or self.protocol in OBJECTS else STABLE.total_seconds()

    @property
    def compiled(self) -> Patterns:
        return Patterns(self.patterns, self.done)


class WatchSettings(Settings):
    """Events for files that appear in folders."""

    folders: dict[Annotated[str, AfterValidator(checked_name)], Folder] = Field(
        description="What is watched, each under a name of your own.", min_length=1
    )
    path: StatePath = Field(Path("published.sqlite"), description="Where it is noted what was published.")

    def publishes(self) -> dict[str, str]:
        """Each type that will be published, by its key in these settings."""
        return {f"folders.{name}.type": folder.type for name, folder in self.folders.items()}

    def findings(self) -> Iterator[Finding]:
        """What is wrong with the folders as seen from this machine, for ``check``."""
        for name, folder in self.folders.items():
            yield from folder.source(name, self.section).findings()
