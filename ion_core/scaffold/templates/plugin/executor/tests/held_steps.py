"""`ion-core handler`, which does not begin as long as a file named after its step lies in the directory named first."""

import sys
import time
from pathlib import Path

from ion_core.cli import main

held, *arguments = sys.argv[1:]
while (Path(held) / arguments[0]).exists():
    time.sleep(0.02)
sys.exit(main(["handler", *arguments]))
