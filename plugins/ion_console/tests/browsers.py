"""Chromium before a console: the one that is installed, else that which Playwright has fetched."""

from __future__ import annotations

import shutil
from collections.abc import Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from pathlib import Path
from typing import Any
from urllib.parse import urlsplit

from playwright.sync_api import Browser, BrowserContext, Page, expect, sync_playwright

PICTURES = Path(__file__).parents[3] / "build" / "console"
"""Where pictures of pages go, for people to look at."""
expect.set_options(timeout=30_000)


@contextmanager
def chromium() -> Iterator[Browser]:
    installed = shutil.which("chromium") or shutil.which("google-chrome")
    with sync_playwright() as playwright:
        browser = playwright.chromium.launch(executable_path=installed)
        try:
            yield browser
        finally:
            browser.close()


@dataclass
class Seen:
    """What pages did that they should not: scripts of others, requests to others, complaints of the browser."""

    origin: str
    ran: list[str] = field(default_factory=list)
    elsewhere: list[str] = field(default_factory=list)
    complaints: list[str] = field(default_factory=list)

    def nothing(self) -> None:
        assert (self.ran, self.elsewhere, self.complaints) == ([], [], [])

    def _watch(self, page: Page) -> None:
        page.on("pageerror", lambda error: self.complaints.append(str(error)))
        page.on("console", lambda said: self._said(said.type, said.text))

    def _said(self, type: str, text: str) -> None:
        """Of answers that are errors it is said, too; those are expected where they are."""
        if type in ("error", "warning") and not text.startswith("Failed to load resource"):
            self.complaints.append(text)

    def _asked(self, url: str) -> None:
        if urlsplit(url).scheme not in ("data", "blob") and not url.startswith(self.origin + "/"):
            self.elsewhere.append(url)

    def _dialog(self, dialog: Any) -> None:
        self.ran.append(f"a dialog: {dialog.message}")
        dialog.dismiss()


@contextmanager
def visiting(browser: Browser, url: str, **how: Any) -> Iterator[tuple[BrowserContext, Seen]]:
    """A context of its own, whose pages lie at ``url``; ``ran`` may be called by what should not run."""
    context = browser.new_context(base_url=url, **{"viewport": {"width": 1280, "height": 800}, **how})
    seen = Seen(url)
    try:
        context.set_default_timeout(30_000)
        if how.get("java_script_enabled", True):
            context.expose_function("ran", lambda *what: seen.ran.append(repr(what)))
        context.on("page", seen._watch)
        context.on("dialog", seen._dialog)
        context.on("request", lambda request: seen._asked(request.url))
        yield context, seen
    finally:
        context.close()


def picture(page: Page, name: str, *, whole: bool = False) -> None:
    PICTURES.mkdir(parents=True, exist_ok=True)
    page.screenshot(path=PICTURES / f"{name}.png", full_page=whole)
