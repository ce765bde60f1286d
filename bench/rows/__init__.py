"""The rows, one small file each. A new one is written beside these and listed here."""

from __future__ import annotations

from bench.measure import Benchmark
from bench.rows import (
    embedded_event,
    embedded_rate,
    events_many,
    executor_cost,
    executor_event,
    files,
    gateway_rate,
    gateway_upload,
    growth,
    handler_start,
    help,
    listing,
    memory,
    podman_event,
    podman_rate,
    rabbit_memory,
    rabbit_rate,
    reuse,
    s3_files,
    watch,
)

BENCHMARKS: dict[str, Benchmark] = {
    benchmark.name: benchmark
    for benchmark in (
        embedded_event.benchmark(),
        embedded_rate.benchmark(),
        executor_event.benchmark(),
        executor_cost.benchmark(),
        executor_cost.printing(),
        files.big(),
        files.big_copied(),
        files.many(),
        files.many_copied(),
        events_many.benchmark(),
        handler_start.local(),
        handler_start.s3(),
        help.benchmark(),
        growth.benchmark(),
        listing.benchmark(),
        podman_event.warm(),
        podman_event.cold(),
        podman_rate.benchmark(),
        s3_files.benchmark(),
        memory.benchmark(),
        rabbit_memory.benchmark(),
        rabbit_rate.benchmark(),
        reuse.benchmark(),
        gateway_rate.benchmark(),
        gateway_upload.benchmark(),
        gateway_upload.body(),
        gateway_upload.memory(),
        watch.benchmark(),
        watch.beside_bare(),
    )
}
