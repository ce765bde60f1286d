"""Podman's service: where it listens, whether it answers, and whether it is one we can use."""

from __future__ import annotations

import os
from collections.abc import Mapping
from typing import Any

from ion_core.containers.images import read_accounts
from ion_core.errors import ConfigError, TransientError
from ion_podman.client import Client
from ion_podman.settings import PodmanSettings

_OPEN_WITHIN = 10.0
_OLDEST = 4


def socket_of(url: str | None, environ: Mapping[str, str], where: str = "podman") -> str:
    """Where the service listens. Raises ConfigError for a service elsewhere, which could not see our directories."""
    if url is None:
        url = environ.get("CONTAINER_HOST")
    if url is None:
        if os.geteuid() == 0:
            return "/run/podman/podman.sock"
        runtime = environ.get("XDG_RUNTIME_DIR", f"/run/user/{os.getuid()}")
        return f"{runtime}/podman/podman.sock"
    if not url.startswith("unix:///"):
        raise ConfigError(
            f'{where}: CONTAINER_HOST is "{url}", but containers see the directories of the dispatcher: '
            "the service must be on this machine, such as unix:///run/podman/podman.sock."
        )
    return url.removeprefix("unix://")


async def ask(client: Client, where: str = "podman") -> Mapping[str, Any]:
    """What the service says about itself. Raises TransientError that says how to start it."""
    try:
        answer = await client.call("GET", "/info", timeout=min(_OPEN_WITHIN, client.timeout))
    except TransientError as error:
        raise TransientError(
            f"{error} Start it: `podman system service --time=0 unix://{client.socket}`, or, where systemd "
            "is, `systemctl start podman.socket`; then it stays."
        ) from error
    if not answer.ok:
        raise answer.error(f"podman: {client.socket}")
    info: Mapping[str, Any] = answer.body
    version = str((info.get("version") or {}).get("Version", ""))
    major = version.split(".")[0]
    if not major.isdecimal() or int(major) < _OLDEST:
        raise ConfigError(f"{where}: {client.socket}: version {version or 'unknown'}; {_OLDEST}.0 or newer is needed.")
    return info


def check_files(settings: PodmanSettings) -> None:
    if settings.authfile is not None:
        try:
            read_accounts(settings.authfile)
        except ValueError as error:
            raise ConfigError(f"{settings.section.where('authfile')}: {error}") from error
