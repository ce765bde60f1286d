"""``docs/kubernetes.md``: its pipeline is one, and its table has every setting."""

from __future__ import annotations

import re
import subprocess
import sys
from pathlib import Path

import pytest

from ion_kubernetes.settings import KubernetesSettings

PAGE = (Path(__file__).resolve().parents[3] / "docs/kubernetes.md").read_text(encoding="utf-8")
SECRETS = {"ION_AMQP_URL": "amqp://broker.example/", "S3_KEY": "key", "S3_SECRET": "secret"}


def test_its_pipeline_is_what_the_manifests_are_made_of(tmp_path: Path) -> None:
    [pipeline] = re.findall(r"<!-- file: ion.yaml -->\n```yaml\n(.*?)```", PAGE, re.DOTALL)
    (tmp_path / "ion.yaml").write_text(pipeline, encoding="utf-8")
    [options] = re.findall(r"^ion-core kubernetes manifests (.*) >", PAGE, re.MULTILINE)
    ion = str(Path(sys.executable).with_name("ion-core"))
    command = [ion, "kubernetes", "manifests", *options.split()]
    done = subprocess.run(command, cwd=tmp_path, env=SECRETS, capture_output=True, text=True, timeout=60, check=False)
    assert done.returncode == 0, done.stderr
    assert done.stderr == "", "nothing is left open"
    assert "name: ion-anchor" in done.stdout


@pytest.mark.parametrize("name", sorted(KubernetesSettings.model_fields))
def test_its_table_has_every_setting(name: str) -> None:
    table = PAGE.partition("## Settings")[2].partition("\n## ")[0]
    keys = {key for row in re.findall(r"^\| (.+?) \|", table, re.MULTILINE) for key in re.findall(r"`(\w+)`", row)}
    assert name in keys
