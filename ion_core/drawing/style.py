"""How a page and the graphs on it look."""

from __future__ import annotations

from pathlib import Path

_HERE = Path(__file__).parent


def page_style() -> str:
    """Of the page about a flow: its colours, too."""
    return (_HERE / "page.css").read_text(encoding="utf-8")


def graph_style() -> str:
    """Of graphs, on any page that has the colours ``--fg``, ``--dim``, ``--line``, ``--card``, ``--ok``, ``--bad``,
    ``--run`` and ``--wait``."""
    return (_HERE / "graph.css").read_text(encoding="utf-8")
