"""``config show`` prints every value in force, as one could write it."""

from __future__ import annotations

import json
from collections.abc import Callable

from ion_core.config import Config, dump

Load = Callable[..., Config]


def test_what_is_shown_loads_as_the_same_configuration(load: Load) -> None:
    config = load(
        """
        storage: {blobs: {provider: parcel, label: "a$${b", wait: 1m30s}}
        drain_timeout: 90s
        modules:
          m:
            command: [x, "$${HOME}"]
            subscribes: [a]
            resources: {memory: 512MiB, cpus: 0.5, shm: 96MiB}
            limits: {max_output: 1000}
            retry: {initial: 250ms}
            env: {A: "1.10", B: "$${x}"}
          n: {image: i, args: [3, "$${x}"], subscribes: [a, b], publishes: [c]}
          g: {image: i, gather: {events: [c], within: a, by: page, missing: go, if_none: skip}}
          h: {image: i, gather: {events: [c]}}
        """
    )
    shown = dump(config)
    again = load(json.dumps(shown))
    assert again.modules == config.modules
    assert (again.state, again.drain_timeout) == (config.state, config.drain_timeout)
    for one, two in ((config.blobs, again.blobs), (config.messaging, again.messaging)):
        assert (one.provider, one.settings) == (two.provider, two.settings)
    assert dump(again) == shown


def test_defaults_are_shown_too(load: Load) -> None:
    shown = dump(load("modules: {m: {command: x, subscribes: [a]}}"))
    assert shown["drain_timeout"] == "30s"
    assert shown["storage"]["documents"]["provider"] == "sqlite"
    assert shown["messaging"] | {"path": ""} == {"provider": "sqlite", "path": "", "lease": "30s", "poll": "100ms"}
    assert shown["modules"]["m"]["timeout"] == "10m"
    assert shown["modules"]["m"]["limits"]["max_output"] == "10GiB"
    assert shown["modules"]["m"]["retry"] == {"initial": "1s", "factor": 2.0, "maximum": "10m", "jitter": 0.2}
