"""Images as Podman's service has them, pulls and builds them."""

from __future__ import annotations

import asyncio
import base64
import errno
import json
import tempfile
from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ion_core.containers import images
from ion_core.containers.images import Image, accounts_for
from ion_core.errors import ImageUnavailable, StorageFull
from ion_podman.build import account_header, pack, problem_of
from ion_podman.client import Answer, Client, in_path
from ion_podman.library import post
from ion_podman.settings import PodmanSettings


class Images(images.Images[Image]):
    """Finds the image of a container, pulling or building it first where that is needed; each image once at a time."""

    def __init__(self, client: Client, settings: PodmanSettings) -> None:
        super().__init__(pull=settings.pull, build_timeout=settings.pull_timeout.total_seconds())
        self._client = client
        self._settings = settings

    async def found(self, name: str) -> Image | None:
        answer = await self._client.call("GET", f"/images/{in_path(name)}/json")
        if answer.ok:
            return _image(answer.body)
        if answer.status == 404 or no_such_image(answer):
            return None
        raise answer.error(f"image {name}")

    async def pull(self, name: str) -> str:
        query = {"reference": name, "policy": "always", "quiet": True}
        limit = self._settings.pull_timeout.total_seconds()
        headers = _credentials(self._settings.authfile, name)
        answer = await self._client.call("POST", "/images/pull", query=query, headers=headers, timeout=limit)
        return _pull_problem(answer)

    async def build(self, name: str, directory: Path, file: str) -> str:
        """By the service, which takes from its cache what it has built before."""
        accounts = accounts_for(self._settings.authfile, str(directory))
        pull = self._settings.pull
        query = {"t": name, "dockerfile": file, "pullpolicy": pull, "rm": True, "forcerm": True, "layers": True}
        packed = tempfile.TemporaryFile(prefix="ion-build-")  # noqa: SIM115 - the library's thread closes it
        try:
            await asyncio.to_thread(pack, directory, packed)
        except BaseException as error:
            packed.close()
            if not isinstance(error, OSError):
                raise
            if error.errno in (errno.ENOSPC, errno.EDQUOT):
                raise StorageFull(f"image {name}: {directory} cannot be packed: {error}. Free some space.") from error
            raise ImageUnavailable(f"image unavailable: {name}: {directory} cannot be read: {error}") from error
        headers = account_header(accounts)
        return problem_of(await post(self._client.socket, "/build", packed, query=query, headers=headers))


def no_such_image(answer: Answer) -> bool:
    """4.3 answers some of these with 500."""
    return not answer.ok and ("no such image" in answer.message or "image not known" in answer.message)


def _image(body: Mapping[str, Any]) -> Image:
    config = body.get("Config") or {}
    return Image(
        id=body["Id"],
        digest=body.get("Digest") or f"sha256:{body['Id']}",
        user=config.get("User") or body.get("User") or "",
        labels=body.get("Labels") or {},
        sets_home=any(it.startswith("HOME=") for it in config.get("Env") or ()),
        volumes=tuple(sorted(config.get("Volumes") or ())),
        stop_signal=str(config.get("StopSignal") or ""),
    )


def _pull_problem(answer: Answer) -> str:
    """What went wrong: a refusal, or an ``error`` in the report, which is JSON line by line."""
    if not answer.ok:
        return answer.message
    reports = [answer.body] if isinstance(answer.body, dict) else []
    if isinstance(answer.body, str):
        try:
            reports = [json.loads(line) for line in answer.body.splitlines() if line.strip()]
        except ValueError:
            return f"its report cannot be read: {answer.body[:200]}"
    if problems := [str(report["error"]) for report in reports if report.get("error")]:
        return problems[0]
    return "" if any(report.get("id") for report in reports) else "the report of the pull was cut short: unexpected EOF"


def _credentials(authfile: Path | None, image: str) -> dict[str, str]:
    """A header with the account for the image's registry, or for the longest path of it."""
    accounts = accounts_for(authfile, image)
    places = [place for place in accounts if image.startswith(f"{place}/")]
    if not places:
        return {}
    user, password = accounts[max(places, key=len)]
    secret = base64.urlsafe_b64encode(json.dumps({"username": user, "password": password}).encode())
    return {"X-Registry-Auth": secret.decode()}
