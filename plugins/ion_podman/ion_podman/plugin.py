"""What ion-podman registers with Ion: no container runtime yet."""

from collections.abc import Iterable

from ion_core.contracts.provider import Provider
from ion_core.contracts.runtime import ContainerRuntime
from ion_core.hookspecs import hookimpl


@hookimpl
def ion_container_runtimes() -> Iterable[Provider[ContainerRuntime]]:
    return ()
