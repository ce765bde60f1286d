"""``ion-core plugins doctor``."""

from __future__ import annotations

from typing import TYPE_CHECKING, Any

import click

from ion_core.cli.options import json_option, with_config
from ion_core.cli.output import mark, out, out_json, plain
from ion_core.cli.whole import Options
from ion_core.contracts import CONTRACT_VERSION
from ion_core.words import counted

if TYPE_CHECKING:
    from ion_core.registry import Examined

CANNOT_BE_USED = 78
"""As of a configuration that cannot."""


@click.command("doctor")
@with_config
@json_option
def doctor(options: Options, as_json: bool) -> None:
    """Say of each installed plugin for which contract it was written, what is wrong with it, and what would mend it.

    Looked at are the plugins that the configuration allows, all that are installed without one: whether they load, what
    they require and is missing, and names that two of them want. Nothing is connected to: whether a provider keeps its
    contract says `ion-core plugins test`. The exit code is 78 if something is wrong.
    """
    from ion_core.cli.root import TAKEN
    from ion_core.cli.session import plugins_allowed
    from ion_core.registry import examine

    found = examine(plugins_allowed(options.config), taken=TAKEN)
    ill = [it for it in found if it.ailments]
    if as_json:
        out_json({"contract": CONTRACT_VERSION, "healthy": not ill, "plugins": [_fields(it) for it in found]})
    else:
        out(f"This ion-core has contract {CONTRACT_VERSION}.")
        for examined in found:
            _tell(examined)
        out(f"{counted(len(found), 'plugin')}: " + (f"{len(ill)} with something wrong" if ill else "nothing is wrong"))
    if ill:
        click.get_current_context().exit(CANNOT_BE_USED)


def _tell(examined: Examined) -> None:
    called = f"{examined.distribution} {examined.version}".rstrip()
    if examined.skipped:
        out(plain(f"- {called}: not loaded: {examined.skipped}."))
        return
    offers = [f"{kind.value} {name} ({contract})" for kind, name, contract in examined.providers]
    what = ", ".join([*offers, *([f"observes {', '.join(examined.observes)}"] if examined.observes else [])])
    out(plain(f"{mark('✗', 'x') if examined.ailments else mark('✓', '+')} {called}{': ' if what else ''}{what}"))
    for ailment in examined.ailments:
        out(plain(f"    {ailment.problem}"))
        out(plain(f"    {ailment.remedy}"))


def _fields(examined: Examined) -> dict[str, Any]:
    return {
        "distribution": examined.distribution,
        "version": examined.version,
        "entryPoint": examined.entry_point,
        "providers": [
            {"kind": kind.value, "name": name, "contract": contract} for kind, name, contract in examined.providers
        ],
        "observes": list(examined.observes),
        "problems": [{"problem": it.problem, "remedy": it.remedy} for it in examined.ailments],
        "skipped": examined.skipped or None,
    }
