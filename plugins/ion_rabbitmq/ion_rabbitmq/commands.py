"""``ion-core rabbitmq``: what the operator of a broker has to do by hand."""

from __future__ import annotations

from datetime import timedelta

import click

from ion_rabbitmq.policies import has_timeout_by_policy, policies_for
from ion_rabbitmq.versions import UNKNOWN, parsed

INTRODUCTION = """\
# For RabbitMQ {server}, {queue_type} queues. Limits are policies, which you own and may change at any time; queues
# never have to be declared anew for them. One policy applies to a queue, the one with the highest priority, and nothing
# of any other: what you add goes into these, and none of yours with a higher priority may match these queues.
#
# The queues of modules."""
TIMEOUT = """\
# consumer-timeout, milliseconds: how long a job may hold its event before RabbitMQ takes it back. Longer than the
# longest timeout of a module."""
TIMEOUT_IN_CONF = """\
# How long a job may hold its event is no policy here: write consumer_timeout = {hold} (milliseconds) into
# rabbitmq.conf, and restart it."""
LENGTH = """\
# max-length: how many events may wait in one queue; more are refused, and publishers try again."""
NO_LENGTH = """\
# No length: a retry that comes back to a full classic queue would be dropped. Quorum queues can be given one."""
KEPT = """\
#
# Retries, dead letters, the register of queues: no limit, length or expiry of a policy for all queues reaches them."""


@click.group()
def rabbitmq() -> None:
    """What a RabbitMQ broker needs to be told for Ion."""


def _version(_: click.Context, __: click.Parameter, value: str) -> str:
    if value and parsed(value) == UNKNOWN:
        raise click.BadParameter("must be a version such as 4.3, as `rabbitmqctl version` says it.")
    return value


@rabbitmq.command()
@click.option("--prefix", default="ion", show_default=True, help="As messaging.prefix in the configuration.")
@click.option("--hours", default=12, show_default=True, type=click.IntRange(1, 240), help="Longest job to allow for.")
@click.option(
    "--queue-type",
    type=click.Choice(["quorum", "classic"]),
    default="quorum",
    show_default=True,
    help="As messaging.queue_type in the configuration.",
)
@click.option("--server", default="", callback=_version, help="RabbitMQ's version. Without: what holds from 3.12 on.")
def policies(prefix: str, hours: int, queue_type: str, server: str) -> None:
    """Print the commands that set limits and timeouts; run them where rabbitmqctl reaches the broker.

    \b
    Example:
      ion-core rabbitmq policies --hours 24 --server 4.3
    """
    hold = timedelta(hours=hours)
    events, kept = policies_for(server, queue_type=queue_type, prefix=prefix, hold=hold)
    lines = [INTRODUCTION.format(server=server or "3.12 or newer", queue_type=queue_type)]
    if has_timeout_by_policy(server, queue_type):
        lines.append(TIMEOUT)
    elif parsed(server) < (3, 12):
        lines.append(TIMEOUT_IN_CONF.format(hold=int(hold.total_seconds() * 1000)))
    lines += [LENGTH if queue_type == "quorum" else NO_LENGTH, events.command(), KEPT, kept.command()]
    click.echo("\n".join(lines))
