"""The kit of an installed provider, for `ion-core plugins test`: what it takes no hook for, or one that all have.

pytest loads this as a plugin, and the module that the command writes asks it for ``kits``. What became of each rule
goes to the command by a pipe, a line of JSON each; ``{"away": …}`` is why what the provider needs does not answer.
"""

from __future__ import annotations

import asyncio
import json
import os
import pickle
from collections.abc import AsyncIterator, Mapping
from contextlib import AbstractAsyncContextManager, AsyncExitStack, asynccontextmanager
from pathlib import Path
from typing import Any

import pytest
import pytest_asyncio
from pydantic import BaseModel

from ion_core.contracts.provider import Provider, Reach
from ion_core.contracts.settings import Section
from ion_core.errors import ConfigError, TransientError
from ion_core.registry import Kind, load_plugins
from ion_core.testing import blobs, documents, executor, messaging, observers, provider, runtime, services
from ion_core.testing.kit import Conformance
from ion_core.testing.told import sentences

ASKED = "asked.json"
PIPE = "ION_CORE_KIT_PIPE"
MODULE = "test_installed"
"""What asks for ``kits``."""

_KITS: Mapping[Kind, tuple[type[Conformance], str]] = {
    Kind.MESSAGE_BROKER: (messaging.MessageBrokerConformance, "broker"),
    Kind.CONTAINER_RUNTIME: (runtime.ContainerRuntimeConformance, "runtime"),
    Kind.EXECUTOR: (executor.ExecutorConformance, "executor"),
    Kind.BLOB_STORE: (blobs.BlobStoreConformance, "blobs"),
    Kind.DOCUMENT_STORE: (documents.DocumentStoreConformance, "documents"),
    Kind.SERVICE: (services.ServiceConformance, "service"),
}


def kits(directory: Path) -> Mapping[str, type[Conformance]]:
    """The kit of its contract, and that of providers of what is one, for what ``directory`` says that was asked for."""
    asked = json.loads((directory / ASKED).read_text(encoding="utf-8"))
    kind, state = Kind(asked["kind"]), directory / "state"
    state.mkdir(exist_ok=True)
    registry = load_plugins()
    chosen = registry.choose(kind, asked["name"], where="plugins test")
    if kind is Kind.OBSERVER:
        (plugin,) = registry.hooks_of(asked["name"]).get_plugins()
        return _listed({"TestInstalled": _of_observer(plugin, asked["settings"])})
    context = {"section": Section(key="kit.installed"), "state": state, "base": Path(asked["base"])}
    settings = chosen.settings.model_validate(asked["settings"], context=context)
    kit, fixture = _KITS[kind]

    @pytest_asyncio.fixture(name=fixture)
    async def opened(self: Any) -> AsyncIterator[Any]:
        async with _reached(chosen, settings) as it:
            if kind in (Kind.BLOB_STORE, Kind.DOCUMENT_STORE) and await _has_something(kind, it):
                pytest.exit(
                    f"{asked['name']}: has something in it. The kit takes a place of its own, with nothing in it."
                )
            yield it

    def reopen(self: Any) -> AbstractAsyncContextManager[Any]:
        return chosen.open(settings)

    def opening(self: Any) -> Any:
        return chosen.open, settings

    hooks: dict[str, Any] = dict.fromkeys(kit.hooks())
    if not _is_of_this_process(settings):
        hooks |= {"reopen": reopen} if "reopen" in hooks else {}
        hooks |= {"opening": opening} if "opening" in hooks and _can_be_sent(chosen.open, settings) else {}
    more = asyncio.run(_offered(kind, chosen, settings, asked["image"]))
    if asked["patience"] is not None:
        more["patience"] = asked["patience"]
    told = getattr(settings, "publishes", None)
    if kind is Kind.SERVICE and callable(told):
        more["event_types"] = sorted({*told().values()}) or kit.event_types  # type: ignore[attr-defined]
    found = {"TestProvider": _of_provider(chosen, asked["settings"])}
    found["TestInstalled"] = type("TestInstalled", (kit,), {"__module__": MODULE, "opened": opened, **hooks, **more})
    return _listed(found)


