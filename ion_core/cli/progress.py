"""How far something long has come, on a terminal only."""

from __future__ import annotations

import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager

import click


@contextmanager
def progress(length: int, what: str) -> Iterator[Callable[[int], None]]:
    """A bar on standard error, which is given how many more are done; nothing where that is no terminal."""
    if not sys.stderr.isatty():
        yield lambda count: None
        return
    with click.progressbar(length=length, label=what, file=sys.stderr, show_pos=True) as bar:
        yield bar.update
