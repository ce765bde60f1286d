"""``plugins new`` and ``plugins doctor``."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.running import Ion

BROKEN = "import no_such_library\n"
RETICENT = "from ion_core.hookspecs import hookimpl\n\n\n@hookimpl\ndef ion_services():\n    return None\n"
TOO_NEW = """\
from ion_core.contracts.provider import Provider
from ion_core.contracts.settings import Settings
from ion_core.hookspecs import hookimpl


@hookimpl
def ion_services():
    return [Provider(name="future", settings=Settings, open=print, contract="99.0")]
"""
# pydantic makes no model of these settings.
UNMADE = TOO_NEW.replace("@hookimpl", "class Unmade(Settings):\n    field: type(hookimpl)\n\n\n@hookimpl").replace(
    'name="future", settings=Settings', 'name="unmade", settings=Unmade'
)
RIVAL = TOO_NEW.replace("99.0", "1.0").replace("ion_services", "ion_blob_stores").replace("future", "local")


def install(site: Path, name: str, text: str, requires: str = "") -> None:
    info = site / f"{name}-1.0.dist-info"
    info.mkdir(parents=True)
    (site / f"{name}.py").write_text(text)
    more = f"Requires-Dist: {requires}\n" if requires else ""
    (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {name.replace('_', '-')}\nVersion: 1.0\n{more}")
    (info / "entry_points.txt").write_text(f"[ion_core]\n{name} = {name}\n")


def test_a_new_plugin_is_written_and_never_over_another(ion: Ion) -> None:
    first = ion("plugins", "new", "my-shelf", "--kind", "blobs")
    assert first.code == 0
    assert "ion-my-shelf/ion_my_shelf/blobs.py" in first.out.splitlines()
    assert "class MyShelf:" in (ion.home / "ion-my-shelf/ion_my_shelf/blobs.py").read_text()
    again = ion("plugins", "new", "ion-my-shelf", "--kind", "broker")
    assert again.code == 2
    assert "Nothing was written" in again.err
    assert not (ion.home / "ion-my-shelf/ion_my_shelf/broker.py").exists()


def test_plugin_is_another_name_of_plugins(ion: Ion) -> None:
    assert ion("plugin", "new", "shelf", "--kind", "service", "--directory", "there").code == 0
    assert (ion.home / "there/ion_shelf/service.py").is_file()
    assert ion("plugin", "list").out == ion("plugins", "list").out


@pytest.mark.parametrize("name", ["Shelf", "my--shelf", "shelf-", "1st", "my_shelf", "../shelf", "x" * 41])
def test_a_name_that_is_none_of_a_plugin_is_refused(ion: Ion, name: str) -> None:
    refused = ion("plugins", "new", name, "--kind", "blobs")
    assert refused.code == 2
    assert "lower-case letters and digits" in refused.err


@pytest.mark.parametrize("name", ["core", "ion-core"])
def test_a_new_plugin_cannot_take_the_place_of_ion(ion: Ion, name: str) -> None:
    refused = ion("plugins", "new", name, "--kind", "blobs")
    assert refused.code == 2
    assert "ion-core is Ion itself" in refused.err
    assert not (ion.home / "ion-core").exists()


@pytest.mark.parametrize(
    ("kind", "name", "there"),
    [
        ("broker", "sqlite", "a message broker of ion-core "),
        ("documents", "ion-sqlite", "a document store of ion-core "),
        ("executor", "process", "a container runtime of ion-core "),
        ("runtime", "subprocess", "an executor of ion-core "),
        ("service", "future", "a service of ion-elsewhere 1.0 "),
    ],
)
def test_a_new_plugin_takes_no_name_that_another_of_its_kind_has(
    ion: Ion, site: Path, kind: str, name: str, there: str
) -> None:
    install(site, "ion_elsewhere", TOO_NEW.replace("99.0", "1.0"))
    refused = ion.process("plugins", "new", name, "--kind", kind, environ={"PYTHONPATH": str(site)})
    assert refused.code == 2
    assert f'cannot be called "{name.removeprefix("ion-")}": {there}' in refused.err
    assert not (ion.home / f"ion-{name.removeprefix('ion-')}").exists()


def test_a_new_plugin_may_be_called_as_one_of_another_kind(ion: Ion) -> None:
    assert ion("plugins", "new", "sqlite", "--kind", "service").code == 0


def test_doctor_says_that_nothing_is_wrong(ion: Ion, site: Path) -> None:
    done = ion.process("plugins", "doctor", environ={"PYTHONPATH": str(site)})
    assert done.code == 0, done.out
    assert "ion-greeting 1.5" in done.out
    assert "nothing is wrong" in done.out


def test_doctor_says_what_is_wrong_and_what_would_mend_it(ion: Ion, site: Path) -> None:
    install(site, "ion_broken", BROKEN)
    install(site, "ion_reticent", RETICENT)
    install(site, "ion_future", TOO_NEW)
    install(site, "ion_unmade", UNMADE)
    install(site, "ion_rival", RIVAL)
    install(site, "ion_lacking", "", requires="no-such-library>=2")
    install(site, "ion_greeting_too", (site / "ion_greeting.py").read_text())
    environ = {"PYTHONPATH": str(site)}
    done = ion.process("plugins", "doctor", "--json", environ=environ)
    assert done.code == 78
    assert done.json["healthy"] is False
    found = {it["distribution"]: it["problems"] for it in done.json["plugins"]}
    for distribution, problem, remedy in (
        ("ion-broken", "No module named 'no_such_library'", "Install what brings no_such_library"),
        ("ion-reticent", "ion_services returns None", "for its author"),
        ("ion-future", "is written for contract 99.0", "that belong together"),
        ("ion-unmade", "Unable to generate pydantic-core schema", "for its author"),
        ("ion-rival", 'the blob store "local" is registered by more than one plugin', "Uninstall all but one"),
        ("ion-core", 'the blob store "local" is registered by more than one plugin', "Uninstall all but one"),
        ("ion-lacking", "requires no-such-library>=2, which is not installed", "pip install 'no-such-library>=2'"),
        ("ion-greeting", 'its command "greet" is refused: ion-greeting-too has one', "Uninstall one of them"),
    ):
        assert any(problem in it["problem"] and remedy in it["remedy"] for it in found[distribution]), distribution
    told = ion.process("plugins", "doctor", environ=environ)
    assert told.code == 78
    assert "returns None" in told.out
    assert "with something wrong" in told.out


@pytest.mark.parametrize("config", ["nonsense: 1\n", "modules: 1\nplugins: [ion-broken, ion-absent]\n"])
def test_a_plugin_that_cannot_be_used_is_warned_of_once_whatever_else_is_wrong(
    ion: Ion, site: Path, config: str
) -> None:
    install(site, "ion_broken", BROKEN)
    (ion.home / "ion.yaml").write_text(config)
    done = ion.process("plugins", "doctor", environ={"PYTHONPATH": str(site)})
    assert done.code == 78
    assert done.err.count("plugin cannot be used") == 1
    assert ("ion-greeting 1.5" in done.out) == ("plugins" not in config)


def test_doctor_names_plugins_that_are_not_allowed(ion: Ion, site: Path) -> None:
    (ion.home / "ion.yaml").write_text("plugins: []\n" + (ion.home / "ion.yaml").read_text())
    done = ion.process("plugins", "doctor", "--json", environ={"PYTHONPATH": str(site)})
    assert done.code == 0
    (found,) = [it for it in done.json["plugins"] if it["distribution"] == "ion-greeting"]
    assert "not listed" in found["skipped"]


LOSES = """\
from contextlib import asynccontextmanager
from pathlib import Path

