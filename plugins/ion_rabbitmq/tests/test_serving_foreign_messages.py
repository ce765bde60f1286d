"""``ion-core serve`` beside a publisher that sends what no library of ours would, while honest events flow."""

from __future__ import annotations

import asyncio
import gzip
import json
from pathlib import Path

import pytest
from foreign import CASES, event, foreigner, long, short, table, text

from ion_rabbitmq.testing import RabbitServer
from tests.acceptance.pipeline import Pipeline

HONEST = 100
CONFIG = """
messaging: {{{{provider: rabbitmq, url: "${{{{env:AMQP_URL}}}}", prefix: {prefix}}}}}
modules:
  work:
    command: [sh, work.sh]
    source: modules
    subscribes: [work.asked]
    retries: 1
    retry: {{{{initial: 10ms}}}}
    concurrency: 2
  other:
    command: [sh, other.sh]
    source: modules
    subscribes: [other.asked]
    concurrency: 2
"""
WORK = """
if grep -q '"odd' "$HANDLER_BASE_DIR/in/eventmeta.json"; then echo "it is odd"; exit 3; fi
"""
"""Every odd event fails, each of its attempts: it is written again with its properties, twice."""

BODIES = {
    "gzip": ({"content_encoding": short(b"gzip")}, gzip.compress(event(says="odd gzip")), "exit code 3"),
    "an encoding that is not read": ({"content_encoding": short(b"br")}, b"\x0b\x02\x80", "content encoding is 'br'"),
    "gzip that is none": ({"content_encoding": short(b"gzip")}, b"\xff\xfe", "its body is none"),
    "no UTF-8": ({}, b"\xff\xfe", "is not UTF-8"),
    "no event": ({"message_id": short(b"\xff")}, b"[]", "must be an object"),
    "large headers": (
        {"headers": table({b"large": text(b"x" * 130_900)})},
        event(says="odd and large"),
        "no room was left for the headers 'large'",
    ),
    "an order to send copies": (
        {"headers": table({b"CC": b"A" + long(text(b"nobody"))})},
        event(says="odd with copies"),
        "exit code 3",
    ),
}
"""More of their kind: properties, body, and what the dead letter says."""


@pytest.mark.timeout(600)
def test_honest_events_commit_and_every_odd_one_is_a_dead_letter_with_its_reason(
    tmp_path: Path, rabbit: RabbitServer
) -> None:
    prefix = "foreign-serving"
    modules = {"work": WORK, "other": "true"}
    pipeline = Pipeline.make(tmp_path / "pipeline", config=CONFIG.format(prefix=prefix), modules=modules)
    odd = {name: (properties, event(says=f"odd: {name}"), "exit code 3") for name, properties in CASES.items()}
    odd |= {name: case for name, case in BODIES.items() if name not in odd}

    async def publish() -> None:
        honest = 0
        async with foreigner(rabbit.port) as them:
            for properties, body, _ in odd.values():
                await them.publish(f"{prefix}.events", b"work.asked", body, properties)
                for _ in range(HONEST // len(odd)):
                    key = b"other.asked" if honest % 2 else b"work.asked"
                    await them.publish(f"{prefix}.events", key, event(key.decode()))
                    honest += 1
            for _ in range(HONEST - honest):
                await them.publish(f"{prefix}.events", b"other.asked", event("other.asked"))

    with pipeline.serving(AMQP_URL=rabbit.url) as served:
        served.until("serving")
        asyncio.run(publish())
        served.until("job committed", count=HONEST)
        served.until(" ERROR ", count=len(odd))
    done = pipeline.ion("serve", "--until-idle", AMQP_URL=rabbit.url)
    log = served.log + done.stderr
    assert len(pipeline.documents("commit")) == HONEST

    letters = json.loads(pipeline.ion("dlq", "list", "--json", AMQP_URL=rabbit.url).stdout)
    reasons = [letter["reason"] for letter in letters]
    assert len(letters) == len(odd)
    for name, (_, _, said) in odd.items():
        assert any(said in reason for reason in reasons), f"{name}: {said!r} is in none of {reasons}"
    assert sum("exit code 3" in reason for reason in reasons) == sum(said != "" for _, _, said in odd.values()) - 4

    assert log.count("Traceback") == 0
    assert log.count("connection to RabbitMQ lost") == 0
    assert log.count("connected to RabbitMQ purpose=consume") == 2, "once in each of two processes"
    failing = sum("exit code 3" in reason for reason in reasons)
    told = [line for line in log.splitlines() if " ERROR " in line or " WARNING " in line]
    assert len([line for line in told if " ERROR " in line]) == len(odd), "\n".join(told)
    retried = [line for line in told if " WARNING " in line and "retried" in line]
    assert len(retried) == failing, "\n".join(told)

    for said in ("content encoding is 'br'", "large"):
        odd_one = next(letter["id"] for letter in letters if said in letter["reason"])
        pipeline.ion("dlq", "show", odd_one, AMQP_URL=rabbit.url)
    one = letters[0]["id"]
    pipeline.ion("dlq", "purge", one, "--yes", AMQP_URL=rabbit.url)
    pipeline.ion("dlq", "redrive", "--all", AMQP_URL=rabbit.url)
    pipeline.ion("serve", "--until-idle", code=None, AMQP_URL=rabbit.url)  # its code says that there are dead letters
    again = json.loads(pipeline.ion("dlq", "list", "--json", AMQP_URL=rabbit.url).stdout)
    assert len(again) == len(odd) - 1
