"""The handler's HTTP API: who is answered, with what, in which state."""

from __future__ import annotations

import asyncio
from collections.abc import AsyncIterator
from contextlib import suppress
from dataclasses import dataclass, field
from pathlib import Path

import pytest

from ion_core.handler import HandlerApi, Session
from ion_core.handler.api import MAX_CONNECTIONS, MAX_REQUEST
from tests.support.calls import call, close, send

SECRET = "a-secret-only-this-slot-knows"


@dataclass
class Slot:
    api: HandlerApi
    session: Session = field(default_factory=Session)

    @property
    def env(self) -> dict[str, str]:
        return {"SHARED_SECRET": SECRET, "HANDLER_PORT": str(self.api.port)}


@pytest.fixture
async def slot() -> AsyncIterator[Slot]:
    api = HandlerApi()
    async with api.listening():
        slot = Slot(api)
        api.register(SECRET, slot.session)
        filling = asyncio.create_task(fill(slot.session))
        yield slot
        filling.cancel()


async def fill(session: Session) -> None:
    """As a dispatcher does whose workspace is as it was prepared."""
    while True:
        await until_filling(session)
        session.answer_filled()


async def until_filling(session: Session) -> None:
    while not session.filling:
        await asyncio.shield(session.change())


async def until_waiting(session: Session) -> None:
    async with asyncio.timeout(30):
        while not session.waiting:
            await asyncio.shield(session.change())


async def until_committing(session: Session) -> None:
    async with asyncio.timeout(30):
        while not session.committing:
            await asyncio.shield(session.change())


@pytest.mark.parametrize("secret", ["", "wrong", SECRET[:-1], SECRET + "x", "é", SECRET.upper()])
@pytest.mark.parametrize("path", ["/ready", "/done", "/elsewhere"])
async def test_a_wrong_secret_is_401_and_changes_nothing(slot: Slot, secret: str, path: str) -> None:
    slot.session.prepared()
    status, message = await call(slot.env, path, secret=secret)
    assert (status, "SHARED_SECRET" in message) == (401, True)
    assert await call(slot.env, "/ready") == (200, "")


async def test_a_missing_secret_is_401(slot: Slot) -> None:
    status, _ = await send(slot.api.port, b"GET /ready HTTP/1.1\r\nHost: localhost\r\n\r\n")
    assert status == 401


async def test_a_secret_of_a_job_that_is_over_is_401(slot: Slot) -> None:
    slot.api.unregister(SECRET)
    slot.api.unregister(SECRET)
    assert (await call(slot.env, "/done"))[0] == 401


async def test_the_answer_to_success_is_empty(slot: Slot) -> None:
    slot.session.prepared()
    assert await call(slot.env, "/ready") == (200, "")
    asking = asyncio.create_task(call(slot.env, "/done"))
    await until_committing(slot.session)
    slot.session.answer_committed(more=False)
    assert await asking == (200, "")


async def test_ready_waits_until_the_workspace_is_filled(slot: Slot) -> None:
    asking = [asyncio.create_task(call(slot.env, "/ready")) for _ in range(2)]
    await until_waiting(slot.session)
    assert not any(one.done() for one in asking)
    slot.session.prepared()
    first, *_ = await asyncio.gather(*asking)
    assert first == (200, "")


async def test_calls_in_the_wrong_state_are_400_and_change_nothing(slot: Slot) -> None:
    assert await call(slot.env, "/done") == (400, "no event is prepared: call /ready first")
    slot.session.prepared()
    assert (await call(slot.env, "/done"))[0] == 400
    assert (await call(slot.env, "/ready"))[0] == 200
    assert await call(slot.env, "/ready") == (400, "/ready was answered already, for this event")
    asking = asyncio.create_task(call(slot.env, "/done"))
    await until_committing(slot.session)
    assert await call(slot.env, "/done") == (400, "a commit is under way")
    assert await call(slot.env, "/ready") == (400, "a commit is under way")
    slot.session.answer_committed(more=False)
    assert await asking == (200, "")
    for path in ("/ready", "/done"):
        assert await call(slot.env, path) == (400, "this event is committed already")


async def test_a_failed_commit_is_500_and_may_be_tried_again(slot: Slot) -> None:
    slot.session.prepared()
    await call(slot.env, "/ready")
    for answer in ("out/data/x: is a FIFO", ""):
        asking = asyncio.create_task(call(slot.env, "/done"))
        await until_committing(slot.session)
        if answer:
            slot.session.answer_failed(answer)
            assert await asking == (500, answer)
        else:
            slot.session.answer_committed(more=True)
            assert await asking == (200, "")


