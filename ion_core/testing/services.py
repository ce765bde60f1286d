"""The service kit: ``docs/contracts/services.md`` as tests, one for each rule and of its name."""

from __future__ import annotations

import asyncio
import tempfile
from collections.abc import AsyncIterator, Awaitable, Callable, Collection, Iterator, Mapping, Sequence
from contextlib import asynccontextmanager, contextmanager
from dataclasses import dataclass
from pathlib import Path
from typing import Any, ClassVar

from ion_core.contracts.service import Reloads, Service
from ion_core.errors import (
    ConfigError,
    InvalidCursor,
    InvalidEvent,
    IonError,
    MessageRefused,
    PermanentError,
    PluginFailed,
    StateError,
    StorageFull,
    TransientError,
    Unroutable,
)
from ion_core.testing.host import Host
from ion_core.testing.kit import Conformance, in_brief, needs, refused, undeclared
from ion_core.testing.loops import EVERY, watched_loop

REFUSALS = (
    Unroutable("no module takes it"),
    InvalidEvent("it is no event"),
    MessageRefused("the broker takes no such message"),
    PermanentError("a file cannot be read"),
    TransientError("the store is away"),
    StorageFull("the disk is full"),
    StateError("the state cannot be used"),
    ConfigError("a provider cannot be used as it is set up"),
    PluginFailed("a provider is at fault"),
)
"""Of each kind that ``publish`` may raise, one."""
SENT: Sequence[tuple[Mapping[str, str], Mapping[str, bytes]]] = (
    ({"greeting": "grüß Gott 🙂", "empty": ""}, {}),
    ({"caption": "two files"}, {"photo.jpg": b"\xff\xd8 a photo\r\n\x00", "notes.txt": "naïve\n".encode() * 10_000}),
)
"""Data and files of events."""


@dataclass(frozen=True, kw_only=True)
class Serving:
    """A service that has said it is ready."""

    host: Host
    stop: asyncio.Event
    running: asyncio.Task[None]


