"""Providers are chosen by name; when that cannot be, the error says why and what can."""

from __future__ import annotations

import logging
from collections.abc import Callable

import pytest

from ion_core.errors import ConfigError
from ion_core.registry import Kind, Registry, load_plugins

Install = Callable[..., None]

SHELF = "@hookimpl\ndef ion_blob_stores():\n    return [shelf()]\n"
COMMANDS = """
import click
@hookimpl
def ion_commands():
    return [click.Command("inspect"), click.Command("{name}")]
"""


def refusal(registry: Registry, kind: Kind, name: str) -> str:
    with pytest.raises(ConfigError) as caught:
        registry.choose(kind, name, where="ion.yaml:9:13: storage.blobs.provider")
    (problem,) = caught.value.problems
    return problem


def test_an_unknown_name_gets_the_nearest_and_all_that_are_installed(install: Install) -> None:
    install("ion-fsspec-storage", "@hookimpl\ndef ion_blob_stores():\n    return [shelf(name='fsspec')]\n")
    registry = load_plugins(allow=["ion-fsspec-storage"])
    assert refusal(registry, Kind.BLOB_STORE, "fsspce") == (
        'ion.yaml:9:13: storage.blobs.provider: no blob store called "fsspce". Did you mean "fsspec"? '
        "Installed: local, memory, fsspec."
    )


def test_a_kind_that_nobody_brings_says_so() -> None:
    registry = load_plugins(entry_points=False)
    assert refusal(registry, Kind.SERVICE, "gateway").endswith('no service called "gateway". Installed: none.')


@pytest.mark.parametrize(
    ("distribution", "entry_point"),
    [("ion-rabbitmq-x", "it"), ("something", "rabbitmq"), ("Ion_RabbitMQ", "it"), ("rabbitmq", "it")],
)
def test_a_name_of_a_broken_plugin_gets_that_plugins_cause(
    distribution: str, entry_point: str, install: Install
) -> None:
    install(distribution, "import aio_pika_of_nobody", entry_point=entry_point)
    registry = load_plugins(allow=[distribution])
    assert refusal(registry, Kind.MESSAGE_BROKER, "rabbitmq") == (
        'ion.yaml:9:13: storage.blobs.provider: no message broker "rabbitmq": the plugin '
        f"{distribution} cannot be used: ModuleNotFoundError: No module named 'aio_pika_of_nobody'. "
        "Repair it or choose another: memory, sqlite."
    )


def test_a_name_of_no_plugin_mentions_the_broken_ones(install: Install) -> None:
    install("acme-things", "1 / 0")
    registry = load_plugins(allow=["acme-things"])
    problem = refusal(registry, Kind.BLOB_STORE, "cloud")
    assert problem.endswith("The plugin acme-things cannot be used: ZeroDivisionError: division by zero.")


def test_a_broken_plugin_does_not_spoil_what_others_bring(install: Install) -> None:
    install("ion-shelf-broken", "1 / 0")
    install("ion-shelf", SHELF)
    registry = load_plugins(allow=["ion-shelf", "ion-shelf-broken"])
    assert registry.choose(Kind.BLOB_STORE, "shelf", where="").name == "shelf"


def test_two_plugins_of_one_name_are_listed_and_refused_when_chosen(install: Install) -> None:
    install("ion-one", SHELF)
    install("ion-two", SHELF + "@hookimpl\ndef ion_services():\n    return [shelf()]\n")
    registry = load_plugins(allow=["ion-one", "ion-two"])
    assert refusal(registry, Kind.BLOB_STORE, "shelf") == (
        'ion.yaml:9:13: storage.blobs.provider: the blob store "shelf" is registered by more than one plugin: '
        'ion-one and ion-two. Uninstall all but one, or list the ones to use under "plugins".'
    )
    problems = {info.distribution: info.problem for info in registry.plugins}
    assert problems["ion-one"] == 'the blob store "shelf" is registered by ion-two too'
    assert problems["ion-two"] == 'the blob store "shelf" is registered by ion-one too'
    assert registry.choose(Kind.SERVICE, "shelf", where="").name == "shelf"
    assert [it.name for it in registry.providers(Kind.BLOB_STORE)] == ["local", "memory"]


def test_a_plugin_cannot_take_the_place_of_an_embedded_provider(install: Install) -> None:
    install("ion-evil", "@hookimpl\ndef ion_blob_stores():\n    return [shelf(name='local')]\n")
    assert "ion-core and ion-evil" in refusal(load_plugins(allow=["ion-evil"]), Kind.BLOB_STORE, "local")


def test_commands_of_plugins_are_there_unless_their_name_is_taken(
    install: Install, caplog: pytest.LogCaptureFixture
) -> None:
    install("ion-one", COMMANDS.format(name="one"))
    install("ion-two", COMMANDS.format(name="serve"))
    registry = load_plugins(allow=["ion-one", "ion-two"])
    with caplog.at_level(logging.WARNING, logger="ion_core.registry"):
        assert list(registry.commands(taken=["serve"])) == ["one"]
    refused = {record.__dict__["command"]: record.__dict__["plugins"] for record in caplog.records}
    assert refused == {"inspect": ["ion-one", "ion-two"], "serve": ["ion-two", "ion-core"]}
    assert {info.distribution: info.commands for info in registry.plugins}["ion-one"] == ("inspect", "one")
