"""The document kit: ``docs/contracts/documents.md`` as tests, one for each rule and of its name."""

from __future__ import annotations

import asyncio
import itertools
from typing import Any

from ion_core.contracts.storage import DocumentStore
from ion_core.errors import DocumentExists, DocumentNotFound, DocumentsDamaged, IonError
from ion_core.testing.document_kit import document
from ion_core.testing.document_pages import PageRules
from ion_core.testing.kit import needs, refused

BODY: dict[str, Any] = {
    "text": 'grüß Gott 🙂 " \\ / \n\t\r \x00 \x7f \u2028',
    "": "an empty key",
    "ключ": ["", "é", "e\u0301"],
    "numbers": [0, -1, 2**31, 2**53 + 1, 2**70, -(2**63), 0.1, -0.5, 1.0, 1e-300, 1.7976931348623157e308],
    "constants": [True, False, None],
    "nested": {"list": [[], {}, [[1, [2, {"deep": {"er": None}}]]]], "object": {}},
    "long": "x" * 100_000,
}
IDS = [
    "plain",
    "Plain",
    "with space",
    "a/b/../c",
    "../../etc/passwd",
    "new\nline\ttab",
    "nul\x00nul",
    "emoji 🙂 ü",
    "é",
    "e\u0301",
    "'; DROP TABLE documents; --",
    "%_*?[a]{b}",
    "a\\b",
    ".",
    "module:m-event:e-attempt:1-0a1b2c3d4e5f",
    "n" * 1024,
    "n" * 1023,
    "🙂" * 1024,
]


