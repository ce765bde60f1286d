"""Code blocks of a page of documentation, as tests take them."""

from __future__ import annotations

import re
from dataclasses import dataclass
from pathlib import Path

ROOT = Path(__file__).resolve().parents[2]
_BLOCK = re.compile(
    r"^(?:<!-- (?P<role>file|run)(?:: (?P<name>\S+))? -->\n)?```(?P<language>\w*)[^\n]*\n(?P<text>.*?)^```$",
    re.M | re.S,
)


@dataclass(frozen=True)
class Block:
    """``role`` is ``file`` (to be written as ``name``), ``run`` (to be run), or '' for one that only shows."""

    role: str
    name: str
    language: str
    text: str


def blocks(page: str) -> list[Block]:
    """All code blocks of ``page``, a path below the repository, in order."""
    text = (ROOT / page).read_text(encoding="utf-8")
    return [
        Block(role=found["role"] or "", name=found["name"] or "", language=found["language"], text=found["text"])
        for found in _BLOCK.finditer(text)
    ]


def write_files(page: str, directory: Path) -> list[Path]:
    """Write every block that is a file of its own below ``directory``."""
    written = []
    for block in blocks(page):
        if block.role == "file":
            path = directory / block.name
            path.parent.mkdir(parents=True, exist_ok=True)
            path.write_text(block.text, encoding="utf-8")
            written.append(path)
    return written
