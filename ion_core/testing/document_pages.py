"""The document kit's rules for what is found by page, and by when it was stored."""

from __future__ import annotations

import asyncio
import itertools
from collections.abc import AsyncIterator
from datetime import UTC, datetime, timedelta
from typing import Any

from ion_core.contracts.storage import Document, DocumentStore
from ion_core.errors import DocumentsDamaged, InvalidCursor
from ion_core.testing.document_kit import DocumentKit, document
from ion_core.testing.kit import needs, refused

NO_CURSORS = ["", " ", "none", "-1", "1 ", "१", "0\x00", "../1", "'; --", "\udc80", "9" * 64, "f" * 10_000]
"""Texts that no store tells as the cursor of a document."""
CONDITIONS: list[dict[str, Any]] = [
    {},
    {"kind": "insight"},
    {"correlation_id": "x"},
    {"pending": True},
    {"pending": False},
    {"kind": "commit", "correlation_id": "y", "pending": True},
]


class PageRules(DocumentKit):
    """Pages: whole, in both directions, while others write; bounds of time; what is no cursor."""

    async def page(self, documents: DocumentStore, **asked: Any) -> list[Document]:
        async def collect() -> list[Document]:
            return [document async for document in documents.find(**asked)]

        return await self.within(collect(), "a page")

    async def pages(self, documents: DocumentStore, limit: int, **asked: Any) -> AsyncIterator[list[Document]]:
        """One page after the other, until one is not full."""
        after: str | None = None
        while True:
            page = await self.page(documents, limit=limit, after=after, **asked)
            assert len(page) <= limit, f"a page of {limit} at most has {len(page)}"
            if page:
                yield page
                assert page[-1].cursor != after, "a page ends where it began"
                after = page[-1].cursor
            if len(page) < limit:
                return

    async def turned(self, documents: DocumentStore, limit: int, **asked: Any) -> list[str]:
        """The ids of all pages."""
        return [it.id async for page in self.pages(documents, limit, **asked) for it in page]

    async def test_a_page_is_the_beginning_of_all(self, documents: DocumentStore) -> None:
        await self._fill(documents)
        for asked, newest_first in itertools.product(CONDITIONS, (False, True)):
            whole = await self.found(documents, newest_first=newest_first, **asked)
            for limit in (1, len(whole), len(whole) + 1):
                page = await self.page(documents, limit=limit, newest_first=newest_first, **asked)
                assert [it.id for it in page] == whole[:limit], f"find({asked}, limit={limit})"

    async def test_pages_are_all_of_it_and_each_once(self, documents: DocumentStore) -> None:
        await self._fill(documents)
        for asked, newest_first in itertools.product(CONDITIONS, (False, True)):
            whole = await self.found(documents, newest_first=newest_first, **asked)
            for limit in (3, 1000):
                found = await self.turned(documents, limit, newest_first=newest_first, **asked)
                assert found == whole, f"pages of {limit}, {asked}, newest first: {newest_first}"

    async def test_a_cursor_leads_both_ways(self, documents: DocumentStore) -> None:
        await self._fill(documents)
        whole = await self.page(documents)
        ids = [it.id for it in whole]
        for asked in CONDITIONS:
            matching = await self.found(documents, **asked)
            for n, it in list(enumerate(whole))[::4]:
                later = await self.page(documents, after=it.cursor, **asked)
                earlier = await self.page(documents, after=it.cursor, newest_first=True, **asked)
                assert [it.id for it in later] == [id for id in ids[n + 1 :] if id in matching]
                assert [it.id for it in earlier] == [id for id in ids[:n][::-1] if id in matching]

    async def test_pages_hold_while_others_write(self, documents: DocumentStore) -> None:
        stays, goes = [f"stays {n}" for n in range(12)], [f"goes {n}" for n in range(12)]
        for newest_first in (False, True):
            for pair in zip(stays, goes, strict=True):
                for id in pair:
                    await documents.create(document(id))
            added: list[str] = []
            found: list[str] = []
            async for page in self.pages(documents, 3, newest_first=newest_first):
                found += [it.id for it in page]
                if len(added) < 8:
                    added.append(f"added {len(added)}")
                    await documents.create(document(added[-1]))
                await documents.put(document(page[0].id, body={"changed": True}))
                if goes:
                    await documents.delete("insight", goes.pop())
                    await documents.delete("insight", goes.pop(0))
            known = [id for id in found if not id.startswith("goes")]
            expected = stays[::-1] if newest_first else [*stays, *added]
            assert known == expected, "nothing is lost of what stays, and what is added stands at the end"
            assert len(set(found)) == len(found), "nothing is on two pages"
            for id in await self.found(documents):
                await documents.delete("insight", id)
            goes = [f"goes {n}" for n in range(12)]

    async def test_pages_hold_while_many_write_at_once(self, documents: DocumentStore) -> None:
        there = [f"there {n}" for n in range(20)]
        for id in there:
            await documents.create(document(id))
        over = asyncio.Event()

        async def write(writer: int) -> None:
            for n in itertools.count():
                if over.is_set():
                    return
                await documents.put(document(f"{writer} {n}"))
                if n > 2:
                    await documents.delete("insight", f"{writer} {n - 2}")
                await asyncio.sleep(0)  # a store in memory may never wait

        writers = [asyncio.create_task(write(n)) for n in range(3)]
        try:
            found: list[str] = []
            async for page in self.pages(documents, 3, newest_first=True):
                found += [it.id for it in page]
                await asyncio.sleep(0)
            cursor: str | None = None
            forward: list[str] = []
            while len(forward) < len(there):  # there is no end while others write
                page = await self.page(documents, limit=3, after=cursor)
                forward += [it.id for it in page]
                cursor = page[-1].cursor
        finally:
            over.set()
            await self.within(asyncio.gather(*writers), "the writers")
        assert [id for id in found if id.startswith("there")] == there[::-1]
        assert len(set(found)) == len(found)
        assert forward[: len(there)] == there

    async def test_a_cursor_outlives_its_document(self, documents: DocumentStore) -> None:
        ids = [f"{n}" for n in range(6)]
        for id in ids:
            await documents.create(document(id))
        cursors = {it.id: it.cursor for it in await self.page(documents)}
        for id in ("2", "5", "4"):
            await documents.delete("insight", id)
        for id in ("new", "2"):
            await documents.create(document(id, body={"another": True}))
        expected = {"2": ["3", "new", "2"], "4": ["new", "2"], "5": ["new", "2"]}
        for id, later in expected.items():
            assert await self.found(documents, after=cursors[id]) == later, f"after {id}, which is gone"
            earlier = [it for it in ("3", "1", "0") if int(it) < int(id)]
            assert await self.found(documents, after=cursors[id], newest_first=True) == earlier
        for id in await self.found(documents):
            await documents.delete("insight", id)
        await documents.create(document("last"))
        assert await self.found(documents, after=cursors["5"]) == ["last"], "no place is given twice"

    @needs("reopen")
    async def test_a_cursor_outlives_the_process(self, documents: DocumentStore) -> None:
        assert self.reopen is not None
        for n in range(6):
            await documents.create(document(f"{n}"))
        (*_, second) = await self.page(documents, limit=2)
        async with self.reopen() as other:
            assert await self.found(other, after=second.cursor) == ["2", "3", "4", "5"]
            assert await self.found(other, after=second.cursor, newest_first=True) == ["0"]

    @needs("reads")
    async def test_a_page_reads_no_other(self, documents: DocumentStore) -> None:
        assert self.reads is not None
        small, count = 5, 30
        asked: list[dict[str, Any]] = [{}, {"kind": "insight"}, {"correlation_id": "flow"}]
        alone = []
        for n in range(count):
            if n == small:
                for conditions in asked:
                    async with self.reads(documents) as so_far:
                        await self.page(documents, limit=small, **conditions)
                        alone.append(so_far())
            await documents.create(document(f"{n}"))
        for (least, conditions), newest_first in itertools.product(zip(alone, asked, strict=True), (False, True)):
            most, after = 2 * least + small, None
            for n in range(count // small):
                async with self.reads(documents) as so_far:
                    page = await self.page(documents, limit=small, after=after, newest_first=newest_first, **conditions)
                    read = so_far()
                assert read <= most, f"page {n + 1} of {conditions} read {read}, where there is but one page {least}"
                after = page[-1].cursor

    @needs("reads")
    async def test_a_beginning_reads_no_other(self, documents: DocumentStore) -> None:
        assert self.reads is not None
        asked: list[dict[str, Any]] = [
            {"kind": "insight", "id_begins": "wan"},
            {"kind": "insight", "correlation_id_begins": "flow-wan"},
        ]
        alone = []
        for n in range(30):
            if n == 1:
                for conditions in asked:
                    async with self.reads(documents) as so_far:
                        await self.page(documents, **conditions)
                        alone.append(so_far())
            id = f"other-{n}" if n else "wanted"
            await documents.create(document(id, correlation_id=f"flow-{id}"))
        for least, conditions in zip(alone, asked, strict=True):
            async with self.reads(documents) as so_far:
                assert [it.id for it in await self.page(documents, **conditions)] == ["wanted"]
                read = so_far()
            assert read <= 2 * least + 5, f"{conditions} read {read}, where there is no other {least}"

    @needs("damage")
    async def test_what_is_damaged_is_told_on_one_page(self, documents: DocumentStore) -> None:
        assert self.damage is not None
        ids = [f"{n}" for n in range(9)]
        for id in ids:
            await documents.create(document(id))
        for id in ("2", "5", "8"):
            await self.damage(documents, "insight", id)
        for newest_first in (False, True):
            found: list[str] = []
            told: list[str] = []
            after: str | None = None
            for _ in ids:
                page: list[Document] = []
                try:
                    async for each in documents.find(limit=2, after=after, newest_first=newest_first):
                        page.append(each)
                except DocumentsDamaged as error:
                    told += error.problems
                found += [it.id for it in page]
                if len(page) < 2:
                    break
                after = page[-1].cursor
            whole = [id for id in ids if id not in ("2", "5", "8")]
            assert found == (whole[::-1] if newest_first else whole)
            assert len(told) == 3, f"each damaged document is told once, it was {told}"

    async def test_what_is_no_cursor_is_refused(self, documents: DocumentStore) -> None:
        await documents.create(document("one"))
        for wrong, newest_first in itertools.product(NO_CURSORS, (False, True)):
            with refused(InvalidCursor, of=f"find after {wrong[:80]!r}"):
                await self.found(documents, after=wrong, newest_first=newest_first)

    async def test_a_cursor_is_short_and_plain(self, documents: DocumentStore) -> None:
        await documents.create(document("x" * 1000, correlation_id="é" * 1000))
        (found,) = await self.page(documents)
        assert found.cursor.isascii(), found.cursor
        assert found.cursor.isprintable(), found.cursor
        assert 1 <= len(found.cursor) <= 64

    async def test_it_is_told_when_a_document_was_first_stored(self, documents: DocumentStore) -> None:
        before = datetime.now(UTC) - timedelta(seconds=1)
        for n in range(6):
            await (documents.put if n % 2 else documents.create)(document(f"{n}"))
        after = datetime.now(UTC) + timedelta(seconds=1)
        first = {it.id: self._stored_at(it) for it in await self.page(documents)}
        assert all(before <= at <= after for at in first.values()), "a clock of ours would say otherwise"
        assert list(first.values()) == sorted(first.values()), "in the order of first storing"
        await documents.put(document("2", body={"changed": True}, correlation_id="another"))
        found = await self.page(documents)
        assert {it.id: it.stored_at for it in found} == first, "replacing one changes that"
        for it in found:
            alone = await documents.get(it.kind, it.id)
            assert (alone.cursor, alone.stored_at) == (it.cursor, it.stored_at), "get says what find says"

    async def test_since_and_until_bound_when_it_was_first_stored(self, documents: DocumentStore) -> None:
        await self._fill(documents)
        whole = await self.page(documents)
        times = [self._stored_at(it) for it in whole]
        some: list[datetime | None] = [None, times[0] - timedelta(days=1), *times[::5], times[-1] + timedelta(days=1)]
        for n, (since, until) in enumerate(itertools.product(some, some)):
            newest_first = n % 2 == 1
            expected = [
                it.id
                for it in whole
                if (since is None or self._stored_at(it) >= since) and (until is None or self._stored_at(it) < until)
            ]
            found = await self.found(documents, since=since, until=until, newest_first=newest_first)
            assert found == (expected[::-1] if newest_first else expected), f"{since} to {until}, stored at {times}"
        for asked in CONDITIONS:
            late = await self.found(documents, since=times[5], **asked)
            matching = set(await self.found(documents, **asked))
            assert late == [it.id for it in whole if it.id in matching and self._stored_at(it) >= times[5]]
        assert await self.turned(documents, 2, since=times[5]) == await self.found(documents, since=times[5])

    @staticmethod
    def _stored_at(found: Document) -> datetime:
        at = found.stored_at
        assert at is not None, f"{found.id}: it is not told when it was stored"
        assert at.utcoffset() == timedelta(0), f"{found.id}: {at} is not in UTC"
        return at

    @staticmethod
    async def _fill(documents: DocumentStore) -> None:
        """Twelve, of two kinds and flows, a third of them pending: each of these with each other, and in no order."""
        for n in range(12):
            kind, flow, pending = ("insight", "commit")[n % 2], "xy"[n // 2 % 2], n % 3 == 0
            await documents.create(document(f"{n * 7 % 12}", kind=kind, correlation_id=flow, pending=pending))
