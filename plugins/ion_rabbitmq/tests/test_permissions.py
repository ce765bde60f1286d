"""A user who may not declare: what exists is used; what is missing, and what would do, is said at once."""

from __future__ import annotations

from collections.abc import Iterator
from pathlib import Path

import pytest
from on_rabbit import EVENT, RETRY, settings, take

from ion_core.errors import ConfigError
from ion_rabbitmq.broker import open_rabbit_broker
from ion_rabbitmq.testing import RabbitServer
from tests.acceptance.pipeline import Pipeline


@pytest.fixture(params=[r"^careful\.queues\.lock$", "^$"], ids=["the lock", "nothing"])
def restricted(rabbit: RabbitServer, request: pytest.FixtureRequest) -> Iterator[str]:
    """The address of a user who may read and write, and configure the lock of the register, or nothing."""
    rabbit.ctl("add_user", "careful", "sesame")
    rabbit.ctl("set_permissions", "careful", request.param, ".*", ".*")
    try:
        yield f"amqp://careful:sesame@127.0.0.1:{rabbit.port}/"
    finally:
        rabbit.ctl("delete_user", "careful")


async def test_who_may_not_configure_uses_what_exists(rabbit: RabbitServer, restricted: str) -> None:
    async with open_rabbit_broker(settings(rabbit.url, prefix="careful")) as broker:
        await broker.declare("work", topics=["work.asked"], retry=RETRY)
    async with open_rabbit_broker(settings(restricted, prefix="careful")) as broker:
        await broker.declare("work", topics=["work.asked"], retry=RETRY)
        await broker.publish("work.asked", EVENT, headers={})
        async with broker.subscribe("work", prefetch=1) as deliveries:
            await (await take(deliveries)).retry(delay=RETRY.initial)
            await (await take(deliveries)).dead_letter("no good")
        assert {letter.reason for letter in await broker.dead_letters("work")} == {"no good"}


async def test_what_is_missing_and_not_permitted_is_a_matter_of_configuration(restricted: str) -> None:
    async with open_rabbit_broker(settings(restricted, prefix="missing")) as broker:
        with pytest.raises(ConfigError) as told:
            await broker.declare("work", topics=["work.asked"], retry=RETRY)
        with pytest.raises(ConfigError):
            await broker.publish("work.asked", EVENT, headers={})
    said = str(told.value)
    assert "refused for user 'careful'" in said
    assert (
        r"rabbitmqctl set_permissions -p '/' 'careful' '^(missing\.)' '^(missing\.|amq\.default$)' '^(missing\.)'"
        in said
    )
    assert "sesame" not in said


CONFIG = """
messaging: {{provider: rabbitmq, url: "${{env:AMQP_URL}}", prefix: fresh}}
modules:
  work: {{command: [sh, work.sh], source: modules, subscribes: [work.asked]}}
"""


@pytest.mark.timeout(300)
def test_serve_of_who_may_not_configure_names_the_permissions_and_works_once_the_queues_exist(
    rabbit: RabbitServer, tmp_path: Path
) -> None:
    """On a virtual host in which there is nothing yet."""
    pipeline = Pipeline.make(tmp_path / "pipeline", config=CONFIG, modules={"work": "true"})
    rabbit.ctl("add_vhost", "fresh")
    for user, configure in (("reader", "^$"), ("owner", ".*")):
        rabbit.ctl("add_user", user, "sesame")
        rabbit.ctl("set_permissions", "-p", "fresh", user, configure, ".*", ".*")
    reader, owner = (
        {"AMQP_URL": f"amqp://{user}:sesame@127.0.0.1:{rabbit.port}/fresh"} for user in ("reader", "owner")
    )
    try:
        refused = pipeline.ion("serve", "--until-idle", code=78, **reader).stderr
        pipeline.ion("event", "publish", "work.asked", **owner)
        served = pipeline.ion("serve", "--until-idle", **reader).stderr
        assert len(pipeline.documents("commit")) == 1
        listed = pipeline.ion("module", "list", **reader)
        pipeline.ion("event", "publish", "work.asked", **reader)
        pipeline.ion("serve", "--until-idle", **reader)
        assert len(pipeline.documents("commit")) == 2
    finally:
        for user in ("reader", "owner"):
            rabbit.ctl("delete_user", user)
        rabbit.ctl("delete_vhost", "fresh")
    assert "cannot tell whether there are queues that no module takes" in served
    assert listed.stdout.splitlines()[1].split()[:5] == ["work", "0", "0", "0", "0"]
    assert "Queues that no module takes are not listed: " in listed.stderr
    assert "refused for user 'reader'" in refused
    allowed = r"'^(fresh\.)' '^(fresh\.|amq\.default$)' '^(fresh\.)'"
    assert f"rabbitmqctl set_permissions -p 'fresh' 'reader' {allowed}" in refused
    assert "sesame" not in refused
