"""What ion-gateway registers with Ion: the services ``gateway``, ``schedule`` and ``watch``."""

from __future__ import annotations

from collections.abc import Iterable
from contextlib import AbstractAsyncContextManager
from typing import TYPE_CHECKING

import click

from ion_core.contracts.provider import Provider
from ion_core.hookspecs import hookimpl
from ion_gateway.gateway_settings import GatewaySettings
from ion_gateway.settings import ScheduleSettings
from ion_gateway.watching.settings import WatchSettings

if TYPE_CHECKING:
    from ion_core.contracts.service import Service


def _open_gateway(settings: GatewaySettings) -> AbstractAsyncContextManager[Service]:
    from ion_gateway.gateway import open_gateway

    return open_gateway(settings)


def _open_schedule(settings: ScheduleSettings) -> AbstractAsyncContextManager[Service]:
    from ion_gateway.schedule import open_schedule

    return open_schedule(settings)


def _open_watch(settings: WatchSettings) -> AbstractAsyncContextManager[Service]:
    from ion_gateway.watch import open_watch

    return open_watch(settings)


@hookimpl
def ion_services() -> Iterable[Provider[Service]]:
    return [
        Provider(name="gateway", settings=GatewaySettings, open=_open_gateway, contract="1.1"),
        Provider(name="schedule", settings=ScheduleSettings, open=_open_schedule, contract="1.0"),
        Provider(name="watch", settings=WatchSettings, open=_open_watch, contract="1.1"),
    ]


@hookimpl
def ion_commands() -> Iterable[click.Command]:
    from ion_gateway.commands import gateway, schedule

    return [gateway, schedule]
