"""Settings of the embedded providers."""

from __future__ import annotations

from datetime import timedelta
from pathlib import Path
from typing import Literal

from pydantic import Field

from ion_core.contracts.provider import Location, Reach
from ion_core.contracts.settings import Duration, Settings, StatePath


class NoSettings(Settings):
    """Nothing to set."""

    def location(self) -> Location:
        return Location(where="in memory", reach=Reach.PROCESS)


class SqliteBrokerSettings(Settings):
    """A durable broker in one file, for all processes of one machine."""

    path: StatePath = Field(Path("broker.sqlite"), description="The database file; not on a network file system.")
    lease: Duration = Field(
        timedelta(seconds=30), description="How long a silent subscriber keeps what it holds; renewed while jobs run."
    )
    poll: Duration = Field(
        timedelta(milliseconds=100), description="How often to look for what other processes published."
    )

    def location(self) -> Location:
        return Location(where=str(self.path), reach=Reach.MACHINE)


class SqliteDocumentsSettings(Settings):
    """JSON documents in one file, for all processes of one machine."""

    path: StatePath = Field(Path("documents.sqlite"), description="The database file; not on a network file system.")

    def location(self) -> Location:
        return Location(where=str(self.path), reach=Reach.MACHINE)


class LocalBlobsSettings(Settings):
    """Files in a directory."""

    path: StatePath = Field(Path("blobs"), description="The directory; created when missing.")

    def location(self) -> Location:
        return Location(where=str(self.path), reach=Reach.MACHINE)


class _ProgramSettings(Settings):
    """What all have in common that run modules as plain processes of this machine."""

    isolation: Literal["none", "bubblewrap"] = Field(
        "none",
        description="none: a module can do what you can. bubblewrap: it sees its own files only; bwrap is needed.",
    )
    environments: StatePath = Field(
        Path("python"), description="Where Python environments of modules are kept, made from their requirements."
    )
    install_timeout: Duration = Field(
        timedelta(minutes=15), description="How long it may take to install the requirements of one module."
    )


class ProcessSettings(_ProgramSettings):
    """Modules as plain processes of this machine."""

    path: StatePath = Field(Path("run"), description="Where running modules are noted, so that orphans are found.")


class SubprocessSettings(_ProgramSettings):
    """Whole jobs as plain processes of this machine, which go on without us."""

    path: StatePath = Field(
        Path("jobs"), description="Where jobs lie, each with its workspace; on a disk of this machine."
    )
    prepare_allowance: Duration = Field(
        timedelta(minutes=30), description="How long prepare may take: a net, no limit of the module."
    )
    commit_allowance: Duration = Field(timedelta(minutes=30), description="How long commit may take.")
