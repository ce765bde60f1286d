"""``oci_event`` and ``oci_event_cold``: ``podman_event`` with the oci runtime in Podman's place.

Ours: as in ``podman_event``, with containers of the OCI runtime itself. Theirs: the same, bare through Podman's API.
"""

from __future__ import annotations

from functools import partial

from bench.measure import Benchmark, at_most
from bench.oci import oci_runtime
from bench.rows.podman_event import PAIRS, one_event


def warm() -> Benchmark:
    return Benchmark(
        name="oci_event", unit="ms", goal=at_most(0.12), open=partial(one_event, 2, oci_runtime), pairs=PAIRS
    )


def cold() -> Benchmark:
    return Benchmark(
        name="oci_event_cold", unit="ms", goal=at_most(0.35), open=partial(one_event, 0, oci_runtime), pairs=PAIRS
    )