from pydantic import Field

from ion_core.contracts.provider import Provider
from ion_core.contracts.settings import Settings, StatePath
from ion_core.embedded.local.blobs import open_local_blobs
from ion_core.embedded.settings import LocalBlobsSettings
from ion_core.hookspecs import hookimpl


class LosesSettings(Settings):
    path: StatePath = Field(default=Path("it"), description="Where.")
    url: str = Field(description="What it says of every blob.")


class Loses:
    def __init__(self, blobs, url):
        self.blobs, self.said = blobs, url

    async def url(self, key):
        await self.blobs.url(key)
        return self.said

    def __getattr__(self, name):
        return getattr(self.blobs, name)


@asynccontextmanager
async def open_it(settings):
    async with open_local_blobs(LocalBlobsSettings(path=settings.path)) as blobs:
        yield Loses(blobs, settings.url)


@hookimpl
def ion_blob_stores():
    return [Provider(name="loses", settings=LosesSettings, open=open_it, contract="1.0")]
"""


def test_an_installed_provider_is_held_to_its_rules(ion: Ion, site: Path) -> None:
    install(site, "ion_loses", LOSES)
    environ = {"PYTHONPATH": str(site)}
    done = ion.process("plugins", "test", "loses", "--set", "url=the same", "--json", environ=environ)
    assert done.code == 1, done.err
    assert done.json["kept"] is False
    outcomes = {it["rule"]: it for it in done.json["rules"]}
    assert [rule for rule, it in outcomes.items() if it["outcome"] == "broken"] == ["url_is_a_uri"]
    assert "gives a URI" in outcomes["url_is_a_uri"]["sentence"]
    assert outcomes["blobs_outlive_the_process"]["outcome"] == "kept", "it is opened again with the same settings"
    assert outcomes["a_blob_that_rotted_is_corrupt"]["outcome"] == "not tested"
    assert outcomes["a_blob_that_rotted_is_corrupt"]["why"] == "corrupt = None"


def test_a_slow_provider_is_given_time(ion: Ion, site: Path) -> None:
    install(site, "ion_loses", LOSES)
    asked = ("plugins", "test", "loses", "--set", "url=the same", "--json", "--patience")
    done = ion.process(*asked, "0.0001", environ={"PYTHONPATH": str(site)})
    assert done.code == 1, done.err
    broken = [it["why"] for it in done.json["rules"] if it["outcome"] == "broken"]
    assert any("did not happen within 0.0001 s" in why for why in broken), broken
    done = ion.process(*asked, "120", environ={"PYTHONPATH": str(site)})
    assert [it["rule"] for it in done.json["rules"] if it["outcome"] == "broken"] == ["url_is_a_uri"]


def test_what_is_not_there_breaks_no_rule(ion: Ion, site: Path) -> None:
    away = '    from ion_core.errors import TransientError\n    raise TransientError("loses: nobody answers")\n'
    opens = "async def open_it(settings):\n"
    install(site, "ion_loses", LOSES.replace(opens, opens + away))
    done = ion.process("plugins", "test", "loses", "--set", "url=the same", environ={"PYTHONPATH": str(site)})
    assert done.code == 69
    assert done.err.endswith("loses: nobody answers. Not all rules were tested.\n")
    assert done.out == ""


RUNS_NOTHING = """\
from contextlib import asynccontextmanager

