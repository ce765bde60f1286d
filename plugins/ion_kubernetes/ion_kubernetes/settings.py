"""Where the API server is, and as whom it is spoken to."""

from __future__ import annotations

from pydantic import Field

from ion_core.contracts.settings import ConfigPath, Settings


class KubernetesSettings(Settings):
    """A cluster, and the namespace in which jobs are made."""

    kubeconfig: ConfigPath | None = Field(
        None,
        description="File that says where the API server is and how it is spoken to. Default: $KUBECONFIG, then "
        "~/.kube/config, then the service account of the pod that this runs in.",
    )
    context: str | None = Field(None, description="Which context of the kubeconfig. Default: its current one.")
    namespace: str = Field("ion", min_length=1, max_length=63, description="Where pods are made; it exists already.")
