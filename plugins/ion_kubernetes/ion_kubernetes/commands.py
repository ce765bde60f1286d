"""``ion-core kubernetes``: what a cluster has to have for Ion."""

from __future__ import annotations

from collections.abc import Mapping
from typing import TYPE_CHECKING

import click

if TYPE_CHECKING:
    from ion_core.contracts.command import Pipeline
    from ion_kubernetes.manifests import Manifest, Stores
    from ion_kubernetes.settings import KubernetesSettings

_NO_POLICY = (
    "No NetworkPolicy for network: none: it takes the stores' addresses, as in --stores 10.0.8.0/24:443. Without one "
    "modules reach what others reach."
)
_NO_OWNER = (
    "{where}: is not set: Secrets with the settings of jobs, which hold the stores' credentials, stay when Ion is "
    "removed. Name a ConfigMap, and it is printed, too."
)
_KUBECONFIG = "{where}: would be looked for in the pod. Leave it out there: the service account is what Ion is there."
_ELSEWHERE = (
    "Modules of other runtimes ({names}) would run in the dispatcher's own pod, where nothing is made for that."
)


@click.group()
def kubernetes() -> None:
    """What a Kubernetes cluster has to have for Ion."""


class _AtStores(click.ParamType[object]):
    name = "cidr:port"

    def convert(self, value: object, param: click.Parameter | None, ctx: click.Context | None) -> Stores:
        from ipaddress import ip_network

        from ion_kubernetes.manifests import Stores

        addresses, _, port = str(value).rpartition(":")
        try:
            network = ip_network(addresses.strip("[]"))
        except ValueError:
            self.fail(f'must be addresses and a port such as 10.0.8.0/24:443 (got "{value}")', param, ctx)
        if not port.isdecimal() or not 0 < int(port) < 2**16:
            self.fail(f'must end with a port, as in 10.0.8.0/24:443 (got "{value}")', param, ctx)
        return Stores(network=network, port=int(port))


@kubernetes.command()
@click.option("--config", metavar="FILE", help="The configuration. Default: $ION_CONFIG, then ./ion.yaml.")
@click.option("--runtime", metavar="NAME", help="Which runtime, where several are of provider kubernetes.")
@click.option("--image", metavar="IMAGE", help="Of the dispatcher. Default: the handler_image of the runtime.")
@click.option(
    "--replicas",
    type=click.IntRange(1, 100),
    help="Dispatchers. Default: 2 where they reach one broker by network, else 1, which is all there may be.",
)
@click.option(
    "--stores",
    type=_AtStores(),
    metavar="CIDR:PORT",
    multiple=True,
    help="Where the stores are: all that modules with network: none may reach. May be given again.",
)
def manifests(
    config: str | None, runtime: str | None, image: str | None, replicas: int | None, stores: tuple[Stores, ...]
) -> None:
    """Print what to apply so that the pipeline is served in the cluster: namespace, rights, policies, dispatcher.

    What is to be known of it beyond is told on standard error, and in comments.

    \b
    Example:
      ion-core kubernetes manifests --config ion.yaml | kubectl apply -f -
    """
    from ion_core.contracts.command import configured
    from ion_kubernetes import manifests as made

    here = configured()
    name, settings = _chosen(here.runtimes("kubernetes", config=config), runtime)
    pipeline = here.pipeline(config=config)
    if replicas is not None and replicas > 1 and not made.shared(pipeline):
        raise click.UsageError(
            f"--replicas {replicas}: {pipeline.messaging}: {pipeline.broker} is reached by one dispatcher only. Leave "
            "--replicas out, or choose a broker that others reach, such as rabbitmq."
        )
    found = made.manifests(
        settings,
        pipeline,
        image=image or settings.handler_image,
        replicas=replicas or made.default_replicas(pipeline),
        stores=stores,
    )
    click.echo(_yaml(list(found)), nl=False)
    for hint in _hints(name, settings, pipeline, stores):
        click.echo(hint, err=True)


def _chosen(found: Mapping[str, KubernetesSettings], runtime: str | None) -> tuple[str, KubernetesSettings]:
    there = ", ".join(sorted(found))
    if runtime is None and len(found) > 1:
        raise click.UsageError(f"which runtime? Name one with --runtime. There are: {there}.")
    name = runtime or next(iter(found))
    if name not in found:
        raise click.UsageError(f'no runtime "{name}" is of provider kubernetes. There are: {there}.')
    return name, found[name]


def _hints(name: str, settings: KubernetesSettings, pipeline: Pipeline, stores: tuple[Stores, ...]) -> list[str]:
    elsewhere = sorted({it for it in pipeline.runtimes.values() if it != name})
    return [
        *([] if settings.owner else [_NO_OWNER.format(where=settings.section.where("owner"))]),
        *([] if stores else [_NO_POLICY]),
        *([_KUBECONFIG.format(where=settings.section.where("kubeconfig"))] if settings.kubeconfig else []),
        *([_ELSEWHERE.format(names=", ".join(elsewhere))] if elsewhere else []),
    ]


def _yaml(found: list[Manifest]) -> str:
    from io import StringIO

    from ruamel.yaml import YAML

    yaml = YAML()
    yaml.indent(mapping=2, sequence=4, offset=2)
    yaml.width = 4096
    out = StringIO()
    for manifest in found:
        out.write("---\n")
        out.writelines(f"# {line}\n" for line in manifest.about)
        yaml.dump(manifest.object, out)
    return f"{out.getvalue().rstrip()}\n"
