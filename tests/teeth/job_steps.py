"""Broken executors: what their three steps do, and what those see."""

from __future__ import annotations

import os
import shutil
from collections.abc import Callable
from dataclasses import replace
from typing import Any

from ion_core.contracts.executor import Cause, JobEnd, Step
from ion_core.contracts.runtime import ExitStatus
from ion_core.embedded.memory.executor import MemoryJob
from ion_core.events import COMMIT
from ion_core.jobs import job_id
from ion_core.testing.executor import TRACEPARENT
from tests.teeth.executor import (
    EXECUTOR,
    creating,
    job,
    opening,
    with_module,
)


@job("a_job_prepares_runs_and_commits", "_ours")
async def forgets_to_prepare(self: Any, step: Step, ticket: Any) -> JobEnd:
    if step is Step.PREPARE:
        (self.workspace / "out/data").mkdir(parents=True)
        return JobEnd(step=step, status=ExitStatus(code=0))
    return await MemoryJob._ours(self, step, ticket)


@job("a_job_prepares_runs_and_commits", "_ours")
async def forgets_to_commit(self: Any, step: Step, ticket: Any) -> JobEnd:
    if step is Step.COMMIT:
        return JobEnd(step=step, status=ExitStatus(code=0))
    return await MemoryJob._ours(self, step, ticket)


def ticketing(change: Callable[[Any], Any]) -> None:
    """Steps are told another ticket."""

    async def ours(self: Any, step: Step, ticket: Any) -> JobEnd:
        return await MemoryJob._ours(self, step, change(ticket))

    ours.__name__ = change.__name__
    job("the_record_tells_its_attempt", "_ours")(ours)


@ticketing
def counts_from_one(ticket: Any) -> Any:
    return replace(ticket, attempt=1)


@ticketing
def makes_up_a_token(ticket: Any) -> Any:
    return replace(ticket, token="token")


@ticketing
def knows_no_image(ticket: Any) -> Any:
    return replace(ticket, image=None)


@ticketing
def knows_no_start(ticket: Any) -> Any:
    return replace(ticket, started_at="")


@job("what_a_job_emits_is_left_to_the_dispatcher", "_ours")
async def publishes(self: Any, step: Step, ticket: Any) -> JobEnd:
    end = await MemoryJob._ours(self, step, ticket)
    if step is Step.COMMIT:
        dataplane = self._engine.steps._dataplane
        found = await dataplane.committed(job_id(ticket.event_id, ticket.module))
        await dataplane.publish_commit(found[0])
    return end


@job("two_attempts_at_once_commit_once", "_ours")
async def the_last_one_wins(self: Any, step: Step, ticket: Any) -> JobEnd:
    if step is Step.COMMIT:
        dataplane = self._engine.steps._dataplane
        await dataplane.documents.delete(COMMIT, job_id(ticket.event_id, ticket.module))
    return await MemoryJob._ours(self, step, ticket)


@job("two_attempts_at_once_commit_once", "_ours")
async def takes_the_second_for_a_failure(self: Any, step: Step, ticket: Any) -> JobEnd:
    if step is Step.COMMIT:
        dataplane = self._engine.steps._dataplane
        if await dataplane.committed(job_id(ticket.event_id, ticket.module)) is not None:
            return JobEnd(step=step, status=ExitStatus(code=1), cause=Cause.MODULE, reason="there is one")
    return await MemoryJob._ours(self, step, ticket)


def leaves_the_output(self: Any, end: JobEnd) -> None:
    kept = self.workspace.with_name(self.spec.name)
    if not kept.exists():
        shutil.copytree(self.workspace / "out", kept)
    MemoryJob._conclude(self, end)


async def prepares_around_it(self: Any, step: Step, ticket: Any) -> JobEnd:
    end = await MemoryJob._ours(self, step, ticket)
    kept = self.workspace.with_name(self.spec.name)
    if step is Step.PREPARE and kept.exists():
        shutil.copytree(kept, self.workspace / "out", dirs_exist_ok=True)
    return end


EXECUTOR.add(
    "a_workspace_is_empty_for_the_next",
    "leaves_the_output",
    opening(job_type=type("Mutant", (MemoryJob,), {"_conclude": leaves_the_output, "_ours": prepares_around_it})),
)


@creating("values_reach_the_module_unchanged")
def expands_variables(spec: Any) -> Any:
    return with_module(spec, env={name: os.path.expandvars(value) for name, value in spec.module.env.items()})


@creating("values_reach_the_module_unchanged")
def strips_values(spec: Any) -> Any:
    return with_module(spec, env={name: value.strip() for name, value in spec.module.env.items()})


@creating("values_reach_the_module_unchanged")
def doubles_dollars_of_arguments(spec: Any) -> Any:
    return with_module(spec, args=tuple(it.replace("$", "$$") for it in spec.module.args))


@creating("values_reach_the_module_unchanged")
def forgets_arguments(spec: Any) -> Any:
    return with_module(spec, args=())


@creating("nothing_of_ours_is_in_the_modules_environment")
def passes_its_environment_on(spec: Any) -> Any:
    return with_module(spec, env={**os.environ, **spec.module.env})


@creating("nothing_of_ours_is_in_the_modules_environment")
def tells_where_its_settings_are(spec: Any) -> Any:
    return with_module(spec, env={"ION_CONFIG": "/ion-settings", **spec.module.env})


@creating("the_module_sees_no_ticket_and_no_settings")
def has_settings_in_env(spec: Any) -> Any:
    return with_module(spec, env={"SETTINGS": spec.settings.decode(), **spec.module.env})


@creating("the_module_sees_no_ticket_and_no_settings")
def has_settings_among_arguments(spec: Any) -> Any:
    return with_module(spec, args=(*spec.module.args, spec.settings.decode()))


@job("the_module_sees_no_ticket_and_no_settings", "_ours")
async def leaves_the_ticket_in_the_workspace(self: Any, step: Step, ticket: Any) -> JobEnd:
    end = await MemoryJob._ours(self, step, ticket)
    if step is Step.PREPARE:
        (self.workspace / "in/ticket").write_bytes(ticket.encode())
    return end


@job("the_module_is_told_its_trace", "_ours")
async def tells_no_trace(self: Any, step: Step, ticket: Any) -> JobEnd:
    return await MemoryJob._ours(self, step, replace(ticket, traceparent=""))


@job("the_module_is_told_its_trace", "_ours")
async def always_tells_a_trace(self: Any, step: Step, ticket: Any) -> JobEnd:
    return await MemoryJob._ours(self, step, replace(ticket, traceparent=ticket.traceparent or TRACEPARENT))


@creating("settings_are_not_listed")
def annotates_settings(spec: Any) -> Any:
    return replace(spec, labels={**spec.labels, "settings": spec.settings.decode()})
