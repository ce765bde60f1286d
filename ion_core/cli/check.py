"""``ion-core check``."""

from __future__ import annotations

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import click

from ion_core.cli.options import Options, json_option, with_config
from ion_core.cli.output import out, out_json, plain
from ion_core.errors import ConfigError, IonError, TransientError

if TYPE_CHECKING:
    from ion_core.app import App
    from ion_core.config import Config, Finding
    from ion_core.contracts.runtime import RuntimeCapabilities


@click.command("check")
@with_config
@json_option
def command(options: Options, as_json: bool) -> None:
    """Check a configuration: mistakes, the graph of its modules, its runtimes.

    Every mistake is a line `file:line:column: key: what is wrong`, and the exit code 78. What is worth knowing all the
    same (types that nobody takes or emits, circles, modules that take longer than the broker holds an event for) is
    printed and changes nothing. Brokers and stores are not asked;
    runtimes are, for what they can do, where they can be reached.

    \b
    Example:
      ion-core check --config ion.yaml
    """
    from ion_core.cli.session import load

    try:
        config = load(options)
        findings, not_checked, problems = _look(config)
        if problems:
            raise ConfigError(problems)
    except ConfigError as error:
        if as_json:
            out_json({"ok": False, "problems": list(error.problems)})
        raise
    if as_json:
        out_json(_report(config, findings, not_checked))
        return
    for finding in findings:
        out(plain(f"{finding.where}: {finding.severity}: {finding.text}"))
    for name, reason in not_checked.items():
        out(plain(f"{config.runtimes[name].where}: not checked: {reason}"))
    out(f"ok: {_counts(config)}")


def _look(config: Config) -> tuple[list[Finding], dict[str, str], list[str]]:
    """What is worth saying, the runtimes that could not be asked (and why), and what is wrong."""
    from ion_core.cli.session import run
    from ion_core.config import check_graph, check_holding, check_runtimes, told_limit

    findings = [*check_graph(config), *check_holding(config, told_limit(config))]
    capabilities, not_checked, problems = run(config, _capabilities)
    findings += check_runtimes(config, capabilities)
    problems += [str(finding) for finding in findings if finding.severity == "error"]
    return [finding for finding in findings if finding.severity != "error"], not_checked, problems


async def _capabilities(app: App) -> tuple[dict[str, RuntimeCapabilities], dict[str, str], list[str]]:
    """Of each runtime that a module uses; why not, for those that do not answer; and what is wrong with others."""
    import asyncio

    from ion_core.app import OPEN_WITHIN

    found: dict[str, RuntimeCapabilities] = {}
    not_checked: dict[str, str] = {}
    problems: list[str] = []
    for name in sorted({module.runtime for module in app.config.modules.values()}):
        chosen = app.config.runtimes[name]
        try:
            async with asyncio.timeout(OPEN_WITHIN), chosen.provider.open(chosen.settings) as runtime:
                found[name] = runtime.capabilities
        except TimeoutError:
            not_checked[name] = f"{chosen.provider.name} did not open within {OPEN_WITHIN:.0f} s. Is it reachable?"
        except TransientError as error:
            not_checked[name] = str(error)
        except ConfigError as error:
            problems += [f"{chosen.where}: {problem}" for problem in error.problems]
        except IonError as error:
            problems.append(f"{chosen.where}: {error}")
    return found, not_checked, problems


def _report(config: Config, findings: Sequence[Finding], not_checked: dict[str, str]) -> dict[str, Any]:
    return {
        "ok": True,
        "config": str(config.path),
        "modules": len(config.modules),
        "findings": [vars(finding) for finding in findings],
        "runtimes": [
            {"name": name, "provider": chosen.provider.name, "notChecked": not_checked.get(name)}
            for name, chosen in config.runtimes.items()
        ],
    }


def _counts(config: Config) -> str:
    types = {it for module in config.modules.values() for it in (*module.subscribes, *module.publishes)}
    return (
        f"{_number(len(config.modules), 'module')}, {_number(len(types), 'event type')}, "
        f"{_number(len(config.runtimes), 'runtime')}, {_number(len(config.services), 'service')}"
    )


def _number(count: int, what: str) -> str:
    return f"{count} {what}{'' if count == 1 else 's'}"
