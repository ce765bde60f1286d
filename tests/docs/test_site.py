"""The documentation as a site: whole, and read without a network."""

from __future__ import annotations

import os
import re
import shutil
import subprocess
import tomllib
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import pytest

from tests.docs.blocks import ROOT

PAGES = ["README.md", "CHANGELOG.md", "CONTRIBUTING.md", "docs", "bench/README.md"]
PAGES += [f"examples/{it}/README.md" for it in ("album", "faces")]


def build(checkout: Path) -> subprocess.CompletedProcess[str]:
    environment = {**os.environ, "NO_COLOR": "1"}
    return subprocess.run(
        [checkout / "scripts/site"], env=environment, capture_output=True, text=True, timeout=120, check=False
    )


@pytest.fixture(scope="module")
def checkout(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """What the site is made of, in a place of its own: nothing of a test is built into the checkout."""
    copy = tmp_path_factory.mktemp("checkout")
    readmes = [str(path.relative_to(ROOT)) for path in ROOT.glob("plugins/*/README.md")]
    for name in [*PAGES, *readmes, "scripts/site", "zensical.toml"]:
        (copy / name).parent.mkdir(parents=True, exist_ok=True)
        if (ROOT / name).is_dir():
            shutil.copytree(ROOT / name, copy / name)
        else:
            shutil.copy(ROOT / name, copy / name)
    (copy / ".venv").symlink_to(ROOT / ".venv")
    return copy


@pytest.fixture(scope="module")
def site(checkout: Path) -> Path:
    built = build(checkout)
    assert built.returncode == 0, built.stdout + built.stderr
    return checkout / "build/site"


def test_every_page_is_built_and_nothing_of_it_is_fetched_from_elsewhere(checkout: Path, site: Path) -> None:
    pages = {path.relative_to(checkout) for path in checkout.glob("**/*.md") if "build" not in path.parts}
    for page in pages:
        made = page.with_name("index.html") if page.name == "README.md" else page.with_suffix(".html")
        text = (site / made).read_text(encoding="utf-8")
        fetched = re.findall(r"<(?:script|link|img|iframe)\b[^>]*?(?:src|href)=\"?([^\" >]+)", text)
        assert fetched
        assert [at for at in fetched if re.match(r"(https?:)?//", at)] == [], page


def test_what_is_searched_for_is_found_in_the_pages_themselves(site: Path) -> None:
    index = (site / "search.js").read_text(encoding="utf-8")
    assert "dead letter" in index
    assert "docs/operating.html" in index


def test_every_page_for_people_is_in_the_menu(checkout: Path) -> None:
    def pages(menu: list[dict[str, Any]]) -> Iterator[str]:
        for entry in menu:
            for what in entry.values():
                if isinstance(what, str):
                    yield what
                else:
                    yield from pages(what)

    nav = set(pages(tomllib.loads((checkout / "zensical.toml").read_text(encoding="utf-8"))["project"]["nav"]))
    there = {str(path.relative_to(checkout)) for path in checkout.glob("**/*.md") if "build" not in path.parts}
    assert {page for page in there if not page.startswith("docs/decisions/0")} == nav


@pytest.mark.parametrize("link", ["nowhere.md", "delivery.md#no-such-heading"])
def test_a_link_that_leads_nowhere_is_an_error(checkout: Path, site: Path, link: str, tmp_path: Path) -> None:
    copy = tmp_path / "copy"
    shutil.copytree(checkout, copy, symlinks=True, ignore=shutil.ignore_patterns("build"))
    with (copy / "docs/glossary.md").open("a", encoding="utf-8") as page:
        page.write(f"\n[there]({link})\n")
    built = build(copy)
    assert built.returncode != 0
    assert "docs/glossary.md" in built.stdout + built.stderr
