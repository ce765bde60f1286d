"""The conformance kit: a class of tests for each contract, which a provider's author subclasses.

Needs pytest and pytest-asyncio (``pip install 'ion-core[testing]'``). See ``docs/contracts/README.md``.
"""

import importlib
import pkgutil
from typing import TYPE_CHECKING, Any

import pytest

for _module in pkgutil.iter_modules(__path__):
    pytest.register_assert_rewrite(f"{__name__}.{_module.name}")  # before they are imported: failures show values

if TYPE_CHECKING:
    from ion_core.testing.blobs import BlobStoreConformance
    from ion_core.testing.documents import DocumentStoreConformance
    from ion_core.testing.executor import ExecutorConformance
    from ion_core.testing.messaging import MessageBrokerConformance
    from ion_core.testing.observers import ObserverConformance
    from ion_core.testing.provider import ProviderConformance
    from ion_core.testing.runtime import ContainerRuntimeConformance
    from ion_core.testing.services import ServiceConformance

_WHERE = {
    "BlobStoreConformance": "blobs",
    "ContainerRuntimeConformance": "runtime",
    "DocumentStoreConformance": "documents",
    "ExecutorConformance": "executor",
    "MessageBrokerConformance": "messaging",
    "ObserverConformance": "observers",
    "ProviderConformance": "provider",
    "ServiceConformance": "services",
}

__all__ = [
    "BlobStoreConformance",
    "ContainerRuntimeConformance",
    "DocumentStoreConformance",
    "ExecutorConformance",
    "MessageBrokerConformance",
    "ObserverConformance",
    "ProviderConformance",
    "ServiceConformance",
]


def __getattr__(name: str) -> Any:
    if name not in _WHERE:
        raise AttributeError(f"module {__name__!r} has no attribute {name!r}")
    return getattr(importlib.import_module(f"{__name__}.{_WHERE[name]}"), name)