@asynccontextmanager
async def _reached(chosen: Provider[Any], settings: BaseModel) -> AsyncIterator[Any]:
    """It, opened. What cannot be, or is not there, keeps no rule, and breaks none: that ends the run."""
    async with AsyncExitStack() as stack:
        try:
            it = await stack.enter_async_context(chosen.open(settings))
        except ConfigError as error:
            pytest.exit(str(error))
        except TransientError as error:
            _tell({"away": str(error)})  # while tests are collected, pytest ends with a code of its own
            pytest.exit(str(error))
        yield it


def _listed(found: Mapping[str, type[Conformance]]) -> Mapping[str, type[Conformance]]:
    """The same, once it is told which rules they have."""
    for it in found.values():
        for rule in sorted(it.rules()):
            why = it.ruled_out().get(rule, "")
            _tell({"rule": rule, "page": it.contract, "outcome": "not tested", "why": why, "sentence": _said(it, rule)})
    return found


def _of_observer(plugin: object, given: Mapping[str, Any]) -> type[Conformance]:
    @pytest.fixture(name="observer")
    def offered(self: Any) -> object:
        return plugin

    def section(self: Any, tmp_path: Path) -> Mapping[str, Any]:
        return given

    names = {"__module__": MODULE, "offered": offered, "section": section}
    return type("TestInstalled", (observers.ObserverConformance,), names)


def _of_provider(chosen: Provider[Any], given: Mapping[str, Any]) -> type[Conformance]:
    @pytest.fixture(name="provider")
    def offered(self: Any) -> Provider[Any]:
        return chosen

    def section(self: Any, tmp_path: Path) -> Mapping[str, Any]:
        return given

    names = {"__module__": MODULE, "offered": offered, "section": section, "unusable": None, "not_set_up": None}
    return type("TestProvider", (provider.ProviderConformance,), names)


async def _offered(kind: Kind, chosen: Provider[Any], settings: BaseModel, image: str | None) -> dict[str, Any]:
    """What the kit has to know of a runtime or an executor."""
    if kind not in (Kind.CONTAINER_RUNTIME, Kind.EXECUTOR):
        return {}
    async with _reached(chosen, settings) as it:
        offers = it.capabilities
    if offers.images and image is None:
        pytest.exit("name an image with /bin/sh that it can run: --image NAME.")
    known: dict[str, Any] = {"image": image if offers.images else None}
    if kind is Kind.CONTAINER_RUNTIME:
        return known | {"takes_source": not offers.images}
    if offers.reach is Reach.NETWORK:
        pytest.exit("its jobs run on other machines: subclass the kit, with stores that they reach (docs/contracts).")
    return known | {"limits_memory": offers.memory_limit}


async def _has_something(kind: Kind, store: Any) -> bool:
    found = store.list("") if kind is Kind.BLOB_STORE else store.find(limit=1)
    async for _ in found:
        return True
    return False


def _is_of_this_process(settings: BaseModel) -> bool:
    """What is opened again is another one then."""
    tell = getattr(settings, "location", None)
    return callable(tell) and tell().reach is Reach.PROCESS


def _can_be_sent(*those: object) -> bool:
    """To a process of their own, by names that can be imported there."""
    try:
        pickle.dumps(those)
    except (pickle.PicklingError, TypeError, AttributeError):
        return False
    return True


def _said(kit: type[Conformance], rule: str) -> str | None:
    return sentences().get((kit.contract, rule))


def pytest_runtest_logreport(report: pytest.TestReport) -> None:
    kit, _, test = report.nodeid.rpartition("::")
    page = provider.ProviderConformance.contract if kit.endswith("::TestProvider") else ""
    if report.failed:
        crash = getattr(report.longrepr, "reprcrash", None)
        why = str(report.longrepr) if crash is None else crash.message
        _tell({"rule": test.removeprefix("test_"), "page": page, "outcome": "broken", "why": why})
    elif report.when == "call" and report.passed:
        _tell({"rule": test.removeprefix("test_"), "page": page, "outcome": "kept", "why": ""})


def _tell(said: Mapping[str, Any]) -> None:
    if (pipe := os.environ.get(PIPE)) is not None:
        os.write(int(pipe), f"{json.dumps(said)}\n".encode())
