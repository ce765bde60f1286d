"""Observers take settings: validated, shown and described like those of any provider; without a section if they can."""

from __future__ import annotations

import json
import logging
from collections.abc import Callable, Iterable, Mapping
from pathlib import Path

import pytest
from pydantic import Field, field_validator

from ion_core.config import Config, check_names, check_observers, check_settings, dump, json_schema, load_config
from ion_core.config.replace import embedded
from ion_core.contracts.provider import Finding, ObserverSettings
from ion_core.contracts.settings import Secret, Settings, StatePath
from ion_core.errors import ConfigError
from ion_core.events import Event
from ion_core.hookspecs import hookimpl
from ion_core.registry import Kind, Registry, load_plugins

CANARY = "s3cret-canary"
MODULES = "modules: {m: {command: [x], subscribes: [a]}}\n"

Read = Callable[..., Config]


class PagerSettings(Settings):
    """It cannot do without a section."""

    token: Secret = Field(description="What it signs with.")
    path: StatePath = Field(default=Path("pages"), description="What it keeps.")
    only: tuple[str, ...] = Field(default=(), description="The modules that it tells of.")

    def modules(self) -> Mapping[str, str]:
        return {f"only[{n}]": name for n, name in enumerate(self.only)}

    def findings(self) -> Iterable[Finding]:
        yield Finding(severity="warning", where=self.section.where("path"), text="is not there yet")


class Pager:
    @hookimpl
    def ion_observer_settings(self) -> Iterable[ObserverSettings]:
        return [ObserverSettings(name="pager", settings=PagerSettings, contract="1.6")]

    @hookimpl
    def ion_event_published(self, event: Event, settings: PagerSettings) -> None: ...


class CounterSettings(Settings):
    every: int = Field(default=10, description="How many events make a line.")


class Counter:
    @hookimpl
    def ion_observer_settings(self) -> Iterable[ObserverSettings]:
        return [ObserverSettings(name="counter", settings=CounterSettings, contract="1.6")]

    @hookimpl
    def ion_event_published(self, settings: CounterSettings) -> None: ...


class Plain:
    """It observes and takes no settings."""

    @hookimpl
    def ion_event_published(self, event: Event) -> None: ...


@pytest.fixture
def registry() -> Registry:
    return load_plugins(extra=[Pager(), Counter(), Plain()], entry_points=False)


@pytest.fixture
def read(tmp_path: Path, registry: Registry, monkeypatch: pytest.MonkeyPatch) -> Read:
    """The configuration that is made of a text and ``MODULES``, as ``ion.yaml`` in the working directory."""
    monkeypatch.chdir(tmp_path)

    def read(text: str, *, among: Registry = registry, **how: object) -> Config:
        Path("ion.yaml").write_text(text + MODULES, encoding="utf-8")
        return load_config("ion.yaml", registry=among, **{"environ": {}, **how})  # type: ignore[arg-type]

    return read


def settings_of(config: Config) -> dict[str, Settings]:
    return {name: it.settings for name, it in config.observers.items()}


def test_a_section_is_validated_and_knows_where_it_stands(read: Read, tmp_path: Path) -> None:
    config = read(f"observers:\n  pager: {{token: {CANARY}}}\n  night: {{provider: pager, token: x}}\n")
    found = settings_of(config)
    assert {*found} == {"pager", "night", "counter"}
    night = found["night"]
    assert isinstance(night, PagerSettings)
    assert (night.section.name, night.section.where("token")) == ("night", "ion.yaml:3:35: observers.night.token")
    assert night.path == tmp_path / ".ion" / "observers" / "night" / "pages", "each has a place of its own"


def test_without_a_section_it_has_the_defaults_unless_a_setting_is_required(read: Read) -> None:
    for text in ("", "observers:\n", "observers: {counter: }\n"):
        found = settings_of(read(text))
        assert {name: it.model_dump() for name, it in found.items()} == {"counter": {"every": 10}}
    found = settings_of(read("observers: {often: {provider: counter, every: 1}}\n"))
    assert {name: it.model_dump() for name, it in found.items()} == {"often": {"every": 1}}


WRONG = {
    "observers: 1\n": "ion.yaml:1:12: observers: must be a mapping",
    "observers: {pager: 1}\n": "ion.yaml:1:20: observers.pager: must be a mapping",
    "observers: {pagr: {}}\n": 'ion.yaml:1:13: observers.pagr: no observer called "pagr". Did you mean "pager"? '
    "Installed: counter, pager.",
    "observers: {pager: {}}\n": "ion.yaml:1:13: observers.pager.token: is required",
    "observers: {pager: {token: x, tokn: y}}\n": 'observers.pager.tokn: unknown key. Did you mean "token"?',
    "observers: {counter: {every: often}}\n": "ion.yaml:1:30: observers.counter.every: must be a whole number",
    "observers: {counter: {on_failure: restart}}\n": "observers.counter.on_failure: unknown key. Known: every.",
    "observers: {Loud: {provider: counter}}\n": "observers.Loud: a name must be 1 to 63 lower-case letters",
    "observers: {it: {provider: 3}}\n": "observers.it.provider: must be the name of an observer",
    "observers: {plain: {every: 1}}\n": 'ion.yaml:1:13: observers.plain: no observer "plain": Plain observes without '
    "settings. Remove this section.",
    "observer: {}\n": 'observer: unknown key. Did you mean "observers"?',
}


