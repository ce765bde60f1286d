"""Registers the podman runtime. Its code is imported when it is opened."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING

from ion_core.contracts.provider import Provider
from ion_core.hookspecs import hookimpl
from ion_podman.settings import PodmanSettings

if TYPE_CHECKING:
    from ion_core.contracts.runtime import ContainerRuntime


def _podman_runtime(settings: PodmanSettings) -> AbstractAsyncContextManager[ContainerRuntime]:
    from ion_podman.runtime import open_podman_runtime

    return open_podman_runtime(settings)


@hookimpl
def ion_container_runtimes() -> Iterable[Provider[ContainerRuntime]]:
    yield Provider(name="podman", settings=PodmanSettings, open=_podman_runtime, contract="1.0")
