"""A locale that is not UTF-8: names are bytes of UTF-8 all the same, in arguments, in files and in what is printed."""

from __future__ import annotations

import json
import subprocess
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import pytest

from tests.acceptance.pipeline import ION, TIMEOUT, Pipeline, environment

LOCALES = {"C": ("", ""), "ISO-8859-1": ("de_DE", "ISO-8859-1"), "EUC-JP": ("ja_JP", "EUC-JP")}
NAMES = "Größe 猫.txt"
CONFIG = """
modules:
  makes:
    command: [sh, makes.sh]
    source: modules
    subscribes: [start]
    publishes: [made]
  takes:
    command: [sh, takes.sh]
    source: modules
    subscribes: [made]
"""
MAKES = f"""
out="$HANDLER_BASE_DIR/out"
cp "$HANDLER_BASE_DIR/in/data/{NAMES}" "$out/data/{NAMES}"
printf '[{{{{"key":"eventType","value":"made"}}}},{{{{"key":"files","value":"{NAMES}"}}}}]' > "$out/events/ä"
echo "printed {NAMES}"
"""
TAKES = f"""
cp "$HANDLER_BASE_DIR/in/data/{NAMES}" "$HANDLER_BASE_DIR/out/data/"
"""


@pytest.fixture(params=LOCALES)
def locale(request: pytest.FixtureRequest, tmp_path: Path) -> Mapping[str, str]:
    """The environment of a process in that locale, without what Python does to avoid it."""
    language, charmap = LOCALES[request.param]
    wanted = {"LC_ALL": "C", "LANG": "C", "PYTHONCOERCECLOCALE": "0", "PYTHONUTF8": "0"}
    if not language:
        return wanted
    made = tmp_path / "locales" / f"{language}.{charmap}"
    made.parent.mkdir()
    done = subprocess.run(["localedef", "-i", language, "-f", charmap, str(made)], capture_output=True, check=False)
    assert made.is_dir(), f"localedef cannot make {made.name}: {done.stderr.decode(errors='replace')}"
    return {**wanted, "LOCPATH": str(made.parent), "LC_ALL": made.name, "LANG": made.name}


def test_names_and_pairs_are_the_same_in_every_locale(locale: Mapping[str, str], tmp_path: Path) -> None:
    def ion(*arguments: str) -> bytes:
        env = environment(**locale)
        done = subprocess.run([*ION, *arguments], cwd=pipeline.home, env=env, capture_output=True, timeout=TIMEOUT)
        assert done.returncode == 0, done.stderr
        return done.stdout

    pipeline = Pipeline.make(tmp_path / "home", config=CONFIG, modules={})
    for name, script in (("makes", MAKES), ("takes", TAKES)):
        (pipeline.home / "modules" / f"{name}.sh").write_text(script.replace("{{", "{").replace("}}", "}"))
    (pipeline.home / NAMES).write_text("x")

    published = json.loads(ion("event", "publish", "start", "--file", NAMES, "--data", "Maß=猫", "--json"))
    assert published["data"] == [{"key": "Maß", "value": "猫"}]
    ion("serve", "--until-idle")

    documents: list[dict[str, Any]] = json.loads(ion("trace", "flow", published["context"]["correlationId"], "--json"))
    made = [it["files"] for it in documents if it["context"]["documentType"] == "eventMeta"]
    assert made == [[NAMES], [NAMES]]
    committed = [it["outputs"][0]["name"] for it in documents if it["context"]["documentType"] == "commit"]
    assert committed == [NAMES, NAMES]
    assert f"printed {NAMES}".encode() in ion("logs", published["context"]["eventId"])
    assert NAMES.encode() in ion("trace", "flow", published["context"]["correlationId"])
