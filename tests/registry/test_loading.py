"""Every way in which a plugin can be bad is named, and stops nobody else."""

from __future__ import annotations

import logging
import random
import subprocess
import sys
import threading
import types
from collections.abc import Callable, Iterable
from pathlib import Path

import pytest

import ion_core
import ion_core.embedded.plugin
from ion_core.contracts.provider import Provider
from ion_core.contracts.settings import Settings
from ion_core.errors import ConfigError
from ion_core.hookspecs import hookimpl
from ion_core.registry import BrokenPlugin, Kind, PluginInfo, Registry, load_plugins

Install = Callable[..., None]

GOOD = """
@hookimpl
def ion_blob_stores():
    return [shelf()]
"""

OBSERVING = """
from ion_core.contracts.provider import ObserverSettings
@hookimpl
def ion_job_started(settings):
    pass
"""

BAD = {
    "a module that is not there": ("import no_such_module", "ModuleNotFoundError: No module named 'no_such_module'"),
    "an import that raises": ("1 / 0", "ZeroDivisionError: division by zero"),
    "an import that exits": ("raise SystemExit(3)", "SystemExit: 3"),
    "a hook that raises": (
        "@hookimpl\ndef ion_blob_stores():\n    raise RuntimeError('no luck.')",
        "ion_blob_stores raises RuntimeError: no luck",
    ),
    "a generator that raises": (
        "@hookimpl\ndef ion_blob_stores():\n    yield shelf()\n    raise KeyError('x')",
        "ion_blob_stores raises KeyError: 'x'",
    ),
    "a hook that returns None": (
        "@hookimpl\ndef ion_blob_stores():\n    pass",
        "ion_blob_stores returns None; it must return an iterable, which may be empty",
    ),
    "a hook that returns a provider": (
        "@hookimpl\ndef ion_blob_stores():\n    return shelf()",
        "ion_blob_stores returns Provider, which is no iterable",
    ),
    "an async hook": (
        "@hookimpl\nasync def ion_blob_stores():\n    return [shelf()]",
        "ion_blob_stores is an async def; hooks only register and must be a plain def",
    ),
    "an async generator": (
        "@hookimpl\nasync def ion_blob_stores():\n    yield shelf()",
        "ion_blob_stores is an async def; hooks only register and must be a plain def",
    ),
    "a hook that returns a coroutine": (
        "async def later(): return []\n@hookimpl\ndef ion_blob_stores():\n    return later()",
        "ion_blob_stores returns coroutine, which is no iterable",
    ),
    "an async observer": (
        "@hookimpl\nasync def ion_job_started(attempt):\n    pass",
        "ion_job_started is an async def; hooks only register and must be a plain def",
    ),
    "an unknown hook": (
        "@hookimpl\ndef ion_blob_store():\n    return []",
        'there is no hook "ion_blob_store"; the nearest is ion_blob_stores',
    ),
    "an unmarked hook": (
        "def ion_blob_stores():\n    return [shelf()]",
        "ion_blob_stores is not marked with ion_core.hookspecs.hookimpl",
    ),
    "an unmarked, unknown hook": (
        "def ion_blob_store():\n    return [shelf()]",
        "ion_blob_store is not marked with ion_core.hookspecs.hookimpl and there is no hook of that name; "
        "the nearest is ion_blob_stores",
    ),
    "a wrong signature": ("@hookimpl\ndef ion_blob_stores(config):\n    return []", "Argument(s) {'config'}"),
    "a thing that is no provider": (
        "@hookimpl\ndef ion_blob_stores():\n    return ['shelf']",
        "ion_blob_stores: str 'shelf' is no ion_core.contracts.provider.Provider",
    ),
    "a name with capitals": (
        "@hookimpl\ndef ion_blob_stores():\n    return [shelf(name='Shelf')]",
        "the name 'Shelf' must be lower-case letters, digits and hyphens, a letter first",
    ),
    "a name that is no text": ("@hookimpl\ndef ion_blob_stores():\n    return [shelf(name=5)]", "the name 5 must be"),
    "settings that are no model": (
        "@hookimpl\ndef ion_blob_stores():\n    return [shelf(settings=dict)]",
        "settings must be a pydantic model (got <class 'dict'>)",
    ),
    "settings that take unknown keys": (
        "from pydantic import BaseModel\nclass Loose(BaseModel): pass\n"
        "@hookimpl\ndef ion_blob_stores():\n    return [shelf(settings=Loose)]",
        'settings Loose must have extra="forbid"',
    ),
    "settings with the key provider": (
        "class Own(Settings):\n    provider: str = ''\n"
        "@hookimpl\ndef ion_blob_stores():\n    return [shelf(settings=Own)]",
        'settings Own must not have the key "provider"',
    ),
    "nothing to open": ("@hookimpl\ndef ion_blob_stores():\n    return [shelf(open=None)]", "open must be callable"),
    "another major version": (
        "@hookimpl\ndef ion_blob_stores():\n    return [shelf(contract='2.0')]",
        "is written for contract 2.0, this ion-core has 1.6",
    ),
    "a version that is none": (
        "@hookimpl\ndef ion_blob_stores():\n    return [shelf(contract='latest')]",
        "contract must be a version such as",
    ),
    "a plain opening that is none": (
        "@hookimpl\ndef ion_blob_stores():\n    return [shelf(plain=print)]",
        'plain must be a text such as "package.module:function"',
    ),
    "one name twice": (
        "@hookimpl\ndef ion_blob_stores():\n    return [shelf(), shelf()]",
        'ion_blob_stores: registers "shelf" twice',
    ),
    "settings of an observer that are a provider": (
        f"{OBSERVING}@hookimpl\ndef ion_observer_settings():\n    return [shelf()]",
        "is no ion_core.contracts.provider.ObserverSettings",
    ),
    "an observer with an unfit name": (
        f"{OBSERVING}@hookimpl\ndef ion_observer_settings():\n    return [ObserverSettings(name='A', settings=Nothing, "
        "contract='1.6')]",
        "the name 'A' must be lower-case letters",
    ),
    "an observer of a newer contract": (
        f"{OBSERVING}@hookimpl\ndef ion_observer_settings():\n    return [ObserverSettings(name='a', settings=Nothing, "
        "contract='1.99')]",
        'observer "a": is written for contract 1.99',
    ),
    "settings of an observer that take unknown keys": (
        f"{OBSERVING}from pydantic import BaseModel\nclass Loose(BaseModel): pass\n"
        "@hookimpl\ndef ion_observer_settings():\n    return [ObserverSettings(name='a', settings=Loose, "
        "contract='1.6')]",
        'settings Loose must have extra="forbid"',
    ),
    "several settings for the same hooks": (
        f"{OBSERVING}@hookimpl\ndef ion_observer_settings():\n"
        "    return [ObserverSettings(name=it, settings=Nothing, contract='1.6') for it in 'ab']",
        "ion_observer_settings: registers 2; the hooks of a plugin are given one, or none",
    ),
    "settings that nothing is given": (
        "from ion_core.contracts.provider import ObserverSettings\n@hookimpl\ndef ion_observer_settings():\n"
        "    return [ObserverSettings(name='a', settings=Nothing, contract='1.6')]",
        "ion_observer_settings: there is no hook that observes",
    ),
    "a hook that takes settings of nobody": (
        "@hookimpl\ndef ion_job_started(attempt, settings):\n    pass",
        "ion_job_started takes settings, and ion_observer_settings registers none",
    ),
    "a command that is none": ("@hookimpl\ndef ion_commands():\n    return [print]", "is no click.Command with a name"),
}


