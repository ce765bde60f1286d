"""What a configuration loosens of the hardening of containers, by the names of modules."""

from __future__ import annotations

import re
from collections.abc import Mapping
from typing import Annotated

from pydantic import AfterValidator, Field

from ion_core.contracts.settings import Settings, Unfit

_MOUNT = re.compile(r"(?P<source>/[^:]*):(?P<target>/[^:]+)(:(?P<mode>ro|rw))?")


def _mount(text: str) -> str:
    if not _MOUNT.fullmatch(text):
        raise Unfit(f'must be /of/the/host:/in/the/container, or the same and ":rw" (got "{text}")')
    return text


def mount_parts(text: str) -> tuple[str, str, bool]:
    """Source, target and whether it may be written to."""
    parts = _MOUNT.fullmatch(text)
    assert parts is not None, "settings are validated"
    return parts["source"], parts["target"], parts["mode"] == "rw"


class AllowSettings(Settings):
    """What loosens the hardening, each by the names of the modules that may have it. Nothing else is loosened."""

    root: tuple[str, ...] = Field(default=(), description="Modules that run as root where their image says so.")
    privileged: tuple[str, ...] = Field(
        default=(), description="Modules that run privileged: as root of the host, nearly."
    )
    host_network: tuple[str, ...] = Field(default=(), description="Modules that may ask for network: host.")
    mounts: dict[str, tuple[Annotated[str, AfterValidator(_mount)], ...]] = Field(
        {},
        description='For a module, what it sees of the host: "/of/the/host:/in/the/container", read-only unless ":rw".',
    )

    def modules(self) -> Mapping[str, str]:
        """The modules that it names, by key."""
        lists = {"root": self.root, "privileged": self.privileged, "host_network": self.host_network}
        named = {f"{key}[{n}]": name for key, names in lists.items() for n, name in enumerate(names)}
        return {**named, **{f"mounts.{name}": name for name in self.mounts}}

    def notice(self) -> str:
        """What is loosened, for the log at each start, so that nobody forgets it is there; empty if nothing is."""
        loosened = {"privileged": self.privileged, "root": self.root, "the host's network": self.host_network}
        given = [f"{what} for {', '.join(names)}" for what, names in loosened.items() if names]
        given += [f"mounts of the host for {', '.join(self.mounts)}"] if self.mounts else []
        return f"the hardening of containers is loosened: {'; '.join(given)}" if given else ""
