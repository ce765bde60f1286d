"""Broken observers."""

from __future__ import annotations

import json
import logging
import sys
import threading
from collections.abc import AsyncIterator, Callable, Iterable, Mapping
from contextlib import asynccontextmanager
from datetime import datetime
from pathlib import Path
from typing import Any

from pydantic import Field, field_validator

from ion_core.contracts.provider import Finding, ObserverSettings
from ion_core.contracts.settings import Secret, Settings, StatePath, Unfit
from ion_core.events import Event
from ion_core.hookspecs import hookimpl
from ion_core.jobs import Attempt, Outcome
from ion_core.testing.observers import ObserverConformance
from tests.teeth.harness import Mutants, Open

log = logging.getLogger(__name__)


class NoteSettings(Settings):
    path: StatePath = Field(default=Path("notes.jsonl"), description="Where notes are put.")
    token: Secret = Field(description="What it signs with.")
    only: tuple[str, ...] = Field(default=(), description="The modules that it notes.")

    def modules(self) -> Mapping[str, str]:
        return {f"only[{n}]": name for n, name in enumerate(self.only)}


class Notes:
    """An observer that keeps every rule: it notes what it is told in a file."""

    name, contract = "notes", "1.6"
    model: type[Any] = NoteSettings

    @hookimpl
    def ion_observer_settings(self) -> Iterable[ObserverSettings]:
        return [ObserverSettings(name=self.name, settings=self.model, contract=self.contract)]

    def note(self, settings: Any, **what: object) -> None:
        with settings.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(what) + "\n")
        log.info("noted in %s", settings.path)

    @hookimpl
    def ion_serve_started(self, modules: list[str], at: datetime, settings: Any) -> None:
        self.note(settings, modules=modules, at=at.isoformat())

    @hookimpl
    def ion_serve_stopped(self, at: datetime, settings: Any) -> None:
        self.note(settings, at=at.isoformat())

    @hookimpl
    def ion_event_published(self, event: Event, settings: Any) -> None:
        self.note(settings, event=event.to_wire(), files=event.files)

    @hookimpl
    def ion_job_started(self, attempt: Attempt, settings: Any) -> None:
        self.note(settings, attempt=attempt.number, module=attempt.job.module)

    @hookimpl
    def ion_job_finished(self, attempt: Attempt, outcome: Outcome, settings: Any) -> None:
        self.note(settings, verdict=outcome.verdict.value, seconds={it.name: it.seconds for it in outcome.steps})

    @hookimpl
    def ion_job_dead_lettered(self, attempt: Attempt, outcome: Outcome, settings: Any) -> None:
        self.note(settings, reason=outcome.reason, token=attempt.token)

    @hookimpl
    def ion_traceparent(self, attempt: Attempt) -> str | None:
        return attempt.job.event.traceparent or None


class Observers(ObserverConformance):
    patience = 5.0

    def section(self, tmp_path: Path) -> Mapping[str, Any]:
        return {"path": str(tmp_path / "notes.jsonl"), "token": "sesame-canary", "only": ["detect"]}


def observing(kind: type) -> Open:
    @asynccontextmanager
    async def opens(kit: Any) -> AsyncIterator[Any]:
        yield kind()

    return opens


OBSERVERS = Mutants(Observers, "observer", observing(Notes))


def breaks(rule: str, hook: str = "") -> Callable[[Any], Any]:
    """The function is that hook, or, where it is a class, what is broken itself."""

    def add(broken: Any) -> Any:
        kind = broken if isinstance(broken, type) else type("Broken", (Notes,), {hook: hookimpl(broken)})
        OBSERVERS.add(rule, broken.__name__, observing(kind))
        return broken

    return add


SETTINGS = "its_settings_keep_the_rules_of_providers"


def with_settings(model: type[Settings]) -> type[Settings]:
    OBSERVERS.add(SETTINGS, model.__name__, observing(type("Broken", (Notes,), {"model": model})))
    return model


@with_settings
class Undescribed(NoteSettings):
    more: str = ""


@with_settings
class Alarmed(NoteSettings):
    def findings(self) -> Iterable[Finding]:
        yield Finding(severity="error", where=self.section.where("path"), text="is a path")


@with_settings
class Misplaced(NoteSettings):
    def findings(self) -> Iterable[Finding]:
        yield Finding(severity="info", where="path", text="is a path")


@with_settings
class NamesElsewhere(NoteSettings):
    def modules(self) -> Mapping[str, str]:
        return {"only[0]": "another"}


@with_settings
class Quoting(NoteSettings):
    @field_validator("token", mode="before")
    @classmethod
    def _signs(cls, value: Any) -> Any:
        if value != "sesame-canary":
            raise Unfit(f"{value} opens nothing")
        return value


RAISES = "it_raises_nothing_whatever_it_is_told"


@breaks(RAISES, "ion_job_finished")
def expects_three_steps(self: Notes, outcome: Outcome, settings: Any) -> None:
    _prepare, _module, _commit = outcome.steps


@breaks(RAISES, "ion_job_dead_lettered")
def exits_at_a_dead_letter(self: Notes, outcome: Outcome) -> None:
    raise SystemExit(1)


@breaks(RAISES, "ion_event_published")
def hangs(self: Notes) -> None:
    threading.Event().wait(60)


@breaks(RAISES)
class KnowsAnEventOnce(Notes):
    def __init__(self) -> None:
        self.known: set[str] = set()

    @hookimpl
    def ion_event_published(self, event: Event) -> None:
        assert event.context.event_id not in self.known
        self.known.add(event.context.event_id)


@breaks(RAISES)
class AwaitsABeginningOfEachJob(Notes):
    def __init__(self) -> None:
        self.begun: set[str] = set()

    @hookimpl
    def ion_job_started(self, attempt: Attempt) -> None:
        self.begun.add(attempt.token)

    @hookimpl
    def ion_job_finished(self, attempt: Attempt) -> None:
        self.begun.remove(attempt.token)


@breaks("it_needs_no_beginning")
class OpensAtTheBeginning(Notes):
    @hookimpl
    def ion_serve_started(self, settings: Any) -> None:
        self.file = settings.path.open("a")

    def note(self, settings: Any, **what: object) -> None:
        self.file.write(json.dumps(what))

    @hookimpl
    def ion_serve_stopped(self) -> None:
        self.file.close()


@breaks("it_goes_on_with_other_settings")
class IsSetOnce(Notes):
    settings: Any = None

    def note(self, settings: Any, **what: object) -> None:
        self.settings = self.settings or settings
        assert settings is self.settings, "it was set otherwise"


SECRET = "it_shows_nothing_secret"


@breaks(SECRET, "ion_event_published")
def logs_its_token(self: Notes, settings: Any) -> None:
    log.debug("signed with %s", settings.token.get_secret_value())


@breaks(SECRET, "ion_job_started")
def prints_its_token(self: Notes, settings: Any) -> None:
    print(settings.token.get_secret_value(), file=sys.stderr)


SPAN = "what_it_says_of_a_span_is_a_traceparent"


@breaks(SPAN, "ion_traceparent")
def says_a_number(self: Notes) -> int:
    return 7


@breaks(SPAN, "ion_traceparent")
def says_what_is_none(self: Notes) -> str:
    return f"00-{'0' * 32}-b7ad6b7169203331-01"


@breaks(SPAN, "ion_traceparent")
def says_nothing_in_time(self: Notes) -> None:
    threading.Event().wait(60)
