"""Replaying: the module run on a case's inputs, and what it leaves compared with what is expected."""

from __future__ import annotations

import asyncio
import secrets
import shutil
import stat
from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields
from enum import Enum
from itertools import zip_longest
from pathlib import Path
from typing import Any

from ion_core.cases.case import Case, ExpectedEvent
from ion_core.cases.comparing import Difference, compare_files, compare_pairs
from ion_core.cases.record import remove, write_expected
from ion_core.contracts.runtime import ContainerRuntime
from ion_core.dataplane import DataPlane
from ion_core.errors import storage_error
from ion_core.events import Context, Event, StoredFile
from ion_core.gathered import Inputs
from ion_core.modules import Module
from ion_core.rehearsal import Rehearsal, rehearse


class Outcome(Enum):
    """What became of a case."""

    PASSED = "passed"
    FAILED = "failed"
    UPDATED = "updated"


@dataclass(frozen=True, kw_only=True)
class Replayed:
    """``reason`` is why the module failed, ``differences`` are what it left instead; ``lines`` are what it printed."""

    case: Case
    outcome: Outcome
    seconds: float = 0.0
    reason: str = ""
    differences: Sequence[Difference] = ()
    lines: Sequence[str] = ()


async def replay(
    case: Case, module: Module, *, dataplane: DataPlane, runtime: ContainerRuntime, work: Path, mark: str, update: bool
) -> Replayed:
    """Run ``module`` once on the inputs of ``case``. Nothing is committed.

    ``dataplane`` stores the case's event and files: one of its own for each case. ``work`` and ``mark`` as for
    ``rehearse``, which says what is raised. With ``update`` what is expected is replaced by what differs from it.
    """
    event = await dataplane.store(_event_of(case), case.inputs)
    if case.gathered is not None:
        dataplane = _Gathering(**{it.name: getattr(dataplane, it.name) for it in fields(dataplane)}, told=case.gathered)
    async with rehearse(module, event, dataplane=dataplane, runtime=runtime, work=work, mark=mark) as rehearsal:
        if rehearsal.failure is not None:
            reason = str(rehearsal.failure)
            return _replayed(case, rehearsal, Outcome.FAILED, reason=reason)
        try:
            differences = await asyncio.to_thread(_differences, case, rehearsal)
            if differences and update:
                await asyncio.to_thread(rewrite, case, rehearsal)
        except OSError as error:
            raise storage_error(str(error.filename or case.path), error) from error
    if not differences:
        return _replayed(case, rehearsal, Outcome.PASSED)
    outcome = Outcome.UPDATED if update else Outcome.FAILED
    return _replayed(case, rehearsal, outcome, differences=differences)


@dataclass(frozen=True, kw_only=True)
class _Gathering(DataPlane):
    """The event of the case starts a gatherer, which is given its files as those of events that it is ``told`` of."""

    told: Mapping[str, Any]

    async def stored_files(self, event: Event) -> tuple[Event, tuple[StoredFile, ...]]:
        event, _ = await super().stored_files(event)
        return event, ()

    async def gathered(self, event: Event) -> Inputs:
        _, files = await super().stored_files(event)
        return Inputs(files=files, told=self.told)


def _replayed(
    case: Case, rehearsal: Rehearsal, outcome: Outcome, *, reason: str = "", differences: Sequence[Difference] = ()
) -> Replayed:
    return Replayed(
        case=case,
        outcome=outcome,
        seconds=rehearsal.seconds,
        reason=reason,
        differences=differences,
        lines=rehearsal.lines,
    )


def _event_of(case: Case) -> Event:
    """The same ids in every run, so that whatever is made of them is the same, too."""
    context = Context(name="case", event_id=f"case {case.id}", correlation_id=f"case {case.id}")
    return Event(context=context, type=case.event_type, data=case.pairs)


def _left(rehearsal: Rehearsal) -> Mapping[str, Path]:
    return {file.name: rehearsal.workspace.out / "data" / file.name for file in rehearsal.files}


def _differences(case: Case, rehearsal: Rehearsal) -> list[Difference]:
    found = [*compare_files(case.files, _left(rehearsal), case.rules)]
    found += compare_pairs("insights", case.insights, rehearsal.insights, case.rules)
    for n, (expected, event) in enumerate(zip_longest(case.events, rehearsal.events)):
        found += _event_differences(f"events/{n}", expected, event, case)
    return found


def _event_differences(where: str, expected: ExpectedEvent | None, left: Event | None, case: Case) -> list[Difference]:
    if left is None or expected is None:
        what = "is missing; expected" if left is None else "is not expected:"
        type_ = expected.type if expected is not None else left.type if left is not None else ""
        return [Difference(where, f"{what} {type_}")]
    found = []
    if expected.type != left.type:
        found.append(Difference(where, f"is of type {left.type}, expected {expected.type}"))
    if expected.files != left.files:
        names = [", ".join(files) or "none" for files in (left.files, expected.files)]
        found.append(Difference(where, f"has the files {names[0]}, expected {names[1]}"))
    return [*found, *compare_pairs(where, expected.data, left.data, case.rules)]


def rewrite(case: Case, rehearsal: Rehearsal) -> None:
    """Expect from now on what was left, case.yaml and the inputs untouched; whole or not at all. Raises OSError."""
    made = case.path / f".expected.{secrets.token_hex(4)}"
    made.mkdir()
    try:
        for name, path in _left(rehearsal).items():
            (made / "data" / name).parent.mkdir(parents=True, exist_ok=True)
            shutil.copyfile(path, made / "data" / name, follow_symlinks=False)
            if path.lstat().st_mode & stat.S_IXUSR:
                (made / "data" / name).chmod(0o755)
        write_expected(made, rehearsal.insights, rehearsal.events)
        remove(case.path / "expected")
        if any(made.iterdir()):
            made.rename(case.path / "expected")
    finally:
        remove(made)
