"""What ion-console registers with Ion: the service ``console``."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING

from ion_console.settings import ConsoleSettings
from ion_core.contracts.provider import Provider
from ion_core.hookspecs import hookimpl

if TYPE_CHECKING:
    from ion_core.contracts.service import Service


def _open(settings: ConsoleSettings) -> AbstractAsyncContextManager[Service]:
    from ion_console.console import open_console

    return open_console(settings)


@hookimpl
def ion_services() -> Iterable[Provider[Service]]:
    return [Provider(name="console", settings=ConsoleSettings, open=_open, contract="1.3")]