class ServiceConformance(Conformance):
    """Every rule of the service contract. Subclass it, give it the fixture and the hooks::

        class TestMyGateway(ServiceConformance):
            @pytest_asyncio.fixture
            async def service(self):
                async with open_my_gateway(MySettings(listen="127.0.0.1:0")) as service:
                    yield service

            async def cause_event(self, service):   # None for a service that never publishes
                await post(service.url)             # whatever the answer is
                return "photo.received"             # the type the host must have been asked to publish

            async def send(self, service, data, files):     # None where nobody is told what became of it
                answer = await post(service.url, data, files)   # texts by name, and bytes by the name of their file
                return answer.status == 202         # whether the event is said to have been taken

            async def cause_look(self, service):    # None for a service that looks at nothing
                await get(service.url + "/flows")   # whatever the answer is

            def unservable(self):                   # None for a service that nothing can keep from serving
                return a_gateway_whose_port_is_taken()

            def reloads(self):                      # None for a service without ``reload``
                return [(my_settings(), []), (my_settings(listen="127.0.0.1:1"), ["listen"])]

    ``service``      an open service, not run yet.
    ``event_types``  the types that the host says are taken (those that ``cause_event`` returns, at least).
    ``held_up``      seconds for which it may keep the event loop from turning (0.5).
    ``ends_within``  seconds it may take to end once it has been told to (5).
    ``patience``     seconds to wait for what must happen (10); ``quiet`` for what must not (0.3).
    """

    contract = "services"
    ends_within: ClassVar[float] = 5.0
    held_up: ClassVar[float] = 0.5
    event_types: ClassVar[Sequence[str]] = ("photo.received",)
    cause_event: Callable[..., Awaitable[str]] | None = undeclared(
        "cause_event", "async def cause_event(self, service): make it publish, return the event's type"
    )
    send: Callable[..., Awaitable[bool]] | None = undeclared(
        "send", "async def send(self, service, data, files): send it these, return whether they are said to be taken"
    )
    cause_look: Callable[..., Awaitable[None]] | None = undeclared(
        "cause_look", "async def cause_look(self, service): make it look at something that its host shows"
    )
    unservable: Callable[..., Any] | None = undeclared(
        "unservable", "def unservable(self): a service that cannot serve"
    )
    reloads: Callable[..., Sequence[tuple[Any, Collection[str]]]] | None = undeclared(
        "reloads", "def reloads(self): settings to reload, each with the keys that take a restart"
    )

    @asynccontextmanager
    async def serving(self, service: Service) -> AsyncIterator[Serving]:
        with self.host() as host:
            async with self._running(service, host) as serving:
                yield serving

    @contextmanager
    def host(self) -> Iterator[Host]:
        with tempfile.TemporaryDirectory(prefix="ion-kit-") as directory:
            yield Host(Path(directory), taken=self.event_types)

    @asynccontextmanager
    async def _running(self, service: Service, host: Host) -> AsyncIterator[Serving]:
        stop, ready = asyncio.Event(), asyncio.Event()
        running = asyncio.create_task(service.run(host, stop, ready))
        try:
            becoming_ready = asyncio.create_task(ready.wait())
            await asyncio.wait({running, becoming_ready}, timeout=self.patience, return_when=asyncio.FIRST_COMPLETED)
            becoming_ready.cancel()
            assert ready.is_set(), "ready was not set" + (f": run ended, {running}" if running.done() else "")
            yield Serving(host=host, stop=stop, running=running)
        finally:
            stop.set()
            await asyncio.wait({running}, timeout=self.ends_within)
            running.cancel()
            await asyncio.wait({running}, timeout=self.ends_within)

    async def ends(self, running: asyncio.Task[None]) -> None:
        await asyncio.wait({running}, timeout=self.ends_within)
        assert running.done(), f"still running {self.ends_within:g} s after it was told to end"

    async def test_it_says_when_it_serves(self, service: Service) -> None:
        async with self.serving(service) as serving:
            assert not serving.running.done(), "run returned as soon as it had set ready"

    async def test_it_serves_until_stopped(self, service: Service) -> None:
        async with self.serving(service) as serving:
            await self.stays_quiet(asyncio.shield(serving.running), "run returned before stop was set")

    async def test_stop_ends_it(self, service: Service) -> None:
        async with self.serving(service) as serving:
            serving.stop.set()
            await self.ends(serving.running)
            assert serving.running.result() is None

    async def test_a_stop_set_before_ends_it(self, service: Service) -> None:
        stop = asyncio.Event()
        stop.set()
        with self.host() as host:
            running = asyncio.create_task(service.run(host, stop, asyncio.Event()))
            try:
                await self.ends(running)
                assert running.result() is None
            finally:
                running.cancel()
                await asyncio.wait({running}, timeout=self.ends_within)

    async def test_cancelling_ends_it(self, service: Service) -> None:
        async with self.serving(service) as serving:
            serving.running.cancel()
            await self.ends(serving.running)
            assert serving.running.cancelled(), "run must let the cancellation through"

    @needs("cause_event")
    async def test_events_go_through_the_host(self, service: Service) -> None:
        assert self.cause_event is not None
        async with self.serving(service) as serving:
            for _ in range(2):
                expected = await self.within(self.cause_event(service), "cause_event")
                assert await self.within(serving.host.published.get(), "publish through the host") == expected
                await self.stays_quiet(serving.host.published.get(), "one event was published a second time")

    @needs("cause_event")
    async def test_an_event_the_host_refuses_does_not_end_it(self, service: Service) -> None:
        assert self.cause_event is not None
        async with self.serving(service) as serving:
            for error in (*REFUSALS, None):
                serving.host.refusing = error
                await self.within(self.cause_event(service), "cause_event")
                await self.within(serving.host.published.get(), f"publish after {error!r}")
            await self.stays_quiet(asyncio.shield(serving.running), "run ended because an event was refused")

    @needs("send")
    async def test_all_that_is_sent_is_in_the_event(self, service: Service) -> None:
        assert self.send is not None
        async with self.serving(service) as serving:
            for data, files in SENT:
                assert await self.within(self.send(service, data, files), "an answer"), f"{data}, {[*files]}: refused"
                event = serving.host.received.pop()
                assert set(data.items()) <= set(event.data), f"sent {data}, published {event.data}"
                assert {name: in_brief(content) for name, content in event.files.items()} == {
                    name: in_brief(content) for name, content in files.items()
                }

    @needs("send")
    async def test_only_what_was_published_is_said_to_be_taken(self, service: Service) -> None:
        assert self.send is not None
        async with self.serving(service) as serving:
            serving.host.answering.clear()
            sending = asyncio.ensure_future(self.send(service, *SENT[0]))
            await self.within(serving.host.published.get(), "publish")
            await self.stays_quiet(asyncio.shield(sending), "it was answered before publish returned")
            serving.host.answering.set()
            assert await self.within(sending, "an answer"), "it was published, and is said not to be taken"
            for error in REFUSALS:
                serving.host.refusing = error
                taken = await self.within(self.send(service, *SENT[0]), f"an answer after {error!r}")
                assert not taken, f"publish raised {error!r}, and it is said to be taken"

    @needs("send")
    async def test_what_is_under_way_at_stop_is_answered(self, service: Service) -> None:
        assert self.send is not None
        async with self.serving(service) as serving:
            serving.host.answering.clear()
            sending = asyncio.ensure_future(self.send(service, *SENT[0]))
            await self.within(serving.host.published.get(), "publish")
            serving.stop.set()
            await self.stays_quiet(asyncio.shield(sending), "at stop, who was waiting for publish is not any more")
            serving.host.answering.set()
            assert await self.within(sending, "an answer after stop"), "it was published, and is said not to be taken"
            await self.ends(serving.running)

    @needs("cause_event")
    async def test_files_stay_until_publish_has_ended(self, service: Service) -> None:
        assert self.cause_event is not None
        async with self.serving(service) as serving:
            for error in (None, TransientError("later"), None):
                serving.host.refusing = error
                serving.host.answering.clear()
                causing = asyncio.ensure_future(self.cause_event(service))
                await self.within(serving.host.published.get(), "publish")
                await self.a_while()
                serving.host.answering.set()
                await self.within(causing, "cause_event")
            assert not serving.host.unreadable, f"gone before publish had read them: {serving.host.unreadable}"

    @needs("cause_event")
    async def test_nothing_is_published_once_it_has_ended(self, service: Service) -> None:
        assert self.cause_event is not None
        async with self.serving(service) as serving:
            await self.within(self.cause_event(service), "cause_event")
            await self.within(serving.host.published.get(), "publish")
            serving.stop.set()
            await self.ends(serving.running)
            causing = asyncio.ensure_future(self.cause_event(service))  # which nobody may hear any more
            await self.stays_quiet(serving.host.published.get(), "an event was published after run had returned")
            causing.cancel()
            await asyncio.wait({causing}, timeout=self.patience)
            if not causing.cancelled():
                causing.exception()  # such as of a connection that nobody takes

    @needs("cause_event")
    async def test_the_event_loop_is_not_held_up(self, service: Service) -> None:
        assert self.cause_event is not None
        async with self.serving(service) as serving:
            with watched_loop() as turns:
                for error in (None, TransientError("later"), None):
                    serving.host.refusing = error
                    await self.within(self.cause_event(service), "cause_event")
                    await self.within(serving.host.published.get(), f"publish after {error!r}")
                await self.a_while()
            seconds = turns.missed * EVERY
            assert seconds <= self.held_up, f"the event loop stood still for {seconds:.2f} s: all jobs wait meanwhile"

    @needs("cause_event")
    async def test_nothing_is_left_in_its_work_directory(self, service: Service) -> None:
        assert self.cause_event is not None
        async with self.serving(service) as serving:
            for error in (None, InvalidEvent("bad"), TransientError("later"), None):
                serving.host.refusing = error
                await self.within(self.cause_event(service), "cause_event")
                await self.within(serving.host.published.get(), f"publish after {error!r}")
            serving.stop.set()
            await self.ends(serving.running)
            left = sorted(path.name for path in serving.host.work.iterdir())
            assert not left, f"left in the work directory: {left}"

    @needs("cause_look")
    async def test_what_the_host_cannot_tell_does_not_end_it(self, service: Service) -> None:
        assert self.cause_look is not None
        async with self.serving(service) as serving:
            for error in (None, TransientError("away"), InvalidCursor("no cursor"), PermanentError("damaged"), None):
                serving.host.unanswering = error
                await self.within(self.cause_look(service), "cause_look")
                await self.within(serving.host.looked_at.get(), f"a look at the host after {error!r}")
            await self.stays_quiet(asyncio.shield(serving.running), "run ended because of what the host did not tell")

    @needs("reloads")
    async def test_reload_names_what_takes_a_restart(self, service: Reloads) -> None:
        assert self.reloads is not None
        async with self.serving(service):
            for settings, keys in [*self.reloads()] * 2:
                left = service.reload(settings)
                assert sorted(left) == sorted(keys), f"{sorted(keys)} take a restart, it says {left!r}"

    @needs("reloads")
    async def test_reload_does_not_end_it(self, service: Reloads) -> None:
        assert self.reloads is not None
        async with self.serving(service) as serving:
            for settings, _ in self.reloads():
                service.reload(settings)
                await self.stays_quiet(asyncio.shield(serving.running), "run ended because of reload")
            if self.cause_event is not None:
                await self.within(self.cause_event(service), "cause_event")
                await self.within(serving.host.published.get(), "publish after reload")

    @needs("unservable")
    async def test_what_keeps_it_from_serving_is_raised(self, service: Service) -> None:
        assert self.unservable is not None
        ready = asyncio.Event()
        with self.host() as host, refused(IonError):
            await self.within(self.unservable().run(host, asyncio.Event(), ready), "the error")
        assert not ready.is_set(), "it cannot serve and said that it does"
