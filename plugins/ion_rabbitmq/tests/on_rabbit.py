"""What the tests of this directory share: settings, an event, patience."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import AsyncIterator
from datetime import timedelta

from ion_core.contracts.messaging import Delivery, RetryPolicy
from ion_core.contracts.settings import Section
from ion_core.errors import TransientError
from ion_rabbitmq.settings import RabbitSettings

SOON = 30.0
FAIL_FAST = "3s"
"""For tests in which an answer is not to come. Where it is to come, a slow machine gets the time it needs."""
EVENT = b'{"context": {"name": "cli", "eventId": "e1", "correlationId": "c1"}, "type": "work.asked"}'
RETRY = RetryPolicy(retries=2, initial=timedelta(milliseconds=100), factor=2)


def settings(url: str, **more: object) -> RabbitSettings:
    """As a configuration has them."""
    values = {"url": url, "timeout": f"{SOON:g}s", **more}
    return RabbitSettings.model_validate(values, context={"section": Section(key="messaging")})


async def take(deliveries: AsyncIterator[Delivery]) -> Delivery:
    async with asyncio.timeout(SOON):
        return await anext(deliveries)


async def take_patiently(deliveries: AsyncIterator[Delivery]) -> Delivery:
    """As the dispatcher does: while the broker is away the iteration fails, and is continued."""
    async with asyncio.timeout(2 * SOON):
        while True:
            try:
                return await anext(deliveries)
            except TransientError as error:
                logging.getLogger(__name__).info("not yet: %s", error)
