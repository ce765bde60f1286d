"""Settings of the oci runtime."""

from __future__ import annotations

from collections.abc import Mapping
from datetime import timedelta
from pathlib import Path
from typing import Literal

from pydantic import Field

from ion_core.containers.allow import AllowSettings
from ion_core.contracts.settings import ByteSize, ConfigPath, Duration, Settings


class OciSettings(Settings):
    """Modules as containers of an OCI runtime, hardened unless told otherwise; no engine is asked for one."""

    runtime: str | None = Field(
        None, min_length=1, description="The OCI runtime, by name or path. Default: runc, or else crun, on the PATH."
    )
    directory: ConfigPath = Field(
        Path("/run/ion-oci"),
        description="Where containers and the roots that they share are kept while they are there; in memory, at best.",
    )
    pull: Literal["missing", "always", "never"] = Field(
        "missing", description="When images are pulled: if not there, before each container, or not at all."
    )
    authfile: ConfigPath | None = Field(
        None, description="Credentials for registries, as `podman login --authfile` writes them."
    )
    allow: AllowSettings = Field(
        default=AllowSettings(mounts={}), description="What loosens the hardening, and for which modules."
    )
    architectures: Literal["all", "own"] = Field(
        "all",
        description="Whose programs the filter of system calls lets run: all that the distribution's file names, also "
        "32-bit ones, or this machine's own alone. Others are killed then, and a container costs a quarter less.",
    )
    memory: ByteSize = Field(512 * 1024**2, gt=0, description="Memory of a container whose module says nothing.")
    pids: int = Field(256, gt=0, description="Processes and threads of a container whose module says nothing.")
    nofile: int | None = Field(None, gt=0, description="Open files of a process. Default: what the dispatcher has.")
    tmp: ByteSize = Field(
        64 * 1024**2, gt=0, description="Size of /tmp and of each VOLUME of an image; it counts as memory."
    )
    timeout: Duration = Field(timedelta(seconds=30), description="How long one step of one container may take.")
    pull_timeout: Duration = Field(timedelta(minutes=15), description="How long to pull or build an image may take.")

    def modules(self) -> Mapping[str, str]:
        return {f"allow.{key}": name for key, name in self.allow.modules().items()}
