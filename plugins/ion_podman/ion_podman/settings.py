"""Settings of the podman runtime."""

from __future__ import annotations

import re
from collections.abc import Mapping
from datetime import timedelta
from typing import Annotated, Literal

from pydantic import AfterValidator, Field

from ion_core.containers.allow import AllowSettings
from ion_core.contracts.settings import ByteSize, ConfigPath, Duration, Settings


def _unix_url(url: str) -> str:
    if not re.fullmatch(r"unix:///.+", url):
        raise ValueError(
            f'must be a unix socket of this machine, such as unix:///run/podman/podman.sock (got "{url}"): '
            "containers see the directories of the dispatcher"
        )
    return url


class PodmanSettings(Settings):
    """Modules as Podman containers, hardened unless told otherwise."""

    url: Annotated[str, AfterValidator(_unix_url)] | None = Field(
        None, description="Where Podman's service listens. Default: $CONTAINER_HOST, then its usual socket."
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
    memory: ByteSize = Field(512 * 1024**2, gt=0, description="Memory of a container whose module says nothing.")
    pids: int = Field(256, gt=0, description="Processes and threads of a container whose module says nothing.")
    nofile: int | None = Field(None, gt=0, description="Open files of a process. Default: what Podman's service says.")
    tmp: ByteSize = Field(
        64 * 1024**2, gt=0, description="Size of /tmp and of each VOLUME of an image; it counts as memory."
    )
    timeout: Duration = Field(timedelta(seconds=30), description="How long one call to the service may take.")
    pull_timeout: Duration = Field(timedelta(minutes=15), description="How long to pull or build an image may take.")

    def modules(self) -> Mapping[str, str]:
        return {f"allow.{key}": name for key, name in self.allow.modules().items()}
