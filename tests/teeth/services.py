"""Broken services and registrations."""

from __future__ import annotations

import asyncio
import contextlib
import os
import secrets
import time
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from dataclasses import fields, replace
from pathlib import Path
from types import SimpleNamespace
from typing import Any, Literal, TypeVar

import pytest
from pydantic import BaseModel, ConfigDict, Field, SecretStr, field_validator

from ion_core.contracts import CONTRACT_VERSION
from ion_core.contracts.provider import Finding, Location, PlainOpening, Provider, Reach
from ion_core.contracts.runtime import RuntimeCapabilities
from ion_core.contracts.settings import Secret, Section, Settings, Unfit
from ion_core.embedded.memory.blobs import open_memory_blobs
from ion_core.errors import ConfigError, IonError, NotSetUpHere, StateError, StorageFull, TransientError
from ion_core.testing.provider import ProviderConformance
from ion_core.testing.services import ServiceConformance
from tests.conformance.memory_service import MemoryService, MemoryServiceSettings, Poke
from tests.teeth.harness import Mutants, Open

M = TypeVar("M")


class Services(ServiceConformance):
    patience = 5.0
    quiet = 0.05
    ends_within = 0.3
    held_up = 0.1

    async def cause_event(self, service: MemoryService) -> str:
        service.poke("photo.received", files={"photo.jpg": b"a photo"})
        return "photo.received"

    async def send(self, service: MemoryService, data: Mapping[str, str], files: Mapping[str, bytes]) -> bool:
        return await service.poke("photo.received", data=data, files=files)

    async def cause_look(self, service: MemoryService) -> None:
        service.ask()

    def unservable(self) -> MemoryService:
        return MemoryService(broken=TransientError("memory service: out of order, as the test wants it"))

    def reloads(self) -> list[tuple[MemoryServiceSettings, list[str]]]:
        return [
            (MemoryServiceSettings(), []),
            (MemoryServiceSettings(greeting="hello"), []),
            (MemoryServiceSettings(greeting="hello", place="there"), ["place"]),
        ]


def opening(service: Callable[[], MemoryService]) -> Open:
    @asynccontextmanager
    async def opens(kit: Services) -> AsyncIterator[MemoryService]:
        yield service()

    return opens


SERVICES = Mutants(Services, "service", opening(MemoryService))


def service(rule: str, method: str) -> Callable[[M], M]:
    return SERVICES.breaks(rule, MemoryService, method, opening)


@service("it_says_when_it_serves", "run")
async def never_says_so(self: Any, host: Any, stop: asyncio.Event, ready: asyncio.Event) -> None:
    await MemoryService.run(self, host, stop, asyncio.Event())


@service("it_says_when_it_serves", "run")
async def starts_and_returns(self: Any, host: Any, stop: asyncio.Event, ready: asyncio.Event) -> None:
    ready.set()


@service("it_serves_until_stopped", "run")
async def gives_up(self: Any, host: Any, stop: asyncio.Event, ready: asyncio.Event) -> None:
    ready.set()
    await asyncio.sleep(0.01)


@service("stop_ends_it", "run")
async def never_stops(self: Any, host: Any, stop: asyncio.Event, ready: asyncio.Event) -> None:
    await MemoryService.run(self, host, asyncio.Event(), ready)


@service("stop_ends_it", "run")
async def fails_when_stopped(self: Any, host: Any, stop: asyncio.Event, ready: asyncio.Event) -> None:
    await MemoryService.run(self, host, stop, ready)
    raise IonError("stopped")


@service("a_stop_set_before_ends_it", "run")
async def waits_for_a_first_event(self: Any, host: Any, stop: asyncio.Event, ready: asyncio.Event) -> None:
    await self._poked.get()
    await MemoryService.run(self, host, stop, ready)


@service("cancelling_ends_it", "run")
async def swallows_cancellation(self: Any, host: Any, stop: asyncio.Event, ready: asyncio.Event) -> None:
    try:
        await MemoryService.run(self, host, stop, ready)
    except asyncio.CancelledError:
        return


