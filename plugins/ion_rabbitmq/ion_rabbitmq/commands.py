"""``ion-core rabbitmq``: what the operator of a broker has to do by hand."""

from __future__ import annotations

import click

POLICIES = """\
# Limits are policies, which you own and may change at any time; queues never have to be declared anew for them.
#
# How long a job may hold its event before RabbitMQ takes it back: longer than the longest timeout of a module.
# From 3.12 on; before, set consumer_timeout (in milliseconds) in rabbitmq.conf.
rabbitmqctl set_policy {prefix}-hold '^{pattern}\\.q\\.' \\
    '{{"consumer-timeout": {hold}}}' --apply-to queues --priority 10
#
# How many events may wait in one queue; more are refused, and publishers try again.
rabbitmqctl set_policy {prefix}-length '^{pattern}\\.q\\.[^.]+$' \\
    '{{"max-length": 1000000, "overflow": "reject-publish"}}' --apply-to queues --priority 5
"""


@click.group()
def rabbitmq() -> None:
    """What a RabbitMQ broker needs to be told for Ion."""


@rabbitmq.command()
@click.option("--prefix", default="ion", show_default=True, help="As messaging.prefix in the configuration.")
@click.option("--hours", default=12, show_default=True, type=click.IntRange(1, 240), help="Longest job to allow for.")
def policies(prefix: str, hours: int) -> None:
    """Print the commands that set limits and timeouts; run them where rabbitmqctl reaches the broker.

    \b
    Example:
      ion-core rabbitmq policies --hours 24
    """
    pattern = prefix.replace(".", "\\.")
    click.echo(POLICIES.format(prefix=prefix, pattern=pattern, hold=hours * 3_600_000), nl=False)
