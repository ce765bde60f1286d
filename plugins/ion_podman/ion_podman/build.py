"""Building images from a Containerfile, by Podman's own library."""

from __future__ import annotations

import asyncio
import logging
from pathlib import Path

from ion_core.errors import ImageUnavailable, TransientError

log = logging.getLogger(__name__)

_FILES = ("Containerfile", "Dockerfile")
_LAST_LINES = 5


async def build(socket: str, name: str, directory: Path, *, timeout: float) -> None:
    """Build ``name`` from the Containerfile in ``directory``; what has not changed is taken from the last time.

    Raises ImageUnavailable when that fails, TransientError when it takes longer than ``timeout`` seconds.
    """
    log.info("building an image", extra={"image": name, "directory": str(directory)})
    await asyncio.to_thread(_build, socket, name, directory, timeout)


def _build(socket: str, name: str, directory: Path, timeout: float) -> None:
    import podman  # takes a while, and most never build
    import requests
    from podman.errors import APIError, BuildError, PodmanError

    file = next((file for file in _FILES if (directory / file).is_file()), None)
    if file is None:
        raise ImageUnavailable(f"image unavailable: {name}: there is no Containerfile in {directory}.")
    try:
        with podman.PodmanClient(base_url=f"unix://{socket}", timeout=timeout) as client:
            client.images.build(path=str(directory), dockerfile=file, tag=name, rm=True, forcerm=True)
    except BuildError as error:
        report = [str(line) for line in error.build_log][-_LAST_LINES:] if error.build_log else []
        raise ImageUnavailable(
            f"image unavailable: {name}: {directory / file} cannot be built: {error.msg} {' '.join(report)}".strip()
        ) from error
    except APIError as error:
        raise ImageUnavailable(f"image unavailable: {name}: {directory / file} cannot be built: {error}") from error
    except (PodmanError, requests.RequestException, OSError) as error:
        raise TransientError(f"image {name}: cannot be built now: {error}") from error