@service("cancelling_ends_it", "run")
async def ignores_cancellation(self: Any, host: Any, stop: asyncio.Event, ready: asyncio.Event) -> None:
    ready.set()
    for _ in range(3):
        try:
            await stop.wait()
        except asyncio.CancelledError:
            continue


@service("events_go_through_the_host", "_publish")
async def publishes_past_the_host(self: Any, host: Any) -> None:
    await asyncio.Event().wait()


@service("events_go_through_the_host", "_publish")
async def publishes_another_type(self: Any, host: Any) -> None:
    while True:
        await host.publish((await self._poked.get()).type.upper())


@service("an_event_the_host_refuses_does_not_end_it", "_publish")
async def publishes_until_refused(self: Any, host: Any) -> None:
    try:
        while True:
            await host.publish((await self._poked.get()).type)
    except IonError:
        return


@service("an_event_the_host_refuses_does_not_end_it", "run")
async def ends_when_refused(self: Any, host: Any, stop: asyncio.Event, ready: asyncio.Event) -> None:
    ready.set()
    while not stop.is_set():
        await host.publish((await self._poked.get()).type)


@service("an_event_the_host_refuses_does_not_end_it", "run")
async def dies_of_a_full_disk(self: Any, host: Any, stop: asyncio.Event, ready: asyncio.Event) -> None:
    ready.set()
    while not stop.is_set():
        try:
            await host.publish((await self._poked.get()).type)
        except StorageFull:
            raise
        except IonError:
            continue


@service("events_go_through_the_host", "published")
async def publishes_twice(self: Any, host: Any, poke: Poke) -> None:
    await host.publish(poke.type)
    await MemoryService.published(self, host, poke)


TAKEN = "only_what_was_published_is_said_to_be_taken"


@service(TAKEN, "published")
async def says_so_before_it_is(self: Any, host: Any, poke: Poke) -> None:
    poke.answer.set_result(True)
    with contextlib.suppress(IonError):
        await host.publish(poke.type, data=[*poke.data.items()])


@service(TAKEN, "published")
async def says_so_of_what_was_refused(self: Any, host: Any, poke: Poke) -> None:
    with contextlib.suppress(IonError):
        await host.publish(poke.type, data=[*poke.data.items()])
    poke.answer.set_result(True)


@service(TAKEN, "published")
async def says_so_of_what_may_be_taken_later(self: Any, host: Any, poke: Poke) -> None:
    try:
        await host.publish(poke.type, data=[*poke.data.items()])
    except TransientError:
        poke.answer.set_result(True)
    except IonError:
        poke.answer.set_result(False)
    else:
        poke.answer.set_result(True)


ALL = "all_that_is_sent_is_in_the_event"


@service(ALL, "published")
async def drops_data(self: Any, host: Any, poke: Poke) -> None:
    await MemoryService.published(self, host, replace(poke, data={}))


@service(ALL, "published")
async def drops_files(self: Any, host: Any, poke: Poke) -> None:
    await MemoryService.published(self, host, replace(poke, files={}))


@service(ALL, "published")
async def takes_files_for_text(self: Any, host: Any, poke: Poke) -> None:
    files = {name: content.decode(errors="replace").encode() for name, content in poke.files.items()}
    await MemoryService.published(self, host, replace(poke, files=files))


@service("files_stay_until_publish_has_ended", "published")
async def deletes_what_it_publishes(self: Any, host: Any, poke: Poke) -> None:
    upload = host.work / "upload"
    upload.write_bytes(b"a photo")
    publishing = asyncio.ensure_future(host.publish(poke.type, files={"photo.jpg": upload}))
    await asyncio.sleep(0)
    upload.unlink()
    with contextlib.suppress(IonError):
        await publishing
    poke.answer.set_result(True)


@service("what_is_under_way_at_stop_is_answered", "run")
async def leaves_who_waits(self: Any, host: Any, stop: asyncio.Event, ready: asyncio.Event) -> None:
    self._idle = asyncio.Event()
    self._idle.set()
    self._idle.clear = lambda: None
    await MemoryService.run(self, host, stop, ready)


