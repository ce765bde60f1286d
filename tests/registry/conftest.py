from __future__ import annotations

import importlib
import sys
from collections.abc import Callable, Iterator
from pathlib import Path
from textwrap import dedent

import pytest

Install = Callable[..., None]

PROVIDER = """
from ion_core.contracts.provider import Provider
from ion_core.contracts.settings import Settings
from ion_core.hookspecs import hookimpl

class Nothing(Settings):
    pass

def shelf(name="shelf", settings=Nothing, open=print, contract="1.0", plain=""):
    return Provider(name=name, settings=settings, open=open, contract=contract, plain=plain)
"""


@pytest.fixture
def install(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Install]:
    """Installs a distribution of one module, with metadata as pip would write it. ``PROVIDER`` is put above it."""
    monkeypatch.setattr(sys, "path", [str(tmp_path), *sys.path])
    modules: list[str] = []

    def install(
        distribution: str, code: str = "", *, entry_point: str = "it", value: str = "", version: str = "1.0"
    ) -> None:
        module = f"{distribution.replace('-', '_')}_of_a_test"
        modules.append(module)
        (tmp_path / f"{module}.py").write_text(PROVIDER + dedent(code))
        info = tmp_path / f"{distribution.replace('-', '_')}-{version}.dist-info"
        info.mkdir()
        (info / "METADATA").write_text(f"Metadata-Version: 2.1\nName: {distribution}\nVersion: {version}\n")
        (info / "entry_points.txt").write_text(f"[ion_core]\n{entry_point} = {value or module}\n")
        importlib.invalidate_caches()

    yield install
    for module in modules:
        sys.modules.pop(module, None)
