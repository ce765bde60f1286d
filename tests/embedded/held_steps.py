"""``held_steps.py DIRECTORY handler STEP …``: ``ion-core``, once there is no file DIRECTORY/STEP any more.

Meanwhile there is DIRECTORY/STEP.held.
"""

from __future__ import annotations

import os
import sys
import time
from pathlib import Path


def main(directory: str, *arguments: str) -> None:
    hold = Path(directory, arguments[1])
    while hold.exists():
        hold.with_suffix(".held").touch()
        time.sleep(0.02)
    os.execv(sys.executable, (sys.executable, "-P", "-m", "ion_core", *arguments))


main(*sys.argv[1:])
