"""A document store beside a plain model of it: a dict, in the order of first storing, and what is done to both."""

from __future__ import annotations

import asyncio
import uuid
from collections.abc import Callable, Coroutine
from contextlib import AbstractAsyncContextManager, AsyncExitStack
from dataclasses import replace
from typing import Any, TypeVar

from hypothesis import strategies as st
from hypothesis.stateful import RuleBasedStateMachine, invariant, rule

from ion_core.contracts.storage import Document, DocumentStore
from ion_core.errors import DocumentExists, DocumentNotFound
from ion_core.testing.kit import refused

T = TypeVar("T")
KINDS, IDS, FLOWS = ("insight", "commit"), ("1", "2", "3"), ("flow", "other flow")
kinds, ids = st.sampled_from(KINDS), st.sampled_from(IDS)
scalars = st.none() | st.booleans() | st.integers(-(2**53), 2**53) | st.text(max_size=5)
bodies = st.dictionaries(
    st.text(max_size=5), st.recursive(scalars, lambda inner: st.lists(inner, max_size=2), max_leaves=4), max_size=2
)
documents = st.builds(
    Document, kind=kinds, id=ids, correlation_id=st.sampled_from(FLOWS), body=bodies, pending=st.booleans()
)


class DocumentMachine(RuleBasedStateMachine):
    """``opened`` opens the store, of which a call takes ``patience`` seconds at most.

    Ids and correlation ids are unlike those of any other example.
    """

    def __init__(self, opened: Callable[[], AbstractAsyncContextManager[DocumentStore]], *, patience: float) -> None:
        super().__init__()
        self._patience = patience
        self.model: dict[tuple[str, str], Document] = {}
        self._prefix = f"model-{uuid.uuid4().hex[:12]}"
        self._runner, self._stack = asyncio.Runner(), AsyncExitStack()
        self.store = self.done(self._stack.enter_async_context(opened()))

    def done(self, call: Coroutine[Any, Any, T]) -> T:
        async def bounded() -> T:
            async with asyncio.timeout(self._patience):
                return await call

        return self._runner.run(bounded())

    def named(self, name: str) -> str:
        return f"{self._prefix}.{name}"

    def here(self, document: Document) -> Document:
        named = replace(document, id=self.named(document.id), correlation_id=self.named(document.correlation_id))
        return replace(named, cursor="", stored_at=None)

    def teardown(self) -> None:
        try:
            for flow in FLOWS:
                self.find(kind=None, flow=flow, pending=None, newest_first=False, limit=3)
            for document in self.model.values():
                self.done(self.store.delete(document.kind, document.id))
            self.done(self._stack.aclose())
        finally:
            self._runner.close()

    @rule(document=documents)
    def create(self, document: Document) -> None:
        document = self.here(document)
        there = self.model.get((document.kind, document.id))
        if there is not None and there.body != document.body:
            with refused(DocumentExists):
                self.done(self.store.create(document))
            return
        self.done(self.store.create(document))
        self.model.setdefault((document.kind, document.id), document)

    @rule(document=documents)
    def put(self, document: Document) -> None:
        document = self.here(document)
        self.done(self.store.put(document))
        self.model[document.kind, document.id] = document

    @rule(kind=kinds, id=ids)
    def delete(self, kind: str, id: str) -> None:
        self.done(self.store.delete(kind, self.named(id)))
        self.model.pop((kind, self.named(id)), None)

    @rule(kind=kinds, id=ids)
    def clear_pending(self, kind: str, id: str) -> None:
        clearing, key = self.store.clear_pending(kind, self.named(id)), (kind, self.named(id))
        if key not in self.model:
            with refused(DocumentNotFound):
                self.done(clearing)
            return
        self.done(clearing)
        self.model[key] = replace(self.model[key], pending=False)

    @rule(
        kind=st.none() | kinds,
        flow=st.sampled_from(FLOWS),
        pending=st.none() | st.booleans(),
        newest_first=st.booleans(),
        limit=st.integers(1, 3),
    )
    def find(self, kind: str | None, flow: str, pending: bool | None, newest_first: bool, limit: int) -> None:
        """By page, as long as there is one."""
        expected = [
            it
            for it in self.model.values()
            if (kind in (None, it.kind), pending in (None, it.pending), it.correlation_id)
            == (True, True, self.named(flow))
        ]
        found = self.done(self._pages(kind, self.named(flow), pending, newest_first, limit))
        assert found == (expected[::-1] if newest_first else expected)

    async def _pages(
        self, kind: str | None, flow: str, pending: bool | None, newest_first: bool, limit: int
    ) -> list[Document]:
        found: list[Document] = []
        while True:
            page = [
                it
                async for it in self.store.find(
                    kind,
                    correlation_id=flow,
                    pending=pending,
                    newest_first=newest_first,
                    limit=limit,
                    after=found[-1].cursor if found else None,
                )
            ]
            found += page
            if not page:
                return found

    @invariant()
    def it_is_as_the_model_has_it(self) -> None:
        for kind in KINDS:
            for id in map(self.named, IDS):
                if (kind, id) in self.model:
                    assert self.done(self.store.get(kind, id)) == self.model[kind, id]
                else:
                    with refused(DocumentNotFound):
                        self.done(self.store.get(kind, id))