from ion_core.contracts.provider import Provider
from ion_core.contracts.settings import Settings
from ion_core.errors import TransientError
from ion_core.hookspecs import hookimpl


class NoSettings(Settings):
    pass


@asynccontextmanager
async def open_it(settings):
    raise TransientError("engine: nobody answers")
    yield


@hookimpl
def HOOK():
    return [Provider(name="engine", settings=NoSettings, open=open_it, contract="1.0")]
"""


@pytest.mark.parametrize("hook", ["ion_container_runtimes", "ion_executors"])
def test_what_runs_modules_and_is_not_there_breaks_no_rule_either(ion: Ion, site: Path, hook: str) -> None:
    """It is asked what it offers before any rule is tested."""
    install(site, "ion_engine", RUNS_NOTHING.replace("HOOK", hook))
    done = ion.process("plugins", "test", "engine", environ={"PYTHONPATH": str(site)})
    assert done.code == 69
    assert done.err.endswith("engine: nobody answers. Not all rules were tested.\n")


def test_what_has_something_in_it_is_not_used_for_that(ion: Ion) -> None:
    (ion.home / "blobs").mkdir()
    assert ion.process("event", "publish", "start", "--file", "note.txt").code == 0
    kept = ion.home / ".ion/blobs"
    before = sorted(kept.rglob("*"))
    refused = ion.process("plugins", "test", "local", "--set", f"path={kept}")
    assert refused.code == 2
    assert "has something in it" in refused.err
    assert sorted(kept.rglob("*")) == before


@pytest.mark.parametrize(
    ("arguments", "said"),
    [
        (["memory"], "Say which by --kind: broker, runtime, blobs, documents."),
        (["nothing"], 'no provider called "nothing" can be used'),
        (["local", "--set", "path"], "say KEY=VALUE"),
        (["local", "--patience", "0"], "0.0 is not in the range x>0"),
        (["local", "--set", "paht=x"], '--set: paht: unknown key. Did you mean "path"?'),
        (["local", "--set", "path=[x]"], "--set: path: must be a path (got a list)"),
        (["local", "--set", "path={"], "the value is no YAML"),
        (["local", "--set", "path=/dev/null/it"], "path: cannot keep blobs in /dev/null/it: Not a directory"),
    ],
)
def test_what_cannot_be_tested_is_refused(ion: Ion, arguments: list[str], said: str) -> None:
    refused = ion("plugins", "test", *arguments)
    assert refused.code == 2
    assert said in refused.err
