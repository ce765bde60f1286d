"""``ion-core docs``: the pages that come with this version, and those of the plugins that are installed."""

from __future__ import annotations

import difflib
from collections.abc import Callable
from dataclasses import dataclass
from functools import partial
from pathlib import Path
from typing import TYPE_CHECKING

import click

from ion_core.cli.options import Text, verbose_option
from ion_core.cli.output import out, out_table, results
from ion_core.errors import IonError, UsageError

if TYPE_CHECKING:
    from click.shell_completion import CompletionItem


@dataclass(frozen=True)
class Page:
    """``about`` in a line, and its whole ``text``."""

    about: Callable[[], str]
    text: Callable[[], str]


class PageName(Text):
    """The name of a page."""

    def shell_complete(self, ctx: click.Context, param: click.Parameter, incomplete: str) -> list[CompletionItem]:
        from click.shell_completion import CompletionItem

        return [
            CompletionItem(name, help=page.about()) for name, page in _pages().items() if name.startswith(incomplete)
        ]


@click.command("docs")
@click.argument("page", metavar="[PAGE]", type=PageName(), required=False)
@verbose_option
def command(page: str | None) -> None:
    """Read the documentation that came with this version.

    PAGE is a name, or the beginning of one, of those that are listed without. It is printed as it is written, in
    Markdown; on a terminal through a pager. Each plugin that is installed has one: that of ion-gateway is gateway, and
    so on.

    \b
    Example:
      ion-core docs modules
      ion-core docs gateway
    """
    pages = _pages()
    if page is None:
        out_table(["PAGE", "ABOUT"], [[name, it.about()] for name, it in pages.items()])
        return
    name = page.removesuffix(".md").removeprefix("docs/")
    found = [name] if name in pages else [it for it in pages if it.startswith(name)]
    if len(found) != 1:
        near = found or difflib.get_close_matches(name, pages, n=3)
        hint = f" Did you mean {' or '.join(near[:5])}?" if near else ""
        raise UsageError(f"there is no page {page[:80]!r}.{hint} `ion-core docs` lists all.")
    text = pages[found[0]].text()
    if results().isatty():
        click.echo_via_pager(text)
    else:
        out(text.rstrip("\n"), whole=True)


def _pages() -> dict[str, Page]:
    from ion_core.registry import plugin_readmes

    directory = _directory()
    paths = sorted(directory.rglob("*.md"), key=lambda path: (len(path.relative_to(directory).parts), path))
    pages = {
        path.relative_to(directory).with_suffix("").as_posix(): Page(
            about=partial(_title, path), text=partial(path.read_text, encoding="utf-8")
        )
        for path in paths
    }
    for distribution, (summary, readme) in sorted(plugin_readmes().items()):
        name = distribution.removeprefix("ion-")
        pages[distribution if name in pages else name] = Page(about=partial(str, summary), text=partial(str, readme))
    return pages


def _directory() -> Path:
    from ion_core.pages import pages_directory

    if (directory := pages_directory()) is not None:
        return directory
    raise IonError("the documentation is not installed: ion-core was packed without it. Install it from its wheel.")


def _title(path: Path) -> str:
    with path.open(encoding="utf-8") as file:
        return next((line.lstrip("# ").strip() for line in file if line.startswith("# ")), "")