@service("what_is_under_way_at_stop_is_answered", "run")
async def turns_away_who_waits(self: Any, host: Any, stop: asyncio.Event, ready: asyncio.Event) -> None:
    poke = asyncio.ensure_future(self._poked.get())
    ready.set()
    await asyncio.wait({poke, stopped := asyncio.ensure_future(stop.wait())}, return_when=asyncio.FIRST_COMPLETED)
    if not poke.done():
        poke.cancel()
        return
    publishing = asyncio.ensure_future(host.publish(poke.result().type))
    await asyncio.wait({publishing, stopped}, return_when=asyncio.FIRST_COMPLETED)
    poke.result().answer.set_result(publishing.done())
    await publishing


@service("nothing_is_published_once_it_has_ended", "run")
async def goes_on_when_it_has_ended(self: Any, host: Any, stop: asyncio.Event, ready: asyncio.Event) -> None:
    self.left = asyncio.create_task(self._publish(host))
    ready.set()
    await stop.wait()


@service("the_event_loop_is_not_held_up", "published")
async def holds_up_the_loop(self: Any, host: Any, poke: Poke) -> None:
    time.sleep(0.3)  # noqa: ASYNC251
    await MemoryService.published(self, host, poke)


@service("nothing_is_left_in_its_work_directory", "_publish")
async def leaves_what_it_took(self: Any, host: Any) -> None:
    while True:
        event_type = (await self._poked.get()).type
        upload = host.work / "upload"
        upload.write_bytes(b"a photo")
        with contextlib.suppress(IonError):
            await host.publish(event_type, files={"photo.jpg": upload})


@service("nothing_is_left_in_its_work_directory", "_publish")
async def leaves_what_was_refused(self: Any, host: Any) -> None:
    while True:
        event_type = (await self._poked.get()).type
        upload = host.work / secrets.token_hex(4)
        upload.write_bytes(b"a photo")
        with contextlib.suppress(IonError):
            await host.publish(event_type, files={"photo.jpg": upload})
            upload.unlink()


@service("what_the_host_cannot_tell_does_not_end_it", "run")
async def ends_when_it_is_not_told(self: Any, host: Any, stop: asyncio.Event, ready: asyncio.Event) -> None:
    ready.set()
    while not stop.is_set():
        await self._asked.get()
        await host.flows()


@service("what_the_host_cannot_tell_does_not_end_it", "_look")
async def looks_until_it_is_not_told(self: Any, host: Any) -> None:
    with contextlib.suppress(IonError):
        while True:
            await self._asked.get()
            await host.flows()


@service("reload_names_what_takes_a_restart", "reload")
def says_that_all_is_taken_over(self: Any, settings: MemoryServiceSettings) -> list[str]:
    self.settings = settings
    return []


@service("reload_names_what_takes_a_restart", "reload")
def compares_with_what_it_was_told_last(self: Any, settings: MemoryServiceSettings) -> list[str]:
    before, self.settings = self.settings, settings
    return [] if before.place == settings.place else ["place"]


class GivesUp(MemoryService):
    def __init__(self) -> None:
        super().__init__()
        self._told = asyncio.Event()

    def reload(self, settings: MemoryServiceSettings) -> list[str]:
        self._told.set()
        return []

    async def run(self, host: Any, stop: asyncio.Event, ready: asyncio.Event) -> None:
        ready.set()
        await self._told.wait()


SERVICES.add("reload_does_not_end_it", GivesUp.__name__, opening(GivesUp))


@service("reload_does_not_end_it", "reload")
def publishes_no_more(self: Any, settings: MemoryServiceSettings) -> list[str]:
    self._poked = asyncio.Queue()
    return []


class Optimist(MemoryService):
    async def run(self, host: Any, stop: asyncio.Event, ready: asyncio.Event) -> None:
        if self.broken is not None:
            ready.set()
        await super().run(host, stop, ready)


class Retrying(MemoryService):
    async def run(self, host: Any, stop: asyncio.Event, ready: asyncio.Event) -> None:
        await stop.wait()


