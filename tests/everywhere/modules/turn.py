"""Turns a page around: the same directories, lines in reverse. What it prints is not ASCII alone."""

import json
import os
from pathlib import Path

base = Path(os.environ.get("HANDLER_BASE_DIR", "/ion"))
[page] = [path for path in (base / "in/data").rglob("*") if path.is_file()]
name = page.relative_to(base / "in/data").as_posix()
pairs = json.loads((base / "in/eventmeta.json").read_text("utf-8"))
turned = base / "out/data" / "turned" / name
turned.parent.mkdir(parents=True)
turned.write_bytes(b"".join(reversed(page.read_bytes().splitlines(keepends=True))))
event = [
    {"key": "eventType", "value": "page.turned"},
    {"key": "files", "value": f"turned/{name}"},
    {"key": "page", "value": next(it["value"] for it in pairs if it["key"] == "page")},
    {"key": "said", "value": 'quotes " and \\ and ünïcode \u2713 and\ttabs'},
]
(base / "out/events/turned.json").write_text(json.dumps(event), "utf-8")
print("turned \u2713", flush=True)
