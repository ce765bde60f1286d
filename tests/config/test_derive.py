"""The configuration of steps elsewhere: the stores and one module, the same wherever it is read, and masked alike."""

from __future__ import annotations

import json
from collections.abc import Callable, Iterable, Mapping
from contextlib import nullcontext
from dataclasses import replace
from datetime import timedelta
from pathlib import Path
from typing import Any

import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from ion_core.config import Config, derived, dump, load_config
from ion_core.contracts.provider import Provider
from ion_core.contracts.settings import Settings
from ion_core.errors import ConfigError, PluginFailed
from ion_core.hidden import MASK, is_looked_for
from ion_core.hookspecs import hookimpl
from ion_core.registry import Kind, Registry, load_plugins
from ion_core.steps import StepSettings

Load = Callable[..., Config]

MODULE = """
modules:
  m: {command: [run, "${env:PASS:-x}"], subscribes: [a], publishes: [b, c], limits: {max_files: 3}, env: {T: s3cr3t}}
  n: {command: x, subscribes: [b]}
"""


def read(raw: bytes, where: Path, registry: Registry) -> Config:
    """As a step does, which has no variables that matter."""
    where.mkdir(exist_ok=True)
    (where / "settings").write_bytes(raw)
    return load_config(where / "settings", registry=registry, environ={})


def again(config: Config, where: Path) -> Config:
    return read(derived(config, config.modules["m"]), where, config.registry)


def same(one: Config, two: Config) -> None:
    for before, after in ((one.blobs, two.blobs), (one.documents, two.documents)):
        assert (before.provider, before.settings) == (after.provider, after.settings)


def test_it_has_the_stores_and_one_module_that_cannot_be_run(load: Load, tmp_path: Path) -> None:
    config = load("messaging: {path: here.sqlite}\nservices: {gate: {listen: x, token: y}}\n" + MODULE)
    raw = derived(config, config.modules["m"])
    assert [it for it in (b"here.sqlite", b"gate", b"s3cr3t", b"run") if it in raw] == []
    found = read(raw, tmp_path / "pod", config.registry)
    assert list(found.modules) == ["m"]
    module, before = found.modules["m"], config.modules["m"]
    assert (module.publishes, module.subscribes, module.limits) == (before.publishes, before.subscribes, before.limits)
    assert (module.command, module.env, module.source, found.services) == (("true",), {}, None, {})
    assert derived(config, config.modules["m"]) == raw


def test_the_step_that_commits_knows_the_gatherers_that_wait_for_its_module(load: Load, tmp_path: Path) -> None:
    config = load(MODULE + "  all: {command: x, gather: {events: [b], within: a}}\n")
    for name, gatherers in (("m", ("all",)), ("n", ()), ("all", ())):
        raw = derived(config, config.modules[name])
        read(raw, tmp_path, config.registry)
        assert config.modules[name].leads_to == gatherers
        assert StepSettings.read(tmp_path / "settings").module(name).leads_to == gatherers


def test_paths_lead_to_where_they_led(load: Load, tmp_path: Path) -> None:
    text = "state: st\nstorage: {documents: {path: docs/d.sqlite}, blobs: {provider: parcel, url: 'parcel://x'}}\n"
    config = load(text + MODULE)
    found = again(config, tmp_path / "pod")
    same(config, found)
    assert found.documents.settings.path == tmp_path / "st/docs/d.sqlite"  # type: ignore[attr-defined]
    assert found.blobs.settings.path == tmp_path / "parcels"  # type: ignore[attr-defined]
    moved = load(MODULE, overrides={"state": str(tmp_path / "elsewhere")})
    same(moved, again(moved, tmp_path / "pod"))


def test_settings_of_every_sort_are_what_they_were(load: Load, tmp_path: Path) -> None:
    config = load(
        """
        storage:
          blobs:
            provider: parcel
            url: "parcel://$${x}"
            login: {user: "${env:USER_NAME}", password: "${env:PASSWORD}"}
            servers: [{user: a, password: plainly-written}, {password: "${env:PASSWORD}"}]
            either: true
            wait: 1.5ms
            label: "010"
        """
        + MODULE.replace("\n", "\n        "),
        environ={"USER_NAME": "true", "PASSWORD": "tops3cret \u2028 ${file:x}"},
    )
    found = again(config, tmp_path / "pod")
    same(config, found)
    assert found.blobs.settings.login.user == "true"  # type: ignore[attr-defined]
    assert found.blobs.settings.wait == timedelta(milliseconds=1.5)  # type: ignore[attr-defined]


