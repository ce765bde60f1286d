"""Hold: a delivery with the lease that keeps it ours, until it is settled."""

from __future__ import annotations

import asyncio
import logging
from collections.abc import Awaitable, Callable, Iterator
from contextlib import contextmanager

from ion_core.contracts.messaging import Delivery
from ion_core.dispatcher.bounded import Backoff
from ion_core.dispatcher.health import Health
from ion_core.errors import AlreadySettled, DeliveryLost, IonError, ProviderError, StorageFull, TransientError

log = logging.getLogger(__name__)

SETTLE_WITHIN = 20.0
"""Seconds for one settlement, its tries included; after that the delivery is given back as it came."""
GIVE_BACK_WITHIN = 10.0
"""Seconds to give back what could not be settled. Not every broker has a lease that would end."""

Verb = Callable[[Delivery], Awaitable[None]]


class Hold:
    """The delivery a job stands on. When it was lost and the broker gives the job to us again, that one is adopted."""

    def __init__(self, delivery: Delivery, health: Health) -> None:
        self.delivery = delivery
        self._health = health
        self.over = False
        """Whether it was settled, or that was given up."""

    @property
    def lost(self) -> bool:
        return self.delivery.lost.is_set()

    def adopt(self, delivery: Delivery) -> bool:
        """Settle this one in the end, instead of the lost one. False if ours is not lost, or it is too late."""
        if self.over or not self.lost:
            return False
        self.delivery = delivery
        return True

    async def settle(self, verb: Verb) -> bool:
        """Apply ``verb``; tried again while the broker does not answer. False if the delivery is lost, or given back.

        What cannot be settled is given back, whatever the reason: held for nobody, it would take a place for ever where
        the broker has no lease. It comes again: nothing is lost by giving up.
        """
        try:
            return await self._settled(verb) or await self._given_back()
        finally:
            self.over = True

    async def _settled(self, verb: Verb) -> bool:
        backoff = Backoff(first=0.1, most=5.0)
        try:
            async with asyncio.timeout(SETTLE_WITHIN):
                while True:
                    held = self.delivery
                    try:
                        await verb(held)
                    except DeliveryLost:
                        if held is self.delivery:  # else another one was adopted meanwhile
                            return False
                    except TransientError as error:
                        if isinstance(error, StorageFull):
                            self._health.storage_full(str(error))
                        log.warning("broker does not settle, trying again: %s", error)
                        await asyncio.sleep(backoff.next())
                    except IonError as error:  # no further try helps: it is no longer ours, or the broker is at fault
                        log.error("delivery cannot be settled; it is given back: %s", error)
                        return False
                    except Exception:
                        log.exception("delivery cannot be settled by a bug; it is given back")
                        return False
                    else:
                        return True
        except TimeoutError:
            log.error("delivery could not be settled in %.0f s; it is given back", SETTLE_WITHIN)
            return False

    async def _given_back(self) -> bool:
        """Whether a verb that was given up turns out to have settled it after all."""
        if self.lost:
            return False
        try:
            async with asyncio.timeout(GIVE_BACK_WITHIN):
                await self.delivery.release()
        except AlreadySettled:
            return True
        except DeliveryLost:
            return False
        except (IonError, TimeoutError) as error:
            log.error("delivery could not be given back; its lease decides, where it has one: %s", error)
        return False


class Leases:
    """Renews every delivery held, in one task. A failed renewal is logged; what is lost says so itself."""

    def __init__(self) -> None:
        self._holds: set[Hold] = set()
        self._wake = asyncio.Event()

    @contextmanager
    def keep(self, hold: Hold) -> Iterator[Hold]:
        """Renew ``hold`` while the body runs."""
        if hold.delivery.lease is None:
            yield hold
            return
        self._holds.add(hold)
        self._wake.set()
        try:
            yield hold
        finally:
            self._holds.discard(hold)

    async def run(self) -> None:
        """For ever: renew all of them thrice in a lease's time."""
        while True:
            await self._wake.wait()
            leases = [hold.delivery.lease for hold in self._holds]
            if not leases:
                self._wake.clear()
                continue
            await asyncio.sleep(min(lease.total_seconds() for lease in leases if lease is not None) / 3)
            await asyncio.gather(*(self._renew(hold) for hold in list(self._holds)))

    async def _renew(self, hold: Hold) -> None:
        if hold.lost or hold.over:
            return
        try:
            await hold.delivery.renew()
        except AlreadySettled:
            return  # settled at this very moment
        except DeliveryLost:
            log.warning("delivery lost while its job runs; the job goes on, its commit decides")
        except ProviderError as error:
            log.warning("lease not renewed, trying again: %s", error)
        except Exception:
            log.exception("lease not renewed by a bug, trying again")
