"""A provider knows where in the configuration it stands, and under which name; later minor contracts are refused."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator, Callable, Iterable
from contextlib import asynccontextmanager
from pathlib import Path
from textwrap import dedent
from typing import Any

import pytest
from pydantic import BaseModel

from ion_core.app import App, serve
from ion_core.config import Config, load_config
from ion_core.contracts import CONTRACT_VERSION
from ion_core.contracts.provider import Provider
from ion_core.contracts.service import ServiceHost
from ion_core.contracts.settings import Section, Settings, StatePath
from ion_core.errors import ConfigError
from ion_core.events import Event
from ion_core.hookspecs import hookimpl
from ion_core.opening import opened
from ion_core.registry import Kind, load_plugins

MAJOR, MINOR = map(int, CONTRACT_VERSION.split("."))


class Inner(Settings):
    key: str = ""


class GateSettings(Settings):
    path: StatePath = Path("gate")
    listen: str = ""
    tls: Inner = Inner()


class Greeting:
    """A service that publishes one event, and serves then."""

    async def run(self, host: ServiceHost, stop: asyncio.Event, ready: asyncio.Event) -> None:
        await host.publish("start")
        ready.set()
        await stop.wait()


@asynccontextmanager
async def open_gate(settings: GateSettings) -> AsyncIterator[Greeting]:
    if settings.listen == "nowhere":
        raise ConfigError(f"{settings.section.where('listen')}: there is no such place")
    yield Greeting()


class Gates:
    def __init__(self, contract: str = CONTRACT_VERSION) -> None:
        self._contract = contract

    @hookimpl
    def ion_services(self) -> Iterable[Provider[Any]]:
        return [Provider(name="gate", settings=GateSettings, open=open_gate, contract=self._contract)]


@pytest.fixture
def load(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], Config]:
    monkeypatch.chdir(tmp_path)

    def load(text: str) -> Config:
        Path("ion.yaml").write_text(dedent(text))
        return load_config("ion.yaml", registry=load_plugins(extra=[Gates()], entry_points=False), environ={})

    return load


def section_of(settings: BaseModel) -> Section:
    assert isinstance(settings, Settings)
    return settings.section


async def test_two_services_of_one_provider_know_their_names_and_share_no_state(
    load: Callable[[str], Config], tmp_path: Path
) -> None:
    config = load("services:\n  east: {provider: gate}\n  west: {provider: gate}\n")
    for name in ("east", "west"):
        settings = config.services[name].settings
        assert section_of(settings).name == name
        assert settings.model_dump()["path"] == tmp_path / ".ion" / "services" / name / "gate"


def test_every_section_is_told_where_it_stands(load: Callable[[str], Config]) -> None:
    config = load("storage:\n  blobs: {path: here}\nruntimes: {fast: {provider: process}}\nservices: {gate: {}}\n")
    assert section_of(config.messaging.settings).where("lease") == "ion.yaml:1:1: messaging.lease"
    assert section_of(config.blobs.settings).where("path") == "ion.yaml:2:17: storage.blobs.path"
    assert section_of(config.documents.settings).where("path") == "ion.yaml:1:1: storage.documents.path"
    assert section_of(config.runtimes["fast"].settings).dotted("path") == "runtimes.fast.path"
    assert section_of(config.services["gate"].settings).where() == "ion.yaml:4:12: services.gate"


def test_a_key_is_placed_where_it_was_given_or_at_the_nearest_around_it(load: Callable[[str], Config]) -> None:
    config = load("services:\n  gate:\n    listen: here\n    tls:\n      key: x\n")
    settings = config.services["gate"].settings
    section = section_of(settings)
    assert section.where("listen") == "ion.yaml:3:13: services.gate.listen"
    assert section.where("tls.key") == "ion.yaml:5:12: services.gate.tls.key"
    assert section.where("tls.certificate") == "ion.yaml:4:5: services.gate.tls.certificate"
    assert section.where("path") == "ion.yaml:2:3: services.gate.path"
    assert settings.tls.section is section  # type: ignore[attr-defined]


def test_settings_made_by_hand_stand_nowhere() -> None:
    assert GateSettings().section.where("path") == "path"
    assert GateSettings().section.name == ""


async def test_an_error_of_a_provider_names_the_key_that_is_wrong(load: Callable[[str], Config]) -> None:
    config = load("services:\n  west:\n    provider: gate\n    listen: nowhere\n")
    with pytest.raises(ConfigError) as caught:
        async with opened(config.services["west"]):
            pass
    assert caught.value.problems == ("ion.yaml:4:13: services.west.listen: there is no such place",)


async def test_an_embedded_provider_names_its_section_too(load: Callable[[str], Config]) -> None:
    async with App.open(load("storage: {blobs: {path: /dev/null/blobs}}\n")) as app:
        with pytest.raises(ConfigError, match=r"^ion\.yaml:1:25: storage\.blobs\.path: cannot keep blobs in /dev/null"):
            await app.blobs()


async def test_events_of_a_service_carry_the_name_it_has_in_the_configuration(
    load: Callable[[str], Config],
) -> None:
    published: list[Event] = []

    class Watching:
        @hookimpl
        def ion_event_published(self, event: Event) -> None:
            published.append(event)

    load("services: {west: {provider: gate}}\nmodules: {m: {command: ['true'], source: ., subscribes: [start]}}\n")
    registry = load_plugins(extra=[Gates(), Watching()], entry_points=False)
    config = load_config("ion.yaml", registry=registry, environ={})
    assert await serve(config, environ={}, until_idle=True) == 0
    assert [(event.type, event.context.name) for event in published] == [("start", "west")]


@pytest.mark.parametrize(
    ("contract", "would_do"),
    [
        (f"{MAJOR}.{MINOR + 1}", "Update ion-core"),
        (f"{MAJOR + 1}.0", "Update ion-core"),
        (f"{MAJOR - 1}.9", "Update the plugin"),
    ],
)
def test_a_contract_that_we_do_not_have_is_refused_with_what_would_do(contract: str, would_do: str) -> None:
    (broken,) = load_plugins(extra=[Gates(contract)], entry_points=False).broken
    said = f"is written for contract {contract}, this ion-core has {CONTRACT_VERSION}. {would_do}"
    assert broken.cause == f'ion_services: provider "gate": {said}'


def test_a_contract_of_an_earlier_minor_is_taken(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr("ion_core.registry.verify.CONTRACT_VERSION", f"{MAJOR}.{MINOR + 2}")
    registry = load_plugins(extra=[Gates(f"{MAJOR}.{MINOR + 1}")], entry_points=False)
    assert list(registry.names(Kind.SERVICE)) == ["gate"]
