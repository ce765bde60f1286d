"""``docs/cli.md`` is what the program says of itself."""

from __future__ import annotations

from ion_core.cli.reference import reference
from tests.docs.blocks import ROOT


def test_the_reference_of_commands_is_up_to_date() -> None:
    written = (ROOT / "docs/cli.md").read_text(encoding="utf-8")
    assert written == reference(), "run: python -m ion_core.cli.reference docs/cli.md"