def test_what_was_not_set_is_not_set(load: Load, tmp_path: Path) -> None:
    """Settings may go by it, as a default that depends on others does."""
    config = load("storage: {blobs: {provider: parcel, port: 7}}\n" + MODULE)
    assert again(config, tmp_path / "pod").blobs.settings.model_fields_set == {"port", "path"}


def test_the_steps_mask_what_was_masked_and_know_no_other_secret(load: Load, tmp_path: Path) -> None:
    config = load(
        'messaging: {path: "${env:OTHER}"}\n'
        'storage: {blobs: {provider: parcel, url: "parcel://${env:PASS}@host"}}\n' + MODULE,
        environ={"PASS": "hunter22", "OTHER": "of-the-broker"},
    )
    raw = derived(config, config.modules["m"])
    assert b"of-the-broker" not in raw
    found = read(raw, tmp_path / "pod", config.registry)
    assert found.hidden.masked("no hunter22 here") == f"no {MASK} here"
    assert found.blobs.settings.url == "parcel://hunter22@host"  # type: ignore[attr-defined]
    assert "hunter22" not in json.dumps(dump(found))


def test_a_value_that_is_listed_is_not_shown_in_errors(load: Load, problems: Callable[..., list[str]]) -> None:
    text = "hidden: [hunter22]\nstorage: {blobs: {provider: parcel, url: 'http://hunter22'}}\n" + MODULE
    [problem] = problems(text)
    assert "hunter22" not in problem
    assert problem.endswith("(its value comes from what hidden lists and is not shown)")
    assert load(f"hidden: [hunter22]\n{MODULE}").hidden.masked("hunter22") == MASK


class LooseSettings(Settings):
    options: dict[str, Any]


class Loose:
    @hookimpl
    def ion_blob_stores(self) -> Iterable[Provider[object]]:
        return [Provider(name="loose", settings=LooseSettings, open=print, contract="1.0")]  # type: ignore[arg-type]


@pytest.mark.parametrize(("value", "why"), [("'${env:X}'", "'utf-8' codec can't encode"), (".inf", "JSON compliant")])
def test_what_no_file_can_hold_is_refused(tmp_path: Path, value: str, why: str) -> None:
    (tmp_path / "ion.yaml").write_text(f"storage: {{blobs: {{provider: loose, options: {{x: {value}}}}}}}\n{MODULE}")
    registry = load_plugins(extra=[Loose()], entry_points=False)
    config = load_config(tmp_path / "ion.yaml", registry=registry, environ={"X": "not-\udcff"})
    with pytest.raises(ConfigError, match="cannot be handed on to where jobs run") as refused:
        derived(config, config.modules["m"])
    assert why in str(refused.value)


TEXT = st.text(st.characters(exclude_categories=["Cs"]), max_size=20)
PLAIN = st.none() | st.booleans() | st.integers() | st.floats(allow_nan=False, allow_infinity=False)


@settings(deadline=None)  # it loads plugins and configurations each time
@given(
    outside=st.dictionaries(st.sampled_from("abcd"), TEXT | st.sampled_from(["true", "false", "null", "12"])),
    plain=st.lists(PLAIN, max_size=4),
)
def test_whatever_came_from_outside_arrives(
    tmp_path_factory: pytest.TempPathFactory, outside: Mapping[str, str], plain: list[Any]
) -> None:
    here = tmp_path_factory.mktemp("derived")
    options = {name: f"${{env:{name}}}" for name in outside} | {"list": plain, "in": {"list": [*plain, "${env:a:-a}"]}}
    file = {"storage": {"blobs": {"provider": "loose", "options": options}}}
    file["modules"] = {"m": {"command": ["x"], "subscribes": ["a"]}}
    (here / "ion.yaml").write_text(json.dumps(file))
    registry = load_plugins(extra=[Loose()], entry_points=False)
    config = load_config(here / "ion.yaml", registry=registry, environ=outside)
    found = again(config, here / "pod")
    same(config, found)
    said = StepSettings.read(here / "pod/settings").said["storage"]["blobs"]
    assert said == {"provider": "loose", "options": config.blobs.settings.options}
    for value in outside.values():
        assert found.hidden.masked(value) == config.hidden.masked(value)
        assert not is_looked_for(value) or found.hidden.masked(f"< {value} >") == f"< {MASK} >"


SAMPLES: Mapping[str, Mapping[str, Any]] = {
    "memory": {},
    "local": {"path": "files"},
    "sqlite": {"path": "docs.sqlite"},
    "fsspec": {
        "url": "s3://bucket/ion",
        "options": {
            "key": "${env:KEY}",
            "secret": "${env:SECRET}",
            "anon": False,
            "client_kwargs": {"endpoint_url": "http://localhost:9000", "verify": "${env:VERIFY}"},
            "config_kwargs": {"retries": {"max_attempts": 3}, "connect_timeout": 1.5},
        },
        "parallel": 4,
    },
}