async def test_a_reused_module_is_given_the_next_event(slot: Slot) -> None:
    for _ in range(3):
        asking = asyncio.create_task(call(slot.env, "/ready"))
        await until_waiting(slot.session)
        slot.session.prepared()
        assert await asking == (200, "")
        asking = asyncio.create_task(call(slot.env, "/done"))
        await until_committing(slot.session)
        slot.session.answer_committed(more=True)
        assert await asking == (200, "")


async def test_who_waits_when_the_slot_ends_is_told(slot: Slot) -> None:
    asking = asyncio.create_task(call(slot.env, "/ready"))
    await until_waiting(slot.session)
    slot.session.close()
    assert await asking == (410, "this job is over")
    assert (await call(slot.env, "/done"))[0] == 410


async def test_a_commit_that_the_slot_s_end_cuts_off_is_500(slot: Slot) -> None:
    slot.session.prepared()
    await call(slot.env, "/ready")
    asking = asyncio.create_task(call(slot.env, "/done"))
    await until_committing(slot.session)
    slot.session.close()
    assert await asking == (500, "this job is over")


async def test_a_module_that_hangs_up_can_ask_again(slot: Slot) -> None:
    _, writer = await asyncio.open_connection("127.0.0.1", slot.api.port)
    writer.write(f"GET /ready HTTP/1.1\r\nHost: x\r\nsecret: {SECRET}\r\n\r\n".encode())
    await until_waiting(slot.session)
    await close(writer)
    async with asyncio.timeout(30):
        while slot.session.waiting:  # noqa: ASYNC110
            await asyncio.sleep(0)
    slot.session.prepared()
    assert await call(slot.env, "/ready") == (200, "")


async def test_hanging_up_in_done_stops_no_commit(slot: Slot) -> None:
    slot.session.prepared()
    await call(slot.env, "/ready")
    _, writer = await asyncio.open_connection("127.0.0.1", slot.api.port)
    writer.write(f"GET /done HTTP/1.1\r\nHost: x\r\nsecret: {SECRET}\r\n\r\n".encode())
    await until_committing(slot.session)
    writer.transport.abort()
    assert slot.session.committing
    slot.session.answer_committed(more=True)


@pytest.mark.parametrize(
    ("method", "path", "status"),
    [
        ("POST", "/ready", 405),
        ("GET", "/", 404),
        ("GET", "/ready/", 404),
        ("GET", "/../ready", 404),
        ("GET", "/ready?x=1", 200),
    ],
)
async def test_other_requests(slot: Slot, method: str, path: str, status: int) -> None:
    slot.session.prepared()
    assert (await call(slot.env, path, method=method))[0] == status


@pytest.mark.parametrize(
    ("raw", "status"),
    [
        (b"\x00\x01\x02\r\n\r\n", 400),
        (b"GET\r\n\r\n", 400),
        (b"GET /ready HTTP/1.1\r\n\r\n", 400),  # no Host
        (b"GET /ready HTTP/1.1\r\nHost: x\r\nContent-Length: 3\r\n\r\nabc", 401),
        (b"GET /ready HTTP/1.1\r\nHost: x\r\nX: " + b"x" * MAX_REQUEST + b"\r\n\r\n", 413),
        (b"GET /ready HTTP/1.1\r\nHost: x\r\nContent-Length: 99999\r\n\r\n" + b"x" * 99_999, 413),
    ],
)
async def test_what_is_no_request_of_a_module(slot: Slot, raw: bytes, status: int) -> None:
    assert (await send(slot.api.port, raw))[0] in (status, 0)
    slot.session.prepared()
    assert await call(slot.env, "/ready") == (200, "")


async def test_too_many_connections_are_closed_and_the_others_served(slot: Slot) -> None:
    slot.session.prepared()
    held = [await asyncio.open_connection("127.0.0.1", slot.api.port) for _ in range(MAX_CONNECTIONS)]
    reader, writer = await asyncio.open_connection("127.0.0.1", slot.api.port)
    with suppress(ConnectionError):
        assert await reader.read() == b"", "closed at once"
    await close(writer)
    held[0][1].write(f"GET /ready HTTP/1.1\r\nHost: x\r\nsecret: {SECRET}\r\n\r\n".encode())
    assert (await held[0][0].readline()).split()[1] == b"200"
    for _, one in held:
        await close(one)


async def test_it_listens_at_a_loopback_address_only(slot: Slot) -> None:
    table = [line.split() for line in Path("/proc/net/tcp").read_text().splitlines()[1:]]  # noqa: ASYNC240
    at_our_port = {
        local for _, local, _, state, *_ in table if state == "0A" and local.endswith(f":{slot.api.port:04X}")
    }
    assert at_our_port == {f"0100007F:{slot.api.port:04X}"}
