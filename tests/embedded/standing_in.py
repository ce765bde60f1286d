"""Stands in for ``ion-core handler``: prepares an empty workspace, commits nothing, and does what it is told besides.

``standing_in.py TOLD handler STEP --config … --ticket … --result … --basedir …``; TOLD/STEP, where it is there, is a
shell script that is run instead, with these four in $CONFIG, $TICKET, $RESULT and $BASEDIR.
"""

from __future__ import annotations

import os
import sys
from pathlib import Path


def main(told: str, handler: str, step: str, *given: str) -> None:
    options = {name[2:].upper(): value for name, value in zip(given[::2], given[1::2], strict=True)}
    assert (handler, options.keys()) == ("handler", {"CONFIG", "TICKET", "RESULT", "BASEDIR"})
    print(f"step {step}", file=sys.stderr)
    if step == "prepare":
        for name in ("in/data", "out/data", "out/events"):
            Path(options["BASEDIR"], name).mkdir(parents=True)
    if (script := Path(told, step)).exists():
        sys.stderr.flush()
        os.execve("/bin/sh", ("sh", str(script)), {**os.environ, **options})


main(*sys.argv[1:])