def infos(registry: Registry) -> dict[str, PluginInfo]:
    return {info.distribution: info for info in registry.plugins}


def test_the_embedded_plugin_is_always_there_and_once() -> None:
    for registry in (load_plugins(), load_plugins(entry_points=False), load_plugins(extra=[])):
        embedded = [info for info in registry.plugins if info.entry_point == "embedded"]
        assert [(info.distribution, info.version, info.problem) for info in embedded] == [
            ("ion-core", ion_core.__version__, None)
        ]
        assert registry.choose(Kind.MESSAGE_BROKER, "sqlite", where="").name == "sqlite"
        assert registry.names(Kind.BLOB_STORE)[:2] == ("local", "memory")


def test_the_embedded_plugin_is_not_loaded_again_from_its_metadata(install: Install) -> None:
    install("ion-core-again", entry_point="embedded", value="ion_core.embedded.plugin")
    registry = load_plugins()
    assert [info.distribution for info in registry.plugins if info.entry_point == "embedded"] == ["ion-core"]


def test_an_installed_plugin_is_loaded_and_listed(install: Install) -> None:
    install("ion-shelf", GOOD, entry_point="shelf", version="2.3")
    registry = load_plugins()
    assert infos(registry)["ion-shelf"] == PluginInfo(
        distribution="ion-shelf", version="2.3", entry_point="shelf", providers={Kind.BLOB_STORE: ("shelf",)}
    )
    assert registry.choose(Kind.BLOB_STORE, "shelf", where="").name == "shelf"


