"""One distribution with metadata that nobody can read stops no command: it is left out, and its path is named."""

from __future__ import annotations

from pathlib import Path

import pytest

from ion_core.registry import Kind, load_plugins
from tests.registry.conftest import Install
from tests.registry.conftest import install as install  # a fixture

GOOD = "@hookimpl\ndef ion_blob_stores():\n    return [shelf()]\n"
NAMELESS = "Metadata-Version: 2.1\nVersion: 1.0\n"


@pytest.mark.parametrize(
    ("file", "content", "cause"),
    [
        ("entry_points.txt", b"[ion_core]\nit = caf\xe9\n", "its metadata cannot be read: 'utf-8' codec can't decode"),
        ("METADATA", NAMELESS.encode(), "its METADATA has no name"),
        ("METADATA", b"", "its METADATA has no name"),
        ("METADATA", b"Metadata-Version: 2.1\nName: ion-b\xe9d\n", "its metadata cannot be read: 'utf-8' codec"),
        ("METADATA", None, "its METADATA has no name"),
    ],
    ids=["entry points in Latin-1", "no name", "empty metadata", "metadata in Latin-1", "no metadata"],
)
def test_a_distribution_that_cannot_be_read_is_left_out_and_named_by_its_path(
    file: str,
    content: bytes | None,
    cause: str,
    install: Install,
    tmp_path: Path,
    caplog: pytest.LogCaptureFixture,
) -> None:
    install("ion-bad", GOOD)
    install("ion-good", GOOD)
    info = tmp_path / "ion_bad-1.0.dist-info"
    if content is None:
        (info / file).unlink()
    else:
        (info / file).write_bytes(content)
    registry = load_plugins()
    assert registry.choose(Kind.BLOB_STORE, "shelf", where="").name == "shelf"
    (broken,) = registry.broken
    assert broken.distribution == str(info)
    assert broken.cause.startswith(cause)
    (warned,) = [record for record in caplog.records if record.getMessage() == "plugin cannot be used"]
    assert warned.__dict__["distribution"] == str(info)


def test_one_without_a_version_is_used(install: Install, tmp_path: Path) -> None:
    install("ion-good", GOOD)
    (tmp_path / "ion_good-1.0.dist-info" / "METADATA").write_text("Metadata-Version: 2.1\nName: ion-good\n")
    registry = load_plugins()
    assert registry.broken == ()
    assert registry.plugin_of(Kind.BLOB_STORE, "shelf") == "ion-good"


def test_entry_points_of_others_that_are_no_utf_8_are_none_of_our_business(install: Install, tmp_path: Path) -> None:
    install("other")
    (tmp_path / "other-1.0.dist-info" / "entry_points.txt").write_bytes(b"[console_scripts]\ncaf\xe9 = other:main\n")
    assert load_plugins().broken == ()
