"""Registers the oci runtime. Its code is imported when it is opened."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING

from ion_core.contracts.provider import Provider
from ion_core.hookspecs import hookimpl
from ion_oci.settings import OciSettings

if TYPE_CHECKING:
    from ion_core.contracts.runtime import ContainerRuntime


def _oci_runtime(settings: OciSettings) -> AbstractAsyncContextManager[ContainerRuntime]:
    from ion_oci.runtime import open_oci_runtime

    return open_oci_runtime(settings)


@hookimpl
def ion_container_runtimes() -> Iterable[Provider[ContainerRuntime]]:
    yield Provider(name="oci", settings=OciSettings, open=_oci_runtime, contract="1.0")
