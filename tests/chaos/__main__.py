"""Random failures, and then a count of what came of it: ``make chaos``. Exit code 1: a promise was broken."""

from __future__ import annotations

import argparse
import random
import sys
from functools import partial

from tests.chaos.running import run


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.chaos", description=__doc__)
    parser.add_argument("--minutes", type=float, default=2.0, help="how long the plan is")
    parser.add_argument("--seed", type=int, help="of the plan: the same gives the same plan. Default: a new one.")
    said = parser.parse_args()
    seed = random.randrange(1_000_000) if said.seed is None else said.seed
    done = run(seed, said.minutes * 60, told=partial(print, flush=True))
    return 1 if done.counted.broken else 0


if __name__ == "__main__":
    sys.exit(main())
