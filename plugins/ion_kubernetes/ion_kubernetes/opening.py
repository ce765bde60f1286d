"""Opening the executor: that it may do what it has to, and that its pods are taken, is seen before the first job."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator, Mapping
from contextlib import asynccontextmanager
from typing import Any

from ion_core.contracts.executor import Executor, JobSpec, ModuleSpec
from ion_core.errors import ConfigError
from ion_kubernetes import names
from ion_kubernetes.api import CONFIG_MAPS, PODS, Api, open_api
from ion_kubernetes.as_jobs import KubernetesJobExecutor
from ion_kubernetes.credentials import open_credentials
from ion_kubernetes.executor import KubernetesExecutor
from ion_kubernetes.pods import Wanted
from ion_kubernetes.refusals import ApiRefused, ApiUnavailable
from ion_kubernetes.rights import needed
from ion_kubernetes.settings import KubernetesSettings
from ion_kubernetes.watch import PodWatch

logger = logging.getLogger(__name__)

OLDEST = (1, 30)
"""Scheduling gates are there for good since then."""


@asynccontextmanager
async def open_kubernetes_executor(settings: KubernetesSettings) -> AsyncIterator[Executor]:
    """Raises ConfigError for what cannot work, TransientError where the API server does not answer."""
    async with (
        open_credentials(settings) as credentials,
        open_api(credentials, settings.namespace, timeout=settings.timeout.total_seconds()) as api,
        opened(api, settings) as executor,
    ):
        yield executor


@asynccontextmanager
async def opened(api: Api, settings: KubernetesSettings) -> AsyncIterator[KubernetesExecutor]:
    """The executor of an API that is open."""
    await _check(api, settings)
    owner = await _owner(api, settings)
    await _check_pod(api, settings, owner)
    watch = PodWatch(api, names.MANAGED_BY, told=lambda state: executor.told(state))
    made = KubernetesJobExecutor if settings.object == "job" else KubernetesExecutor
    executor = made(api, watch, settings, owner)
    await watch.refreshed()
    watching = asyncio.create_task(watch.run(), name="watch of pods")
    watching.add_done_callback(lambda task: _ended(task, executor))
    try:
        yield executor
    finally:
        await executor.close()
        watching.cancel()
        await asyncio.gather(watching, return_exceptions=True)


def _ended(watching: asyncio.Task[None], executor: KubernetesExecutor) -> None:
    if watching.cancelled():
        return
    logger.error("the watch of pods failed", exc_info=watching.exception())
    executor.fail("the watch of pods failed. Start again: jobs that run are found then.")


async def _check(api: Api, settings: KubernetesSettings) -> None:
    where = settings.section.where("namespace")
    version = await _version(api, settings)
    if version < OLDEST:
        have, need = ".".join(map(str, version)), ".".join(map(str, OLDEST))
        raise ConfigError(
            f"{settings.section.where()}: Kubernetes there is {have}, and {need} is the oldest that will do."
        )
    rights = needed(settings)
    answers = await asyncio.gather(*(api.allows(verb, what, below=below) for verb, what, below in rights))
    missing = [
        f"{verb} {what.plural}{f'/{below}' if below else ''}"
        for (verb, what, below), allowed in zip(rights, answers, strict=True)
        if not allowed
    ]
    if missing:
        raise ConfigError(
            f"{where}: in namespace {settings.namespace!r} we may not {', '.join(missing)}. Give these rights to "
            "the user or service account that Ion has there: `ion-core kubernetes manifests` prints a Role with them."
        )


async def _version(api: Api, settings: KubernetesSettings) -> tuple[int, int]:
    """Later a 401 may pass, by credentials that are renewed; at the start it is those that were given."""
    try:
        return await api.version()
    except ApiUnavailable as error:
        if error.status != 401:
            raise
        where = settings.section.where("kubeconfig" if settings.kubeconfig is not None else "")
        raise ConfigError(
            f"{where}: the API server does not know who we are: look at the credentials, which may be wrong or expired "
            "(HTTP status 401)."
        ) from error


async def _owner(api: Api, settings: KubernetesSettings) -> Mapping[str, Any] | None:
    """An ownerReference of the ConfigMap that is named."""
    if settings.owner is None:
        return None
    try:
        found = await api.get(CONFIG_MAPS, settings.owner)
    except ApiRefused as error:
        why = f"there is no ConfigMap {settings.owner!r}" if error.not_found else error.message
        raise ConfigError(
            f"{settings.section.where('owner')}: {why} in namespace {settings.namespace!r}. Make it, or leave this out."
        ) from error
    return {"apiVersion": "v1", "kind": "ConfigMap", "name": settings.owner, "uid": found["metadata"]["uid"]}


async def _check_pod(api: Api, settings: KubernetesSettings, owner: Mapping[str, Any] | None) -> None:
    """A pod as they will be, made for show: what policies and settings forbid is known now, not of each job."""
    module = ModuleSpec(name="check", image=settings.handler_image)
    wanted = Wanted(spec=JobSpec(name="ion-check", module=module, settings=b"{}"), settings=settings, owner=owner)
    try:
        await api.create(PODS, wanted.pod(), dry_run=True)
    except ApiRefused as error:
        if error.over_quota or error.already_exists:
            return
        if error.not_found and error.details.get("kind") == "namespaces":
            raise ConfigError(
                f"{settings.section.where('namespace')}: there is no namespace {settings.namespace!r}. Make it, which "
                "`ion-core kubernetes manifests` prints all for, or name another."
            ) from error
        raise ConfigError(
            f"{settings.section.where()}: Kubernetes refuses pods as they would be made: {error.message or error}"
        ) from error
