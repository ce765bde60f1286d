"""All combinations of backends that can be run here, as a table: ``make equivalence``.

With names, such as ``podman s3``, those that have a backend of each of these names. Exit code 1: they are not alike.
"""

from __future__ import annotations

import argparse
import sys
import tempfile
from functools import partial
from pathlib import Path

from ion_core.registry import load_plugins
from tests.everywhere.backends import BACKENDS, backends, product, with_each
from tests.everywhere.equivalence import compare, problems
from tests.everywhere.site import Site


def main() -> int:
    parser = argparse.ArgumentParser(prog="python -m tests.everywhere", description=__doc__)
    names = sorted({it.name for it in BACKENDS})
    parser.add_argument("names", nargs="*", metavar="NAME", help=f"a backend: {', '.join(names)}")
    parser.add_argument("--pairs", action="store_true", help="few of them, with each pair of backends")
    parser.add_argument("--at-once", type=int, default=2, metavar="N", help="how many combinations run side by side")
    said = parser.parse_args()
    if unknown := sorted(set(said.names) - set(names)):
        parser.error(f"no backend is called {unknown[0]!r}. There are: {', '.join(names)}.")
    found = backends(load_plugins())
    everything = list(product(found))
    chosen = list(product(found, said.names))
    if said.pairs:
        chosen = with_each(chosen, 2)
    chosen = [everything[0], *(it for it in chosen if it != everything[0])]
    with Site() as site, tempfile.TemporaryDirectory(prefix="ion-everywhere-") as directory:
        results = compare(chosen, site, Path(directory), at_once=said.at_once, told=partial(print, flush=True))
        wrong = list(problems(results))
    print(f"\n{len(results)} combinations, {len(results) - len(wrong)} alike", *wrong, sep="\n")
    return 1 if wrong else 0


if __name__ == "__main__":
    sys.exit(main())
