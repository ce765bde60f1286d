"""Pods of our shape, for the tests."""

from __future__ import annotations

from typing import Any


def pod(name: str = "x", *, labels: dict[str, str] | None = None, **spec: Any) -> dict[str, Any]:
    """Prepare, module and commit, which the recorded transcripts are of."""

    def container(name: str) -> dict[str, Any]:
        return {"name": name, "image": "registry.example/ion:1", "command": ["true"]}

    return {
        "metadata": {"name": name, "labels": {"app.kubernetes.io/managed-by": "ion", **(labels or {})}},
        "spec": {
            "restartPolicy": "Never",
            "initContainers": [container("prepare"), container("module")],
            "containers": [container("commit")],
            **spec,
        },
    }
