"""What came from outside of the file, or is a secret by its type, is never printed."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable
from pathlib import Path

import pytest

from ion_core.config import Config, check_graph, dump
from ion_core.errors import ConfigError

Load = Callable[..., Config]

CANARY = "canary-XyZZy-0451-secret"

PLACES = [
    "messaging: {provider: '%s'}",
    "messaging: {lease: '%s'}",
    "messaging: {poll: '%s'}",
    "runtimes: {default: {isolation: '%s'}}",
    "storage: {blobs: {provider: parcel, url: '%s'}}",
    "storage: {blobs: {provider: parcel, port: '%s'}}",
    "storage: {blobs: {provider: parcel, label: '%s'}}",
    "storage: {blobs: {provider: parcel, either: '%s'}}",
    "storage: {blobs: {provider: parcel, login: '%s'}}",
    "storage: {blobs: {provider: parcel, servers: '%s'}}",
    "storage: {blobs: {provider: parcel, url: 'parcel://u:%s@h', port: 666}}",
    "storage: {blobs: {provider: parcel, url: 'parcel://u:%s@h', port: 667}}",
    "services: {gate: {provider: '%s'}}",
    "services: {gate: {token: '%s'}}",
    "state: ['%s']",
    "state: '~%s/x'",
    "drain_timeout: '%s'",
    "plugins: '%s'",
    "version: '%s'",
    "modules: '%s'",
    "modules: {m: '%s'}",
    *(
        f"modules: {{m: {{{line}}}}}"
        for line in (
            "image: 5, command: '%s'",
            'command: "\'%s"',
            "command: x, subscribes: ['%s']",
            "command: x, subscribes: '%s'",
            "command: x, timeout: '%s'",
            "command: x, retries: '%s'",
            "command: x, runtime: '%s'",
            "command: x, source: '%s'",
            "command: x, source: '/nowhere/%s'",
            "command: x, resources: {memory: '%s'}",
            "command: x, resources: {cpus: '%s'}",
            "command: x, retry: '%s'",
            "command: x, env: '%s'",
        )
    ),
]


@pytest.mark.parametrize("source", ["${env:CANARY}", "${file:outside}", "x${env:CANARY}x"])
@pytest.mark.parametrize("place", PLACES)
def test_no_error_shows_a_value_from_outside(
    place: str, source: str, load: Load, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    (tmp_path / "outside").write_text(CANARY)
    with caplog.at_level(logging.DEBUG), pytest.raises(ConfigError) as caught:
        load(place % source, environ={"CANARY": CANARY})
    shown = f"{caught.value!s} {caught.value!r} {caplog.text}"
    assert all(CANARY[n : n + 6] not in shown for n in range(len(CANARY) - 5)), shown


@pytest.mark.parametrize(
    "name", ["MESSAGING__PROVIDER", "MESSAGING__LEASE", "MODULES", "MODULES__M__RETRIES", "MODULES__M"]
)
def test_no_error_shows_what_a_variable_sets(name: str, load: Load) -> None:
    text = "modules: {m: {command: x, subscribes: [a]}}"
    with pytest.raises(ConfigError) as caught:
        load(text, environ={f"ION_{name}": CANARY, "ION_MODULES__M__CONCURRENCY": CANARY})
    assert CANARY not in str(caught.value)
    assert "ION_" in str(caught.value)


def test_a_problem_with_a_hidden_value_still_says_what_would_do(load: Load) -> None:
    text = (
        "drain_timeout: ${env:A}\nmessaging: {provider: '${env:A}'}\n"
        "modules: {m: {command: x, subscribes: [a], runtime: '${env:A}'}}\n"
    )
    with pytest.raises(ConfigError) as caught:
        load(text, environ={"A": "soon"})
    note = "(its value comes from ${env:A} and is not shown)"
    assert list(caught.value.problems) == [
        f"ion.yaml:1:16: drain_timeout: must be a duration such as 30s or 2h {note}",
        f"ion.yaml:2:23: messaging.provider: no message broker has that name {note}. Installed: memory, sqlite.",
        f"ion.yaml:3:53: modules.m.runtime: no runtime has that name {note}. Runtimes: default.",
    ]


def test_a_default_is_no_secret(load: Load) -> None:
    with pytest.raises(ConfigError, match='got "soon"'):
        load("drain_timeout: ${env:A:-soon}")


def test_the_configuration_shows_no_secret(load: Load, tmp_path: Path) -> None:
    (tmp_path / "outside").write_text(CANARY)
    (tmp_path / CANARY).mkdir()
    config = load(
        f"""
        storage:
          blobs:
            provider: parcel
            url: parcel://user:hunter22-{CANARY[:5]}@host/path
            login: {{password: {CANARY}}}
            servers: [{{user: "${{env:CANARY}}"}}, {{password: {CANARY}}}]
        services: {{gate: {{listen: x, token: {CANARY}}}}}
        modules:
          m:
            command: [x, "--token=${{env:CANARY}}"]
            source: ${{env:CANARY}}
            subscribes: [a]
            env: {{TOKEN: "${{file:outside}}", PLAIN: x}}
        """,
        environ={"CANARY": CANARY, "ION_MODULES__M__ENV__OTHER": CANARY, "ION_STATE": "shown"},
    )
    shown = dump(config)
    text = json.dumps(shown) + repr(config) + repr(config.tree) + "".join(map(str, check_graph(config)))
    assert CANARY not in text
    mask = "********"
    assert shown["state"] == f"{tmp_path}/shown"
    assert shown["modules"]["m"]["env"] == {"TOKEN": mask, "PLAIN": "x", "OTHER": mask}
    assert shown["modules"]["m"]["command"] == ["x", mask]
    assert shown["storage"]["blobs"]["url"] == f"parcel://user:{mask}@host/path"
    assert shown["storage"]["blobs"]["login"] == {"user": "guest", "password": mask}
    gate = {"provider": "gate", "on_failure": "stop", "listen": "x", "token": mask, "readers": []}
    assert shown["services"]["gate"] == gate


def test_what_is_made_from_a_secret_is_not_shown_either(load: Load) -> None:
    config = load("state: '${env:CANARY}'\nmodules: {m: {command: x, subscribes: [a]}}\n", environ={"CANARY": CANARY})
    assert str(config.messaging.settings.model_dump()["path"]).endswith(f"{CANARY}/broker.sqlite")
    assert CANARY not in json.dumps(dump(config))


def test_words_of_a_plugin_about_a_hidden_value_are_not_repeated(load: Load) -> None:
    text = "storage: {blobs: {provider: parcel, host: '%s'}}"
    with pytest.raises(ConfigError, match=r"nobody knows ereht$"):
        load(text % "there")
    with pytest.raises(ConfigError) as caught:
        load(text % "${env:HOST}", environ={"HOST": "there"})
    note = "(its value comes from ${env:HOST} and is not shown)"
    assert list(caught.value.problems) == [f"ion.yaml:1:43: storage.blobs.host: is not valid {note}"]


def test_words_of_a_plugin_that_show_nothing_of_a_hidden_value_are(load: Load) -> None:
    text = "storage: {blobs: {provider: parcel, mark: '%s'}}"
    with pytest.raises(ConfigError, match=r'must begin with m- and not with mark-me \(got "other"\)$'):
        load(text % "other")
    with pytest.raises(ConfigError) as caught:
        load(text % "${env:MARK}", environ={"MARK": "mark-me-(got it)"})
    note = "(its value comes from ${env:MARK} and is not shown)"
    words = "must begin with m- and not with mark-me"
    assert list(caught.value.problems) == [f"ion.yaml:1:43: storage.blobs.mark: {words} {note}"]
