"""A configuration that a variable names does not come as a surprise; documentation is there without the clone."""

from __future__ import annotations

from pathlib import Path

import pytest

from tests.cli.conftest import ion as ion
from tests.cli.running import Ion
from tests.docs.blocks import ROOT


def test_it_is_said_once_that_the_file_of_the_directory_is_not_the_one(
    ion: Ion, tmp_path_factory: pytest.TempPathFactory, monkeypatch: pytest.MonkeyPatch
) -> None:
    other = tmp_path_factory.mktemp("other") / "ion.yaml"
    other.write_text("modules:\n  one: {command: x, subscribes: [t]}\n")
    monkeypatch.setenv("ION_CONFIG", str(other))
    said = f"The configuration is {other}, by $ION_CONFIG, not ion.yaml of this directory.\n"
    assert ion("module", "drain", "gone", "--yes").err.count(said) == 1
    assert said not in ion("check", "--config", "ion.yaml").err
    other.write_text("modules:\n  one: {comand: x, subscribes: [t]}\n")
    lines = ion("check").err.splitlines()
    assert lines[0] + "\n" == said
    assert "modules.one.comand: unknown key" in "\n".join(lines)
    assert lines[-1].endswith(f"{other}: is the configuration by $ION_CONFIG.")
    other.unlink()
    refused = ion("check")
    assert refused.code == 78
    assert f"$ION_CONFIG: {other}: no such file. Unset it (unset ION_CONFIG)" in refused.err

    monkeypatch.setenv("ION_CONFIG", str(Path("ion.yaml").absolute()))  # that is the same file
    assert ion("check").err == ""


def test_where_there_is_none_it_is_said_what_makes_one(
    ion: Ion, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    refused = ion("trace", "list")
    assert refused.code == 78
    assert f"ion.yaml: no such file in {tmp_path}. " in refused.err
    assert "`ion-core init DIRECTORY`" in refused.err


def test_pages_of_the_documentation_are_printed_by_name(ion: Ion) -> None:
    assert ion("docs", "modules").out == (ROOT / "docs/modules.md").read_text(encoding="utf-8")
    assert ion("docs", "decisions/0037").out.startswith("# 0037 ")
    listed = ion("docs").out.splitlines()
    assert listed[0].split() == ["PAGE", "ABOUT"]
    assert ["modules", "Modules"] in [line.split() for line in listed]
    refused = ion("docs", "modul")
    assert refused.code == 2
    assert "Did you mean module-contract or modules?" in refused.err
    assert "there is no page 'xyz'." in ion("docs", "xyz").err


def test_a_plugin_that_is_installed_has_a_page_which_is_its_readme(
    ion: Ion, site: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    described = (
        "Metadata-Version: 2.1\nName: ion-{name}\nVersion: 1.5\nSummary: Greets {name}.\n"
        "Description-Content-Type: text/markdown\n\n# ion-{name}\n\nGrüßt.\n"
    )
    monkeypatch.syspath_prepend(site)
    before = ion("docs").out.splitlines()
    for name in ("greeting", "modules"):
        info = site / f"ion_{name}-1.5.dist-info"
        info.mkdir(exist_ok=True)
        (info / "METADATA").write_text(described.format(name=name), encoding="utf-8")
        (info / "entry_points.txt").write_text(f"[ion_core]\n{name} = ion_greeting\n")
    listed = ion("docs").out.splitlines()
    assert "greeting" not in {line.split()[0] for line in before}, "one without a README has no page"
    assert {tuple(line.split()) for line in listed} >= {
        ("greeting", "Greets", "greeting."),
        ("ion-modules", "Greets", "modules."),
        ("modules", "Modules"),
    }
    assert ion("docs", "greeting").out == "# ion-greeting\n\nGrüßt.\n"
    assert ion("docs", "greet").out == "# ion-greeting\n\nGrüßt.\n"
    assert ion("docs", "ion-modules").out.startswith("# ion-modules\n")
    assert ion("docs", "modules").out.startswith("# Modules\n")