def test_every_installed_store_is_what_it_was(tmp_path: Path) -> None:
    registry = load_plugins()
    names = {
        section: registry.names(kind)
        for section, kind in (("blobs", Kind.BLOB_STORE), ("documents", Kind.DOCUMENT_STORE))
    }
    environ = {"KEY": "AKIA0000", "SECRET": "t0p/s3cr3t+", "VERIFY": "false"}
    for section, name in ((section, name) for section, found in names.items() for name in found):
        file = {"storage": {section: {"provider": name, **SAMPLES[name]}}}
        file["modules"] = {"m": {"command": ["x"], "subscribes": ["a"]}}
        (tmp_path / "ion.yaml").write_text(json.dumps(file))
        config = load_config(tmp_path / "ion.yaml", registry=registry, environ=environ)
        raw = derived(config, config.modules["m"])
        (tmp_path / "settings").write_bytes(raw)
        found = load_config(tmp_path / "settings", environ={"ION_PLUGINS": "on"})  # finds the plugins that it lists
        for before, after in ((config.blobs, found.blobs), (config.documents, found.documents)):
            assert (before.plugin, before.settings.model_dump()) == (after.plugin, after.settings.model_dump()), name
            assert type(before.settings) is type(after.settings)
        at_once = StepSettings.read(tmp_path / "settings")
        for part, chosen in (("blobs", config.blobs), ("documents", config.documents)):
            opened = at_once.chosen(part, nullcontext)
            told = {key: getattr(opened.settings, key) for key in type(chosen.settings).model_fields}
            assert (opened.provider.name, told) == (chosen.provider.name, dict(chosen.settings)), name
            assert opened.location == chosen.location
        assert replace(found.modules["m"], command=("x",)) == config.modules["m"]


PLAINLY = """
def known(section, values):
    return SimpleNamespace(section=section, values=values), print

def unsure(section, values):
    return None

def broken(section, values):
    raise KeyError("url")
"""


@pytest.fixture
def step(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Callable[[str], StepSettings]:
    """The settings of a step of a pipeline whose blob store has this plain opening."""
    (tmp_path / "shelf_plain.py").write_text("from types import SimpleNamespace\n" + PLAINLY)
    (tmp_path / "ion.yaml").write_text("storage: {blobs: {provider: shelf, options: {x: 1}}}\n" + MODULE)
    monkeypatch.syspath_prepend(str(tmp_path))

    class Shelf:
        def __init__(self, plain: str) -> None:
            self.plain = plain

        @hookimpl
        def ion_blob_stores(self) -> Iterable[Provider[object]]:
            shelf = Provider(name="shelf", settings=LooseSettings, open=print, contract="1.3", plain=self.plain)  # type: ignore[arg-type]
            return [shelf]

    def derive(plain: str) -> StepSettings:
        registry = load_plugins(extra=[Shelf(plain)], entry_points=False)
        monkeypatch.setattr("ion_core.registry.load_plugins", lambda **given: registry)
        config = load_config(tmp_path / "ion.yaml", registry=registry, environ={"PASS": "x"})
        raw = derived(config, config.modules["m"])
        same(config, read(raw, tmp_path / "pod", registry))
        return StepSettings.read(tmp_path / "pod" / "settings")

    return derive


def test_a_step_opens_plainly_what_its_plugin_opens_so(step: Callable[[str], StepSettings]) -> None:
    chosen = step("shelf_plain:known").chosen("blobs", nullcontext)
    assert chosen.settings.values == {"options": {"x": 1}}
    assert chosen.settings.section.where("options").endswith("settings: storage.blobs.options")
    assert (chosen.provider.name, chosen.plugin, chosen.kind) == ("shelf", "shelf_plain", Kind.BLOB_STORE)


@pytest.mark.parametrize("plain", ["", "shelf_plain:unsure", "shelf_plain:of_a_later_version", "no_such_module:known"])
def test_what_cannot_be_opened_plainly_is_opened_by_its_model(step: Callable[[str], StepSettings], plain: str) -> None:
    assert step(plain).chosen("blobs", nullcontext).settings.options == {"x": 1}


def test_a_plain_opening_that_fails_is_the_plugin_s_fault(step: Callable[[str], StepSettings]) -> None:
    with pytest.raises(PluginFailed, match=r"storage\.blobs: the plugin shelf_plain failed: shelf_plain:broken raised"):
        step("shelf_plain:broken").chosen("blobs", nullcontext)
