"""``python -m ion_core``: the same as ``ion-core``."""

import sys

from ion_core.cli import main

if __name__ == "__main__":
    sys.exit(main())
