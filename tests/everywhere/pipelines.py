"""The two pipelines that are run everywhere: the example of faces, and ten modules in four languages."""

from __future__ import annotations

from collections.abc import Mapping
from pathlib import Path
from typing import Any

from ruamel.yaml import YAML

from tests.everywhere.site import ROOT

FACES = ROOT / "examples/faces"
PLACES = ("build", "source")
"""What a combination says of each module instead of the example."""
FLOW = "everywhere"
"""What both belong to: each command more that looks at them is one more for every combination."""
PHOTOS = ("astronaut.jpg",)
TEXTS = {
    "letters/deep/er/short.txt": "short one\n",
    "numbers/\u00fcn\u00ef-\u2713.txt": "1 2 3 4 5 6 7\n8 9\n",
}


def modules(said: Mapping[str, Any], before: str, *, gives_in: bool = False) -> dict[str, Any]:
    """Of both pipelines. ``said`` is said of each; ``before`` stands before the names of their programs.

    ``stubborn`` fails until it ``gives_in``.
    """
    faces = YAML(typ="safe").load((FACES / "ion.yaml").read_text(encoding="utf-8"))["modules"]
    all_of_them = {
        **{name: {key: value for key, value in it.items() if key not in PLACES} for name, it in faces.items()},
        **_ten(gives_in),
    }
    return {name: {**it, "command": _command(it["command"], before), **said} for name, it in all_of_them.items()}


def _command(command: list[str], before: str) -> list[str]:
    return [*command[:-1], f"{before}{command[-1]}"]


def _ten(gives_in: bool) -> dict[str, Any]:
    once_more = {"retries": 1, "retry": {"initial": "10ms"}}
    page_signed = {"events": ["page.signed"], "within": "shelf.received"}
    return {
        "unpack": {
            "command": ["sh", "unpack.sh"],
            "subscribes": ["shelf.received"],
            "publishes": ["page.found", "tool.made"],
        },
        "count": {
            "command": ["perl", "count.pl"],
            "subscribes": ["page.found"],
            "publishes": ["page.counted"],
            "concurrency": 2,
        },
        "turn": {"command": ["python3", "turn.py"], "subscribes": ["page.found"], "publishes": ["page.turned"]},
        "sign": {
            "command": ["sh", "sign.sh"],
            "subscribes": ["page.turned"],
            "publishes": ["page.signed"],
            "concurrency": 2,
        },
        "choose": {
            "command": ["sh", "choose.sh"],
            "subscribes": ["page.counted"],
            "publishes": ["page.long", "page.short"],
        },
        "stubborn": {
            "command": ["perl", "stubborn.pl"],
            "subscribes": ["page.long"],
            "env": {"GIVES_IN": "yes" if gives_in else "no"},
            **once_more,
        },
        "broken": {
            "command": ["sh", "broken.sh"],
            "subscribes": ["page.short"],
            "publishes": ["never.seen"],
            **once_more,
        },
        "smuggle": {"command": ["sh", "smuggle.sh"], "subscribes": ["page.short"], **once_more},
        "bind": {"command": ["sh", "bind.sh"], "gather": page_signed, "publishes": ["shelf.bound"]},
        "lend": {"command": ["python3", "lend.py"], "subscribes": ["tool.made"]},
    }


def batch(home: Path) -> list[dict[str, Any]]:
    """Lines for ``event publish --batch``, with ids that are always the same. Files are written below ``home``."""
    texts = {}
    for name, text in TEXTS.items():
        path = home / "texts" / name
        path.parent.mkdir(parents=True, exist_ok=True)
        path.write_text(text, encoding="utf-8")
        texts[name] = str(path)
    shelf = {"type": "shelf.received", "data": {"title": "a \u201cshelf\u201d"}, "files": texts, "eventId": "shelf-1"}
    photos = [
        {"type": "photo.received", "files": [str(FACES / "photos" / photo)], "eventId": photo.partition(".")[0]}
        for photo in PHOTOS
    ]
    return [{**line, "correlationId": FLOW} for line in (shelf, *photos)]