class Raw(MemoryService):
    async def run(self, host: Any, stop: asyncio.Event, ready: asyncio.Event) -> None:
        raise OSError(98, "Address already in use")


for broken in (Optimist, Retrying, Raw):
    SERVICES.add(
        "what_keeps_it_from_serving_is_raised",
        broken.__name__,
        unservable=lambda self, broken=broken: broken(broken=TransientError("out of order")),
    )

# Providers


class StoreSettings(Settings):
    path: Path = Field(Path("blobs"), description="Where blobs would be.")
    url: Secret = Field(SecretStr("shelf://me:sesame@host/"), description="Where they really are.")

    readers: tuple[str, ...] = Field(("one", "two"), description="Modules that read in it.")
    colour: str = Field("blue", description="What it looks like.")

    @field_validator("colour")
    @classmethod
    def _colour(cls, value: str) -> str:
        if not value.isalpha():
            raise Unfit(f'must be a colour (got "{value}")')
        return value

    def location(self) -> Location:
        return Location(where=str(self.path), reach=Reach.MACHINE)

    def modules(self) -> Mapping[str, str]:
        return {f"readers[{n}]": name for n, name in enumerate(self.readers)}

    def findings(self) -> Iterable[Finding]:
        severity: Literal["warning", "error"] = "error" if self.path.name == "unusable" else "warning"
        yield Finding(severity=severity, where=self.section.where("path"), text="is a path")


@asynccontextmanager
async def open_store(settings: StoreSettings) -> AsyncIterator[Any]:
    if "STORE_KEY" not in os.environ and settings.path.name == "locked":
        raise NotSetUpHere(f"{settings.section.where()}: nothing says how to open {settings.path}. Set $STORE_KEY.")
    if settings.path.name == "unusable":
        raise StateError(f"{settings.path}: cannot be used")
    async with open_memory_blobs() as blobs:
        yield blobs


