"""docs/configuration.md and docs/plugins.md say what the code does."""

from __future__ import annotations

import re
from pathlib import Path
from types import ModuleType

import pluggy
import pytest
from pydantic import BaseModel

from ion_core import hookspecs
from ion_core.config import json_schema, load_config
from ion_core.config.model import (
    FileSettings,
    GatherSettings,
    LimitsSettings,
    ModuleSettings,
    ResourcesSettings,
    RetrySettings,
    StorageSettings,
)
from ion_core.config.overrides import ALONE, SECTIONS
from ion_core.config.text import duration_text, size_text
from ion_core.contracts import CONTRACT_VERSION
from ion_core.embedded.plugin import ion_blob_stores, ion_container_runtimes, ion_document_stores, ion_message_brokers
from ion_core.embedded.settings import LocalBlobsSettings
from ion_core.errors import ConfigError
from ion_core.registry import load_plugins

DOCS = Path(__file__).parents[2] / "docs"
CONFIGURATION = (DOCS / "configuration.md").read_text(encoding="utf-8")
PLUGINS = (DOCS / "plugins.md").read_text(encoding="utf-8")

BLOCK = re.compile(r"(?:<!-- ([^\n]*) -->\n)?```(\w*)\n(.*?)```", re.DOTALL)
BAD = {title: body for title, _, body in BLOCK.findall(CONFIGURATION) if title}
YAML_BLOCKS = [body for title, kind, body in BLOCK.findall(CONFIGURATION) if kind == "yaml" and not title]
EMBEDDED = [
    provider.settings
    for hook in (ion_message_brokers, ion_container_runtimes, ion_blob_stores, ion_document_stores)
    for provider in hook()
]


@pytest.mark.parametrize(
    "model",
    # a set would give the workers of a parallel run different orders
    dict.fromkeys(
        [
            FileSettings,
            StorageSettings,
            ModuleSettings,
            GatherSettings,
            ResourcesSettings,
            RetrySettings,
            LimitsSettings,
            *EMBEDDED,
        ]
    ),
    ids=lambda model: str(model.__name__),
)
def test_every_key_is_in_the_page(model: type[BaseModel]) -> None:
    missing = [name for name in model.model_fields if f"`{name}`" not in CONFIGURATION]
    assert not missing


def test_the_defaults_in_the_page_are_those_of_the_code() -> None:
    rows = {
        cells[0].strip(" `"): cells[1].strip()
        for cells in re.findall(r"^\|([^|\n]+)\|([^|\n]+)\|", CONFIGURATION, re.M)
    }
    limits, retry, module = LimitsSettings(), RetrySettings(), ModuleSettings.model_fields
    expected = {
        "max_files": str(limits.max_files),
        "max_depth": str(limits.max_depth),
        "max_output": size_text(limits.max_output),
        "max_events": str(limits.max_events),
        "max_insights": size_text(limits.max_insights),
        "initial": duration_text(retry.initial),
        "factor": f"{retry.factor:g}",
        "maximum": duration_text(retry.maximum),
        "jitter": f"{retry.jitter:g}",
        "timeout": duration_text(module["timeout"].default),
        "retries": str(module["retries"].default),
        "concurrency": str(module["concurrency"].default),
        "warm": str(module["warm"].default),
        "network": module["network"].default,
        "runtime": module["runtime"].default,
        "state": str(FileSettings.model_fields["state"].default),
        "drain_timeout": duration_text(FileSettings.model_fields["drain_timeout"].default),
    }
    assert {key: rows[key].strip("`") for key in expected} == expected


@pytest.mark.parametrize("text", YAML_BLOCKS, ids=range(len(YAML_BLOCKS)))
def test_every_example_loads(text: str, tmp_path: Path) -> None:
    for source in re.findall(r"source: ([\w/]+)", text):
        (tmp_path / source).mkdir(parents=True)
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "token").write_text("t0ken\n")
    (tmp_path / "ion.yaml").write_text(text, encoding="utf-8")
    config = load_config(tmp_path / "ion.yaml", environ={"TRANSLATE_HOST": "example.org"})
    assert config.modules