@pytest.mark.parametrize("what", BAD)
def test_a_bad_plugin_is_named_with_its_cause_and_the_others_load(
    what: str, install: Install, caplog: pytest.LogCaptureFixture
) -> None:
    code, cause = BAD[what]
    install("ion-bad", code)
    install("ion-good", GOOD)
    with caplog.at_level(logging.WARNING, logger="ion_core.registry"):
        registry = load_plugins()
    (broken,) = [it for it in registry.broken if it.distribution == "ion-bad"]
    assert cause in broken.cause
    assert infos(registry)["ion-bad"].problem == broken.cause
    assert infos(registry)["ion-bad"].providers == {}
    assert registry.choose(Kind.BLOB_STORE, "shelf", where="").name == "shelf"
    (record,) = [it for it in caplog.records if getattr(it, "distribution", "") == "ion-bad"]
    assert (record.levelname, record.__dict__["cause"]) == ("WARNING", broken.cause)


def test_a_plugin_that_hangs_is_left_out_after_its_time(install: Install, monkeypatch: pytest.MonkeyPatch) -> None:
    release = threading.Event()
    monkeypatch.setattr(threading, "released_by_the_test", release, raising=False)
    code = "import threading\n@hookimpl\ndef ion_blob_stores():\n    threading.released_by_the_test.wait(60)\n"
    install("ion-hangs", code)
    install("ion-good", GOOD)
    registry = load_plugins(timeout=0.5)
    release.set()
    assert [it.distribution for it in registry.broken] == ["ion-hangs"]
    assert "takes longer than 0.5 s" in registry.broken[0].cause
    assert "shelf" in registry.names(Kind.BLOB_STORE)


@pytest.mark.parametrize(
    "entry_points", ["[ion_core]\nno equals sign\n", "[ion_core]\nx = not a module name\n", "[ion_core]\nx = \n"]
)
def test_metadata_that_cannot_be_read_is_a_broken_plugin(entry_points: str, install: Install, tmp_path: Path) -> None:
    install("ion-bad")
    install("ion-good", GOOD)
    (tmp_path / "ion_bad-1.0.dist-info" / "entry_points.txt").write_text(entry_points)
    registry = load_plugins()
    assert [it.distribution for it in registry.broken] == ["ion-bad"]
    assert "shelf" in registry.names(Kind.BLOB_STORE)


def test_metadata_of_others_that_cannot_be_read_is_none_of_our_business(install: Install, tmp_path: Path) -> None:
    install("other")
    (tmp_path / "other-1.0.dist-info" / "entry_points.txt").write_text("no section\n[console_scripts\n")
    assert load_plugins().broken == ()


def test_the_switch_leaves_only_the_embedded_plugin(install: Install) -> None:
    install("ion-shelf", GOOD, entry_point="shelf")
    registry = load_plugins(environ={"ION_PLUGINS": "off"})
    assert [info.distribution for info in registry.plugins] == ["ion-core"]
    with pytest.raises(ConfigError, match=r"ion-shelf is installed, but ION_PLUGINS=off leaves plugins out\.$"):
        registry.choose(Kind.BLOB_STORE, "shelf", where="x")
    with pytest.raises(ConfigError, match=r'^ION_PLUGINS: must be off or on \(got "of"\)$'):
        load_plugins(environ={"ION_PLUGINS": "of"})


