"""Broken executors: what they tell of an end."""

from __future__ import annotations

from dataclasses import replace
from datetime import timedelta
from typing import Any

from ion_core.contracts.executor import Cause, JobEnd, Step
from ion_core.contracts.runtime import ExitStatus
from ion_core.embedded.memory.executor import MemoryEngine, MemoryExecutor, MemoryJob
from ion_core.errors import ImageUnavailable, JobNotFound, NoRoom, PermanentError, TransientError
from tests.teeth.executor import (
    ends,
    engine,
    executor,
    job,
    with_module,
)


@ends("exit_codes_are_data")
def knows_good_and_bad_only(end: JobEnd) -> JobEnd:
    return replace(end, status=ExitStatus(code=int(end.cause is not None)))


@ends("exit_codes_are_data")
def takes_failure_for_the_engines(end: JobEnd) -> JobEnd:
    return replace(end, cause=end.cause and Cause.INFRASTRUCTURE)


@job("exit_codes_are_data", "_module")
async def commits_what_failed(self: Any) -> JobEnd:
    return replace(await MemoryJob._module(self), cause=None)


@ends("a_death_by_signal_is_told")
def hides_the_signal(end: JobEnd) -> JobEnd:
    return replace(end, status=end.status and ExitStatus(code=end.status.code))


@job("a_timeout_is_the_modules", "_module")
async def commits_what_timed_out(self: Any) -> JobEnd:
    end = await MemoryJob._module(self)
    return replace(end, cause=None) if end.reason else end


@job("a_timeout_is_the_modules", "_module")
async def has_no_timeout(self: Any) -> JobEnd:
    self.spec = replace(self.spec, timeout=timedelta(hours=1))
    return await MemoryJob._module(self)


@ends("a_timeout_is_the_modules")
def does_not_say_which_timeout(end: JobEnd) -> JobEnd:
    return replace(end, reason="DeadlineExceeded")


@ends("a_timeout_is_the_modules")
def takes_a_timeout_for_the_engines(end: JobEnd) -> JobEnd:
    return replace(end, cause=Cause.INFRASTRUCTURE)


@ends("a_memory_limit_is_told")
def takes_a_limit_for_a_failure(end: JobEnd) -> JobEnd:
    return replace(end, cause=Cause.MODULE)


@ends("a_memory_limit_is_told")
def does_not_say_which_limit(end: JobEnd) -> JobEnd:
    return replace(end, reason="OOMKilled")


@ends("a_refused_output_names_every_entry")
def loses_the_result(end: JobEnd) -> JobEnd:
    return replace(end, reason="")


@ends("a_refused_output_names_every_entry")
def tells_the_first_reason(end: JobEnd) -> JobEnd:
    return replace(end, reason=end.reason.partition(";")[0])


@ends("a_refused_output_names_every_entry")
def takes_a_refusal_for_a_failure(end: JobEnd) -> JobEnd:
    return replace(end, cause=Cause.MODULE)


@job("an_event_that_is_not_stored_runs_no_module", "_ours")
async def runs_without_inputs(self: Any, step: Step, ticket: Any) -> JobEnd:
    if step is Step.PREPARE:
        return replace(await MemoryJob._ours(self, step, ticket), cause=None)
    return JobEnd(step=Step.PREPARE, status=ExitStatus(code=66), cause=Cause.REFUSED, reason=ticket.event_id)


@ends("an_event_that_is_not_stored_runs_no_module")
def does_not_say_which_event(end: JobEnd) -> JobEnd:
    return replace(end, reason="exit code 66")


@ends("stores_that_are_away_are_infrastructure")
def takes_absence_for_a_refusal(end: JobEnd) -> JobEnd:
    return replace(end, cause=Cause.REFUSED)


@ends("stores_that_are_away_are_infrastructure")
def does_not_say_why(end: JobEnd) -> JobEnd:
    return replace(end, reason="")


@engine("a_missing_image_is_told", "make")
async def takes_absence_for_an_outage(self: Any, spec: Any) -> MemoryJob:
    try:
        return await MemoryEngine.make(self, spec)
    except ImageUnavailable as error:
        raise TransientError(str(error)) from error


@engine("a_missing_image_is_told", "make")
async def runs_without_image(self: Any, spec: Any) -> MemoryJob:
    return await MemoryEngine.make(self, with_module(spec, image=None))


@engine("what_is_no_name_of_an_image_is_refused_at_once", "make")
async def asks_a_registry_for_anything(self: Any, spec: Any) -> MemoryJob:
    return await MemoryEngine.make(self, with_module(spec, image=None))


@engine("a_missing_program_is_never_tried_again", "make")
async def exits_with_1(self: Any, spec: Any) -> MemoryJob:
    try:
        return await MemoryEngine.make(self, spec)
    except PermanentError:
        return await MemoryEngine.make(self, with_module(spec, command=("exit", "1")))


@engine("a_missing_program_is_never_tried_again", "make")
async def does_not_name_the_program(self: Any, spec: Any) -> MemoryJob:
    try:
        return await MemoryEngine.make(self, spec)
    except PermanentError as error:
        raise PermanentError("StartError") from error


def interrupted(rule: str, name: str, **changes: Any) -> None:
    """What the engine does is told as something else."""

    async def end(self: Any, ref: Any, cause: Cause, reason: str) -> None:
        await MemoryEngine.end(self, ref, changes.get("cause", cause), changes.get("reason", reason))

    end.__name__ = name
    engine(rule, "end")(end)


for lost in ("a_lost_node_is_infrastructure", "an_evicted_job_is_infrastructure"):
    interrupted(lost, "blames_the_module", cause=Cause.MODULE)
    interrupted(lost, "blames_somebody", cause=Cause.CANCELLED)
    interrupted(lost, "keeps_the_words_to_itself", reason="")
interrupted("what_others_delete_is_cancelled", "runs_it_again", cause=Cause.INFRASTRUCTURE)


@executor("what_others_delete_is_cancelled", "wait")
async def misses_the_deletion(self: Any, ref: Any) -> JobEnd:
    end = await MemoryExecutor.wait(self, ref)
    if end.cause is Cause.CANCELLED:
        raise JobNotFound(ref.name)
    return end


@engine("no_room_is_told", "make")
async def takes_a_quota_for_a_policy(self: Any, spec: Any) -> MemoryJob:
    try:
        return await MemoryEngine.make(self, spec)
    except NoRoom as error:
        raise PermanentError(str(error)) from error


@engine("no_room_is_told", "make")
async def remembers_that_there_was_none(self: Any, spec: Any) -> MemoryJob:
    self.was_full = self.full or getattr(self, "was_full", "")
    self.full = self.was_full
    return await MemoryEngine.make(self, spec)


@engine("a_policy_is_told", "make")
async def takes_a_policy_for_a_quota(self: Any, spec: Any) -> MemoryJob:
    if self.forbids:
        raise NoRoom(self.forbids)
    return await MemoryEngine.make(self, spec)


@engine("a_policy_is_told", "make")
async def has_no_words(self: Any, spec: Any) -> MemoryJob:
    if self.forbids:
        raise PermanentError(f"{spec.name}: ")
    return await MemoryEngine.make(self, spec)
