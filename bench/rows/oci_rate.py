"""``oci_rate``: ``podman_rate`` with the oci runtime in Podman's place, four at a time on either side.

Ours: 200 events already in the queue of a module with ``concurrency: 4`` and as many warm slots. From before the
dispatcher is made until the last job is acked and everything of it removed. Theirs: the bare loop through Podman's API.
"""

from __future__ import annotations

from functools import partial

from bench.measure import Benchmark, at_least
from bench.oci import oci_runtime
from bench.rows.podman_rate import waiting_events

IN_FLIGHT = 4


def benchmark(events: int = 200) -> Benchmark:
    opened = partial(waiting_events, events, IN_FLIGHT, oci_runtime)
    return Benchmark(name="oci_rate", unit="events/s", goal=at_least(3.0), open=opened)
