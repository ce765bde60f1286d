"""Ion with RabbitMQ and the oci runtime: what the oci rows share. Images are those of the Podman that is beside it."""

from __future__ import annotations

import os
import tempfile
from collections.abc import AsyncIterator
from contextlib import asynccontextmanager
from typing import Any

from bench.podman import named, opening
from ion_core.contracts.runtime import ContainerRuntime


@asynccontextmanager
async def oci_runtime(service: Any) -> AsyncIterator[ContainerRuntime]:
    """The oci runtime with its default settings, but for where it keeps its containers."""
    from ion_oci.plugin import ion_container_runtimes

    before = dict(os.environ)
    os.environ.update(service.environ)
    try:
        with tempfile.TemporaryDirectory(prefix="ion-oci-bench-", dir="/run") as directory:  # in memory, as by default
            async with opening(named(ion_container_runtimes(), "oci"), directory=directory) as runtime:
                yield runtime
    finally:
        os.environ.clear()
        os.environ.update(before)
