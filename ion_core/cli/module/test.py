"""``ion-core module test``."""

from __future__ import annotations

import time
from collections.abc import AsyncIterator, Callable, Sequence
from dataclasses import replace
from typing import TYPE_CHECKING, Any

import click

from ion_core.cli.module.record import from_here
from ion_core.cli.named import CaseName
from ion_core.cli.options import Text, json_option, with_config
from ion_core.cli.output import hidden_in, out, out_array, plain, results, say
from ion_core.cli.whole import Options
from ion_core.words import counted, plain_lines

if TYPE_CHECKING:
    from ion_core.app import App
    from ion_core.cases import Case, Outcome, Replayed
    from ion_core.cli.module.rehearsing import Where
    from ion_core.config import Config

NO_CASES = 5
"""The exit code of pytest for the same."""
LAST_LINES = 20
RULER = 79


@click.command("test")
@click.argument("names", metavar="[NAME]...", type=CaseName(), nargs=-1)
@click.option("-k", "expression", metavar="EXPR", type=Text(), help="Only cases whose MODULE/CASE fits, as in pytest.")
@click.option(
    "--update", is_flag=True, help="Expect from now on what differs; read the changes before you commit them."
)
@click.option(
    "--runtime", metavar="PROVIDER", type=Text(), help="Run them by this one, such as podman. Default: process."
)
@json_option
@with_config
@click.pass_context
def test(
    ctx: click.Context,
    options: Options,
    names: Sequence[str],
    expression: str | None,
    update: bool,
    runtime: str | None,
    as_json: bool,
) -> None:
    """Replay recorded cases through the modules themselves, and compare what they leave.

    NAME is a module, or one case as MODULE/CASE; without any, all in cases/ beside the configuration are replayed. No
    service is needed, and nothing is committed. Printed is a dot for each, or with -v a line, and how those that fail
    differ. Cases of a module that is not in the configuration, such as one that was removed, are passed over, and that
    is said. Ends with 0 when all pass, 1 when one fails, 5 when there is none to replay, and 78 when a case cannot be
    read.

    \b
    Examples:
      ion-core module test
      ion-core module test detect -k 'faces and not large' -v
    """
    from ion_core.cases import Outcome
    from ion_core.cli.module.rehearsing import Where
    from ion_core.cli.session import load, run
    from ion_core.config import unpublished

    where = Where(dev=False, runtime=runtime or "process")
    config = load(options, replacements=unpublished(runtime=where.runtime, stored=False, said_by="module test"))
    cases = _chosen(config, names, expression)
    show = _Progress(options.verbose, len(cases)) if not as_json else None
    started = time.monotonic()

    async def work(app: App) -> list[Replayed]:
        found = []
        async for replayed in _replay_all(app, cases, where, update=update):
            found.append(replayed)
            if show is not None:
                show.one(replayed)
        return found

    found = run(config, work) if cases else []
    if as_json:
        out_array(_to_json(it) for it in found)
    else:
        _print_failures(found)
        out(_summary([it.outcome for it in found], time.monotonic() - started))
    if not cases:
        say("No recorded case was chosen. `ion-core module record` makes them.")
        ctx.exit(NO_CASES)
    ctx.exit(1 if any(it.outcome is Outcome.FAILED for it in found) else 0)


def _chosen(config: Config, names: Sequence[str], expression: str | None) -> list[Case]:
    from ion_core.cases import DIRECTORY, cases_below, chooses

    fits: Callable[[str], bool] = chooses(expression) if expression is not None else lambda id: True
    base = from_here(config.path.parent / DIRECTORY)
    found = cases_below(base, config.modules, names)
    for said in found.ownerless:
        say(plain(f"Passed over: {said}"))
    return [case for case in found.cases if fits(case.id)]


async def _replay_all(app: App, cases: Sequence[Case], where: Where, *, update: bool) -> AsyncIterator[Replayed]:
    """Each in a directory of its own. What is wrong with one case, such as its image, is its failure."""
    from ion_core.cases import Outcome, Replayed, replay
    from ion_core.cli.module.rehearsing import fitting_runtime
    from ion_core.errors import InvalidEvent, PermanentError
    from ion_core.rehearsal import scratch

    fitting: dict[str, Any] = {}
    for case in cases:
        if case.module not in fitting:
            fitting[case.module] = await fitting_runtime(app, app.config.modules[case.module], where)
        module, runtime = fitting[case.module]
        async with scratch(app.state, module.runtime, runtime) as place:
            dataplane = replace(await app.dataplane(), blobs=await app.blobs_at(place.path / "blobs"))
            try:
                yield await replay(
                    case,
                    module,
                    dataplane=dataplane,
                    runtime=runtime,
                    work=place.work,
                    mark=place.mark,
                    update=update,
                )
            except (PermanentError, InvalidEvent) as error:
                said = getattr(error, "said", ())
                yield Replayed(case=case, outcome=Outcome.FAILED, reason=str(error), lines=said)


MARKS = {"passed": ".", "failed": "F", "updated": "U"}


class _Progress:
    """A dot for each case, or with -v a line."""

    def __init__(self, verbose: bool, count: int) -> None:
        self._verbose, self._count, self._done = verbose, count, 0
        out(counted(count, "recorded case"))

    def one(self, replayed: Replayed) -> None:
        self._done += 1
        outcome = replayed.outcome.value
        if self._verbose:
            out(f"{plain(replayed.case.id)} {outcome.upper()} in {replayed.seconds:.2f} s")
        else:
            last = self._done == self._count or self._done % RULER == 0
            click.echo(MARKS[outcome], nl=last, file=results())


def _print_failures(found: Sequence[Replayed]) -> None:
    bad = [it for it in found if it.outcome.value == "failed"]
    changed = [it for it in found if it.outcome.value == "updated"]
    for title, some in (("FAILURES", bad), ("UPDATED", changed)):
        if some:
            out(f" {title} ".center(RULER, "="))
        for replayed in some:
            out(f" {plain(replayed.case.id)} ".center(RULER, "_"))
            _print_one(replayed)
    if bad:
        out(" short summary ".center(RULER, "="))
    for replayed in bad:
        what = replayed.reason or ", ".join(difference.where for difference in replayed.differences)
        out(f"FAILED {plain(replayed.case.id)} - {plain(what)}")


def _print_one(replayed: Replayed) -> None:
    if replayed.reason:
        out(plain_lines(replayed.reason))
    for difference in replayed.differences:
        out(plain_lines(f"{difference.where}: {difference.text}"))
    if replayed.lines and replayed.outcome.value == "failed":
        hidden = len(replayed.lines) - LAST_LINES
        out("printed" + (f" ({counted(hidden, 'line')} before these)" if hidden > 0 else "") + ":")
        for line in replayed.lines[-LAST_LINES:]:
            out("  " + plain_lines(line))


def _summary(outcomes: Sequence[Outcome], seconds: float) -> str:
    values = [outcome.value for outcome in outcomes]
    counts = [f"{values.count(what)} {what}" for what in ("passed", "failed", "updated") if what in values]
    return f"{', '.join(counts) or 'no cases'} in {seconds:.2f} s"


def _to_json(replayed: Replayed) -> dict[str, Any]:
    return {
        "case": replayed.case.id,
        "module": replayed.case.module,
        "outcome": replayed.outcome.value,
        "seconds": round(replayed.seconds, 3),
        "reason": hidden_in(replayed.reason),
        "differences": [{"where": it.where, "text": hidden_in(it.text)} for it in replayed.differences],
        "logs": hidden_in(list(replayed.lines)),
    }
