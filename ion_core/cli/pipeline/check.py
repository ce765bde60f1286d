"""``ion-core check``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from ion_core.cli.options import json_option, with_config
from ion_core.cli.output import hidden_in, out, out_json, plain
from ion_core.cli.whole import Options
from ion_core.errors import ConfigError, IonError, NotSetUpHere, PluginFailed, TransientError
from ion_core.words import counted

if TYPE_CHECKING:
    from ion_core.app import App, StrayQueue
    from ion_core.config import Config, Finding
    from ion_core.contracts.runtime import RuntimeCapabilities


@click.command("check")
@click.option("--connect", is_flag=True, help="Ask the message broker too: for queues that no module takes.")
@with_config
@json_option
def command(options: Options, connect: bool, as_json: bool) -> None:
    """Check a configuration: mistakes, the graph of its modules, its runtimes.

    Every mistake is a line `file:line:column: key: what is wrong`, and the exit code 78. What is worth knowing all the
    same (types that nobody takes or emits, circles, modules that take longer than the broker holds an event for, a
    store that only this machine reaches with a broker that others reach, too, certificates that have expired) is
    printed and changes nothing. Stores are not asked, the broker with --connect only; runtimes are, for what they can
    do, where they can be reached. Of one that cannot, what its settings tell of that is checked all the same.

    \b
    Example:
      ion-core check --config ion.yaml
    """
    from ion_core.cli.session import load

    try:
        config = load(options)
        findings, not_checked, problems = _look(config)
        strays, broker_away = _strays(config) if connect else ([], "")
        findings += strays
        if problems:
            raise ConfigError(problems)
    except ConfigError as error:
        if as_json:
            out_json({"ok": False, "problems": hidden_in(error.problems)})
        raise
    if as_json:
        broker = {"notChecked": broker_away or None} if connect else None
        out_json(hidden_in(_report(config, findings, not_checked) | {"messaging": broker}))
        return
    for finding in findings:
        out(plain(f"{finding.where}: {finding.severity}: {finding.text}"))
    for name, reason in not_checked.items():
        out(plain(f"{config.runtimes[name].where}: not checked: {reason}"))
    if broker_away:
        out(plain(f"{config.messaging.where}: not checked: {broker_away}"))
    out(f"ok: {_counts(config)}")


def _look(config: Config) -> tuple[list[Finding], dict[str, str], list[str]]:
    """What is worth saying, the runtimes that could not be asked (and why), and what is wrong."""
    from ion_core.cli.session import run
    from ion_core.config import (
        check_graph,
        check_holding,
        check_names,
        check_observers,
        check_programs,
        check_python,
        check_reach,
        check_runtimes,
        check_settings,
        told_limit,
    )

    findings = [*check_graph(config), *check_holding(config, told_limit(config)), *check_reach(config)]
    findings += [*check_settings(config), *check_names(config), *check_observers(config)]
    capabilities, not_checked, problems = run(config, _capabilities, reading=True)
    findings += [*check_programs(config), *check_python(config)]
    findings += check_runtimes(config, capabilities)
    problems += [str(finding) for finding in findings if finding.severity == "error"]
    return [finding for finding in findings if finding.severity != "error"], not_checked, problems


def _strays(config: Config) -> tuple[list[Finding], str]:
    """Queues that collect or keep events for no module of the configuration; or why the broker could not be asked."""
    from ion_core.app import stray_queues
    from ion_core.cli.session import run
    from ion_core.config import Finding

    async def ask(app: App) -> list[StrayQueue]:
        return await stray_queues(await app.broker(), config.modules)

    try:
        found = run(config, ask, reading=True)
    except TransientError as error:
        return [], str(error)
    where = config.messaging.where
    return [Finding(severity="warning", where=where, text=str(stray)) for stray in found if stray.matters], ""


async def _capabilities(app: App) -> tuple[dict[str, RuntimeCapabilities], dict[str, str], list[str]]:
    """Of each runtime that a module uses; why not, for those that do not answer; and what is wrong with others.

    One that does not open may be known by its settings all the same.
    """
    from ion_core.opening import opened

    found: dict[str, RuntimeCapabilities] = {}
    not_checked: dict[str, str] = {}
    problems: list[str] = []
    for name in sorted({module.runtime for module in app.config.modules.values()}):
        chosen = app.config.runtimes[name]
        if (told := chosen.capabilities) is not None:
            found[name] = told
        try:
            async with opened(chosen) as runtime:
                found[name] = runtime.capabilities
        except (TransientError, NotSetUpHere) as error:
            not_checked[name] = str(error).removeprefix(f"{chosen.where}: ")
        except ConfigError as error:
            problems += error.problems
        except PluginFailed:
            raise
        except IonError as error:
            problems.append(f"{chosen.where}: {error}")
    return found, not_checked, problems


def _report(config: Config, findings: Sequence[Finding], not_checked: dict[str, str]) -> dict[str, Any]:
    from ion_core.config import python_environments

    return {
        "ok": True,
        "config": str(config.path),
        "modules": len(config.modules),
        "findings": [vars(finding) for finding in findings],
        "runtimes": [
            {"name": name, "provider": chosen.provider.name, "notChecked": not_checked.get(name)}
            for name, chosen in config.runtimes.items()
        ],
        "environments": [
            {
                "module": it.module,
                "requirements": str(it.requirements) if it.requirements else None,
                "environment": str(it.environment),
                "made": it.made,
            }
            for it in python_environments(config)
        ],
    }


def _counts(config: Config) -> str:
    types = {it for module in config.modules.values() for it in (*module.subscribes, *module.publishes)}
    return (
        f"{counted(len(config.modules), 'module')}, {counted(len(types), 'event type')}, "
        f"{counted(len(config.runtimes), 'runtime')}, {counted(len(config.services), 'service')}"
    )