def test_the_example_of_values_from_elsewhere_is_what_it_says(tmp_path: Path) -> None:
    (text,) = [it for it in YAML_BLOCKS if "$${LANG}" in it]
    (tmp_path / "modules" / "translate").mkdir(parents=True)
    (tmp_path / "secrets").mkdir()
    (tmp_path / "secrets" / "token").write_text("t0ken\n")
    (tmp_path / "ion.yaml").write_text(text, encoding="utf-8")
    config = load_config(tmp_path / "ion.yaml", environ={"TRANSLATE_HOST": "example.org"})
    module = config.modules["translate"]
    assert module.command == ("sh", "-c", 'echo "${LANG}" && exec ./translate')
    assert module.env == {"API_TOKEN": "t0ken", "ENDPOINT": "https://example.org/v1"}
    assert isinstance(config.blobs.settings, LocalBlobsSettings)
    assert config.blobs.settings.path == tmp_path / ".ion" / "blobs"


def test_the_example_of_errors_is_what_comes_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.chdir(tmp_path)
    Path("bad.yaml").write_text(BAD["bad.yaml"], encoding="utf-8")
    with pytest.raises(ConfigError) as caught:
        load_config("bad.yaml", registry=load_plugins(entry_points=False), environ={})
    assert str(caught.value) + "\n" == BAD["its errors"]


def test_the_variables_in_the_page_exist(tmp_path: Path) -> None:
    names = re.findall(r"^\| `ION_(\w+)` \| `([\w.-]+)` \|$", CONFIGURATION, re.M)
    assert len(names) == 6
    for variable, key in names:
        assert variable == key.upper().replace("-", "_").replace(".", "__")
        assert key in ALONE or key.split(".")[0] in SECTIONS
    (tmp_path / "ion.yaml").write_text("modules: {face-detect: {command: x, subscribes: [a]}}", encoding="utf-8")
    values = {"PROVIDER": "sqlite", "PATH": "p", "ISOLATION": "none", "CONCURRENCY": "2", "TIMEOUT": "1s", "STATE": "s"}
    environ = {f"ION_{it}": values[re.split("__|_", it)[-1]] for it, _ in names}
    assert load_config(tmp_path / "ion.yaml", environ=environ).modules["face-detect"].concurrency == 2


def test_every_hook_is_in_the_page_with_its_arguments() -> None:
    manager = pluggy.PluginManager(hookspecs.PROJECT)
    manager.add_hookspecs(hookspecs)
    for name in vars(hookspecs):
        if name.startswith("ion_"):
            spec = getattr(manager.hook, name).spec
            arguments = f"({', '.join(spec.argnames)})" if spec.argnames else ""
            assert f"| `{name}{arguments}` |" in PLUGINS


def test_the_plugin_of_the_page_is_written_for_this_contract() -> None:
    assert f'contract="{CONTRACT_VERSION}"' in PLUGINS


def test_the_observers_of_the_page_load_and_take_what_is_set_there(tmp_path: Path) -> None:
    observers = [body for body in re.findall(r"```python\n(.*?)```", PLUGINS, re.DOTALL) if "def ion_job_fin" in body]
    plugins = []
    for n, body in enumerate(observers):
        exec(compile(body, "docs/plugins.md", "exec", dont_inherit=True), vars(plugin := ModuleType(f"observer_{n}")))
        plugins.append(plugin)
    registry = load_plugins(extra=plugins, entry_points=False)
    assert (len(plugins), registry.broken) == (2, ())
    (text,) = re.findall(r"```\n(observers:.*?)```", PLUGINS, re.DOTALL)
    (tmp_path / "ion.yaml").write_text(text, encoding="utf-8")
    found = load_config(tmp_path / "ion.yaml", registry=registry, environ={}).observers
    assert {name: duration_text(it.settings.longer) for name, it in found.items()} == {"slow": "30s", "very-slow": "1h"}


def test_the_plugin_of_the_page_is_loaded_and_chosen(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Its own tests and its installation by pip are run by the acceptance tests."""
    for name, body in re.findall(r"<!-- file: (\S+) -->\n```\w*\n(.*?)```", PLUGINS, re.DOTALL):
        (tmp_path / name).parent.mkdir(parents=True, exist_ok=True)
        (tmp_path / name).write_text(body, encoding="utf-8")
    monkeypatch.syspath_prepend(tmp_path)
    from ion_shelf import plugin  # type: ignore[import-not-found]

    registry = load_plugins(extra=[plugin], entry_points=False)
    config = load_config(tmp_path / "ion.yaml", registry=registry, environ={})
    assert config.blobs.provider.name == "shelf"
    assert config.blobs.settings.model_dump() == {"path": tmp_path / ".ion" / "shelf"}
    assert "ion-shelf" in (tmp_path / "pyproject.toml").read_text()
    assert "'const': 'shelf'" in str(json_schema(registry))