class DocumentStoreConformance(PageRules):
    """Every rule of the document contract. Subclass it, give it the fixture and the hooks::

        class TestMyDocuments(DocumentStoreConformance):
            @pytest_asyncio.fixture
            async def documents(self, tmp_path):
                self.settings = MySettings(path=tmp_path / "documents")
                async with open_my_documents(self.settings) as documents:
                    yield documents

            def reopen(self):                   # None where nothing is left once it is closed
                return open_my_documents(self.settings)

            def outage(self, documents):        # None where the backend cannot be made to fail
                return backend_that_fails(self.settings)

            def reads(self, documents):         # None where what is read cannot be counted
                return counting_reads_of(documents)

    ``documents``  an open store with nothing in it.
    ``patience``   seconds to wait for what must happen (10).
    ``racers``     how many create one document at once (20).
    """

    async def test_a_document_comes_back_equal(self, documents: DocumentStore) -> None:
        for pending in (False, True):
            created = document(f"created {pending}", body=BODY, kind="eventMeta", correlation_id="c", pending=pending)
            put = document(f"put {pending}", body=BODY, kind="modulelogs", correlation_id="d", pending=pending)
            await documents.create(created)
            await documents.put(put)
            await self.stores(documents, created)
            await self.stores(documents, put)
        everything = [found async for found in documents.find(correlation_id="c")]
        assert [found.body for found in everything] == [BODY, BODY]

    async def test_ids_are_any_text(self, documents: DocumentStore) -> None:
        for id in IDS:
            await documents.create(document(id, correlation_id=id))
            await documents.create(document(f"{id}.", correlation_id="another"))
        for id in IDS:
            await self.stores(documents, document(id, correlation_id=id))
            assert await self.found(documents, correlation_id=id) == [id]

    async def test_kinds_do_not_collide(self, documents: DocumentStore) -> None:
        kinds = ("eventMeta", "insight", "modulelogs", "commit", "Insight", "other")
        for kind in kinds:
            await documents.create(document("same id", kind=kind, body={"kind": kind}))
        await documents.delete("insight", "same id")
        for kind in set(kinds) - {"insight"}:
            await self.stores(documents, document("same id", kind=kind, body={"kind": kind}))

    async def test_what_is_stored_is_a_copy(self, documents: DocumentStore) -> None:
        for store in (documents.create, documents.put):
            body: dict[str, Any] = {"list": [1]}
            id = self.fresh("id")
            await store(document(id, body=body))
            body["list"].append("added by the caller afterwards")
            found = await documents.get("insight", id)
            found.body["list"].append("added by a reader")
            await self.stores(documents, document(id, body={"list": [1]}))

    async def test_create_of_another_body_is_refused(self, documents: DocumentStore) -> None:
        first = document("one", body={"n": 1}, pending=True)
        await documents.create(first)
        for other in ({"n": 2}, {"n": True}, {"n": 1, "more": None}, {}, {"n": "1"}):
            with refused(DocumentExists):
                await documents.create(document("one", body=other))
        await self.stores(documents, first)

    async def test_create_of_the_same_body_changes_nothing(self, documents: DocumentStore) -> None:
        await documents.create(document("cleared", body=BODY, pending=True))
        await documents.clear_pending("insight", "cleared")
        await documents.create(document("cleared", body=BODY, pending=True))
        await self.stores(documents, document("cleared", body=BODY, pending=False))
        await documents.create(document("pending", body=BODY, pending=True))
        await documents.create(document("pending", body=BODY, pending=False))
        await self.stores(documents, document("pending", body=BODY, pending=True))
        assert await self.found(documents) == ["cleared", "pending"]

    async def test_of_many_creators_one_wins(self, documents: DocumentStore) -> None:
        await self.race([documents])

    @needs("reopen")
    async def test_of_creators_in_two_processes_one_wins(self, documents: DocumentStore) -> None:
        assert self.reopen is not None
        async with self.reopen() as second:
            await self.race([documents, second])

    async def test_put_replaces_the_whole_document(self, documents: DocumentStore) -> None:
        for replacement in (
            document("one", body={"a": 1, "b": 2}, correlation_id="before", pending=True),
            document("one", body={"b": 3}, correlation_id="after", pending=False),
            document("one", body={}, correlation_id="after", pending=True),
        ):
            await documents.put(replacement)
            await self.stores(documents, replacement)
        assert await self.found(documents) == ["one"]
        assert await self.found(documents, correlation_id="before") == []

    async def test_an_absent_document_is_not_found(self, documents: DocumentStore) -> None:
        await documents.create(document("one", kind="insight"))
        for kind, id in (("insight", "two"), ("commit", "one")):
            with refused(DocumentNotFound):
                await documents.get(kind, id)

    async def test_find_takes_every_condition(self, documents: DocumentStore) -> None:
        every = [(k, f, p) for k in ("insight", "commit") for f in ("x", "y") for p in (True, False)]
        for kind, flow, pending in every:
            await documents.create(
                document(f"{kind} {flow} {pending}", kind=kind, correlation_id=flow, pending=pending)
            )
        kinds, flows, pendings = (None, "insight", "commit", "absent"), (None, "x", "y", "absent"), (None, True, False)
        for one in itertools.product(kinds, flows, pendings):
            expected = [
                " ".join(map(str, document))
                for document in every
                if all(given in (None, is_) for given, is_ in zip(one, document, strict=True))
            ]
            found = await self.found(documents, one[0], correlation_id=one[1], pending=one[2])
            assert found == expected, f"find with kind, correlation_id, pending = {one}"

    async def test_find_takes_the_beginning_of_an_id(self, documents: DocumentStore) -> None:
        """Whatever the text, and beside every other condition."""
        texts = [*IDS, *(text + "." for text in ("a", "é", "%", "long " * 30))]
        for n, text in enumerate(texts):
            flow = texts[-1 - n]
            await documents.create(document(text, kind=("commit", "insight")[n % 2], correlation_id=flow))
        whole = [it async for it in documents.find()]
        beginnings = {text[:length] for text in texts for length in (0, 1, len(text) - 1)}
        for begins in sorted(beginnings | {"nothing like it", "🙂" * 1025}):
            ours = [it.id for it in whole if it.id.startswith(begins)]
            flows = [it.id for it in whole if it.correlation_id.startswith(begins)]
            assert await self.found(documents, id_begins=begins) == ours, f"ids that begin {begins[:80]!r}"
            assert await self.found(documents, correlation_id_begins=begins) == flows, f"flows that begin {begins!r}"
        for kind, begins, pending, newest_first in itertools.product(
            ("commit", "insight"), ("", "n", "a"), (None, False, True), (False, True)
        ):
            asked = {"id_begins": begins, "pending": pending, "newest_first": newest_first}
            matching = [it.id for it in whole if it.kind == kind and it.id.startswith(begins) and pending is not True]
            expected = matching[::-1] if newest_first else matching
            assert await self.found(documents, kind, **asked) == expected, f"{kind}, {asked}"
            assert await self.found(documents, kind, limit=1, **asked) == expected[:1]

    async def test_find_is_in_order_of_first_storing(self, documents: DocumentStore) -> None:
        ids = [f"{n * 7 % 30}" for n in range(30)]
        for n, id in enumerate(ids):
            await (documents.put if n % 2 else documents.create)(document(id))
        for id in ids[:10:3]:
            await documents.put(document(id, body={"changed": True}))
        assert await self.found(documents) == ids
        assert await self.found(documents, correlation_id="flow") == ids

    async def test_newest_first_is_the_reverse(self, documents: DocumentStore) -> None:
        ids = [f"{n * 7 % 30}" for n in range(30)]
        for id in ids:
            await documents.create(document(id))
        assert await self.found(documents, newest_first=True) == ids[::-1]
        assert await self.found(documents, "insight", correlation_id="flow", newest_first=True) == ids[::-1]

    async def test_clear_pending_changes_that_only(self, documents: DocumentStore) -> None:
        for id in ("one", "two"):
            await documents.create(document(id, body=BODY, pending=True))
        for _ in range(2):
            await documents.clear_pending("insight", "one")
            await self.stores(documents, document("one", body=BODY, pending=False))
        assert await self.found(documents, pending=True) == ["two"]

    async def test_clear_pending_of_an_absent_document_is_refused(self, documents: DocumentStore) -> None:
        await documents.create(document("one", kind="insight"))
        with refused(DocumentNotFound):
            await documents.clear_pending("commit", "one")
        assert await self.found(documents) == ["one"]

    async def test_a_deleted_document_is_gone(self, documents: DocumentStore) -> None:
        for id in ("one", "two"):
            await documents.create(document(id))
        await documents.delete("insight", "one")
        with refused(DocumentNotFound):
            await documents.get("insight", "one")
        assert await self.found(documents) == ["two"]
        await documents.create(document("one", body={"another": "body"}))
        assert await self.found(documents) == ["two", "one"]

    async def test_deleting_what_is_gone_is_fine(self, documents: DocumentStore) -> None:
        await documents.create(document("one"))
        for kind, id in (("insight", "two"), ("commit", "one"), ("insight", "one"), ("insight", "one")):
            await documents.delete(kind, id)
        assert await self.found(documents) == []

    async def test_tasks_may_store_at_once(self, documents: DocumentStore) -> None:
        many = [document(f"{n}", body={"n": n}) for n in range(50)]
        storing = (documents.create(one) if n % 2 else documents.put(one) for n, one in enumerate(many))
        await self.within(asyncio.gather(*storing), "50 documents stored at once")
        for one in many:
            await self.stores(documents, one)
        assert sorted(await self.found(documents), key=int) == [one.id for one in many]

    @needs("reopen")
    async def test_documents_outlive_the_process(self, documents: DocumentStore) -> None:
        assert self.reopen is not None
        await documents.create(document("created", body=BODY, pending=True))
        await documents.put(document("put", body=BODY))
        async with self.reopen() as second:
            await self.stores(second, document("created", body=BODY, pending=True))
            await self.stores(second, document("put", body=BODY))
            assert await self.found(second) == ["created", "put"]

    @needs("damage")
    async def test_what_is_damaged_hides_nothing_else(self, documents: DocumentStore) -> None:
        assert self.damage is not None
        for id in ("first", "damaged", "last"):
            await documents.create(document(id))
        await self.damage(documents, "insight", "damaged")
        for newest_first in (False, True):
            for flow in (None, "flow"):
                found = []
                with refused(DocumentsDamaged, naming="damaged", of="find"):
                    async for each in documents.find("insight", correlation_id=flow, newest_first=newest_first):
                        found.append(each.id)
                assert found == (["last", "first"] if newest_first else ["first", "last"])
        with refused(DocumentsDamaged, naming="damaged", of="get"):
            await documents.get("insight", "damaged")
        await documents.delete("insight", "damaged")
        assert await self.found(documents) == ["first", "last"]

    @needs("outage")
    async def test_errors_of_the_backend_become_ours(self, documents: DocumentStore) -> None:
        assert self.outage is not None
        await documents.create(document("one"))
        async with self.outage(documents):
            for call in (
                lambda: documents.create(document("two")),
                lambda: documents.put(document("one")),
                lambda: documents.get("insight", "one"),
                lambda: self.found(documents),
                lambda: documents.clear_pending("insight", "one"),
                lambda: documents.delete("insight", "one"),
            ):
                with refused(IonError):
                    await self.within(call(), "a call during an outage")
