"""What a container may write to, as it is asked of an OCI runtime."""

from __future__ import annotations

from pathlib import Path

from ion_core.contracts.runtime import ContainerSpec
from ion_oci.images import Image
from ion_oci.settings import OciSettings
from ion_oci.spec import Wanted


def test_volumes_under_what_is_mounted_anyway_are_left_out() -> None:
    volumes = ("/", "/ion/x", "/tmp", "/tmpfiles", "data/", "/m/a")
    image = Image(id="i", digest="d", user="", labels={}, volumes=volumes)
    settings = OciSettings.model_validate({"allow": {"mounts": {"m": ["/srv:/m"]}}})
    made = ContainerSpec(name="c", module="m", workspace=Path("/w"))
    assert Wanted(spec=made, image=image, settings=settings).tmpfs() == ["/tmp", "/tmpfiles", "/data"]
