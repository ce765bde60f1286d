"""A container on the user's own terminal: made, run and removed by this file as a program of its own.

It is given all of it in a variable of its environment, which nobody else can read, and leaves nothing.
"""

from __future__ import annotations

import json
import os
import signal
import subprocess
import sys
from collections.abc import Mapping
from dataclasses import asdict
from pathlib import Path
from typing import Any

from ion_core.contracts.runtime import Foreground
from ion_oci.kept import Kept, Record
from ion_oci.oci import Oci

_GIVEN = "ION_OCI_FOREGROUND"


def foreground(
    oci: Oci, directory: Path, unfinished: Path, record: Record, config: Mapping[str, Any], environ: Mapping[str, str]
) -> Foreground:
    """What to run for that container."""
    given: dict[str, Any] = {"directory": str(directory), "unfinished": str(unfinished), "oci": oci.tools.oci}
    given |= {"record": asdict(record), "config": config}
    argv = [sys.executable, "-P", "-m", "ion_oci.foreground"]
    return Foreground(argv=argv, env={**environ, _GIVEN: json.dumps(given)}, cwd=Path.cwd())


def main() -> int:
    """The exit code of the container."""
    given = json.loads(os.environ.pop(_GIVEN))
    unfinished = Path(given["unfinished"])
    unfinished.mkdir(parents=True, exist_ok=True)  # whose it is may have been replaced by us
    kept = Kept(Path(given["directory"]), unfinished)
    bundle = kept.add(Record(**given["record"]), given["config"])
    oci = [given["oci"], f"--root={kept.state}"]
    running = subprocess.Popen(
        [*oci, "run", "--bundle", str(bundle.path), "--pid-file", str(bundle.pid_file), bundle.record.id]
    )
    for number in (signal.SIGINT, signal.SIGTERM, signal.SIGHUP):  # it hands them on
        signal.signal(number, lambda got, _: None if got == signal.SIGINT else running.send_signal(got))
    try:
        return running.wait()
    finally:
        subprocess.run([*oci, "delete", "--force", bundle.record.id], stderr=subprocess.DEVNULL, check=False)
        kept.remove(bundle)


if __name__ == "__main__":
    sys.exit(main())