def test_a_list_loads_those_and_the_embedded_plugin(install: Install) -> None:
    install("ion-shelf", GOOD)
    install("ion-bad", "1 / 0")
    registry = load_plugins(allow=["Ion_Shelf"])
    assert [info.distribution for info in registry.plugins] == ["ion-core", "ion-shelf"]
    registry = load_plugins(allow=[])
    assert [info.distribution for info in registry.plugins] == ["ion-core"]
    with pytest.raises(ConfigError, match='ion-shelf is installed, but it is not listed under "plugins"'):
        registry.choose(Kind.BLOB_STORE, "shelf", where="x")


def test_a_listed_plugin_that_is_not_installed_is_an_error(install: Install) -> None:
    install("ion-shelf", GOOD)
    with pytest.raises(ConfigError) as caught:
        load_plugins(allow=["ion-shelv", "zzz", "ion-shelf"])
    assert len(caught.value.problems) == 2
    assert caught.value.problems[0].startswith(
        'plugins: no plugin distribution "ion-shelv" is installed. Did you mean "ion-shelf"? Installed: '
    )


class Nothing(Settings):
    pass


def plugin_of(name: str, *providers: str) -> object:
    """A plugin as an object, registering blob stores of these names."""
    module = types.ModuleType(name)

    @hookimpl
    def ion_blob_stores() -> Iterable[Provider[object]]:
        return [Provider(name=it, settings=Nothing, open=print, contract="1.0") for it in providers]  # type: ignore[arg-type]

    module.__dict__["ion_blob_stores"] = ion_blob_stores
    return module


def test_the_order_of_registration_decides_nothing() -> None:
    plugins = [plugin_of(f"plugin-{n}", f"own-{n}", "shared") for n in range(4)]
    seen = set()
    for seed in range(10):
        shuffled = random.Random(seed).sample(plugins, len(plugins))
        registry = load_plugins(extra=shuffled, entry_points=False)
        with pytest.raises(ConfigError) as caught:
            registry.choose(Kind.BLOB_STORE, "shared", where="x")
        names = tuple(registry.names(Kind.BLOB_STORE))
        seen.add((str(caught.value), names, tuple(str(info) for info in registry.plugins)))
    ((message, names, _),) = seen
    assert "plugin-0 and plugin-1 and plugin-2 and plugin-3" in message
    assert names == ("local", "memory", "own-0", "shared", "own-1", "own-2", "own-3")


def test_objects_given_in_code_are_plugins_too() -> None:
    class Plugin:
        @hookimpl
        def ion_blob_stores(self) -> Iterable[Provider[object]]:
            return [Provider(name="mine", settings=Nothing, open=print, contract="1.0")]  # type: ignore[arg-type]

    registry = load_plugins(extra=[Plugin(), ion_core.embedded.plugin], entry_points=False)
    assert registry.choose(Kind.BLOB_STORE, "mine", where="").contract == "1.0"


def test_broken_says_what_it_knows(install: Install) -> None:
    install("ion-bad", "1 / 0", entry_point="bad", version="4.5")
    (broken,) = load_plugins().broken
    assert broken == BrokenPlugin(
        distribution="ion-bad", entry_point="bad", version="4.5", cause="ZeroDivisionError: division by zero"
    )


def test_loading_plugins_imports_no_provider_code() -> None:
    code = "import sys; from ion_core.registry import load_plugins; load_plugins(); print(*sys.modules)"
    environ = {"ION_PLUGINS": "off", "PATH": "/usr/bin:/bin", "PYTHONPATH": str(Path(ion_core.__file__).parents[1])}
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True, env=environ)
    loaded = set(done.stdout.split())
    assert {"sqlite3", "ruamel.yaml", "click", "asyncio"} & loaded <= {"asyncio"}