@pytest.mark.parametrize("text", WRONG, ids=list(WRONG))
def test_a_mistake_is_told_with_its_place_and_what_would_do(text: str, read: Read) -> None:
    with pytest.raises(ConfigError) as caught:
        read(text)
    assert any(WRONG[text] in it for it in caught.value.problems), caught.value.problems


def test_a_secret_is_in_no_error_and_not_shown(read: Read) -> None:
    config = read("observers: {pager: {token: '${env:TOKEN}', path: '/x'}}\n", environ={"TOKEN": CANARY})
    assert dump(config)["observers"]["pager"] == {
        "provider": "pager",
        "token": "********",
        "path": "/x",
        "only": [],
    }
    assert dump(config)["observers"]["counter"] == {"provider": "counter", "every": 10}
    assert CANARY not in repr(config)
    for text in ("counter: {every: '${env:TOKEN}'}", "pager: {token: {a: '${env:TOKEN}'}}", "'x': '${env:TOKEN}'"):
        with pytest.raises(ConfigError) as caught:
            read(f"observers: {{{text}}}\n", environ={"TOKEN": CANARY})
        assert CANARY not in str(caught.value)


def test_a_variable_sets_it(read: Read) -> None:
    config = read("observers: {pager: {token: x}}\n", environ={"ION_OBSERVERS__PAGER__PATH": "/there"})
    assert settings_of(config)["pager"].model_dump()["path"] == Path("/there")


def test_check_looks_at_what_they_find_and_at_the_modules_that_they_name(read: Read) -> None:
    config = read("observers: {pager: {token: x, only: [m, n]}}\n")
    assert [str(it) for it in check_names(config)] == [
        'ion.yaml:1:41: observers.pager.only[1]: there is no module "n". Modules: m.'
    ]
    assert [str(it) for it in check_settings(config)] == ["ion.yaml:1:13: observers.pager.path: is not there yet"]


def test_check_says_which_is_told_nothing_and_what_it_lacks(read: Read) -> None:
    assert [str(it) for it in check_observers(read(""))] == [
        'ion.yaml:1:1: observers: "pager" of Pager is told nothing: without a section it has no token'
    ]
    assert check_observers(read("observers: {night: {provider: pager, token: x}}\n")) == []


def test_with_another_state_directory_they_are_there(read: Read, tmp_path: Path) -> None:
    config = read("observers: {pager: {token: x}}\n").with_state(tmp_path / "other")
    assert settings_of(config)["pager"].model_dump()["path"] == tmp_path / "other" / "observers" / "pager" / "pages"


def test_the_schema_has_each(registry: Registry) -> None:
    schema = json_schema(registry)
    place = schema["properties"]["observers"]
    assert {*place["properties"]} == {"counter", "pager"}
    assert place["properties"]["pager"]["required"] == ["token"]
    assert "on_failure" not in json.dumps(place)
    assert place["additionalProperties"] == {"$ref": "#/$defs/observers_provider"}


def test_where_others_stand_in_for_the_providers_none_is_told(read: Read) -> None:
    text = "observers: {pager: {token: '${env:NO_SUCH}'}, nobody: {provider: of-no-plugin}}\n"
    assert settings_of(read(text, replacements=embedded(said_by="dev run"))) == {}


class Picky(Settings):
    path: Path = Field(default=Path("/no/such/place"), description="What is there.")

    @field_validator("path")
    @classmethod
    def _is_there(cls, path: Path) -> Path:
        if not path.is_dir():
            raise ValueError("no such directory. Make it.")
        return path


class PickyPlugin:
    @hookimpl
    def ion_observer_settings(self) -> Iterable[ObserverSettings]:
        return [ObserverSettings(name="picky", settings=Picky, contract="1.6")]

    @hookimpl
    def ion_serve_started(self, settings: Picky) -> None: ...


def test_defaults_that_cannot_be_stop_nobody_who_did_not_ask(
    read: Read, tmp_path: Path, caplog: pytest.LogCaptureFixture
) -> None:
    registry = load_plugins(extra=[PickyPlugin()], entry_points=False)
    with caplog.at_level(logging.WARNING, logger="ion_core.config"):
        assert settings_of(read("", among=registry)) == {}
    (said,) = caplog.messages
    assert "ion.yaml:1:1: observers.picky: no such directory. Make it." in said
    assert {*settings_of(read(f"observers: {{picky: {{path: '{tmp_path}'}}}}\n", among=registry))} == {"picky"}
    with pytest.raises(ConfigError, match=r"observers\.picky: no such directory"):
        read("observers: {picky: }\n", among=registry)


def test_settings_that_two_plugins_call_the_same_are_refused_where_chosen(read: Read) -> None:
    class Rival(Counter):
        pass

    registry = load_plugins(extra=[Counter(), Rival()], entry_points=False)
    assert settings_of(read("", among=registry)) == {}
    with pytest.raises(ConfigError, match='the observer "counter" is registered by more than one plugin'):
        read("observers: {counter: {every: 1}}\n", among=registry)


def test_it_is_chosen_among_observers_alone(registry: Registry) -> None:
    assert registry.names(Kind.OBSERVER) == ("counter", "pager")
    assert not {"counter", "pager"} & {*registry.names(Kind.SERVICE)}
    assert [*registry.observing] == ["Plain"]
