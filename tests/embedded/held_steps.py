"""``held_steps.py DIRECTORY handler STEP …``: ``ion-core``, once there is no file DIRECTORY/STEP any more."""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path


def main(directory: str, *arguments: str) -> None:
    while Path(directory, arguments[1]).exists():
        time.sleep(0.02)
    os.execv(sys.executable, (sys.executable, "-P", "-m", "ion_core", *arguments))


main(*sys.argv[1:])
