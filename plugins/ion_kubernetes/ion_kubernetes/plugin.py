"""Registers the Kubernetes executor. Its code is imported when it is opened."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING

import click

from ion_core.contracts.provider import Provider
from ion_core.hookspecs import hookimpl
from ion_kubernetes.settings import KubernetesSettings

if TYPE_CHECKING:
    from ion_core.contracts.executor import Executor


def _kubernetes_executor(settings: KubernetesSettings) -> AbstractAsyncContextManager[Executor]:
    from ion_kubernetes.opening import open_kubernetes_executor

    return open_kubernetes_executor(settings)


@hookimpl
def ion_executors() -> Iterable[Provider[Executor]]:
    yield Provider(name="kubernetes", settings=KubernetesSettings, open=_kubernetes_executor, contract="1.2")


@hookimpl
def ion_commands() -> Iterable[click.Command]:
    from ion_kubernetes.commands import kubernetes

    return [kubernetes]
