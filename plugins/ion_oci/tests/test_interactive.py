"""What `ion-core debug --shell` is given to run."""

from __future__ import annotations

import json
from pathlib import Path

from ion_oci.runtime import OciRuntime
from tests.containers.running import spec
from tests.support.containers import OciUnderTest


async def test_nothing_is_made_before_it_runs(runtime: OciRuntime, tested: OciUnderTest, tmp_path: Path) -> None:
    shown = await runtime.interactive(spec(tmp_path, "true"), terminal=False)
    assert json.loads(shown.env["ION_OCI_FOREGROUND"])["config"]["process"]["args"] == ["sh", "-c", "true"]
    assert tested.containers() == []