class Providers(ProviderConformance):
    patience = 5.0

    def section(self, tmp_path: Path) -> dict[str, Any]:
        return {"path": str(tmp_path / "blobs")}

    def unusable(self, tmp_path: Path) -> dict[str, Any]:
        return {"path": str(tmp_path / "unusable")}

    def not_set_up(self, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> dict[str, Any]:
        monkeypatch.delenv("STORE_KEY", raising=False)
        return {"path": str(tmp_path / "locked")}


GOOD: Provider[Any] = Provider(
    name="store", settings=StoreSettings, open=open_store, contract="1.0", plain=f"{__name__}:plain_good"
)


def registering(provider: Provider[Any]) -> Open:
    @asynccontextmanager
    async def opens(kit: Providers) -> AsyncIterator[Provider[Any]]:
        yield provider

    return opens


class Lenient(BaseModel):
    path: Path = Field(Path("blobs"), description="Where blobs would be.")


class NamingInItsOwnWords(StoreSettings):
    def modules(self) -> Any:
        return [*self.readers]


class NamingElsewhere(StoreSettings):
    def modules(self) -> Mapping[str, str]:
        return dict.fromkeys(("readers[0]", "readers[1]"), "two")


class Quoting(StoreSettings):
    @field_validator("url", mode="before")
    @classmethod
    def _address(cls, value: Any) -> Any:
        if not str(value).startswith("shelf://"):
            raise Unfit(f"{value} is no address of a shelf")
        return value


class QuotingAPart(StoreSettings):
    @field_validator("url", mode="before")
    @classmethod
    def _address(cls, value: Any) -> Any:
        if not str(value).startswith("shelf://"):
            raise Unfit(f'must begin with shelf://, not "{str(value)[:8]}" (got "{value}")')
        return value


class Missing(StoreSettings):
    def findings(self) -> Iterable[Finding]:
        yield Finding(
            severity="error" if "STORE_KEY" not in os.environ and self.path.name == "locked" else "info",
            where=self.section.where("path"),
            text="$STORE_KEY is not set",
        )


@asynccontextmanager
async def open_blames_settings(settings: Any) -> AsyncIterator[Any]:
    raise ConfigError(f"{settings.section.where('path')}: nothing says how to open it")
    yield


@asynccontextmanager
async def open_names_no_section(settings: Any) -> AsyncIterator[Any]:
    raise NotSetUpHere("$STORE_KEY is not set")
    yield


class Terse(Settings):
    path: Path = Path("blobs")


class Nowhere(StoreSettings):
    def location(self) -> Location:
        return Location(where="", reach=None)


class InItsOwnWords(StoreSettings):
    def location(self) -> Any:
        return str(self.path)


class FarAway(StoreSettings):
    def location(self) -> Location:
        return Location(where="host", reach="everywhere")  # type: ignore[arg-type]


class Talkative(StoreSettings):
    def location(self) -> Location:
        return Location(where=self.url.get_secret_value(), reach=Reach.NETWORK)


class Careless(StoreSettings):
    def location(self) -> Location:
        return Location(where="shelf://host/ (password: sesame)", reach=Reach.NETWORK)


class Alarmed(StoreSettings):
    def findings(self) -> Iterable[Finding]:
        yield Finding(severity="error", where=self.section.where("path"), text="is a path")


class Misplaced(StoreSettings):
    def findings(self) -> Iterable[Finding]:
        yield Finding(severity="warning", where="path", text="is a path")


class Blurting(StoreSettings):
    def findings(self) -> Iterable[Finding]:
        yield Finding(severity="info", where=self.section.where("url"), text=f"is {self.url.get_secret_value()}")


class Chatting(StoreSettings):
    def findings(self) -> Any:
        return ["the path is a path"]


def offering(**more: Any) -> RuntimeCapabilities:
    everything = {it.name: True for it in fields(RuntimeCapabilities) if it.type == "bool"}
    return RuntimeCapabilities(**{**everything, "networks": frozenset({"none"}), **more})


class Promising(StoreSettings):
    def capabilities(self) -> Any:
        return offering()


class PromisingInItsOwnWords(StoreSettings):
    def capabilities(self) -> Any:
        return "gpus"


@asynccontextmanager
async def open_offers_less(settings: Any) -> AsyncIterator[Any]:
    yield SimpleNamespace(capabilities=offering(gpus=False))


@asynccontextmanager
async def open_hangs(settings: Any) -> AsyncIterator[Any]:
    await asyncio.Event().wait()
    yield


@asynccontextmanager
async def open_lets_os_errors_out(settings: Any) -> AsyncIterator[Any]:
    raise OSError(20, "Not a directory")
    yield


@asynccontextmanager
async def open_puts_it_off(settings: Any) -> AsyncIterator[Any]:
    yield object()


class Unplaced(BaseModel):
    model_config = ConfigDict(extra="forbid")
    path: Path = Field(Path("blobs"), description="Where blobs would be.")


class Elsewhere(StoreSettings):
    @property
    def section(self) -> Section:
        return Section(key="storage.blobs")


@asynccontextmanager
async def open_names_another_section(settings: Any) -> AsyncIterator[Any]:
    raise ConfigError(f"storage.blobs.path: {settings.path} cannot be used")
    yield


def opens_once() -> Callable[[Any], Any]:
    opened: list[Any] = []

    @asynccontextmanager
    async def opens(settings: Any) -> AsyncIterator[Any]:
        if opened:
            raise StateError("is locked by an earlier opening")
        opened.append(settings)
        yield object()

    return opens


def _plain(where: str = "blobs", told: Section | None = None, opens: Any = open_store) -> PlainOpening:
    def plainly(section: Section, values: Mapping[str, Any]) -> Any:
        if values.keys() != {"path"}:
            return None
        settings = StoreSettings.model_validate({"path": Path(values["path"]).with_name(where)})
        settings._section = told or section
        return settings, opens

    return plainly


def plain_taking_anything(section: Section, values: Mapping[str, Any]) -> Any:
    return _plain()(section, {"path": values["path"]})


plain_good = _plain()
plain_elsewhere = _plain(where="another")
plain_of_another_section = _plain(told=Section(key="storage.blobs"))
plain_hanging = _plain(opens=open_hangs)
plain_once = _plain(opens=opens_once())

LATER = f"{CONTRACT_VERSION.partition('.')[0]}.{int(CONTRACT_VERSION.partition('.')[2]) + 1}"

PROVIDERS = Mutants(Providers, "provider", registering(GOOD))
for rule, name, changed in (
    ("a_name_is_lower_case", "shouts", {"name": "Store One"}),
    ("the_contract_is_of_our_major_version", "is_older", {"contract": "0.9"}),
    ("the_contract_is_of_our_major_version", "has_no_version", {"contract": "latest"}),
    ("the_contract_is_no_newer_than_ours", "is_newer", {"contract": LATER}),
    ("settings_know_their_section", "are_any_model", {"settings": Unplaced}),
    ("settings_know_their_section", "say_another", {"settings": Elsewhere}),
    ("a_refusal_names_its_section", "names_another", {"open": open_names_another_section}),
    ("a_refusal_names_its_section", "opens_all_the_same", {"open": open_puts_it_off}),
    ("unknown_settings_are_refused", "takes_any_setting", {"settings": Lenient}),
    ("settings_can_be_described", "describes_nothing", {"settings": Terse}),
    ("a_location_is_told_without_secrets", "is_nowhere", {"settings": Nowhere}),
    ("a_location_is_told_without_secrets", "tells_it_in_its_own_words", {"settings": InItsOwnWords}),
    ("a_location_is_told_without_secrets", "reaches_everywhere", {"settings": FarAway}),
    ("a_location_is_told_without_secrets", "shows_its_url", {"settings": Talkative}),
    ("a_location_is_told_without_secrets", "shows_its_password", {"settings": Careless}),
    ("what_can_be_opened_has_no_errors", "raises_an_alarm", {"settings": Alarmed}),
    ("what_can_be_opened_has_no_errors", "names_no_section", {"settings": Misplaced}),
    ("what_can_be_opened_has_no_errors", "shows_its_url", {"settings": Blurting}),
    ("what_can_be_opened_has_no_errors", "finds_it_in_its_own_words", {"settings": Chatting}),
    (
        "capabilities_that_are_told_are_those_it_has",
        "promises_more",
        {"settings": Promising, "open": open_offers_less},
    ),
    ("capabilities_that_are_told_are_those_it_has", "in_its_own_words", {"settings": PromisingInItsOwnWords}),
    ("modules_that_settings_name_are_told", "in_its_own_words", {"settings": NamingInItsOwnWords}),
    ("modules_that_settings_name_are_told", "at_another_key", {"settings": NamingElsewhere}),
    ("unfit_shows_no_value", "quotes_it", {"settings": Quoting}),
    ("unfit_shows_no_value", "quotes_a_part", {"settings": QuotingAPart}),
    ("what_a_machine_lacks_is_told_apart", "blames_settings", {"open": open_blames_settings}),
    ("what_a_machine_lacks_is_told_apart", "names_no_section", {"open": open_names_no_section}),
    ("what_a_machine_lacks_is_told_apart", "finds_it", {"settings": Missing}),
    ("what_a_machine_lacks_is_told_apart", "opens_all_the_same", {"open": open_puts_it_off}),
    *(
        ("a_plain_opening_is_the_same_store", name, {"plain": f"{__name__}:plain_{name}"})
        for name in ("taking_anything", "elsewhere", "of_another_section", "hanging", "once", "missing")
    ),
    ("it_opens_again_after_closing", "opens_once", {"open": opens_once()}),
    ("it_opens_again_after_closing", "hangs", {"open": open_hangs}),
    ("what_cannot_be_opened_is_refused", "lets_os_errors_out", {"open": open_lets_os_errors_out}),
    ("what_cannot_be_opened_is_refused", "puts_it_off", {"open": open_puts_it_off}),
):
    PROVIDERS.add(rule, name, registering(replace(GOOD, **changed)))
