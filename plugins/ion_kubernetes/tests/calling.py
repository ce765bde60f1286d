"""An ``Api`` of the fake cluster, for tests that are not about credentials."""

from __future__ import annotations

from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, asynccontextmanager
from dataclasses import dataclass
from typing import Any

from ion_kubernetes.api import Api, open_api
from plugins.ion_kubernetes.tests.fake.node import Life
from plugins.ion_kubernetes.tests.fake.server import FakeKubernetes, fake_kubernetes


@dataclass
class Anybody:
    """Credentials of nobody; ``token`` where the cluster wants one."""

    server: str
    token: str | None = None

    async def authorization(self, *, refused: str | None = None) -> str | None:
        return f"Bearer {self.token}" if self.token else None

    def connecting(self) -> Mapping[str, Any]:
        return {}


def api_of(cluster: FakeKubernetes, *, timeout: float = 30) -> AbstractAsyncContextManager[Api]:
    return open_api(Anybody(cluster.url), "ion", timeout=timeout)


@asynccontextmanager
async def cluster_and_api(
    life: Life | None = None, *, timeout: float = 30
) -> AsyncIterator[tuple[FakeKubernetes, Api]]:
    """Every pod lives ``life``; None: all stay as they were made."""
    async with fake_kubernetes(lambda pod: life) as cluster, api_of(cluster, timeout=timeout) as api:
        yield cluster, api
