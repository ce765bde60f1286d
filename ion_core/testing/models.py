"""Providers against plain models: whatever is done to one, in any order, it is as the model has it.

Unlike the kits these make up what they do. What a provider does wrong they tell as the shortest sequence of calls that
shows it. Needs hypothesis, which is part of ``ion-core[testing]``.
"""

from __future__ import annotations

from contextlib import AbstractAsyncContextManager
from functools import cache
from typing import Any, ClassVar

from hypothesis import HealthCheck, Phase, settings
from hypothesis.stateful import RuleBasedStateMachine, run_state_machine_as_test

from ion_core.contracts.messaging import MessageBroker
from ion_core.contracts.storage import BlobStore, DocumentStore
from ion_core.registry import Kind, Registry, load_plugins
from ion_core.testing.broker_machine import BrokerMachine
from ion_core.testing.commit_machine import CommitMachine, Opened
from ion_core.testing.document_machine import DocumentMachine
from ion_core.testing.workspace_machine import WorkspaceMachine


class _Model:
    """``examples`` sequences of up to ``steps`` calls; those of a slow backend may be fewer.

    ``shortens`` says whether the shortest sequence is looked for that goes wrong: minutes, where a call takes long.
    """

    examples: ClassVar[int] = 25
    steps: ClassVar[int] = 20
    shortens: ClassVar[bool] = True
    patience: ClassVar[float]

    def machine(self) -> RuleBasedStateMachine:
        """The provider beside its model, opened."""
        raise NotImplementedError

    def test_whatever_is_done_it_is_as_a_plain_model_has_it(self) -> None:
        run_state_machine_as_test(
            self.machine,  # type: ignore[arg-type]  # whatever makes one
            settings=settings(
                max_examples=self.examples,
                stateful_step_count=self.steps,
                deadline=None,
                database=None,
                report_multiple_bugs=False,
                phases=[Phase.generate, Phase.shrink] if self.shortens else [Phase.generate],
                suppress_health_check=list(HealthCheck),  # a backend is slow beside what makes examples
            ),
        )


class _ModelOfOne(_Model):
    def opened(self) -> AbstractAsyncContextManager[Any]:
        """A provider on the backend of this test, once for each sequence, on an event loop of its own."""
        raise NotImplementedError(f"{type(self).__name__}.opened: is missing. Define it: what opens the provider")


class MessageBrokerModel(_ModelOfOne):
    """A message broker and a model of its queues. Subclass it::

        class TestMyBrokerAndAModel(MessageBrokerModel):
            @pytest.fixture(autouse=True)
            def place(self, tmp_path):
                self.settings = MySettings(path=tmp_path / "broker")

            def opened(self):
                return open_my_broker(self.settings)

    What is in it already is let alone; the queues that are made are dropped. Leases should last half a minute.
    ``patience`` is how long counts may lag behind, in seconds (2). ``keeps_places`` is False where what was given back
    or looked at several times comes to stand elsewhere: then what there is is compared, and not its order.
    """

    patience: ClassVar[float] = 2.0
    keeps_places: ClassVar[bool] = True

    def machine(self) -> BrokerMachine:
        return BrokerMachine(self.opened, patience=self.patience, keeps_places=self.keeps_places)


class DocumentStoreModel(_ModelOfOne):
    """A document store and a model of its documents; subclassed in the same way.

    ``patience`` is how long a call may take, in seconds (30).
    """

    patience: ClassVar[float] = 30.0

    def machine(self) -> DocumentMachine:
        return DocumentMachine(self.opened, patience=self.patience)


class WorkspaceModel(_ModelOfOne):
    """A blob store, and a model of what is collected of a workspace; subclassed in the same way.

    Modules leave whatever they like: the core's committer takes it, to the byte, or refuses it and keeps nothing. The
    store is for the model alone while it runs. ``patience`` is how long a workspace may take, in seconds (30).
    """

    patience: ClassVar[float] = 30.0

    def machine(self) -> WorkspaceMachine:
        return WorkspaceMachine(self.opened, patience=self.patience)


class CommitModel(_Model):
    """The core's commit protocol on a blob store, a document store and a broker. Subclass it, with what there is::

        class TestCommitsInMyStore(CommitModel):
            @pytest.fixture(autouse=True)
            def place(self, tmp_path):
                self.settings = MySettings(path=tmp_path / "store")

            def documents(self):
                return open_my_documents(self.settings)

    What is not defined is the reference provider, in memory. Two processes attempt one job, and each call of theirs may
    fail, lose its answer, or be the last one. Stores and broker are for the model alone while it runs: it collects
    garbage there, and pays what commits owe. Leases should last half a minute. ``patience`` is how long a step may
    take, in seconds (30).
    """

    examples: ClassVar[int] = 40
    patience: ClassVar[float] = 30.0

    def blobs(self) -> AbstractAsyncContextManager[BlobStore]:
        """A blob store on the backend of this test, once for each sequence, on an event loop of its own."""
        return _reference(Kind.BLOB_STORE)

    def documents(self) -> AbstractAsyncContextManager[DocumentStore]:
        """A document store, in the same way."""
        return _reference(Kind.DOCUMENT_STORE)

    def broker(self) -> AbstractAsyncContextManager[MessageBroker]:
        """A message broker, in the same way."""
        return _reference(Kind.MESSAGE_BROKER)

    def machine(self) -> CommitMachine:
        opened = Opened(blobs=self.blobs, documents=self.documents, broker=self.broker)
        return CommitMachine(opened, patience=self.patience)


@cache
def _registered() -> Registry:
    return load_plugins(entry_points=False)


def _reference(kind: Kind) -> AbstractAsyncContextManager[Any]:
    provider = _registered().choose(kind, "memory", where="a model")
    return provider.open(provider.settings())
